"""What segments behind the service: both engines keep one contract, and the stub is exact."""

import copy
import json

import numpy as np
import pytest
import torch
from clips import tiny
from PIL import Image

from masklet.errors import BadPrompt, BadVideo, BadWeights, NoSpace
from masklet.jobs import ERROR_CODES
from masklet.model.network import Network
from masklet.request import Request
from masklet.segment import segment_video
from masklet.server.engine import Advanced, Finished, RealEngine, Said
from masklet.server.failures import JobFailure, failure_of
from masklet.server.stub import StubEngine
from masklet.video import open_video
from server.patches import FRAMES, HEIGHT, ON_BLUE, ON_GROUND, ON_RED, WIDTH, near, write_film

ASKED = {"input_video": "https://films.example/a/red.mp4?signature=secret", "click_coordinates": ON_RED}


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    return write_film(tmp_path_factory.mktemp("films") / "upload")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def stub():
    return StubEngine()


def real():
    """Return the real engine, with a network that is small and means nothing."""
    engine = RealEngine(device="cpu")
    engine._held = ("nano", tiny())
    return engine


both = pytest.mark.parametrize("make", [stub, real])


def run(engine, film, folder, **said):
    """Run a request; returns what was reported."""
    heard = []
    request = Request(
        str(film), **({"click_coordinates": ON_RED, "output_format": "png"} | said), out=str(folder), device="cpu"
    )
    engine.segment(request, ASKED, heard.append)
    return heard


def names(heard, role="output"):
    return [event.path.name for event in heard if isinstance(event, Finished) and event.role == role]


def pictures(folder):
    return [np.array(Image.open(path)) for path in sorted(folder.glob("*.png"))]


# The contract


@both
def test_every_frame_is_a_file_reported_in_order_and_then_counted(make, film, folder):
    heard = run(make(), film, folder)
    assert names(heard) == [f"frame_{frame:05d}.png" for frame in range(FRAMES)]
    assert [event.done for event in heard if isinstance(event, Advanced)] == list(range(1, FRAMES + 1))
    assert {event.total for event in heard if isinstance(event, Advanced)} == {FRAMES}
    assert names(heard, "manifest") == ["manifest.json"]
    assert isinstance(heard[-1], Finished)
    assert {path.name for path in folder.iterdir()} == {*names(heard), "manifest.json"}


@both
def test_a_file_is_whole_when_it_is_reported(make, film, folder):
    seen = []

    def look(event):
        if isinstance(event, Finished) and event.role == "output":
            seen.append(np.array(Image.open(event.path)).shape)

    request = Request(str(film), click_coordinates=ON_RED, output_format="png", out=str(folder), device="cpu")
    make().segment(request, ASKED, look)
    assert seen == [(HEIGHT, WIDTH)] * FRAMES


@both
def test_an_interval_leaves_pictures_out_and_keeps_their_numbers(make, film, folder):
    heard = run(make(), film, folder, output_frame_interval=4)
    assert names(heard) == ["frame_00000.png", "frame_00004.png"]
    assert len([event for event in heard if isinstance(event, Advanced)]) == FRAMES


@both
def test_a_film_is_one_file(make, film, folder):
    heard = run(make(), film, folder, output_video=True)
    assert names(heard) == ["output_video.mp4"]
    with open_video(folder / "output_video.mp4") as made:
        assert (made.frame_count, made.height, made.width) == (FRAMES, HEIGHT, WIDTH)


@both
def test_what_was_filled_in_is_said(make, film, folder):
    [said] = [event.text for event in run(make(), film, folder) if isinstance(event, Said)]
    assert said == "click_object_ids is empty: every click is its own object, object_1"


