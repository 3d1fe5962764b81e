"""How a video gets from what was sent to the model: fetched through the one door, opened apart, nothing left behind."""

import dataclasses
import json
import time

import psutil
import pytest

from masklet.jobs import NewPrediction
from masklet.server import decode
from masklet.server import prepare as preparation
from masklet.server.attempt import SILENT, Attempt
from masklet.server.decode import PROGRAM
from masklet.server.duty import Duty, Intake, Patience
from masklet.server.engine import RealEngine
from masklet.server.prepare import prepare, preparing
from masklet.server.serve import _plan
from masklet.server.settings import Settings
from masklet.server.stub import StubEngine
from masklet.video import Video, open_video
from server.fetching import begins, drips, raw, replies, says
from server.patches import FRAMES, ON_RED, ask, masks_of, see
from server.serving import CLICK, serving, wait_until_ended, write_clip

HERE = Intake(private_urls=True)


@pytest.fixture(autouse=True)
def no_decoder_stays(store):
    yield
    left = [
        child
        for child in psutil.Process().children(recursive=True)
        if str(store.folder.root) in " ".join(child.cmdline())
    ]
    assert left == []
    assert list(store.folder.work.iterdir()) == []


def ask_for(store, url, **said):
    """Accept a prediction about a video at an address."""
    given = {"input_video": url, "click_coordinates": ON_RED, "output_format": "png"}
    new = NewPrediction(owner="ann", model="meta/sam-2-video", version="v", weights="nano", input=given | said)
    return store.create(new).prediction


def work(store, intake, reach=lambda point: None, engine=None):
    claim = store.queue.claim("w1")
    attempt = Attempt(claim, store, patience=Patience(), time_left=lambda: None, reach=reach)
    assert attempt.run(engine or StubEngine(), preparing(intake)) is True


def outcome(store, prediction):
    done = see(store, prediction)
    return done.status, done.error_code, len(done.outputs)


def test_a_video_at_an_address_is_fetched_and_gives_what_an_upload_gives(store, film):
    with raw(says(replies(200, film.read_bytes()))) as server:
        fetched = ask_for(store, f"http://127.0.0.1:{server.port}/deep/film.m3u8?key=1")
        work(store, HERE)
    uploaded = ask(store, film)
    work(store, HERE)
    assert outcome(store, fetched) == outcome(store, uploaded) == ("succeeded", None, FRAMES)
    assert masks_of(see(store, fetched)) == masks_of(see(store, uploaded))
    assert json.loads(see(store, fetched).manifest.path.read_bytes())["source"]["name"] == "film.m3u8"


def test_this_machines_own_addresses_are_not_fetched_unless_somebody_said_so(store, film):
    with raw(says(replies(200, film.read_bytes()))) as server:
        prediction = ask_for(store, f"http://127.0.0.1:{server.port}/film.mp4")
        work(store, Intake())
        assert server.heads == []
    assert outcome(store, prediction) == ("failed", "E_URL_FORBIDDEN", 0)
    assert Settings().allow_private_urls is Intake().private_urls is Duty("", "", "", 0).intake.private_urls is False


