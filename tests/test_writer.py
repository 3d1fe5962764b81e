"""The MP4 that masklet writes: what players need, the source's own times and sound, and whole or not at all."""

import logging
import os
import subprocess
import sys
import textwrap
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from films import FRAMES, H264, HEIGHT, KINDS, MPEG2, MPEG4, VP9, WIDTH, Kind, Sound, number_in, picture, write_film
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shell import DROP_PRIVILEGES

from masklet.errors import BadPrompt, NoSpace
from masklet.video import VideoWriter, can_write, open_video

TEN = Fraction(10)


def write(path, pictures, *, fps=TEN):
    with VideoWriter(path, fps=fps) as film:
        for rgb in pictures:
            film.write(rgb)
    return path


def write_again(path, source, *, audio=False, frames=None):
    """Write a video's frames at their own times."""
    with VideoWriter(path, source=source, audio=audio) as film:
        for frame in source.frames() if frames is None else frames:
            film.write(frame.rgb, pts=frame.pts)
    return path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def times_in(path):
    """Return each frame's exact time, counted from the first."""
    with av.open(str(path)) as container:
        stamps = [Fraction(frame.pts) * Fraction(frame.time_base) for frame in container.decode(video=0)]
    return [stamp - stamps[0] for stamp in stamps]


# What players need


def test_it_is_h264_in_four_two_zero_with_its_colours_named(tmp_path):
    path = write(tmp_path / "out.mp4", [picture(n) for n in range(3)])
    with av.open(str(path)) as container:
        (stream,) = container.streams
        coder = stream.codec_context
        assert container.format.name.startswith("mov,mp4")
        assert (coder.name, coder.pix_fmt, coder.codec_tag) == ("h264", "yuv420p", "avc1")
        limited, bt709 = 1, 1
        tags = (coder.color_range, coder.colorspace, coder.color_primaries, coder.color_trc)
        assert tags == (limited, bt709, bt709, bt709)
    assert can_write()


def test_its_index_comes_first_so_that_it_plays_while_it_loads(tmp_path):
    data = write(tmp_path / "out.mp4", [picture(n) for n in range(9)]).read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")


def test_numbered_pictures_come_back_in_order(tmp_path):
    video = open_video(write(tmp_path / "out.mp4", [picture(n) for n in range(70)]))
    assert [number_in(frame.rgb) for frame in video.frames()] == list(range(70))


COLOURS = [(200, 60, 40), (30, 180, 60), (40, 60, 210), (240, 240, 240), (10, 10, 10), (230, 159, 0), (0, 255, 0)]


@pytest.mark.parametrize("colour", COLOURS, ids=str)
def test_a_colour_comes_back_within_a_few_levels(tmp_path, colour):
    flat = np.full((HEIGHT, WIDTH, 3), colour, np.uint8)
    for frame in open_video(write(tmp_path / "out.mp4", [flat, flat])).frames():
        assert np.abs(frame.rgb.astype(int) - colour).max() <= 4


def test_masks_of_one_channel_come_back_grey_and_sharp(tmp_path):
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    mask = ((y - 30) ** 2 + (x - 40) ** 2 < 400).astype(np.uint8) * 255
    video = open_video(write(tmp_path / "out.mp4", [mask, 255 - mask]))
    first, second = (frame.rgb for frame in video.frames())
    assert np.abs(first.astype(int) - first.mean(axis=2, keepdims=True)).max() <= 2, "grey"
    for rgb, expected in ((first, mask), (second, 255 - mask)):
        assert np.array_equal(rgb[..., 0] > 127, expected > 127)
        assert np.abs(rgb.astype(int) - expected[..., None]).mean() < 3


def test_a_moving_picture_is_close_everywhere(tmp_path):
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    waves = [np.stack([x * 2, y * 3, 128 + 90 * np.sin((x + n) / 9)], -1).astype(np.uint8) for n in range(12)]
    for frame in open_video(write(tmp_path / "out.mp4", waves)).frames():
        assert np.abs(frame.rgb.astype(int) - waves[frame.index]).mean() < 4


