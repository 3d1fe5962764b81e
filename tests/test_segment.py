"""The whole job: a request in, files out; and what is left when it is stopped, refused or out of room."""

import itertools
import os
import resource
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from clips import FRAMES, HEIGHT, WIDTH, ball, box_around, disc, iou, nano, picture, write_folder
from films import Sound, destroyed
from films import write_film as write_odd_film
from PIL import Image
from shell import DROP_PRIVILEGES, masklet

from masklet.errors import BadPrompt, BadVideo, BadWeights, Cancelled, NoSpace
from masklet.export import read_manifest
from masklet.masks import FrameMasks, decode_rle
from masklet.render import render
from masklet.request import Request
from masklet.segment import Advance, Made, Note, segment_video
from masklet.video import open_video

EVERY = list(range(FRAMES))
NOTHING = np.zeros((HEIGHT, WIDTH), bool)


def boxed(name, frame, mask):
    """Return a box prompt as the command line takes it."""
    return f"{name}:{frame}:{','.join(str(int(n)) for n in box_around(mask))}"


DISC, BALL = boxed("disc", 0, disc(0)), boxed("ball", 0, ball(0))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """The clip as pictures, exact to the pixel."""
    return write_folder(tmp_path_factory.mktemp("clips") / "clip")


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch):
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def job(clip):
    """Run a request on the clip with a network that is loaded already; by default a box around the disc."""

    def run(video=clip, *, boxes=(DISC,), out="out", report=lambda event: None, **options):
        return segment_video(
            Request(str(video), boxes=tuple(boxes), out=str(out), **options), network=nano(), report=report
        )

    return run


def names_in(folder):
    """Return every file below a folder, the manifest apart, hidden ones included."""
    paths = sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*") if p.is_file())
    return [path for path in paths if path != "manifest.json"]


def masks_in(manifest):
    """Return each frame's masks by object, as the manifest's run lengths have them."""
    return {
        entry["frame"]: {o["object"]: NOTHING if o["rle"] is None else decode_rle(o["rle"]) for o in entry["objects"]}
        for entry in manifest["frames"]
    }


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


def film_frames(path):
    with open_video(path) as film:
        return [(frame.pts * film.time_base, frame.rgb) for frame in film.frames()]


def stop_at(kind, number):
    """Return a report that cancels at an event of a kind, counted from 1."""
    counter = itertools.count(1)

    def report(event):
        if isinstance(event, kind) and next(counter) == number:
            raise Cancelled("enough")

    return report


# What pictures show


@pytest.mark.parametrize(
    ("mask_type", "annotation_type"),
    [
        ("binary", "mask"),
        ("highlighted", "mask"),
        ("highlighted", "box"),
        ("highlighted", "both"),
        ("greenscreen", "mask"),
    ],
)
def test_each_picture_is_the_source_drawn_with_the_masks_of_the_manifest(job, mask_type, annotation_type):
    made = job(
        boxes=(DISC, BALL),
        mask_type=mask_type,
        annotation_type=annotation_type,
        output_format="png",
        output_frame_interval=3,
    )
    manifest = read_manifest(made.manifest)
    colours = {o["name"]: tuple(bytes.fromhex(o["colour"][1:])) for o in manifest["objects"]}
    for entry, (frame, masks) in zip(manifest["frames"], masks_in(manifest).items(), strict=True):
        assert iou(masks["disc"], disc(frame)) > 0.85
        assert iou(masks["ball"], ball(frame)) > 0.85
        drawn = FrameMasks(frame, 0.0, tuple(masks), np.stack(list(masks.values())), np.ones(2), np.ones(2))
        kinds = {"mask_type": mask_type, "annotation_type": annotation_type}
        expected = render(picture(frame), drawn, colours=colours, **kinds)
        assert np.array_equal(pixels(made.out / entry["file"]), expected)


@pytest.mark.parametrize(("output_format", "kind"), [("webp", "WEBP"), ("jpg", "JPEG"), ("png", "PNG")])
def test_pictures_come_in_the_format_that_was_asked_for(job, output_format, kind):
    made = job(output_format=output_format, output_frame_interval=4)
    assert [path.name for path in made.files] == [f"frame_00000.{output_format}", f"frame_00004.{output_format}"]
    masks = masks_in(read_manifest(made.manifest))
    for path, mask in zip(made.files, masks.values(), strict=True):
        with Image.open(path) as image:
            assert (image.format, image.size) == (kind, (WIDTH, HEIGHT))
            assert np.array_equal(np.asarray(image.convert("L")) > 127, mask["disc"])


