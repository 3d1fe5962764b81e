"""Files: their names, their pixels, the manifest, and what is left when the disk says no."""

import errno
import json
import os
import stat
import subprocess
import sys
import textwrap
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from masklet.errors import BadPrompt, Cancelled, NoSpace, Problem
from masklet.export import (
    FrameImages,
    Manifest,
    PerObjectMasks,
    atomic_write,
    describe_source,
    encode_picture,
    read_manifest,
)
from masklet.masks import FrameMasks, decode_rle
from masklet.render import assign_colours
from masklet.video import open_video

HEIGHT, WIDTH = 48, 64
SOURCE = {
    "name": "dog.mp4",
    "height": HEIGHT,
    "width": WIDTH,
    "frame_count": 9,
    "time_base": "1/90",
    "average_rate": None,
}
OBJECTS = ("dog", "cat")


def disc(radius=15):
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return (y - 20) ** 2 + (x - 30) ** 2 < radius**2


def smooth():
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([x * 4, y * 5, (x + y) * 2], axis=-1).astype(np.uint8)


def frame_masks(frame=0, objects=OBJECTS, *, masks=None, scores=None, seconds=None):
    stack = np.stack([disc() if n == 0 else ~disc() for n in range(len(objects))]) if masks is None else masks
    scores = np.linspace(5, 1, len(objects), dtype=np.float32) if scores is None else np.array(scores, np.float32)
    ious = np.full(len(objects), 0.75, np.float32)
    return FrameMasks(frame, frame / 30 if seconds is None else seconds, tuple(objects), stack, scores, ious)


def manifest(path, **changes):
    facts = {"source": SOURCE, "model": "nano", "request": {}, "colours": assign_colours(OBJECTS)} | changes
    return Manifest(path, **facts)


def names(folder):
    return sorted(one.relative_to(folder).as_posix() for one in folder.rglob("*") if one.is_file())


# One file


def test_a_file_appears_only_when_it_is_whole(tmp_path):
    target = tmp_path / "report.txt"
    with atomic_write(target) as draft:
        draft.write(b"one ")
        assert not target.exists()
        draft.write(b"two")
    assert names(tmp_path) == ["report.txt"]
    assert target.read_bytes() == b"one two"


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError])
def test_a_file_that_was_broken_off_leaves_the_older_one(tmp_path, stop):
    target = tmp_path / "report.txt"
    target.write_bytes(b"older")
    with pytest.raises(stop), atomic_write(target) as draft:
        draft.write(b"half")
        raise stop
    assert names(tmp_path) == ["report.txt"]
    assert target.read_bytes() == b"older"


def test_a_file_has_the_permissions_that_any_new_file_has(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    with atomic_write(tmp_path / "ours") as draft:
        draft.write(b"")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "ours")}
    assert len(modes) == 1


# Numbered pictures


@pytest.mark.parametrize(
    ("output_format", "index", "name", "kind"),
    [
        ("webp", 0, "frame_00000.webp", "WEBP"),
        ("jpg", 7, "frame_00007.jpg", "JPEG"),
        ("png", 12345, "frame_12345.png", "PNG"),
        ("png", 123456, "frame_123456.png", "PNG"),
    ],
)
def test_a_picture_is_named_by_its_source_frame_and_is_what_its_name_says(tmp_path, output_format, index, name, kind):
    path = FrameImages(tmp_path / "new" / "out", output_format=output_format).write(index, smooth())
    assert path == tmp_path / "new" / "out" / name
    with Image.open(path) as image:
        assert (image.format, image.size, image.mode) == (kind, (WIDTH, HEIGHT), "RGB")
    assert names(path.parent) == [name]


@pytest.mark.parametrize(
    ("output_format", "quality", "largest_error"), [("png", 0, 0), ("jpg", 95, 12), ("webp", 95, 12)]
)
def test_colours_survive_and_stay_in_order(tmp_path, output_format, quality, largest_error):
    path = FrameImages(tmp_path, output_format=output_format, quality=quality).write(0, smooth())
    with Image.open(path) as image:
        assert np.abs(np.asarray(image).astype(int) - smooth()).max() <= largest_error


@pytest.mark.parametrize(("output_format", "mode"), [("png", "L"), ("jpg", "L"), ("webp", "RGB")])
@pytest.mark.parametrize("quality", [0, 80, 100])
def test_a_mask_is_one_channel_and_exact_except_in_jpg(tmp_path, output_format, mode, quality):
    mask = disc().astype(np.uint8) * 255
    path = FrameImages(tmp_path, output_format=output_format, quality=quality).write(0, mask)
    with Image.open(path) as image:
        assert image.mode == mode
        pixels = np.asarray(image.convert("L"))
    assert output_format == "jpg" or np.array_equal(pixels, mask)