@pytest.mark.parametrize(("height", "width"), [(63, 97), (64, 97), (63, 96), (1, 1), (2, 3), (64, 96)])
@pytest.mark.parametrize("channels", [(), (3,)], ids=["grey", "colour"])
def test_odd_sizes_are_padded_by_repeating_the_edge(tmp_path, height, width, channels):
    rgb = np.full((height, width, *channels), 60, np.uint8)
    rgb[-1], rgb[:, -1] = 200, 200
    (frame,) = open_video(write(tmp_path / "out.mp4", [rgb])).frames()
    assert frame.rgb.shape == (height + height % 2, width + width % 2, 3)
    assert np.abs(frame.rgb[-1].astype(int) - 200).max() <= 12
    assert np.abs(frame.rgb[:, -1].astype(int) - 200).max() <= 12


def test_the_callers_picture_is_left_alone(tmp_path):
    rgb = picture(3, 63, 97)
    rgb.setflags(write=False)
    write(tmp_path / "out.mp4", [rgb, rgb[:, ::-1][:, ::-1], np.asfortranarray(rgb)])
    assert open_video(tmp_path / "out.mp4").frame_count == 3


# Time


@pytest.mark.parametrize("fps", [Fraction(1), Fraction(24), Fraction(30000, 1001), Fraction(1, 7), Fraction(1000)])
def test_a_given_rate_is_kept_to_the_tick(tmp_path, fps):
    path = write(tmp_path / "out.mp4", [picture(n) for n in range(50)], fps=fps)
    assert times_in(path) == [n / fps for n in range(50)]
    assert open_video(path).average_rate == fps
    with av.open(str(path)) as container:
        assert container.duration / av.time_base == pytest.approx(float(50 / fps), rel=1e-3)


UNEVEN = [3, 4, 6, 7, 20, 21, 22, 23, 70, 71, 75, 90]
SOURCES = {
    "MP4": (H264, Fraction(1, 50)),
    "MP4, fine clock": (H264, Fraction(1, 90_000)),
    "MP4, odd clock": (H264, Fraction(1001, 30_000)),
    "MKV": (H264.to("mkv"), Fraction(1, 50)),
    "TS": (H264.to("ts"), Fraction(1, 50)),
    "GIF": (KINDS["GIF"], Fraction(1, 50)),
    "WebM": (VP9, Fraction(1, 50)),
    "AVI": (MPEG4, Fraction(1, 10)),
}


@pytest.mark.parametrize("name", SOURCES)
def test_a_sources_uneven_times_are_kept_to_the_tick(tmp_path, name):
    kind, time_base = SOURCES[name]
    pts = [3 + n for n in range(len(UNEVEN))] if name == "AVI" else UNEVEN
    pictures = [picture(n) for n in range(len(pts))]
    path = write_film(tmp_path / f"in.{kind.suffix}", kind, pictures=pictures, pts=pts, time_base=time_base)
    source = open_video(path)
    stamps = [frame.pts for frame in source.frames()]
    assert len(set(np.diff(stamps))) > 1 or name == "AVI"
    times = times_in(write_again(tmp_path / "out.mp4", source))
    assert times == [(stamp - stamps[0]) * source.time_base for stamp in stamps]


def test_a_part_of_a_source_starts_at_zero_and_keeps_its_steps(tmp_path):
    path = write_film(tmp_path / "in.mp4", pts=[n * (2 + n % 3) for n in range(0, 3 * FRAMES, 3)])
    source = open_video(path)
    frames = [frame for frame in source.frames() if frame.index % 5 == 2]
    out = write_again(tmp_path / "out.mp4", source, frames=frames)
    assert times_in(out) == [(frame.pts - frames[0].pts) * source.time_base for frame in frames]
    assert [number_in(frame.rgb) for frame in open_video(out).frames()] == [2, 7, 12, 17, 22]