@pytest.mark.parametrize("output_format", ["webp", "jpg"])
def test_quality_is_paid_for_in_bytes(job, output_format):
    sizes = []
    for quality in (10, 95):
        options = {"mask_type": "highlighted", "output_quality": quality, "output_frame_interval": FRAMES}
        made = job(out=f"at_{quality}", output_format=output_format, **options)
        sizes.append(made.files[0].stat().st_size)
    assert sizes[1] > 1.5 * sizes[0]


@pytest.mark.parametrize(("interval", "frames"), [(1, EVERY), (3, [0, 3, 6]), (7, [0, 7]), (8, [0]), (10**9, [0])])
def test_an_interval_writes_every_nth_frame_under_its_own_number(job, interval, frames):
    made = job(output_frame_interval=interval)
    assert [path.name for path in made.files] == [f"frame_{frame:05d}.webp" for frame in frames]
    assert names_in("out") == [path.name for path in made.files]
    manifest = read_manifest(made.manifest)
    assert [entry["frame"] for entry in manifest["frames"]] == frames
    assert manifest["frame_count"] == len(frames)
    assert made.frame_count == FRAMES


def test_pictures_of_single_objects_the_union_and_the_manifest_agree(job):
    made = job(boxes=(DISC, BALL), per_object=True, output_format="png")
    manifest = read_manifest(made.manifest)
    assert [o["folder"] for o in manifest["objects"]] == ["001_disc", "002_ball"]
    for entry, (frame, masks) in zip(manifest["frames"], masks_in(manifest).items(), strict=True):
        union = np.logical_or(*masks.values())
        assert np.array_equal(pixels(made.out / entry["file"]), union * np.uint8(255))
        for folder, found in zip(("001_disc", "002_ball"), entry["objects"], strict=True):
            single = pixels(made.out / folder / f"frame_{frame:05d}.png")
            mask = masks[found["object"]]
            assert np.array_equal(single, mask * np.uint8(255))
            assert found["area"] == np.count_nonzero(mask)
            assert found["box"] == [int(n) for n in box_around(mask)]


def test_names_that_no_folder_can_have_get_one_that_can(job):
    hostile = boxed("../Fuß ball", 0, ball(0))
    job(boxes=(DISC, hostile), per_object=True, output_frame_interval=FRAMES)
    folders = [o["folder"] for o in read_manifest(Path("out/manifest.json"))["objects"]]
    assert folders[0] == "001_disc"
    assert folders[1].startswith("002_") and folders[1].isascii() and "." not in folders[1] and "/" not in folders[1]
    assert names_in("out") == ["001_disc/frame_00000.png", f"{folders[1]}/frame_00000.png", "frame_00000.webp"]


def test_the_manifest_says_what_was_asked_of_what_with_which_model(job, clip):
    manifest = read_manifest(job(output_quality=70).manifest)
    assert manifest["source"]["name"] == "clip"
    assert (manifest["source"]["width"], manifest["source"]["frame_count"]) == (WIDTH, FRAMES)
    assert manifest["request"]["input_video"] == str(clip)
    assert manifest["request"]["output_quality"] == 70
    assert manifest["request"]["boxes"] == [DISC]
    assert (manifest["model"], manifest["complete"], manifest["message"]) == ("nano", True, None)


# One video instead of pictures


def test_a_video_has_a_frame_for_each_at_the_rate_that_was_asked_for(job):
    made = job(output_video=True, video_fps=12, mask_type="greenscreen")
    assert names_in("out") == ["output_video.mp4"]
    assert made.files == (Path("out/output_video.mp4"),)
    frames = film_frames(made.files[0])
    assert [seconds for seconds, _ in frames] == [Fraction(frame, 12) for frame in EVERY]
    assert frames[0][1].shape == (HEIGHT, WIDTH, 3)
    green = (frames[-1][1].astype(int) - (0, 255, 0)).__abs__().max(-1) < 40
    assert iou(~green, disc(FRAMES - 1)) > 0.85
    manifest = read_manifest(made.manifest)
    assert manifest["video"] == "output_video.mp4"
    assert {entry["file"] for entry in manifest["frames"]} == {None}
    assert len(manifest["frames"]) == FRAMES


def test_a_video_of_every_third_frame_has_a_third_of_them(job):
    assert len(film_frames(job(output_video=True, output_frame_interval=3).files[0])) == 3