FAULTS = {
    "404": (says(replies(404)), Intake(private_urls=True), "E_URL_FAILED"),
    "slow": (begins(b"HTTP/1.1 200 OK\r\n\r\n", drips()), Intake(private_urls=True, fetch_s=0.5), "E_URL_TIMEOUT"),
    "large": (says(replies(200, bytes(2_000))), Intake(private_urls=True, most_bytes=1_999), "E_TOO_LARGE"),
    "text": (says(replies(200, b"<html>not here</html>")), HERE, "E_UNSUPPORTED_MEDIA"),
    "playlist": (says(replies(200, b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n")), HERE, "E_UNSUPPORTED_MEDIA"),
    "empty": (says(replies(200)), HERE, "E_UNSUPPORTED_MEDIA"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_fetched_or_is_no_video_fails_with_its_code_and_no_path(store, fault):
    answer, intake, code = FAULTS[fault]
    with raw(answer) as server:
        prediction = ask_for(store, f"http://127.0.0.1:{server.port}/film.mp4?token=canary")
        work(store, intake)
    assert outcome(store, prediction) == ("failed", code, 0)
    error = see(store, prediction).error
    assert "/" not in error
    assert "canary" not in error


def test_an_upload_of_too_many_frames_fails_with_the_limit(store, film):
    prediction = ask(store, film)
    work(store, Intake(most_frames=FRAMES - 1))
    assert outcome(store, prediction) == ("failed", "E_TOO_LARGE", 0)
    assert see(store, prediction).error == f"the video has more frames than the limit, {FRAMES - 1}: cut it into parts"


def test_a_download_stops_soon_after_a_cancel(store):
    def answer(server, plug):
        store.cancel(prediction.id, owner="ann")
        begins(b"HTTP/1.1 200 OK\r\n\r\n", drips())(server, plug)

    with raw(answer) as server:
        prediction = ask_for(store, f"http://127.0.0.1:{server.port}/film.mp4")
        began = time.monotonic()
        work(store, HERE)
        assert time.monotonic() - began < 2
    assert outcome(store, prediction) == ("canceled", "E_CANCELED", 0)


DIES_AT_3 = """
from masklet.server import decoder
def act(path, limits):
    film = decoder.open_checked(path, limits)
    read = film.read
    def reads(start, stop):
        for number, rgb in enumerate(read(start, stop), start):
            if number == 3:
                import ctypes; ctypes.string_at(0)
            yield rgb
    film.read = reads
    return film
decoder.main(act)
"""


def test_a_decoder_that_dies_fails_its_prediction_and_the_next_one_passes(store, film, monkeypatch):
    first, second = ask(store, film), ask(store, film)
    real = decode.open_apart
    program = (*PROGRAM[:3], "-c", DIES_AT_3)
    monkeypatch.setattr(
        preparation, "open_apart", lambda path, intake, check: real(path, intake, check=check, program=program)
    )
    work(store, HERE)
    monkeypatch.undo()
    work(store, HERE)
    assert outcome(store, first) == ("failed", "E_DECODER_CRASHED", 3)
    assert outcome(store, second) == ("succeeded", None, FRAMES)


def test_the_worker_itself_opens_no_video(store, film, monkeypatch):
    """Whatever the engine does with the file, it does with frames from elsewhere."""

    def never(path, *more):
        raise AssertionError(f"{path} was opened")

    monkeypatch.setattr("masklet.server.stub.open_video", never)
    monkeypatch.setattr("masklet.segment.open_video", never)
    for engine in (StubEngine(), RealEngine("cpu")):
        for said in ({}, {"output_video": True, "source_timing": True}):
            prediction = ask(store, film, **said)
            work(store, HERE, engine=engine)
            assert outcome(store, prediction)[0] == "succeeded", see(store, prediction).error
    assert SILENT in see(store, prediction).logs
    with open_video(film) as source, open_video(see(store, prediction).outputs[0].path) as made:
        assert [frame.seconds for frame in made.frames()] == [frame.seconds for frame in source.frames()]


def test_preparing_gives_the_video_open_and_closing_it_ends_the_decoder(store, film):
    prediction = ask(store, film)
    claim = store.queue.claim("w1")
    with prepare(claim, store.folder.work_of(claim.lease), lambda: None) as video:
        assert isinstance(video, Video)
        assert video.frame_count == FRAMES
    with pytest.raises(Exception, match="decoder"):
        next(video.frames())
    store.queue.release(claim.lease)
    store.folder.work_of(claim.lease).rmdir()
    assert see(store, prediction).status == "starting"


def test_every_limit_of_the_settings_reaches_the_worker():
    own = {"allow_private_urls": True, "fetch_s": 1.0, "upload_bytes": 2, "frame_pixels": 3, "video_pixels": 4}
    own |= {"video_frames": 5, "video_s": 6.0, "decode_s": 7.0, "decode_cpu_s": 8.0, "decode_bytes": 9}
    intake = _plan(Settings(**own)).intake
    assert list(dataclasses.asdict(intake).values()) == [True, 1.0, 2, 3, 4, 5, 6.0, 7.0, 8.0, 9]
    duty = Duty("data", "boot", "name", 3, intake=intake)
    assert Duty.read(duty.as_text()) == duty


@pytest.mark.slow
def test_a_real_server_fetches_decodes_apart_and_says_how_well_it_is_locked_in(tmp_path):
    clip = write_clip(tmp_path / "clip.mp4")
    with (
        raw(says(replies(200, clip.read_bytes()))) as source,
        serving(tmp_path / "served", "--allow-private-urls") as server,
        server.client() as client,
    ):
        assert client.get("/health").json()["sandbox"] == decode.sandbox()
        asked = {"input": CLICK | {"input_video": f"http://127.0.0.1:{source.port}/clip.mp4"}}
        id = client.post("/v1/models/meta/sam-2-video/predictions", json=asked).json()["id"]
        done = wait_until_ended(client, id)
        assert (done["status"], done["error"]) == ("succeeded", None)
        bad = client.post(
            "/v1/models/meta/sam-2-video/predictions",
            json={"input": CLICK | {"input_video": "http://169.254.169.254/x"}},
        )
        assert wait_until_ended(client, bad.json()["id"])["status"] == "failed"