@both
def test_the_manifest_repeats_what_was_asked_and_shows_nothing_of_the_server(make, film, folder):
    run(make(), film, folder)
    text = (folder / "manifest.json").read_text()
    manifest = json.loads(text)
    assert manifest["request"] == ASKED
    assert manifest["source"]["name"] == "red.mp4"
    assert [entry["file"] for entry in manifest["frames"]] == [f"frame_{frame:05d}.png" for frame in range(FRAMES)]
    assert manifest["complete"] is True
    assert str(folder.parent) not in text
    assert str(film.parent) not in text


@both
@pytest.mark.parametrize("at", range(1, FRAMES))
def test_whatever_the_listener_raises_stops_it_at_that_frame(make, film, folder, at):
    class Stop(Exception):
        pass

    heard = []

    def stop(event):
        heard.append(event)
        if isinstance(event, Advanced) and event.done == at:
            raise Stop

    request = Request(str(film), click_coordinates=ON_RED, output_format="png", out=str(folder), device="cpu")
    with pytest.raises(Stop):
        make().segment(request, ASKED, stop)
    assert len(names(heard)) == at
    assert isinstance(heard[-1], Advanced)


@both
@pytest.mark.parametrize(
    ("said", "code", "message"),
    [
        ({"click_frames": "6"}, "E_FRAME_RANGE", r"6.* the video has 6 frames"),
        ({"click_coordinates": "", "boxes": ("a:6:1,1,9,9",)}, "E_FRAME_RANGE", "6.* the video has 6 frames"),
        ({"click_coordinates": "[64,1]"}, "E_BAD_PROMPT", r"x = 64 is outside the frame"),
        ({"click_labels": "0"}, "E_BAD_PROMPT", "no click is positive"),
    ],
)
def test_prompts_that_do_not_fit_the_video_are_refused_before_any_file(make, film, folder, said, code, message):
    with pytest.raises(BadPrompt, match=message) as refused:
        run(make(), film, folder, **said)
    assert failure_of(refused.value, {}).code == code
    assert list(folder.iterdir()) == []


@both
def test_what_is_no_video_is_refused(make, tmp_path, folder):
    (tmp_path / "text").write_text("no video")
    with pytest.raises(BadVideo):
        run(make(), tmp_path / "text", folder)


# The stub


@pytest.mark.parametrize(("click", "at"), [(ON_RED, (14, 14)), (ON_BLUE, (50, 40)), (ON_GROUND, (32, 44))])
def test_the_stub_finds_exactly_the_colour_that_was_clicked(film, folder, click, at):
    run(stub(), film, folder, click_coordinates=click)
    for frame, made in enumerate(pictures(folder)):
        assert np.array_equal(made == 255, near(film, at, frame))
        assert set(np.unique(made)) == {0, 255}


def test_the_stub_knows_boxes_several_objects_and_what_is_not_one(film, folder):
    run(stub(), film, folder, click_coordinates="", boxes=("red:0:8,8,24,24", "blue:0:44,32,60,44"))
    assert np.array_equal(pictures(folder)[3] == 255, near(film, (14, 14), 3) | near(film, (50, 40), 3))
    (folder.parent / "other").mkdir()
    run(
        stub(),
        film,
        folder.parent / "other",
        click_coordinates=f"{ON_RED},{ON_BLUE},{ON_BLUE}",
        click_labels="1,1,0",
        click_object_ids="a,a,ground",
    )
    assert np.array_equal(pictures(folder.parent / "other")[3] == 255, near(film, (14, 14), 3))


@pytest.mark.parametrize(
    ("kind", "error", "code"), [("raise", RuntimeError, "E_INTERNAL"), ("oom", MemoryError, "E_OOM")]
)
def test_the_stub_fails_when_it_is_asked_to(film, folder, kind, error, code):
    with pytest.raises(error) as failed:
        run(stub(), film, folder, click_object_ids=f"fault-{kind}-2")
    assert failure_of(failed.value, {}).code == code
    assert len(list(folder.glob("*.png"))) == 2


# The real one