@pytest.fixture
def uneven(tmp_path):
    """A film whose frames come at uneven times, with sound."""
    ticks = [0, 7, 9, 20, 31, 32, 50, 61]
    pictures = [picture(frame) for frame in EVERY]
    path = tmp_path / "uneven.mp4"
    write_odd_film(path, pictures=pictures, pts=ticks, time_base=Fraction(1, 50), sound=Sound(seconds=1.4))
    return path, [Fraction(tick, 50) for tick in ticks]


def sound_seconds(path):
    with av.open(str(path)) as film:
        if not film.streams.audio:
            return None
        packets = [p for p in film.demux(film.streams.audio[0]) if p.size]
        return float(sum(p.duration * p.time_base for p in packets))


def test_source_timing_keeps_uneven_times_and_the_sound(job, uneven):
    film, times = uneven
    made = job(film, output_video=True, source_timing=True)
    assert [seconds for seconds, _ in film_frames(made.files[0])] == times
    assert sound_seconds(made.files[0]) == pytest.approx(sound_seconds(film), abs=0.1)


def test_without_it_a_video_is_silent_and_even(job, uneven):
    made = job(uneven[0], output_video=True, video_fps=50)
    assert [seconds for seconds, _ in film_frames(made.files[0])] == [Fraction(frame, 50) for frame in EVERY]
    assert sound_seconds(made.files[0]) is None


# Which frames and objects


@pytest.mark.parametrize(
    ("direction", "frames"), [("both", EVERY), ("forward", [5, 6, 7]), ("backward", [0, 1, 2, 3, 4, 5])]
)
def test_an_object_first_prompted_late_is_followed_in_each_direction_under_the_sources_numbers(job, direction, frames):
    made = job(boxes=[boxed("disc", 5, disc(5))], direction=direction)
    assert [path.name for path in made.files] == [f"frame_{frame:05d}.webp" for frame in frames]
    found = masks_in(read_manifest(made.manifest))
    assert list(found) == frames
    for frame, masks in found.items():
        assert iou(masks["disc"], disc(frame)) > 0.7  # 14 places wide, the picture is coarse


def test_an_object_that_is_not_followed_yet_is_empty_and_unknown(job):
    made = job(boxes=(DISC, boxed("ball", 6, ball(6))), direction="forward", per_object=True)
    manifest = read_manifest(made.manifest)
    unknown = [entry["objects"][1]["rle"] is None for entry in manifest["frames"]]
    assert unknown == [True] * 6 + [False] * 2
    assert not pixels("out/002_ball/frame_00005.png").any()
    assert iou(pixels("out/002_ball/frame_00006.png") > 0, ball(6)) > 0.85


def test_a_name_without_a_positive_click_is_background_for_the_others(job):
    made = job(
        boxes=(),
        click_coordinates="[40,30],[96,68],[10,90]",
        click_labels="1,1,0",
        click_object_ids="disc,ball,background",
        output_frame_interval=FRAMES,
    )
    assert made.objects == ("disc", "ball")
    assert [o["name"] for o in read_manifest(made.manifest)["objects"]] == ["disc", "ball"]


@pytest.mark.parametrize("frames", ["2,0", "0,2"], ids=["and is later", "and is earlier"])
def test_a_correction_may_be_written_down_before_what_it_corrects(job, frames):
    clicks = {"click_coordinates": "[68,88],[40,30]", "click_labels": "0,1", "click_frames": frames}
    assert job(boxes=(), **clicks, click_object_ids="disc").objects == ("disc",)


def test_a_mask_picture_is_a_prompt_and_comes_back_as_it_was(job, tmp_path):
    Image.fromarray(disc(3) * np.uint8(255)).save(tmp_path / "mask.png")
    made = job(boxes=(), masks=(f"disc:3:{tmp_path / 'mask.png'}",))
    found = masks_in(read_manifest(made.manifest))
    assert np.array_equal(found[3]["disc"], disc(3))
    assert min(iou(found[frame]["disc"], disc(frame)) for frame in EVERY) > 0.85


def test_one_picture_is_a_video_of_one_frame(job, clip):
    made = job(clip / "0.png")
    assert [path.name for path in made.files] == ["frame_00000.webp"]
    [found] = masks_in(read_manifest(made.manifest)).values()
    assert iou(found["disc"], disc(0)) > 0.85


def test_one_network_serves_many_jobs_and_no_model_is_loaded(job):
    jobs = [job(out=out, model="not-loaded") for out in ("first", "second")]
    first, second = (read_manifest(made.manifest)["frames"] for made in jobs)
    assert first == second
    assert jobs[0].model == "not-loaded"


