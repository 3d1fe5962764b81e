"""One place for a worker: whether its end counts as a failure."""

from threading import Event

import pytest

from masklet.server.duty import Duty
from masklet.server.staff import Place
from server.patches import wait_for


@pytest.fixture
def place(store):
    duty = Duty(data_dir=str(store.folder.root), boot_id="boot", name="worker", report_fd=-1, engine="stub")
    place = Place(1, duty, Event().set)
    place.start({})
    wait_for(lambda: place.report.state == "ready")
    yield place
    place.kill()
    place.wait(5.0)


def test_a_worker_that_was_ready_only_when_it_was_given_up_has_failed(place):
    place.give_up("loading the model took longer than 1 s")
    wait_for(place.reap)
    assert (place.report.state, place.report.reason) == ("failed", "loading the model took longer than 1 s")
    assert not place.due, "the next try comes later"


def test_a_worker_that_was_ready_and_died_is_replaced_at_once(place):
    place.kill()
    wait_for(place.reap)
    assert place.report.state == "gone"
    assert place.due
