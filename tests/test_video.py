"""A video as numbered frames: forward, backward, at indices and several times at once, always the same pictures."""

import gc
import os
import subprocess
import sys
import textwrap
from contextlib import ExitStack
from functools import cache
from itertools import islice, zip_longest
from pathlib import Path

import numpy as np
import pytest
from films import FRAMES, HEIGHT, KINDS, MPEG4, WIDTH, Kind, Sound, number_in, picture, write_film
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from shell import DROP_PRIVILEGES

from masklet.errors import BadVideo
from masklet.video import Frame, open_video, video


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Return a film of a kind, or the same pictures as a folder, written once; not to be changed."""
    folder = tmp_path_factory.mktemp("videos")

    @cache
    def written(name):
        if name == "pictures":
            path = folder / name
            path.mkdir()
            for number in range(FRAMES):
                Image.fromarray(picture(number)).save(path / f"{number}.png")
            return path
        kind = KINDS[name]
        return write_film(folder / f"{name}.{kind.suffix}", kind)

    return written


ALL = [*KINDS, "pictures"]
SOME = ["H.264 in MP4", "H.264 in TS", "VP9 in WebM", "MPEG-2 in a program stream", "GIF", "pictures"]


def numbers(frames):
    return [number_in(frame.rgb) for frame in frames]


def same(frame, other):
    return (frame.index, frame.pts, frame.seconds) == (other.index, other.pts, other.seconds) and np.array_equal(
        frame.rgb, other.rgb
    )


# One way or another


@pytest.mark.parametrize("name", ALL)
def test_any_frame_is_the_same_at_its_index_as_in_its_turn(source, name):
    video = open_video(source(name))
    forward = list(video.frames())
    order = [FRAMES - 1, 0, 9, 8, 7, 17, 7, *range(0, FRAMES, 5)]
    for index, frame in zip(order, video.frames_at(order), strict=True):
        assert same(frame, forward[index]), index


@pytest.mark.parametrize("name", ALL)
def test_backward_gives_the_same_frames_from_the_other_end(source, monkeypatch, name):
    monkeypatch.setattr(video, "BACKWARD_FRAMES", 5)
    film = open_video(source(name))
    forward, backward = list(film.frames()), list(film.frames_backward(FRAMES - 1))
    assert [frame.index for frame in backward] == list(reversed(range(FRAMES)))
    assert all(same(*pair) for pair in zip(forward, reversed(backward), strict=True))


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("start", range(0, FRAMES, 3))
def test_reading_may_begin_and_end_anywhere(source, name, start):
    film = open_video(source(name))
    assert numbers(film.frames(start)) == list(range(start, FRAMES))
    assert numbers(film.frames(start, start + 2)) == list(range(start, min(start + 2, FRAMES)))
    assert numbers(film.frames_backward(start, start - 2 if start else 0)) == (
        [start, start - 1, start - 2] if start else [0]
    )


@pytest.mark.parametrize(("start", "stop"), [(FRAMES, None), (5, 5), (9, 3), (FRAMES + 9, None)])
def test_an_empty_span_has_no_frames(source, start, stop):
    assert list(open_video(source("H.264 in MP4")).frames(start, stop)) == []


OUT_OF_RANGE = {
    "at": lambda film, index: film.frames_at([0, index]),
    "backward": lambda film, index: film.frames_backward(index, min(index, 0)),
    "seconds": lambda film, index: [film.seconds_at(index)],
}


@pytest.mark.parametrize("way", OUT_OF_RANGE)
@pytest.mark.parametrize("index", [-1, FRAMES, 10**9])
def test_a_frame_that_is_not_there_is_named_with_the_range_there_is(source, way, index):
    with pytest.raises(BadVideo, match=rf"has no frame {index}: it has {FRAMES} frames, 0\.\.{FRAMES - 1}"):
        list(OUT_OF_RANGE[way](open_video(source("H.264 in MP4")), index))


@pytest.mark.parametrize("name", SOME)
def test_several_iterations_at_once_do_not_disturb_each_other(source, name):
    film = open_video(source(name))
    ways = [film.frames(), film.frames(7), film.frames_backward(FRAMES - 1), film.frames_at([3, 20, 4]), film.frames()]
    came = zip(*zip_longest(*ways), strict=True)
    expected = [range(FRAMES), range(7, FRAMES), reversed(range(FRAMES)), [3, 20, 4], range(FRAMES)]
    for frames, order in zip(came, expected, strict=True):
        assert numbers(frame for frame in frames if frame) == list(order)


def test_two_threads_read_one_video(source):
    code = """
        import sys
        from concurrent.futures import ThreadPoolExecutor
        from masklet.video import open_video
        film = open_video(sys.argv[1])
        read = lambda _: [frame.rgb.tobytes() for frame in film.frames()]
        with ThreadPoolExecutor(4) as pool:
            first, *others = pool.map(read, range(8))
        print(all(other == first for other in others), len(first))
    """
    path = source("H.264 in MP4")
    said = subprocess.check_output([sys.executable, "-c", textwrap.dedent(code), str(path)], text=True, timeout=60)
    assert said.split() == ["True", str(FRAMES)]


def test_a_frame_belongs_to_whoever_asked_for_it(source):
    for name in SOME:
        film = open_video(source(name))
        (first,) = film.frames(0, 1)
        before = first.rgb.copy()
        first.rgb[:] = 0
        assert np.array_equal(next(film.frames()).rgb, before)


# Held at once


def held_frames():
    return sum(type(thing) is Frame for thing in gc.get_objects())  # isinstance would wake lazy things of other modules


@pytest.mark.parametrize(
    ("frames", "held_bytes", "bound"), [(6, 2**30, 6), (32, 4 * HEIGHT * WIDTH * 3, 4), (32, 1, 1)]
)
@pytest.mark.parametrize("name", ["H.264 in MP4", "GIF", "pictures"])
def test_backward_holds_a_bounded_number_of_frames(source, monkeypatch, name, frames, held_bytes, bound):
    monkeypatch.setattr(video, "BACKWARD_FRAMES", frames)
    monkeypatch.setattr(video, "BACKWARD_BYTES", held_bytes)
    film = open_video(source(name))
    gc.collect()
    before = held_frames()
    most = max(held_frames() - before for _ in film.frames_backward(FRAMES - 1))
    assert most <= bound + 1, "and the one before, which the loop still has"


def test_forward_holds_one_frame(source):
    film = open_video(source("H.264 in MP4"))
    gc.collect()
    before = held_frames()
    assert max(held_frames() - before for _ in film.frames()) <= 2


GROWTH = """
    import gc, os, sys
    from itertools import islice
    from pathlib import Path
    from masklet.video import open_video
    from masklet.errors import BadVideo

    path, broken, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])

    def round_of_use():
        film = open_video(path)
        for _ in range(3):
            next(film.frames())                       # left where it stands
            list(islice(film.frames_backward(film.frame_count - 1), 2))
            list(film.frames_at([5]))
        kept = film.frames()
        next(kept)
        try:
            list(open_video(broken).frames())
        except BadVideo:
            pass
        return kept

    def state():
        gc.collect()
        threads = len(os.listdir("/proc/self/task"))
        resident_kb = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") // 1024
        return resident_kb, threads, len(os.listdir("/proc/self/fd"))

    for _ in range(20):
        round_of_use()
    before = state()
    for _ in range(rounds):
        round_of_use()
    print(*(after - first for after, first in zip(state(), before)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("name", ["H.264 in MP4", "VP9 in WebM", "H.264 in TS"])
def test_iterations_that_are_left_leave_no_memory_threads_or_files_behind(source, tmp_path, name):
    path, broken = source(name), tmp_path / f"broken{source(name).suffix}"
    data = bytearray(path.read_bytes())
    data[len(data) // 2 :: 50] = bytes(len(data[len(data) // 2 :: 50]))
    broken.write_bytes(data)
    said = subprocess.check_output(
        [sys.executable, "-c", textwrap.dedent(GROWTH), str(path), str(broken), "80"], text=True, timeout=120
    )
    grown_kb, threads, files = (int(word) for word in said.split())
    assert (threads, files) == (0, 0)
    assert grown_kb < 12_000, "one film's decoder is 2 MB, and 80 rounds make 800 of them"


# What can be opened


@given(st.text(max_size=40))
def test_any_words_as_a_path_are_a_bad_video_or_nothing_at_all(words):
    path = Path("/nonexistent") / words.lstrip("/")
    with pytest.raises(BadVideo):
        open_video(path)


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:9/film.mp4",
        "https://example.org/film.mp4",
        "file:film.mp4",
        "concat:film.mp4|film.mp4",
        "pipe:0",
        "data:video/mp4;base64,AAAA",
        "film_%02d.png",
        "subfile,,start,0,end,9,,:film.mp4",
        "/dev/stdin/film.mp4",
    ],
)
def test_an_address_is_a_file_name_and_nothing_else(tmp_path, monkeypatch, address):
    write_film(tmp_path / "film.mp4")
    Image.fromarray(picture(0)).save(tmp_path / "film_00.png")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadVideo, match=r"does not exist|cannot be read"):
        open_video(address)


