"""A store, opened as often as a server opens it."""

import pytest
from stores import Hands

from masklet.jobs import JobStore, Surroundings


@pytest.fixture
def hands():
    return Hands()


@pytest.fixture
def opened(tmp_path, hands):
    """Return what opens the same data folder again and again, as the processes of a server do."""
    stores = []

    def open_store(*, machine="this boot", busy_s=5.0, reach=lambda point: None, **options):
        surroundings = Surroundings(hands.clock(), machine, reach, busy_s)
        stores.append(JobStore(tmp_path / "data", surroundings=surroundings, **options))
        return stores[-1]

    yield open_store
    for store in stores:
        store.close()


@pytest.fixture
def store(opened):
    return opened(server=True, boot_id="first")
