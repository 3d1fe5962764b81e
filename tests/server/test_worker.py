"""What a worker does with a prediction at each moment: publish, stop, fail, or find that it is no longer its own."""

import re
import sqlite3
import threading
import time

import pytest

from masklet.errors import NoSpace
from masklet.server.attempt import Attempt
from masklet.server.duty import Patience
from masklet.server.engine import Advanced, Finished
from masklet.server.failures import JobFailure
from masklet.server.prepare import prepare
from masklet.server.stub import StubEngine
from server.patches import FRAMES, ask, masks_of, see

PROGRESS = re.compile(r"^\s*(?P<percentage>\d+)%\s*\|.+?\|\s*(?P<current>\d+)\/(?P<total>\d+)")
"""As Replicate's Python client reads it from the logs."""


class Watched(StubEngine):
    """The stub, telling somebody about each event before it is passed on."""

    def __init__(self, look=lambda event: None):
        super().__init__()
        self.look, self.frames = look, 0

    def segment(self, request, asked, report, video=None):
        def hear(event):
            self.frames += isinstance(event, Advanced)
            self.look(event)
            report(event)

        super().segment(request, asked, hear, video)


@pytest.fixture
def work(store):
    """Return what claims the next prediction and works on it; returns whether the process may go on."""

    def run(engine=None, *, prepare=prepare, time_left=lambda: None, reach=lambda point: None, patience=None):
        claim = store.queue.claim("w1", lease_s=(patience or Patience()).lease_s)
        attempt = Attempt(claim, store, patience=patience or Patience(), time_left=time_left, reach=reach)
        return attempt.run(engine or StubEngine(), prepare)

    return run