PNG = Kind("mov", "png", pix_fmt="rgb24")


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    height=st.integers(1, 48),
    width=st.integers(1, 48),
    steps=st.lists(st.integers(1, 4000), max_size=15),
    start=st.integers(0, 9000),
    clock=st.sampled_from([Fraction(1, 600), Fraction(1, 90_000), Fraction(1001, 30_000)]),
    fps=st.fractions(1, 240, max_denominator=1001),
)
def test_writing_and_reading_keeps_count_size_and_time(tmp_path, height, width, steps, start, clock, fps):
    pts = np.cumsum([start, *steps]).tolist()
    pictures = [np.full((height, width, 3), n * 7 % 256, np.uint8) for n in range(len(pts))]
    source = open_video(write_film(tmp_path / "in.mov", PNG, pictures=pictures, pts=pts, time_base=clock))
    assert [(stamp - pts[0]) * clock for stamp in pts] == times_in(source.path)
    kept = open_video(write_again(tmp_path / "kept.mp4", source))
    even = open_video(write(tmp_path / "even.mp4", [frame.rgb for frame in source.frames()], fps=fps))
    for video in (kept, even):
        assert video.frame_count == len(pts)
        assert (video.height, video.width) == (height + height % 2, width + width % 2)
        assert all(abs(int(frame.rgb.mean()) - frame.index * 7 % 256) <= 4 for frame in video.frames())
    assert times_in(kept.path) == times_in(source.path)
    assert times_in(even.path) == [n / fps for n in range(len(pts))]


# Sound

SIX = Sound("pcm_s16le", layout="5.1")
SOUNDS = {
    "AAC in MP4": (H264, Sound("aac"), "aac"),
    "AAC in TS": (H264.to("ts"), Sound("aac"), "aac"),
    "AAC in FLV": (H264.to("flv"), Sound("aac", rate=44_100), "aac"),
    "MP3 in MKV": (H264.to("mkv"), Sound("libmp3lame"), "mp3float"),
    "Opus in WebM": (VP9, Sound("libopus"), "opus"),
    "AC-3 in TS": (H264.to("ts"), Sound("ac3"), "ac3"),
    "FLAC in MKV": (H264.to("mkv"), Sound("flac"), "flac"),
    "ALAC in MOV": (H264.to("mov"), Sound("alac"), "alac"),
    "Vorbis in MKV": (H264.to("mkv"), Sound("vorbis"), None),
    "MP2 in TS": (MPEG2, Sound("mp2"), None),
    "PCM in MOV": (H264.to("mov"), Sound("pcm_s16le"), None),
    "PCM in AVI": (MPEG4, Sound("pcm_s16le"), None),
    "PCM of 8 bits": (MPEG4, Sound("pcm_u8", rate=11_025, layout="mono"), None),
    "PCM of an odd rate": (MPEG4, Sound("pcm_s16le", rate=22_254, layout="mono"), None),
    "PCM of a high rate": (H264.to("mkv"), Sound("pcm_s16le", rate=192_000), None),
    "PCM of six channels": (H264.to("mkv"), SIX, None),
    "PCM of three channels": (H264.to("mkv"), replace(SIX, layout="2.1"), None),
}


def sound_in(path):
    """Return the decoder's name, and from when until when a tone is heard, in seconds after the first picture."""
    with av.open(str(path)) as container:
        first = next(container.decode(video=0)).time
    with av.open(str(path)) as container:
        loud = [time - first for frame in container.decode(audio=0) for time in _loud_times(frame)]
        return container.streams.audio[0].codec_context.name, min(loud), max(loud)