# Where results go


def test_results_go_beside_the_work_under_the_videos_name_and_never_into_older_ones(job, clip):
    outs = [job(out="").out for _ in range(3)]
    assert outs == [Path("clip_masks"), Path("clip_masks_2"), Path("clip_masks_3")]
    assert all(read_manifest(out / "manifest.json")["complete"] for out in outs)


def test_results_have_the_name_by_which_the_video_was_called(job, clip, work, monkeypatch):
    Path("dog.mov").symlink_to(write_odd_film(work / "8f3a91.mp4"))
    Path("walk.at.dawn").mkdir()
    for video in (clip / "0.png", clip / "1.png"):
        Path("walk.at.dawn", video.name).symlink_to(video)
    assert job("dog.mov", boxes=("patch:0:48,32,84,56",), out="", output_frame_interval=100).out == Path("dog_masks")
    assert job("walk.at.dawn/", out="").out == Path("walk.at.dawn_masks")
    monkeypatch.chdir("walk.at.dawn")
    assert job(".", out="").out == Path("walk.at.dawn_masks")
    with pytest.raises(BadPrompt, match=r"holds the video itself \(\.\)"):
        job(".", out=".")
    with pytest.raises(BadPrompt, match=r"nothing says where.* walk\.at\.dawn is 128x96"):
        job(".", boxes=())


def test_a_folder_that_was_asked_for_is_made_with_those_above_it(job):
    assert job(out="deep/down/here").out == Path("deep/down/here")
    assert len(names_in("deep/down/here")) == FRAMES


def test_what_else_lies_in_the_folder_stays(job):
    Path("out").mkdir()
    Path("out/notes.txt").write_text("mine")
    job()
    assert Path("out/notes.txt").read_text() == "mine"


def test_a_folder_with_results_is_refused_before_any_work(job):
    job()
    before = {name: Path("out", name).stat().st_mtime_ns for name in names_in("out")}
    with pytest.raises(BadPrompt, match=r"out already holds results \(manifest.json\): choose another folder"):
        job(output_format="png")
    assert {name: Path("out", name).stat().st_mtime_ns for name in names_in("out")} == before


@pytest.mark.parametrize(
    ("video", "out"),
    [("frames", "frames"), ("frames", "frames/../frames"), ("frames/frame_00000.png", "frames"), ("seen", "frames")],
)
def test_results_never_go_over_the_video_itself(job, video, out):
    write_folder(Path("frames"), frames=2)
    for frame in range(2):
        Path(f"frames/{frame}.png").rename(f"frames/frame_{frame:05d}.png")
    os.symlink("frames", "seen")
    before = Path("frames/frame_00000.png").read_bytes()
    with pytest.raises(BadPrompt, match="holds the video itself"):
        job(video, out=out, output_format="png")
    assert Path("frames/frame_00000.png").read_bytes() == before
    assert len(names_in("frames")) == 2


@pytest.mark.parametrize(
    ("mask", "per_object"), [("out/frame_00000.png", False), ("out/001_disc/frame_00000.png", True)]
)
def test_results_never_go_over_a_mask_that_was_given(job, mask, per_object):
    Path(mask).parent.mkdir(parents=True)
    Image.fromarray(disc(0).astype(np.uint8) * 255).save(mask)
    before = Path(mask).read_bytes()
    with pytest.raises(BadPrompt, match=f"out holds {mask}, which was given, and results could overwrite it"):
        job(boxes=(), masks=(f"disc:0:{mask}",), output_format="png", per_object=per_object)
    assert Path(mask).read_bytes() == before


def test_results_may_go_into_a_folder_inside_that_of_the_pictures(job):
    write_folder(Path("frames"), frames=2)
    assert len(job("frames", out="frames/masks").files) == 2


# What is told


def test_whoever_listens_hears_notes_then_each_frame_and_file_as_it_is_done(job):
    heard = []

    def report(event):
        if isinstance(event, Made):
            assert event.path.stat().st_size > 0
        heard.append(event)

    made = job(boxes=(), click_coordinates="[40,30],[40,34],[96,68]", click_object_ids="disc,ball", report=report)
    assert heard[0] == Note("click_object_ids has 2 values for 3 points: the last one is repeated")
    advances = [event for event in heard if isinstance(event, Advance)]
    assert advances == [Advance(done, FRAMES) for done in range(1, FRAMES + 1)]
    assert [event.path for event in heard if isinstance(event, Made)] == [*made.files, made.manifest]
    assert heard[1:3] == [Made(made.files[0]), Advance(1, FRAMES)]