@pytest.mark.parametrize("output_format", ["jpg", "webp"])
def test_every_step_of_quality_counts_down_to_0(output_format):
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    sizes = [len(encode_picture(noise, output_format=output_format, quality=quality)) for quality in (0, 30, 80, 100)]
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize(
    "options", [{"quality": -1}, {"quality": 101}, {"output_format": "gif"}, {"output_format": "JPG"}]
)
def test_options_outside_their_range_are_refused_before_a_folder_is_made(tmp_path, options):
    with pytest.raises(BadPrompt, match=r"output_(quality|format) = .*(0\.\.100|webp, jpg, png)"):
        FrameImages(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("output_format", "longest"), [("webp", 16383), ("jpg", 65500)])
def test_a_picture_too_wide_names_the_format_that_holds_it(output_format, longest):
    wider = np.zeros((2, longest + 1), np.uint8)
    with pytest.raises(BadPrompt, match=rf"{longest + 1}x2.*{longest}.*png"):
        encode_picture(wider, output_format=output_format, quality=80)
    for fits, kind in ((wider[:, 1:], output_format), (wider, "png")):
        assert encode_picture(fits, output_format=kind, quality=80)


# Masks of single objects


def test_each_object_has_a_folder_with_one_mask_a_frame(tmp_path):
    writer = PerObjectMasks(tmp_path, OBJECTS)
    writer.write(frame_masks(4))
    assert writer.folders == {"dog": "001_dog", "cat": "002_cat"}
    assert names(tmp_path) == ["001_dog/frame_00004.png", "002_cat/frame_00004.png"]
    for path, mask in zip(names(tmp_path), (disc(), ~disc()), strict=True):
        with Image.open(tmp_path / path) as image:
            assert image.mode == "L"
            assert np.array_equal(np.asarray(image), np.where(mask, 255, 0))


def test_an_object_that_is_not_on_a_frame_is_black_there(tmp_path):
    paths = PerObjectMasks(tmp_path, OBJECTS).write(frame_masks(4, ("cat",)))
    with Image.open(paths[0]) as dog, Image.open(paths[1]) as cat:
        assert dog.size == (WIDTH, HEIGHT)
        assert dog.getextrema() == (0, 0)
        assert cat.getextrema() == (0, 255)


def test_an_object_nobody_announced_is_refused(tmp_path):
    with pytest.raises(BadPrompt, match="'cow'"):
        PerObjectMasks(tmp_path, OBJECTS).write(frame_masks(4, ("cow",)))


HOSTILE = {
    "../../etc/x": "etc_x",
    "/etc/passwd": "etc_passwd",
    "C:\\Windows": "C_Windows",
    "..": "object",
    ".": "object",
    "": "object",
    " ": "object",
    "\0": "object",
    "CON": "CON",
    "a": "a",
    "A": "A",
    "trailing. ": "trailing",
    "x" * 300: "x" * 40,
    "café": "cafe",
    "cafe\u0301": "cafe",
    "犬": "object",
    "\u202egnp.exe": "gnp_exe",
    "\udcff": "object",
    "-rf": "rf",
    "a/b": "a_b",
    "a?*<>|:\"'b": "a_b",
}


def test_hostile_names_each_get_their_own_folder_inside_the_output(tmp_path):
    out = tmp_path / "out"
    writer = PerObjectMasks(out, list(HOSTILE))
    masks = np.zeros((len(HOSTILE), HEIGHT, WIDTH), bool)
    writer.write(frame_masks(0, HOSTILE, masks=masks))
    expected = {name: f"{number:03d}_{slug}" for number, (name, slug) in enumerate(HOSTILE.items(), start=1)}
    assert writer.folders == expected
    assert names(tmp_path) == sorted(f"out/{folder}/frame_00000.png" for folder in expected.values())
    assert len({folder.lower() for folder in expected.values()}) == len(HOSTILE)