def _loud_times(frame):
    """Return when the first and the last sample of the tone are heard."""
    samples = frame.to_ndarray().astype(np.float64)
    samples = samples[0] if frame.format.is_planar else samples[0][:: frame.layout.nb_channels]
    silence = 128 if frame.format.name == "u8" else 0
    heard = np.flatnonzero(np.abs(samples - silence) > LOUD[frame.format.name])
    return [frame.time + index / frame.sample_rate for index in heard[:1].tolist() + heard[-1:].tolist()]


LOUD = {"fltp": 0.05, "flt": 0.05, "s16": 1600, "s16p": 1600, "s32": 1e8, "s32p": 1e8, "u8": 6}
PACKET_S = 0.05
"""The longest packet here: AAC's 1024 samples at 22,050 Hz."""


@pytest.mark.parametrize(
    ("name", "start"),
    # An AVI's sound cannot begin later than its pictures.
    [(name, start) for name, (kind, *_) in SOUNDS.items() for start in (0.0, 0.5) if not start or kind.suffix != "avi"],
)
def test_sound_is_kept_as_far_from_the_pictures_as_it_was(tmp_path, name, start):
    kind, sound, copied_as = SOUNDS[name]
    path = write_film(tmp_path / f"in.{kind.suffix}", kind, sound=replace(sound, seconds=0.9, start=start))
    out = write_again(tmp_path / "out.mp4", open_video(path), audio=True)
    codec, begins, ends = sound_in(out)
    assert codec == (copied_as or "aac")
    _, began, ended = sound_in(path)
    video_ends = FRAMES / kind.rate
    assert begins == pytest.approx(max(0, began), abs=PACKET_S)
    assert ends == pytest.approx(min(ended, video_ends), abs=2 * PACKET_S)
    assert times_in(out) == pytest.approx(times_in(path), abs=1e-3)


@pytest.mark.parametrize("name", [name for name, (_, _, copied_as) in SOUNDS.items() if copied_as])
def test_sound_that_mp4_takes_is_copied_to_the_byte(tmp_path, name):
    kind, sound, _ = SOUNDS[name]
    path = write_film(tmp_path / f"in.{kind.suffix}", kind, sound=sound)
    out = write_again(tmp_path / "out.mp4", open_video(path), audio=True)

    def packets(film):
        with av.open(str(film)) as container:
            return [bytes(packet) for packet in container.demux(audio=0) if packet.size]

    came, had = packets(out), packets(path)
    if name == "AAC in TS":
        had = [packet[7:] for packet in had]  # the header of a stream, which MP4 keeps once
    assert len(came) > 20
    assert came == had[: len(came)], "from the first one on, which decoders need to begin"


@pytest.mark.parametrize("seconds", [0.5, 9.0])
@pytest.mark.parametrize("codec", ["aac", "pcm_s16le"])
def test_sound_ends_with_the_pictures_or_before(tmp_path, codec, seconds):
    path = write_film(tmp_path / "in.mov", H264.to("mov"), sound=Sound(codec, seconds=seconds))
    out = write_again(tmp_path / "out.mp4", open_video(path), audio=True)
    with av.open(str(out)) as container:
        assert container.duration / av.time_base == pytest.approx(FRAMES / 10, abs=PACKET_S)
    assert sound_in(out)[2] == pytest.approx(min(seconds, FRAMES / 10), abs=PACKET_S)


def test_sound_starts_where_the_part_of_the_source_starts(tmp_path):
    path = write_film(tmp_path / "in.mp4", sound=Sound(start=1.5, seconds=0.5))
    source = open_video(path)
    out = write_again(tmp_path / "out.mp4", source, audio=True, frames=source.frames(10))
    _, begins, ends = sound_in(out)
    assert (begins, ends) == pytest.approx((0.5, 1.0), abs=PACKET_S)


def test_there_is_no_sound_unless_it_is_asked_for(tmp_path):
    source = open_video(write_film(tmp_path / "in.mp4", sound=Sound()))
    with av.open(str(write_again(tmp_path / "out.mp4", source))) as container:
        assert not container.streams.audio