def test_going_backward_counts_as_work_too(job):
    heard = []
    job(boxes=[boxed("disc", 3, disc(3))], report=heard.append)
    assert [event for event in heard if isinstance(event, Advance)][-1] == Advance(3 + FRAMES, 3 + FRAMES)


def test_an_option_that_cannot_act_is_said(job):
    heard = []
    job(annotation_type="both", source_timing=True, output_frame_interval=FRAMES, report=heard.append)
    notes = " ".join(event.text for event in heard if isinstance(event, Note))
    assert "annotation_type both has no effect" in notes
    assert "source_timing has no effect" in notes


# What is refused


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"boxes": ()}, BadPrompt, r"nothing says where an object is.*\[64,48\].*clip is 128x96, frames 0\.\.7"),
        ({"boxes": ["disc:9:1,1,20,20"]}, BadPrompt, r"frame 9.*0\.\.7, the video has 8 frames"),
        ({"boxes": (), "click_coordinates": "[128,1]"}, BadPrompt, r"click_coordinates\[0\]: x = 128 .*0\.\.127"),
        ({"boxes": (), "click_coordinates": "[1,1]", "click_frames": "8"}, BadPrompt, r"click_frames\[0\] = 8.*0\.\.7"),
        ({"masks": ("disc:1:nowhere.png",)}, BadPrompt, "mask nowhere.png does not exist"),
        (
            {"boxes": [boxed("disc", 5, disc(5))], "direction": "forward", "output_frame_interval": 4},
            BadPrompt,
            "output_frame_interval = 4 leaves nothing to write: forward from frame 5 to 7",
        ),
        ({"video": "nowhere.mp4"}, BadVideo, "nowhere.mp4 does not exist"),
    ],
)
def test_what_cannot_be_done_is_refused_and_leaves_nothing(job, work, options, kind, message):
    with pytest.raises(kind, match=message):
        job(**options)
    assert list(work.iterdir()) == []


def test_an_unknown_model_is_refused_and_leaves_nothing(clip, work):
    with pytest.raises(BadWeights, match="Did you mean"):
        segment_video(Request(str(clip), boxes=(DISC,), model="sam2.1-tyni"))
    assert list(work.iterdir()) == []


# Stopped in the middle


@pytest.mark.parametrize(
    ("kind", "number", "frames"), [(Advance, 1, [0]), (Advance, 3, [0, 1, 2]), (Made, 3, [0, 1, 2])]
)
def test_frames_finished_before_a_cancel_are_kept_and_listed(job, kind, number, frames):
    with pytest.raises(Cancelled, match=rf"enough: {len(frames)} finished frames are kept in out"):
        job(report=stop_at(kind, number), per_object=True)
    manifest = read_manifest(Path("out/manifest.json"))
    assert (manifest["complete"], manifest["message"], manifest["frame_count"]) == (False, "enough", len(frames))
    assert list(masks_in(manifest)) == frames
    names = [f"frame_{frame:05d}" for frame in frames]
    assert names_in("out") == [f"001_disc/{name}.png" for name in names] + [f"{name}.webp" for name in names]


def test_a_cancel_counts_what_was_written_not_what_was_gone_through(job):
    with pytest.raises(Cancelled, match="enough: 2 finished frames are kept"):
        job(report=stop_at(Advance, 6), output_frame_interval=4)
    assert len(names_in("out")) == 2


def test_a_cancelled_video_holds_the_finished_frames(job):
    with pytest.raises(Cancelled, match="3 finished frames are kept in out"):
        job(report=stop_at(Advance, 3), output_video=True)
    assert len(film_frames("out/output_video.mp4")) == 3
    manifest = read_manifest(Path("out/manifest.json"))
    assert (manifest["video"], manifest["complete"], manifest["frame_count"]) == ("output_video.mp4", False, 3)


@pytest.mark.parametrize("output_video", [False, True])
def test_damage_keeps_the_frames_before_it(job, output_video):
    write_odd_film(Path("film.mp4"), pictures=[picture(frame) for frame in range(FRAMES)])
    broken = destroyed(Path("film.mp4"), FRAMES - 1)
    with pytest.raises(BadVideo, match=r"film\.mp4 is damaged: frame \d of 8 cannot be decoded"):
        job(broken, output_video=output_video)
    manifest = read_manifest("out/manifest.json")
    kept = manifest["frame_count"]
    assert 1 <= kept < FRAMES
    assert (manifest["complete"], "is damaged: frame" in manifest["message"]) == (False, True)
    assert len(film_frames("out/output_video.mp4") if output_video else names_in("out")) == kept