def test_the_real_engine_gives_the_frames_of_the_command_line(film, folder, tmp_path):
    run(real(), film, folder, mask_type="highlighted")
    made = segment_video(
        Request(
            str(film),
            click_coordinates=ON_RED,
            output_format="png",
            mask_type="highlighted",
            out=str(tmp_path / "line"),
            device="cpu",
        ),
        network=tiny(),
    )
    assert len(made.files) == FRAMES
    for path in made.files:
        assert (folder / path.name).read_bytes() == path.read_bytes()


def test_the_real_engine_loads_a_model_once_and_holds_one(monkeypatch):
    loaded = []

    def load(name, **options):
        loaded.append((name, options))
        return tiny()

    monkeypatch.setattr("masklet.weights.load_network", load)
    engine = RealEngine(device="cpu", dtype="float32")
    for name in ("nano", "nano", "tiny", "nano"):
        engine.load(name)
    assert loaded == [(name, {"device": "cpu", "dtype": "float32"}) for name in ("nano", "tiny", "nano")]
    assert engine.device == "cpu"


def test_a_model_that_computes_nonsense_is_a_failure_and_not_an_empty_mask(film, folder):
    broken = copy.deepcopy(tiny())
    for parameter in broken.sam_mask_decoder.parameters():
        parameter.fill_(float("nan"))
    engine = real()
    engine._held = ("nano", broken)
    with pytest.raises(JobFailure, match="on frame 0 is not a number") as failed:
        run(engine, film, folder)
    assert (failed.value.code, failed.value.worn) == ("E_MODEL_NONFINITE", True)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"), "E_OOM"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), "E_OOM"),
        (MemoryError(), "E_OOM"),
        (RuntimeError("CUDA error: device-side assert triggered"), "E_INTERNAL"),
    ],
)
def test_a_device_that_fails_gives_a_code_and_a_new_process(film, folder, monkeypatch, error, code):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(Network, "see", fail)
    with pytest.raises(Exception) as failed:
        run(real(), film, folder)
    failure = failure_of(failed.value, {})
    assert (failure.code, failure.worn) == (code, True)


# What an owner hears of a failure


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (BadPrompt("click 1: x = 9 is outside"), "E_BAD_PROMPT", "click 1: x = 9 is outside"),
        (BadPrompt("frame 9: there is no such frame; choose 0"), "E_FRAME_RANGE", "frame 9: there is no such frame"),
        (BadVideo("/srv/my data/uploads/abc holds no video"), "E_UNSUPPORTED_MEDIA", "the video holds no video"),
        (BadVideo("/srv/my data/uploads/other: it is cut"), "E_UNSUPPORTED_MEDIA", "a file: it is cut"),
        (BadWeights("/models/large.pt is damaged"), "E_MODEL_SETUP", "The server could not load the model"),
        (NoSpace("Cannot write /srv/data/outputs/x/1/f.png"), "E_DISK_FULL", "The server's disk is full"),
        (
            JobFailure("E_DECODER_CRASHED", "It died of /srv/my data/work/x/in, or /tmp/x/y."),
            "E_DECODER_CRASHED",
            "of a file, or a file.",
        ),
        (ValueError("/usr/lib/python3/secret.py"), "E_INTERNAL", "masklet failed inside"),
        (OSError(5, "Input/output error", "/srv/data/masklet.db"), "E_INTERNAL", "masklet failed inside"),
    ],
)
def test_a_failure_is_a_code_of_the_list_and_a_sentence_without_paths(error, code, text):
    failure = failure_of(error, {"/srv/my data": "a file", "/srv/my data/uploads/abc": "the video"})
    assert (failure.code, failure.code in ERROR_CODES) == (code, True)
    assert text in str(failure)
    assert "/" not in str(failure).replace("https://", "")


@pytest.mark.parametrize(
    "text",
    ["1/12800 s, 30000/1001 fps", "fetch https://films.example/a/b/c.mp4 again", "use frames/s or masks/objects"],
)
def test_a_sentence_without_paths_stays_as_it_is(text):
    assert str(failure_of(BadVideo(text), {})) == text