def test_asking_for_the_sound_of_a_silent_video_is_no_error(tmp_path):
    source = open_video(write_film(tmp_path / "in.mp4"))
    with av.open(str(write_again(tmp_path / "out.mp4", source, audio=True))) as container:
        assert not container.streams.audio


@pytest.mark.parametrize("codec", ["flac", "vorbis"])
def test_damaged_sound_costs_no_picture_and_is_said(tmp_path, caplog, codec):
    path = write_film(tmp_path / "in.mkv", H264.to("mkv"), sound=Sound(codec))
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(audio=0) if packet.size]
    for packet in packets[len(packets) // 2 :]:
        if data.count(packet) > 1:  # some of Vorbis have a few bytes only
            continue
        at = data.index(packet)
        data[at : at + len(packet)] = b"\xff" * len(packet)
    path.write_bytes(data)
    with caplog.at_level(logging.WARNING, "masklet"):
        out = write_again(tmp_path / "out.mp4", open_video(path), audio=True)
    assert [number_in(frame.rgb) for frame in open_video(out).frames()] == list(range(FRAMES))
    if codec == "vorbis":  # what is copied is not looked into
        assert "in.mkv cannot be read further after" in caplog.text
        assert sound_in(out)[2] == pytest.approx(1.2, abs=0.2)


def test_sound_that_changes_its_rate_ends_there_and_costs_no_picture(tmp_path, caplog):
    parts = [
        write_film(tmp_path / f"{rate}.ts", MPEG2, sound=Sound("mp2", rate=rate, seconds=0.9))
        for rate in (48_000, 32_000)
    ]
    path = tmp_path / "in.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    with caplog.at_level(logging.WARNING, "masklet"):
        out = write_again(tmp_path / "out.mp4", open_video(path), audio=True)
    assert open_video(out).frame_count == 2 * FRAMES
    assert "in.ts cannot be read further" in caplog.text
    assert sound_in(out)[2] == pytest.approx(sound_in(parts[0])[2], abs=3 * PACKET_S)


def test_sound_stays_with_pictures_that_masklet_had_to_number_itself(tmp_path):
    part = write_film(
        tmp_path / "part.ts", MPEG2, pts=[90 + n for n in range(FRAMES)], sound=Sound("mp2", start=3.9, seconds=0.3)
    )
    path = tmp_path / "in.ts"
    path.write_bytes(part.read_bytes() * 2)  # where the second begins, the clock jumps back
    source = open_video(path)
    assert np.diff([frame.pts for frame in source.frames()]).tolist() == [1] * (2 * FRAMES - 1)
    _, begins, _ = sound_in(write_again(tmp_path / "out.mp4", source, audio=True))
    assert begins == pytest.approx(0.3, abs=PACKET_S)


# Whole or not at all


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError, NoSpace])
@pytest.mark.parametrize("after", [0, 1, 60])
def test_an_error_in_the_middle_leaves_nothing_and_takes_nothing(tmp_path, stop, after):
    source = open_video(write_film(tmp_path / "in.mp4", sound=Sound()))
    (tmp_path / "out").mkdir()
    target = tmp_path / "out" / "film.mp4"
    target.write_bytes(b"older")
    with pytest.raises(stop), VideoWriter(target, source=source, audio=True) as film:
        for number in range(after):
            film.write(picture(number % 256), pts=number * 1024)
        raise stop
    assert names(tmp_path / "out") == ["film.mp4"]
    assert target.read_bytes() == b"older"


def test_it_appears_only_when_it_is_whole_and_in_place_of_an_older_one(tmp_path):
    target = tmp_path / "film.mp4"
    target.write_bytes(b"older")
    with VideoWriter(target, fps=TEN) as film:
        for number in range(60):
            film.write(picture(number))
        assert target.read_bytes() == b"older"
    assert names(tmp_path) == ["film.mp4"]
    assert open_video(target).frame_count == 60


