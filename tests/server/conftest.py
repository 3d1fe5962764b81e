"""What tests of the service share: a film, a store, and servers, which are started once, as each costs seconds."""

import pytest

from masklet.jobs import JobStore, Surroundings
from server.patches import write_film
from server.serving import TOKEN, serving, write_clip


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Return the film of two patches, which the stub engine reads."""
    return write_film(tmp_path_factory.mktemp("films") / "film.mp4")


@pytest.fixture
def store(tmp_path):
    """Return an empty store."""
    with JobStore(tmp_path / "data", server=True, boot_id="boot", surroundings=Surroundings(busy_s=0.2)) as store:
        yield store


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Return the film of the square."""
    return write_clip(tmp_path_factory.mktemp("clip") / "square.mp4")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Run a server as anybody starts it: no configuration, this machine only."""
    with serving(tmp_path_factory.mktemp("data")) as server:
        yield server


@pytest.fixture
def http(served):
    """Return a client of that server."""
    with served.client() as client:
        yield client


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """Run a server with tokens of two owners."""
    with serving(
        tmp_path_factory.mktemp("data"), "--token", f"alice:{TOKEN}", "--token", f"bob:{TOKEN[::-1]}"
    ) as server:
        yield server


@pytest.fixture(scope="module")
def video(served, clip):
    """Return the address of the film, uploaded to that server."""
    with served.client() as client:
        answer = client.post("/v1/files", files={"content": ("square.mp4", clip.read_bytes(), "video/mp4")})
        assert answer.status_code == 201, answer.text
        return answer.json()["urls"]["get"]