# The manifest


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # pycocotools 2.0.11 under numpy 2.4
def test_a_manifest_says_everything_about_a_frame(tmp_path):
    with manifest(
        tmp_path / "manifest.json", request={"mask_type": "binary"}, folders={"dog": "001_dog", "cat": "002_cat"}
    ) as out:
        out.add(frame_masks(6), file="frame_00006.webp")
    held = read_manifest(tmp_path / "manifest.json")
    (frame,) = held["frames"]
    dog, cat = frame.pop("objects")
    assert frame == {"frame": 6, "seconds": 0.2, "file": "frame_00006.webp"}
    rle = dog.pop("rle")
    assert dog == {
        "object": "dog",
        "present": True,
        "score": 5.0,
        "iou": 0.75,
        "area": int(disc().sum()),
        "box": [16, 6, 45, 35],
    }
    assert (cat["object"], cat["area"], cat["box"]) == ("cat", int((~disc()).sum()), [0, 0, WIDTH, HEIGHT])
    assert rle["size"] == [HEIGHT, WIDTH]
    assert np.array_equal(coco.decode(rle), disc())
    del held["frames"], held["made_by"]
    assert held == {
        "format": "masklet-manifest",
        "version": 1,
        "model": "nano",
        "source": SOURCE,
        "request": {"mask_type": "binary"},
        "objects": [
            {"number": 1, "name": "dog", "colour": "#e69f00", "folder": "001_dog"},
            {"number": 2, "name": "cat", "colour": "#56b4e9", "folder": "002_cat"},
        ],
        "frame_count": 1,
        "video": None,
        "complete": True,
        "message": None,
    }


def test_a_hidden_object_has_an_empty_mask_and_an_untracked_one_has_nothing(tmp_path):
    with manifest(tmp_path / "manifest.json") as out:
        out.add(frame_masks(0, ("cat",), masks=np.zeros((1, HEIGHT, WIDTH), bool), scores=[-3]))
    untracked, hidden = read_manifest(tmp_path / "manifest.json")["frames"][0]["objects"]
    assert not decode_rle(hidden.pop("rle")).any()
    assert hidden == {"object": "cat", "present": False, "score": -3.0, "iou": 0.75, "area": 0, "box": None}
    assert untracked == {"object": "dog", "present": False} | {
        "score": None,
        "iou": None,
        "area": 0,
        "box": None,
        "rle": None,
    }


@pytest.mark.parametrize(
    ("came", "listed"),
    [
        ([], []),
        ([0, 1, 2], [0, 1, 2]),
        ([5, 6, 7, 4, 3], [3, 4, 5, 6, 7]),
        ([2, 1, 0], [0, 1, 2]),
        ([0, 1, 2, 1], [0, 1, 2]),
        ([3, 3], [3]),
    ],
)
def test_frames_are_listed_ascending_and_the_last_word_on_each_counts(tmp_path, came, listed):
    with manifest(tmp_path / "manifest.json") as out:
        for turn, frame in enumerate(came):
            out.add(frame_masks(frame), file=f"turn_{turn}")
    held = read_manifest(tmp_path / "manifest.json")
    last = {frame: f"turn_{turn}" for turn, frame in enumerate(came)}
    assert [(one["frame"], one["file"]) for one in held["frames"]] == [(frame, last[frame]) for frame in listed]
    assert held["frame_count"] == len(listed)
    assert names(tmp_path) == ["manifest.json"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_null(tmp_path, value):
    with manifest(tmp_path / "manifest.json", request={"deep": [{"x": float(value)}], "path": tmp_path}) as out:
        out.add(frame_masks(0, scores=[value, 1], seconds=float(value)))
    held = read_manifest(tmp_path / "manifest.json")
    assert (held["frames"][0]["seconds"], held["frames"][0]["objects"][0]["score"]) == (None, None)
    assert held["request"] == {"deep": [{"x": None}], "path": str(tmp_path)}


@pytest.mark.parametrize("name", ["犬", 'quote " and \\', "line\nbreak", "\0", "\udcff", "🐕", "</script>"])
def test_any_object_name_survives_in_utf_8(tmp_path, name):
    with manifest(tmp_path / "manifest.json", colours=assign_colours([name])) as out:
        out.add(frame_masks(0, (name,)))
    held = json.loads((tmp_path / "manifest.json").read_bytes().decode("utf-8", "strict"))
    assert held["objects"][0]["name"] == held["frames"][0]["objects"][0]["object"] == name


def test_a_frame_is_a_line_so_that_people_and_line_tools_can_read_it(tmp_path):
    with manifest(tmp_path / "manifest.json") as out:
        for frame in range(3):
            out.add(frame_masks(frame))
    lines = (tmp_path / "manifest.json").read_text().splitlines()
    assert [json.loads(line.rstrip(","))["frame"] for line in lines[2:5]] == [0, 1, 2]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (Cancelled("Stopped at frame 2 of 9."), "Stopped at frame 2 of 9."),
        (KeyboardInterrupt(), "Stopped by KeyboardInterrupt."),
        (RuntimeError("internal"), "Stopped by RuntimeError."),
    ],
)
def test_a_job_that_ends_early_keeps_what_was_finished(tmp_path, error, message):
    with pytest.raises(type(error)), manifest(tmp_path / "manifest.json") as out:
        out.add(frame_masks(0))
        out.add(frame_masks(1))
        raise error
    held = read_manifest(tmp_path / "manifest.json")
    assert (held["complete"], held["message"], held["frame_count"], len(held["frames"])) == (False, message, 2, 2)