@pytest.mark.parametrize(
    "name", ["http:film.mp4", "a%03d b.mp4", "crop=1.mkv", "-i.mp4", "fïlm 犬.mp4", "x" * 240 + ".mp4"]
)
def test_a_file_of_any_name_is_read(tmp_path, monkeypatch, name):
    path = write_film(tmp_path / "plain.mp4", pictures=[picture(5)]).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert numbers(open_video(name).frames()) == numbers(open_video(path).frames()) == [5]


def test_the_suffix_does_not_matter(source, tmp_path):
    for suffix in (".txt", ".png", ".m3u8", ""):
        path = tmp_path / f"film{suffix}"
        path.write_bytes(source("H.264 in MP4").read_bytes())
        assert open_video(path).frame_count == FRAMES


def missing(folder):
    return folder / "missing.mp4"


def bare_folder(folder):
    (folder / "letter.txt").write_text("no picture")
    return folder


def pipe(folder):
    os.mkfifo(folder / "pipe.mp4")
    return folder / "pipe.mp4"


REFUSED = {
    "missing": (missing, r"missing\.mp4 does not exist: give the path"),
    "a folder without pictures": (bare_folder, r"holds no pictures: put \.bmp, \.jpeg"),
    "a pipe": (pipe, r"pipe\.mp4 is neither a file nor a folder: save the video to a file first"),
    "a device": (lambda folder: Path("/dev/zero"), r"/dev/zero is neither a file nor a folder"),
    "a link to itself": (lambda folder: link_to_itself(folder), r"cannot be read \(Too many levels"),
    "a link to nothing": (lambda folder: link_to_nothing(folder), r"does not exist"),
    "a file as a folder": (lambda folder: file_as_folder(folder), r"cannot be read \(Not a directory"),
    "too long": (lambda folder: folder / ("x" * 300), r"cannot be read \(File name too long"),
    "a NUL": (lambda folder: f"{folder}/a\0b.mp4", r"a\\x00b\.mp4' cannot be a path"),
    "half a character": (lambda folder: f"{folder}/\ud83d.mp4", r"\\ud83d\.mp4' cannot be a path"),
}