@pytest.mark.parametrize("output_video", [False, True])
def test_a_cancel_before_the_first_frame_is_finished_leaves_nothing(job, work, output_video):
    late = boxed("disc", 3, disc(3))
    with pytest.raises(Cancelled, match="enough: no frame was finished, nothing is kept"):
        job(boxes=[late], report=stop_at(Advance, 2), output_video=output_video, out="deep/out", per_object=True)
    assert list(work.iterdir()) == []


def test_a_cancel_takes_no_folder_that_was_there(job):
    for mine in ("mine", "2024_mine"):  # the second as if it were a single object's
        Path("out", mine).mkdir(parents=True)
    with pytest.raises(Cancelled):
        job(boxes=[boxed("disc", 3, disc(3))], report=stop_at(Advance, 2), per_object=True)
    assert {str(path) for path in Path("out").rglob("*")} == {"out/mine", "out/2024_mine"}


@pytest.mark.parametrize("output_video", [False, True])
def test_a_cancel_when_everything_is_done_comes_too_late(job, output_video):
    made = job(report=stop_at(Advance, FRAMES), output_video=output_video)
    manifest = read_manifest(made.manifest)
    assert (manifest["complete"], manifest["frame_count"]) == (True, FRAMES)


@pytest.mark.parametrize("output_video", [False, True])
def test_a_bug_in_the_middle_leaves_nothing_half_written(job, output_video):
    def report(event):
        if event == Advance(3, FRAMES):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        job(report=report, output_video=output_video)
    manifest = read_manifest(Path("out/manifest.json"))
    assert (manifest["complete"], manifest["message"], manifest["video"]) == (
        False,
        "Stopped by ZeroDivisionError.",
        None,
    )
    assert names_in("out") == ([] if output_video else [f"frame_{frame:05d}.webp" for frame in range(3)])


# Out of room


@pytest.fixture
def no_file_above():
    """Let the system refuse files that grow beyond a size, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda most_bytes: resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_no_room_in_the_middle_keeps_finished_frames_and_says_so(job, no_file_above):
    def report(event):
        if event == Advance(3, FRAMES):
            no_file_above(4_000)

    with pytest.raises(NoSpace, match=r"Cannot write out/frame_00003\.png: File too large .* MB free .*Make room"):
        job(report=report, mask_type="highlighted", output_format="png")
    assert names_in("out") == [f"frame_{frame:05d}.png" for frame in range(3)]
    manifest = read_manifest(Path("out/manifest.json"))
    assert (manifest["complete"], manifest["frame_count"]) == (False, 3)
    assert "Cannot write out/frame_00003.png" in manifest["message"]


def test_no_room_for_a_video_leaves_no_half_of_it(job, no_file_above):
    def report(event):
        if event == Advance(3, FRAMES):
            no_file_above(100)

    with pytest.raises(NoSpace, match=r"Cannot write out/"):
        job(report=report, output_video=True, mask_type="highlighted")
    assert names_in("out") == []


def test_no_room_from_the_start_leaves_nothing(job, work, no_file_above):
    no_file_above(100)
    with pytest.raises(NoSpace, match=r"Cannot write deep/out/manifest\.json"):
        job(out="deep/out", per_object=True)
    no_file_above(resource.RLIM_INFINITY)
    assert list(work.iterdir()) == []


def test_a_name_too_long_for_a_folder_is_said_and_leaves_nothing(job, work):
    with pytest.raises(NoSpace, match=r"File name too long.*Choose a shorter name"):
        job(out=f"deep/{'x' * 300}")
    assert names_in(work) == []
    assert not Path("deep").exists()


def test_a_place_where_one_may_not_look_is_said(clip, work):
    Path("closed").mkdir(mode=0o600)
    done = masklet("segment", clip, "--box", DISC, "--out", "closed/out", cwd=work, before=DROP_PRIVILEGES)
    assert (done.code, done.out) == (6, "")
    assert "masklet: Cannot write closed/out: Permission denied" in done.err


def test_a_file_where_the_folder_should_be_is_refused_and_stays(job, work):
    Path("out").write_text("mine")
    with pytest.raises(NoSpace, match="Cannot write out: "):
        job()
    assert Path("out").read_text() == "mine"