def test_a_job_that_fails_before_its_first_frame_leaves_nothing_and_takes_nothing(tmp_path):
    (tmp_path / "manifest.json").write_bytes(b"older")
    with pytest.raises(Problem), manifest(tmp_path / "manifest.json"):
        raise Problem("no")
    assert names(tmp_path) == ["manifest.json"]
    assert (tmp_path / "manifest.json").read_bytes() == b"older"


def test_closing_by_hand_says_what_the_film_is_called(tmp_path):
    with manifest(tmp_path / "manifest.json") as out:
        out.add(frame_masks(0))
        out.close(complete=False, message="enough", video="output_video.mp4")
    held = read_manifest(tmp_path / "manifest.json")
    assert (held["complete"], held["message"], held["video"]) == (False, "enough", "output_video.mp4")


def test_memory_does_not_grow_with_the_clip(tmp_path):
    def held_bytes(count):
        masks = frame_masks(0)
        with manifest(tmp_path / "manifest.json") as out:
            tracemalloc.start()
            for _ in range(count):
                out.add(masks)
            held, _ = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        return held

    held_bytes(1)
    assert held_bytes(2_000) - held_bytes(100) < 2_000 * 40, "a frame costs 24 bytes, its entry has 700"


def test_the_source_is_described_without_the_machine_it_lay_on(tmp_path):
    FrameImages(tmp_path / "clip", output_format="png").write(0, smooth())
    with open_video(tmp_path / "clip") as video:
        facts = describe_source(video)
    assert facts["name"] == "clip"
    assert (facts["height"], facts["width"], facts["frame_count"]) == (HEIGHT, WIDTH, 1)
    assert json.loads(json.dumps(facts)) == facts


@pytest.mark.parametrize("path", [".", "../clip", "inner/.."])
def test_a_source_has_its_name_however_it_was_reached(tmp_path, monkeypatch, path):
    FrameImages(tmp_path / "clip", output_format="png").write(0, smooth())
    (tmp_path / "clip" / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "clip")
    with open_video(path) as video:
        assert describe_source(video)["name"] == "clip"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "Expecting value"),
        (b"[]", "format"),
        (b'{"format": "other"}', "format"),
        (b'{"format": "masklet-manifest", "version": 2}', "version is 2"),
        (b'{"format": "masklet-manifest", "version": NaN}', "NaN"),
        (b"\xff\xfe\x00", "codec"),
        (None, "No such file"),
    ],
)
def test_a_file_that_is_no_manifest_is_refused_by_name(tmp_path, content, words):
    path = tmp_path / "manifest.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadPrompt, match=words) as refused:
        read_manifest(path)
    assert str(path) in str(refused.value)


# When the disk says no


def test_a_file_where_a_folder_is_needed_is_named(tmp_path):
    (tmp_path / "out").write_bytes(b"mine")
    for attempt in (lambda: FrameImages(tmp_path / "out"), lambda: FrameImages(tmp_path / "out" / "deeper")):
        with pytest.raises(NoSpace, match=r"out.*A file stands where a folder"):
            attempt()
    assert (tmp_path / "out").read_bytes() == b"mine"


def test_a_folder_where_a_file_is_needed_is_named(tmp_path):
    (tmp_path / "frame_00000.webp").mkdir()
    with pytest.raises(NoSpace, match=r"frame_00000\.webp.*or the reverse"):
        FrameImages(tmp_path).write(0, smooth())
    assert names(tmp_path) == []


def test_a_folder_that_somebody_removed_meanwhile_is_named(tmp_path):
    images = FrameImages(tmp_path / "out")
    (tmp_path / "out").rmdir()
    with pytest.raises(NoSpace, match=r"frame_00000\.webp: No such file or directory"):
        images.write(0, smooth())