def link_to_itself(folder):
    (folder / "loop.mp4").symlink_to(folder / "loop.mp4")
    return folder / "loop.mp4"


def link_to_nothing(folder):
    (folder / "link.mp4").symlink_to(folder / "nothing.mp4")
    return folder / "link.mp4"


def file_as_folder(folder):
    (folder / "letter.txt").write_text("no folder")
    return folder / "letter.txt" / "film.mp4"


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_opened_is_refused_with_the_reason(tmp_path, name):
    make, message = REFUSED[name]
    with pytest.raises(BadVideo, match=message):
        open_video(make(tmp_path))


@pytest.mark.skipif(sys.platform != "linux", reason="takes root's privileges away by a call that only Linux has")
@pytest.mark.parametrize("what", ["film.mp4", "pictures"])
def test_what_may_not_be_read_is_refused_with_the_reason(tmp_path, what):
    write_film(tmp_path / "film.mp4", pictures=[picture(0)])
    (tmp_path / "pictures").mkdir()
    Image.fromarray(picture(0)).save(tmp_path / "pictures" / "0.png")
    (tmp_path / what).chmod(0)
    code = f"""
import os, sys
if len(sys.argv) == 2:
{textwrap.indent(DROP_PRIVILEGES, "    ")}
    os.execv(sys.executable, [*sys.orig_argv, "without"])
from masklet.errors import BadVideo
from masklet.video import open_video
try:
    open_video(sys.argv[1])
except BadVideo as error:
    print(error)
"""
    said = subprocess.check_output([sys.executable, "-c", code, str(tmp_path / what)], text=True, timeout=60)
    (tmp_path / what).chmod(0o700)
    assert f"{what} may not be read: check its permissions" in said


def test_a_video_is_a_context_manager(source):
    with ExitStack() as stack:
        film = stack.enter_context(open_video(source("H.264 in MP4")))
        assert len(list(islice(film.frames(), 3))) == 3


def test_sound_is_noticed(tmp_path):
    silent = write_film(tmp_path / "silent.mp4", pictures=[picture(0)])
    loud = write_film(tmp_path / "loud.mp4", pictures=[picture(0)], sound=Sound())
    rare = write_film(tmp_path / "rare.avi", MPEG4, pictures=[picture(0)], sound=Sound("adpcm_ima_wav"))
    assert [open_video(path).has_audio for path in (silent, loud, rare)] == [False, True, False]


@pytest.mark.parametrize("kind", [Kind("mov", "png", pix_fmt="rgb24")], ids=str)
def test_colours_of_a_lossless_film_are_exact(tmp_path, kind):
    path = write_film(tmp_path / "film.mov", kind)
    for number, frame in enumerate(open_video(path).frames()):
        assert np.array_equal(frame.rgb, picture(number))