def test_without_a_frame_there_is_no_file(tmp_path):
    with VideoWriter(tmp_path / "film.mp4", fps=TEN):
        pass
    assert names(tmp_path) == []


def test_it_has_the_permissions_that_any_new_file_has(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    write(tmp_path / "film.mp4", [picture(0)])
    assert (tmp_path / "film.mp4").stat().st_mode == (tmp_path / "plain").stat().st_mode


FILL = """
    import resource, sys
    from fractions import Fraction
    import numpy as np
    from masklet.errors import NoSpace
    from masklet.video import VideoWriter, open_video

    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
    dice = np.random.default_rng(0)
    source = open_video(sys.argv[3]) if len(sys.argv) > 3 else None
    how = {"source": source, "audio": True} if source else {"fps": Fraction(10)}
    written = 0
    try:
        with VideoWriter(sys.argv[1], **how) as film:
            for number in range(90):
                rgb = dice.integers(0, 256, (64, 96, 3), dtype=np.uint8)
                film.write(rgb, pts=number * 1024 if source else None)
                written += 1
    except NoSpace as problem:
        print(problem)
    print(written)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits are POSIX")
@pytest.mark.parametrize("limit", [1, 150_000, 290_000])
@pytest.mark.parametrize("with_sound", [False, True], ids=["silent", "with sound"])
def test_a_full_disk_is_no_space_and_leaves_nothing(tmp_path, limit, with_sound):
    out = tmp_path / "out"
    out.mkdir()
    source = [write_film(tmp_path / "in.mp4", sound=Sound())] if with_sound else []
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FILL), str(out / "film.mp4"), str(limit), *map(str, source)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.stderr == ""
    assert f"Cannot write {out}/film.mp4: File too large" in ran.stdout
    assert "Make room or choose another folder" in ran.stdout
    assert names(out) == []


@pytest.mark.skipif(sys.platform == "win32", reason="limits are POSIX")
def test_the_disk_of_the_test_above_would_do_for_a_smaller_film(tmp_path):
    said = subprocess.check_output(
        [sys.executable, "-c", textwrap.dedent(FILL), str(tmp_path / "film.mp4"), "2000000"], text=True, timeout=60
    )
    assert said.split() == ["90"]
    assert 300_000 < (tmp_path / "film.mp4").stat().st_size < 2_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="takes root's privileges away by a call that only Linux has")
def test_a_folder_nobody_may_write_to_is_no_space(tmp_path):
    code = f"""
import os, sys
if len(sys.argv) == 2:
{textwrap.indent(DROP_PRIVILEGES, "    ")}
    os.execv(sys.executable, [*sys.orig_argv, "without"])
from fractions import Fraction
import numpy as np
from masklet.errors import NoSpace
from masklet.video import VideoWriter
try:
    with VideoWriter(sys.argv[1] + "/film.mp4", fps=Fraction(10)) as film:
        film.write(np.zeros((64, 96), np.uint8))
except NoSpace as problem:
    print(problem)
"""
    tmp_path.chmod(0o500)
    said = subprocess.check_output([sys.executable, "-c", code, str(tmp_path)], text=True, timeout=60)
    tmp_path.chmod(0o700)
    assert "film.mp4: Permission denied" in said
    assert "Choose a folder this user may write to" in said
    assert names(tmp_path) == []


# Names

NAMES = [
    "http:film.mp4", "a:b.mp4", "100%d.mp4", "%05d.mp4", "two words.mp4", "fïlm 犬.mp4", "-i.mp4", "crop=1,2.mp4",
    "no_suffix", "film.mkv", "'quoted'.mp4", 'dou"ble.mp4', "new\nline.mp4", "\udcff.mp4", "x" * 251 + ".mp4",
    ".hidden", "pipe:1", "#1?.mp4",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=ascii)
@pytest.mark.parametrize("inside", ["", "http:", "a%03d b|c", "file:"], ids=ascii)
def test_a_file_may_have_any_name_in_any_folder(tmp_path, monkeypatch, name, inside):
    monkeypatch.chdir(tmp_path)
    target = Path(inside) / name
    write(target, [picture(7)])
    assert os.listdir(tmp_path / inside) == [name]
    (frame,) = open_video(tmp_path / target).frames()
    assert number_in(frame.rgb) == 7


def test_folders_on_the_way_are_made(tmp_path):
    write(tmp_path / "new" / "deeper" / "film.mp4", [picture(0)])
    assert names(tmp_path / "new" / "deeper") == ["film.mp4"]


def a_folder_there(folder):
    (folder / "film.mp4").mkdir()
    return folder / "film.mp4", "Is a directory.*or the reverse"


def a_file_as_folder(folder):
    (folder / "letter.txt").write_bytes(b"mine")
    return folder / "letter.txt" / "film.mp4", "A file stands where a folder"


def a_long_name(folder):
    return folder / ("x" * 300), "File name too long.*Choose a shorter name"


@pytest.mark.parametrize("place", [a_folder_there, a_file_as_folder, a_long_name], ids=lambda place: place.__name__)
def test_a_place_that_cannot_take_it_is_refused_before_the_first_frame(tmp_path, place):
    target, message = place(tmp_path)
    before = names(tmp_path)
    with pytest.raises(NoSpace, match=message):
        VideoWriter(target, fps=TEN)
    assert names(tmp_path) == before


def test_a_folder_that_vanishes_meanwhile_is_no_space(tmp_path):
    with (
        pytest.raises(NoSpace, match=r"film\.mp4: No such file"),
        VideoWriter(tmp_path / "out" / "film.mp4", fps=TEN) as film,
    ):
        (tmp_path / "out").rmdir()
        film.write(picture(0))
    assert names(tmp_path) == []


# Wrong use


@pytest.mark.parametrize("options", [{}, {"fps": TEN, "source": ...}])
def test_either_a_rate_or_a_source_gives_the_times(tmp_path, options):
    source = open_video(write_film(tmp_path / "in.mp4"))
    with pytest.raises(ValueError, match="give fps, or source"):
        VideoWriter(tmp_path / "out.mp4", **{key: source if value is ... else value for key, value in options.items()})


@pytest.mark.parametrize("second", [(32, 96), (64, 95), (96, 64)])
def test_frames_of_another_size_are_refused_and_nothing_is_left(tmp_path, second):
    with pytest.raises(
        ValueError, match=rf"frame 1 is {second[0]} high and {second[1]} wide, the first one was \(64, 96\)"
    ):
        write(tmp_path / "out.mp4", [picture(0), picture(1, *second)])
    assert names(tmp_path) == []


@pytest.mark.parametrize("second", [0, -5, 1024])
def test_times_that_do_not_ascend_are_refused_and_nothing_is_left(tmp_path, second):
    source = open_video(write_film(tmp_path / "in.mp4"))
    with (
        pytest.raises(ValueError, match="not after the one before"),
        VideoWriter(tmp_path / "out.mp4", source=source) as film,
    ):
        film.write(picture(0), pts=1024)
        film.write(picture(1), pts=second)
    assert names(tmp_path) == ["in.mp4"]


@pytest.mark.parametrize(("height", "width"), [(2, 16_386), (16_385, 2)])
def test_pictures_larger_than_h264_takes_are_refused_with_the_way_out(tmp_path, height, width):
    with pytest.raises(BadPrompt, match=r"at most 16384 pixels a side: ask for pictures instead"):
        write(tmp_path / "out.mp4", [np.zeros((height, width), np.uint8)])
    assert names(tmp_path) == []


def test_the_longest_side_that_h264_takes_is_written(tmp_path):
    video = open_video(write(tmp_path / "out.mp4", [np.zeros((2, 16_384), np.uint8)]))
    assert (video.height, video.width) == (2, 16_384)