def test_a_name_longer_than_the_file_system_takes_is_named(tmp_path):
    with pytest.raises(NoSpace, match="Choose a shorter name"), atomic_write(tmp_path / ("x" * 300)) as draft:
        draft.write(b"x")
    assert names(tmp_path) == []


def test_a_place_nobody_may_write_to_is_named():
    # The kernel's own tree refuses even root.
    with pytest.raises(NoSpace, match=r"/sys/masklet.*(Choose|Check)"):
        FrameImages(Path("/sys/masklet"))


FILL_THE_DISK = """
    import sys
    from pathlib import Path
    import numpy as np
    from masklet.errors import NoSpace
    from masklet.export import FrameImages, Manifest
    from masklet.masks import FrameMasks
    from masklet.render import assign_colours

    out = Path(sys.argv[1])
    {limit}
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)   # an incompressible 12 kB
    mask, one = np.random.default_rng(1).random((1, 64, 64)) < 0.5, np.ones(1, np.float32)
    images = FrameImages(out, output_format="png")
    try:
        with Manifest(
            out / "manifest.json", source={{}}, model="nano", request={{}}, colours=assign_colours(["dog"])
        ) as manifest:
            for frame in range(1000):
                {picture}
                manifest.add(FrameMasks(frame, 0.0, ("dog",), mask, one, one), file=f"frame_{{frame:05d}}.png")
    except NoSpace as problem:
        print(problem)
"""
LIMIT_EACH_FILE = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))"


def fill(out, *, limit="", picture="images.write(frame, noise)", before=()):
    script = textwrap.dedent(FILL_THE_DISK).format(limit=limit, picture=picture)
    ran = subprocess.run([*before, sys.executable, "-c", script, str(out)], capture_output=True, text=True, timeout=60)
    assert ran.stderr == ""
    return ran.stdout


def test_a_manifest_that_hits_the_file_size_limit_ends_there_and_stays_readable(tmp_path):
    said = fill(tmp_path, limit=LIMIT_EACH_FILE, picture="")
    assert "manifest.json: File too large" in said
    assert "Make room or choose another folder" in said
    held = read_manifest(tmp_path / "manifest.json")
    assert (held["complete"], names(tmp_path)) == (False, ["manifest.json"])
    assert 0 < held["frame_count"] == len(held["frames"]) < 1000


def test_a_picture_that_hits_the_file_size_limit_leaves_the_ones_before(tmp_path):
    bigger = (
        "images.write(frame, np.random.default_rng(frame).integers(0, 256, (64 * (frame + 1), 64, 3), dtype=np.uint8))"
    )
    said = fill(tmp_path, limit=LIMIT_EACH_FILE, picture=bigger)
    held = read_manifest(tmp_path / "manifest.json")
    count = held["frame_count"]
    assert f"frame_{count:05d}.png: File too large" in said
    assert names(tmp_path) == [*(f"frame_{frame:05d}.png" for frame in range(count)), "manifest.json"]
    assert held["message"] == said.rstrip("\n")


def own_mounts():
    """Whether this kernel lets the user mount a disk in a name space of their own (many CI machines do not)."""
    try:
        ran = subprocess.run(
            ["unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "x", "/mnt"],
            capture_output=True,
        )
    except FileNotFoundError:
        return False
    return ran.returncode == 0


@pytest.mark.skipif(not own_mounts(), reason="needs a mount name space; the file size limits above run everywhere")
def test_a_full_disk_keeps_every_finished_frame_and_a_readable_manifest(tmp_path):
    keep = tmp_path / "keep"
    disk = tmp_path / "disk"
    keep.mkdir()
    disk.mkdir()
    mount = f'mount -t tmpfs -o size=200k small {disk} && "$@"'
    look = f"ls -A {disk} > {keep}/names && cp {disk}/manifest.json {keep}"
    said = fill(
        disk, before=["unshare", "--user", "--map-root-user", "--mount", "sh", "-ec", f"{mount} && {look}", "sh"]
    )
    assert f"{os.strerror(errno.ENOSPC)} (0." in said
    assert "MB free of 0.2 MB" in said
    held = read_manifest(keep / "manifest.json")
    count = held["frame_count"]
    assert (held["complete"], held["message"]) == (False, said.rstrip("\n"))
    files = [f"frame_{frame:05d}.png" for frame in range(count)]
    listed = (keep / "names").read_text().split()
    assert listed[: count + 1] in ([*files, "manifest.json"], [*files, f"frame_{count:05d}.png"])
    assert not [name for name in listed if name.endswith(".part")]