def files_in(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def test_frames_can_be_seen_one_by_one_while_it_runs(store, film, work):
    prediction, seen = ask(store, film), []

    def look(event):
        if isinstance(event, Advanced):
            seen.append([output.name for output in see(store, prediction).outputs])

    assert work(Watched(look)) is True
    assert seen == [[f"frame_{frame:05d}.png" for frame in range(count)] for count in range(1, FRAMES + 1)]


def test_it_succeeds_with_every_output_the_manifest_and_its_time(store, film, work):
    prediction = ask(store, film)
    work()
    done = see(store, prediction)
    assert (done.status, done.error, len(done.outputs), done.manifest.name) == (
        "succeeded",
        None,
        FRAMES,
        "manifest.json",
    )
    assert {output.content_type for output in done.outputs} == {"image/png"}
    assert 0 < done.metrics["predict_time"] < 60
    assert files_in(store.folder.work) == []
    assert list(store.folder.work.iterdir()) == []


def test_a_film_is_one_output(store, film, work):
    prediction = ask(store, film, output_video=True)
    work()
    [output] = see(store, prediction).outputs
    assert (output.name, output.content_type) == ("output_video.mp4", "video/mp4")


def test_the_log_tells_what_was_filled_in_and_the_progress_as_clients_read_it(store, film, work):
    prediction = ask(store, film)
    work()
    said, *lines = see(store, prediction).logs.splitlines()
    assert said == "click_object_ids is empty: every click is its own object, object_1"
    found = [PROGRESS.match(line) for line in lines]
    assert [(int(m["percentage"]), int(m["current"]), int(m["total"])) for m in found] == [
        (100 * frame // FRAMES, frame, FRAMES) for frame in range(1, FRAMES + 1)
    ]


def test_options_that_name_files_of_the_server_are_not_the_callers(store, film, work, tmp_path):
    """The door drops them; the worker does not rely on that."""
    prediction = ask(store, film, out=str(tmp_path / "elsewhere"), masks=["a:0:/etc/passwd"], model="large")
    work()
    assert see(store, prediction).status == "succeeded"
    assert not (tmp_path / "elsewhere").exists()


# Cancelled, or taken over, in each phase

POINTS = ("prepare", "worker.prepared", "output.before_sync", "output.after_sync", "advance", "worker.before_finish")


def at(point, act):
    """Return an engine, a preparation and a reach that do something when the work comes to a point the first time."""
    done = []

    def once(name):
        if name == point and not done:
            done.append(name)
            act()

    def preparing(claim, folder, check):
        (folder / "input").write_bytes(b"half a download")
        once("prepare")
        time.sleep(0.15)  # as a download would between two looks
        check()
        return prepare(claim, folder, check)

    def look(event):
        if isinstance(event, Advanced) and event.done == 2:
            once("advance")

    return {"engine": Watched(look), "prepare": preparing, "reach": once}


@pytest.mark.parametrize("point", POINTS)
def test_a_cancelled_prediction_stops_within_a_frame_and_leaves_nothing(store, film, work, point):
    prediction = ask(store, film)
    parts = at(point, lambda: store.cancel(prediction.id, owner="ann"))
    assert work(**parts) is True
    done = see(store, prediction)
    assert (done.status, done.error_code, done.outputs, done.manifest) == ("canceled", "E_CANCELED", (), None)
    expected = {"prepare": 0, "worker.prepared": 1, "output.before_sync": 0, "output.after_sync": 0, "advance": 3}
    assert parts["engine"].frames <= expected.get(point, FRAMES)
    assert files_in(store.folder.work) == files_in(store.folder.outputs) == []
    assert [event.kind for event in store.events.after(0, prediction=prediction.id)][-1] == "completed"


@pytest.mark.parametrize("point", POINTS)
def test_a_prediction_that_another_worker_took_is_left_to_it(store, film, work, point):
    prediction, others = ask(store, film), []

    def take_over():
        store.queue.worker_died("w1", "it was taken for dead")
        others.append(store.queue.claim("w2"))

    assert work(**at(point, take_over)) is True
    running = see(store, prediction)
    assert (running.status, running.worker, running.attempts) == ("processing", "w2", 2)
    assert all(output.path.parent.name != str(others[0].lease.token) for output in running.outputs)
    rest = Attempt(others[0], store, patience=Patience(), time_left=lambda: None, reach=lambda point: None)
    assert rest.run(StubEngine(), prepare) is True
    done = see(store, prediction)
    assert (done.status, len(done.outputs)) == ("succeeded", FRAMES)
    assert all(output.path.exists() for output in done.outputs)
    assert [event.kind for event in store.events.after(0, prediction=prediction.id)].count("output") == FRAMES


def test_a_deadline_stops_it_like_a_cancel(store, film, work):
    prediction = ask(store, film, cancel_after_s=0.3)

    def expire():
        time.sleep(0.35)
        assert store.queue.expire() == [prediction.id]

    work(**at("advance", expire))
    assert (see(store, prediction).status, see(store, prediction).error_code) == ("canceled", "E_DEADLINE")


def test_what_a_run_that_took_too_long_has_published_stays(store, film, work):
    prediction = ask(store, film)
    work(**at("advance", lambda: store.queue.expire(most_run_s=0.0)))
    done = see(store, prediction)
    assert (done.status, done.error_code) == ("failed", "E_TIMEOUT")
    assert len(done.outputs) >= 2
    assert all(output.path.exists() for output in done.outputs)


def test_what_was_published_stays_while_another_worker_takes_over(store, film, work):
    prediction = ask(store, film)
    work(**at("advance", lambda: store.queue.worker_died("w1", "it was taken for dead")))
    waiting = see(store, prediction)
    assert waiting.status == "starting"
    assert len(waiting.outputs) >= 2
    assert all(output.path.exists() for output in waiting.outputs)


# Stopping


@pytest.mark.parametrize("point", POINTS)
def test_a_worker_that_must_stop_puts_its_prediction_back(store, film, work, point):
    prediction, left = ask(store, film), []
    parts = at(point, lambda: left.append(0.0))
    assert work(**parts, time_left=lambda: left[0] if left else None) is True
    found = see(store, prediction)
    if point == "worker.before_finish":
        assert found.status == "succeeded"
    else:
        assert (found.status, found.attempts, found.worker) == ("starting", 0, None)
    assert files_in(store.folder.work) == []


def test_a_stop_waits_for_what_ends_in_time_and_for_nothing_else(store, film, work):
    quick, slow = ask(store, film), ask(store, film, click_object_ids="fault-slow-0")
    left = []
    work(**at("worker.prepared", lambda: left.append(30.0)), time_left=lambda: left[0] if left else None)
    assert see(store, quick).status == "succeeded"
    left.clear()
    parts = at("worker.prepared", lambda: left.append(0.6))
    work(**parts, time_left=lambda: left[0] if left else None)  # six frames of a quarter of a second take longer
    assert (see(store, slow).status, parts["engine"].frames) == ("starting", 1)


def test_a_stop_does_not_wait_for_a_download(store, film, work):
    prediction, left = ask(store, film), []
    parts = at("prepare", lambda: left.append(30.0))
    work(**parts, time_left=lambda: left[0] if left else None)
    assert (see(store, prediction).status, parts["engine"].frames) == ("starting", 0)


# Failing


@pytest.mark.parametrize(
    ("said", "code", "outputs"),
    [
        ({"click_frames": "6"}, "E_FRAME_RANGE", 0),
        ({"click_coordinates": "[900,1]"}, "E_BAD_PROMPT", 0),
        ({"click_object_ids": "fault-raise-3"}, "E_INTERNAL", 3),
        ({"click_object_ids": "fault-nan-3"}, "E_MODEL_NONFINITE", 3),
        ({"click_object_ids": "fault-oom-3"}, "E_OOM", 3),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_failure_has_a_code_and_keeps_the_frames_before_it(store, film, work, said, code, outputs):
    prediction = ask(store, film, **said)
    in_order = work()
    done = see(store, prediction)
    assert (done.status, done.error_code, len(done.outputs)) == ("failed", code, outputs)
    assert in_order is (code not in ("E_INTERNAL", "E_MODEL_NONFINITE", "E_OOM"))
    assert str(store.folder.root) not in done.error
    assert "Traceback" not in done.error
    assert all(output.path.exists() for output in done.outputs)


def test_what_is_no_video_is_said_without_naming_the_servers_files(store, tmp_path, work):
    (tmp_path / "text").write_text("no video")
    prediction = ask(store, tmp_path / "text")
    work()
    done = see(store, prediction)
    assert (done.status, done.error_code) == ("failed", "E_UNSUPPORTED_MEDIA")
    assert done.error.startswith("the video ")
    assert "/" not in done.error


def test_a_preparation_that_fails_is_a_failure_of_the_prediction(store, film, work):
    def refuse(claim, folder, check):
        raise JobFailure("E_DECODER_CRASHED", f"The decoder died of {folder}/input.")

    prediction = ask(store, film)
    work(prepare=refuse)
    assert (see(store, prediction).error_code, see(store, prediction).error) == (
        "E_DECODER_CRASHED",
        "The decoder died of a file.",
    )


def test_a_full_disk_fails_the_prediction_and_the_end_waits_for_room(store, film, work, monkeypatch):
    prediction, refusals = ask(store, film), []
    finish = store.queue.finish

    def full(*args, **kwargs):
        if len(refusals) < 3:
            refusals.append(args)
            raise NoSpace("the server's disk is full")
        finish(*args, **kwargs)

    def look(event):
        if isinstance(event, Finished) and event.path.name == "frame_00002.png":
            raise NoSpace("Cannot write")

    monkeypatch.setattr(store.queue, "finish", full)
    assert work(Watched(look)) is True
    done = see(store, prediction)
    assert (done.status, done.error_code, len(done.outputs), len(refusals)) == ("failed", "E_DISK_FULL", 2, 3)
    assert done.error == "The server's disk is full: try again when there is room."


def test_a_disk_that_is_full_at_the_start_fails_the_prediction_and_not_the_worker(store, film, work, monkeypatch):
    def full(lease):
        raise NoSpace("Cannot write")

    prediction = ask(store, film)
    monkeypatch.setattr(store.folder, "work_of", full)
    assert work() is True
    done = see(store, prediction)
    assert (done.status, done.error_code, done.attempts) == ("failed", "E_DISK_FULL", 1)


# Holding on


def test_a_lease_outlives_frames_that_take_longer_than_it(store, film, work):
    prediction = ask(store, film)

    def look(event):
        if isinstance(event, Advanced) and event.done == 1:
            time.sleep(1.0)
            assert store.queue.requeue_lost() == []

    work(Watched(look), patience=Patience(lease_s=0.4))
    assert (see(store, prediction).status, see(store, prediction).attempts) == ("succeeded", 1)


def test_a_database_that_is_locked_for_a_while_costs_time_only(store, film, work):
    prediction = ask(store, film)
    holder = sqlite3.connect(store.folder.database, isolation_level=None, check_same_thread=False)
    release = threading.Timer(1.0, lambda: holder.execute("COMMIT"))

    def look(event):
        if isinstance(event, Finished) and event.path.name == "frame_00002.png":
            holder.execute("BEGIN IMMEDIATE")
            release.start()

    work(Watched(look))
    release.join()
    holder.close()
    assert (see(store, prediction).status, see(store, prediction).attempts) == ("succeeded", 1)


def test_the_same_work_gives_the_same_pictures_after_any_other(store, film, work):
    first = ask(store, film)
    work()
    for said in ({"click_object_ids": "fault-raise-1"}, {"click_coordinates": "[50,40]"}, {"mask_type": "greenscreen"}):
        ask(store, film, **said)
        work()
    last = ask(store, film)
    work()
    assert masks_of(see(store, last)) == masks_of(see(store, first))
