"""Film files: every frame once, in order, with its own time, upright and in its own colours; or one clear refusal."""

import ctypes
import http.server
import io
import os
import resource
import struct
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from functools import cache

import av
import numpy as np
import pytest
from films import (
    AV1,
    FRAMES,
    H264,
    HEIGHT,
    HEVC,
    KINDS,
    MJPEG,
    MPEG2,
    MPEG4,
    PATCH_COLOUR,
    VP9,
    WIDTH,
    Kind,
    Sound,
    cut_to,
    destroyed,
    number_in,
    patch_edges,
    patch_in,
    patched,
    picture,
    scratched,
    turn,
    write_film,
    write_sound,
    write_tiled_photo,
)
from PIL import Image, features

from masklet.errors import BadVideo
from masklet.video import open_video
from masklet.video.film import FilmReader
from masklet.video.outline import breaks_off

H264_444 = replace(H264, pix_fmt="yuv444p")


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Return a film of a kind, written once; not to be changed."""
    folder = tmp_path_factory.mktemp("films")

    @cache
    def written(name):
        kind = KINDS[name]
        return write_film(folder / f"{name}.{kind.suffix}", kind)

    return written


def numbers_in(video):
    return [number_in(frame.rgb) for frame in video.frames()]


def read(path):
    """Return the frames that come before the end or the first `BadVideo`, and that; anything else is let through."""
    came = []
    try:
        for frame in open_video(path).frames():
            came.append(frame)
    except BadVideo as error:
        return came, str(error)
    return came, None


# Order and time


@pytest.mark.parametrize("name", KINDS)
def test_every_frame_comes_once_in_display_order_with_its_time(film, name):
    video = open_video(film(name))
    frames = list(video.frames())
    assert [number_in(frame.rgb) for frame in frames] == list(range(FRAMES))
    assert [frame.index for frame in frames] == list(range(FRAMES))
    rate = KINDS[name].rate
    assert [frame.seconds for frame in frames] == pytest.approx([n / rate for n in range(FRAMES)], abs=1e-3)
    assert [float((frame.pts - frames[0].pts) * video.time_base) for frame in frames] == pytest.approx(
        [frame.seconds for frame in frames]
    )
    assert video.average_rate == pytest.approx(rate, rel=0.05)


def test_the_films_of_these_tests_do_have_pictures_out_of_order(film):
    with av.open(str(film("H.264 in MP4"))) as container:
        stamps = [packet.pts for packet in container.demux(video=0) if packet.size]
    assert stamps != sorted(stamps)


UNEVEN = [0, 1, 2, 7, 8, 20, 21, 22, 23, 50, 51, 55, 90, 91, 92, 93, 94, 95, 96, 97, 98, 99, 100, 140]


@pytest.mark.parametrize("kind", [H264, H264.to("mkv"), H264.to("ts"), VP9, MPEG4.to("mp4")], ids=str)
def test_uneven_times_are_the_files_own(tmp_path, kind):
    video = open_video(write_film(tmp_path / f"uneven.{kind.suffix}", kind, pts=UNEVEN, time_base=Fraction(1, 50)))
    frames = list(video.frames())
    assert [number_in(frame.rgb) for frame in frames] == list(range(FRAMES))
    assert [frame.seconds for frame in frames] == pytest.approx([stamp / 50 for stamp in UNEVEN], abs=1e-3)


@pytest.mark.parametrize("kind", [H264, H264.to("mkv"), H264.to("ts"), VP9], ids=str)
def test_time_counts_from_the_first_frame_wherever_the_files_clock_stands(tmp_path, kind):
    path = write_film(tmp_path / f"late.{kind.suffix}", kind, pts=[37 + n for n in range(FRAMES)])
    video = open_video(path)
    frames = list(video.frames())
    assert frames[0].pts * video.time_base >= Fraction(37, 10)
    assert [frame.seconds for frame in frames] == pytest.approx([n / 10 for n in range(FRAMES)], abs=1e-3)


# FFmpeg writes a movie clock of 1000 and a media clock of 10240, in which the first of these pictures has time 2048.
FIRST_TICK, TICKS, MOVIE_TICKS = 2048, 1024, 100


@pytest.mark.parametrize("kind", [H264, HEVC, MPEG4.to("mp4")], ids=str)
@pytest.mark.parametrize(("first", "count"), [(5, 19), (10, 10), (8, 16), (0, 3), (23, 1)])
def test_a_film_trimmed_by_an_edit_list_has_the_frames_that_players_show(tmp_path, kind, first, count):
    path = write_film(tmp_path / "trimmed.mp4", kind)
    start = FIRST_TICK if kind.codec != "mpeg4" else 1024
    cut_to(path, start + first * TICKS, count * MOVIE_TICKS)
    video = open_video(path)
    assert numbers_in(video) == list(range(first, first + count))
    assert number_in(next(video.frames_at([count - 1])).rgb) == first + count - 1
    assert video.seconds_at(count - 1) == pytest.approx((count - 1) / 10)


def test_a_recording_that_began_anywhere_starts_with_its_first_whole_picture(tmp_path, film):
    whole = film("H.264 in TS").read_bytes()
    path = tmp_path / "began.ts"
    with av.open(str(film("H.264 in TS"))) as container:
        third = sorted(packet.pos for packet in container.demux(video=0) if packet.size)[2]
    # The tables that say what is in a transport stream come first; a recorder repeats them.
    path.write_bytes(whole[: 3 * 188] + whole[third // 188 * 188 :])
    assert numbers_in(open_video(path)) == list(range(8, FRAMES))


# Sizes and pixels


ODD = {
    "H.264 4:4:4": H264_444,
    "VP9": VP9,
    "MPEG-4": MPEG4,
    "Motion JPEG": MJPEG,
    "GIF": KINDS["GIF"],
    "FFV1": KINDS["FFV1 in MKV"],
}


@pytest.mark.parametrize("name", ODD)
def test_odd_sizes_keep_every_pixel(tmp_path, name):
    kind = ODD[name]
    path = write_film(tmp_path / f"odd.{kind.suffix}", kind, pictures=[picture(n, 63, 97) for n in range(9)])
    video = open_video(path)
    frames = list(video.frames())
    assert (video.height, video.width) == (63, 97)
    assert {frame.rgb.shape for frame in frames} == {(63, 97, 3)}
    assert [number_in(frame.rgb) for frame in frames] == list(range(9))
    expected = picture(8, 63, 97).astype(int)
    tolerance = 30 if name == "GIF" else 10  # it has 256 colours for all
    assert np.abs(frames[8].rgb[:12] - expected[:12]).mean() < tolerance
    assert abs(int(frames[8].rgb[62, 96].mean()) - int(expected[62, 96].mean())) < tolerance, "the last corner"


DEEP = {
    "H.264 10 bit": replace(H264, pix_fmt="yuv420p10le"),
    "HEVC 10 bit": replace(HEVC, pix_fmt="yuv420p10le"),
    "AV1 10 bit": replace(AV1, pix_fmt="yuv420p10le"),
    "H.264 4:2:2 10 bit": replace(H264, pix_fmt="yuv422p10le"),
    "H.264 4:4:4": H264_444,
    "HEVC 4:4:4": replace(HEVC, pix_fmt="yuv444p"),
    "VP9 4:4:4": replace(VP9, pix_fmt="yuv444p"),
    "H.264 as RGB": Kind("mp4", "libx264rgb", pix_fmt="rgb24", options=H264.options),
    "ProRes 4444": Kind("mov", "prores_ks", pix_fmt="yuv444p10le"),
    "FFV1 16 bit": Kind("mkv", "ffv1", pix_fmt="yuv420p16le"),
    "grey": Kind("mkv", "ffv1", pix_fmt="gray"),
    "grey 16 bit": Kind("mkv", "ffv1", pix_fmt="gray16le"),
}


@pytest.mark.parametrize("name", DEEP)
def test_deep_and_full_colour_films_come_back_in_eight_bits(tmp_path, name):
    kind = DEEP[name]
    frames = list(open_video(write_film(tmp_path / f"deep.{kind.suffix}", kind)).frames())
    assert frames[0].rgb.dtype == np.uint8
    assert [number_in(frame.rgb) for frame in frames] == list(range(FRAMES))
    grey = (0.299, 0.587, 0.114) @ np.array(PATCH_COLOUR)
    expected = (grey, grey, grey) if name.startswith("grey") else PATCH_COLOUR
    assert patch_in(frames[5].rgb) == pytest.approx(expected, abs=3)


SEE_THROUGH = {
    "VP9": replace(VP9, pix_fmt="yuva420p"),
    "ProRes 4444": Kind("mov", "prores_ks", pix_fmt="yuva444p10le"),
    "QuickTime RLE": Kind("mov", "qtrle", pix_fmt="argb"),
    "PNG": Kind("mov", "png", pix_fmt="rgba"),
    "FFV1": Kind("mkv", "ffv1", pix_fmt="yuva420p"),
}


@pytest.mark.parametrize("name", SEE_THROUGH)
def test_transparency_is_dropped_and_the_colours_below_it_show(tmp_path, name):
    kind = SEE_THROUGH[name]
    pictures = [np.dstack([picture(n), np.full((HEIGHT, WIDTH), 40, np.uint8)]) for n in range(9)]
    frames = list(open_video(write_film(tmp_path / f"clear.{kind.suffix}", kind, pictures=pictures)).frames())
    assert [number_in(frame.rgb) for frame in frames] == list(range(9))
    assert patch_in(frames[5].rgb) == pytest.approx(PATCH_COLOUR, abs=3)


def test_what_a_gif_leaves_transparent_is_white(tmp_path):
    hole = Image.new("P", (WIDTH, HEIGHT), 0)
    hole.putpalette([*PATCH_COLOUR, 10, 20, 30])
    hole.paste(1, (0, 0, WIDTH // 2, HEIGHT))
    later = hole.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    hole.save(tmp_path / "hole.gif", save_all=True, append_images=[later], transparency=1, disposal=2, duration=100)
    left, right = (frame.rgb for frame in open_video(tmp_path / "hole.gif").frames())
    assert (left[:, : WIDTH // 2] == 255).all()
    assert (left[:, WIDTH // 2 :] == PATCH_COLOUR).all()
    assert np.array_equal(right, left[:, ::-1])


LIMITED, FULL = 1, 2
BT709, UNTAGGED, BT470BG, SMPTE170M, BT2020 = 1, 2, 5, 6, 9


@pytest.mark.parametrize(
    "colour", [(200, 60, 40), (30, 180, 60), (40, 60, 210), (235, 235, 235), (12, 12, 12)], ids=str
)
@pytest.mark.parametrize("color_range", [LIMITED, FULL], ids=["limited", "full"])
@pytest.mark.parametrize("colorspace", [BT709, UNTAGGED, BT470BG, SMPTE170M, BT2020])
def test_a_known_colour_comes_back_whatever_the_film_was_tagged(tmp_path, colour, color_range, colorspace):
    kind = replace(H264_444, options=H264.options | {"crf": "1"})
    flat = np.full((HEIGHT, WIDTH, 3), colour, np.uint8)
    tags = {"colorspace": colorspace, "color_range": color_range}
    path = write_film(tmp_path / "tagged.mp4", kind, pictures=[flat], tags=tags)
    (frame,) = open_video(path).frames()
    assert np.abs(frame.rgb.astype(int) - colour).max() <= 3


@pytest.mark.parametrize(("height", "matrix"), [(480, BT470BG), (720, BT709)])
def test_untagged_films_are_taken_as_players_take_them(tmp_path, height, matrix):
    flat = np.full((height, 64, 3), (30, 180, 60), np.uint8)
    path = write_film(tmp_path / "tagged.mp4", H264, pictures=[flat], tags={"colorspace": matrix})
    with av.open(str(path)) as container, av.open(str(tmp_path / "bare.mkv"), "w") as bare:
        stream = bare.add_stream("ffv1", rate=10)
        stream.height, stream.width, stream.pix_fmt = height, 64, "yuv420p"
        for frame in container.decode(video=0):
            frame.colorspace = UNTAGGED
            bare.mux(stream.encode(frame))
        bare.mux(stream.encode(None))
    (frame,) = open_video(tmp_path / "bare.mkv").frames()
    assert np.abs(frame.rgb.astype(int) - (30, 180, 60)).max() <= 4


@pytest.mark.parametrize("height", [480, 720])
@pytest.mark.parametrize("kind", [KINDS["Animation (QuickTime RLE)"], Kind("mov", "png", pix_fmt="rgb24")], ids=str)
def test_films_of_rgb_are_exact_at_any_size(tmp_path, height, kind):
    flat = np.full((height, 64, 3), PATCH_COLOUR, np.uint8)
    (frame,) = open_video(write_film(tmp_path / "rgb.mov", kind, pictures=[flat])).frames()
    assert np.array_equal(frame.rgb, flat)


# a, b, c, d of the display matrix: a point x, y of the stored picture is shown at a x + c y, b x + d y.
TURNS = {
    "upright": (1, 0, 0, 1),
    "90 clockwise": (0, 1, -1, 0),
    "180": (-1, 0, 0, -1),
    "90 counterclockwise": (0, -1, 1, 0),
    "left-right mirror": (-1, 0, 0, 1),
    "upside-down mirror": (1, 0, 0, -1),
    "mirror and 90 clockwise": (0, 1, 1, 0),
    "mirror and 90 counterclockwise": (0, -1, -1, 0),
}


def shown(stored, a, b, c, d):
    """Move every pixel to where the matrix shows it, one by one."""
    ys, xs = np.mgrid[: stored.shape[0], : stored.shape[1]]
    to_x, to_y = a * xs + c * ys, b * xs + d * ys
    to_x, to_y = to_x - to_x.min(), to_y - to_y.min()
    displayed = np.zeros((to_y.max() + 1, to_x.max() + 1, 3), np.uint8)
    displayed[to_y, to_x] = stored
    return displayed


@pytest.mark.parametrize("name", TURNS)
def test_pictures_are_upright_as_players_show_them(tmp_path, name):
    stored = [picture(n) for n in range(3)]
    path = turn(write_film(tmp_path / "turned.mp4", H264_444, pictures=stored), *TURNS[name])
    video = open_video(path)
    expected = shown(stored[2], *TURNS[name])
    frame = next(video.frames_at([2]))
    assert (video.height, video.width) == frame.rgb.shape[:2] == expected.shape[:2]
    assert np.abs(frame.rgb.astype(int) - expected).mean() < 4
    assert frame.rgb.flags.c_contiguous


@pytest.mark.parametrize("name", TURNS)
def test_a_click_on_what_is_seen_hits_it(tmp_path, name):
    a, b, c, d = TURNS[name]
    path = turn(write_film(tmp_path / "turned.mp4", H264, pictures=[picture(0)]), a, b, c, d)
    (frame,) = open_video(path).frames()
    top, bottom, left, right = patch_edges()
    middle = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    middle[(top + bottom) // 2, (left + right) // 2] = 1
    ((y, x),) = np.argwhere(shown(middle, a, b, c, d)[..., 0])
    assert frame.rgb[y, x] == pytest.approx(PATCH_COLOUR, abs=4)


@pytest.mark.parametrize("sar", [Fraction(2, 1), Fraction(8, 9)])
def test_pixels_that_are_not_square_are_not_stretched(tmp_path, sar):
    path = write_film(tmp_path / "wide.mp4", pictures=[picture(5)], sar=sar)
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.sample_aspect_ratio == sar
    video = open_video(path)
    assert (video.height, video.width) == (HEIGHT, WIDTH)
    assert numbers_in(video) == [5]


needs_avif = pytest.mark.skipif(not features.check("avif"), reason="this Pillow writes no AVIF")


@needs_avif
def test_a_photo_made_of_tiles_is_refused_and_not_taken_for_its_first_tile(tmp_path):
    path = write_tiled_photo(tmp_path / "photo.avif")
    with Image.open(path) as photo:
        assert photo.size == (128, 128)
    with pytest.raises(BadVideo, match=r"photo\.avif is a photo made of tiles, .*: convert it to JPEG"):
        open_video(path)


@needs_avif
def test_an_animated_avif_is_all_its_pictures(tmp_path):
    first, *others = (Image.fromarray(picture(number)) for number in range(5))
    first.save(tmp_path / "moving.avif", save_all=True, append_images=others, quality=100)
    assert [number_in(frame.rgb) for frame in open_video(tmp_path / "moving.avif").frames()] == list(range(5))


def test_a_cover_picture_is_no_film(tmp_path):
    path = write_sound(tmp_path / "song.mp4", Sound(), cover=picture(0))
    with pytest.raises(BadVideo, match=r"song\.mp4 has sound but no pictures"):
        open_video(path)


def test_a_title_in_an_old_encoding_is_no_reason_to_refuse(tmp_path):
    path = write_film(tmp_path / "old.mp4", metadata={"title": "a title of old"})
    patched(path, b"a title of old", "dépôt à Liège!".encode("latin-1"))
    assert numbers_in(open_video(path)) == list(range(FRAMES))


# Cut short


def with_index_in_front(path):
    return write_film(path, H264.to("mp4", movflags="faststart"))


CUT_REFUSED = {
    "MP4, index behind": lambda path: write_film(path, H264),
    "MP4, index in front": with_index_in_front,
    "MKV": lambda path: write_film(path, H264.to("mkv")),
    "WebM": lambda path: write_film(path, VP9),
    "AVI": lambda path: write_film(path, MPEG4),
    "AVI, Motion JPEG": lambda path: write_film(path, MJPEG),
}
CUT_HONEST = {
    "TS": H264.to("ts"),
    "TS, MPEG-2": MPEG2,
    "TS, HEVC": HEVC.to("ts"),
    "program stream": MPEG2.to("mpg"),
    "FLV": H264.to("flv"),
    "WebM from a browser": KINDS["VP9 in WebM from a browser"],
    "fragmented MP4": KINDS["H.264 in fragmented MP4"],
    "WMV": KINDS["WMV"],
}
SHARES = [0.002, 0.01, 0.03, 0.06, *np.linspace(0.1, 0.99, 19).round(3), 0.998]


@pytest.mark.parametrize("name", CUT_REFUSED)
def test_a_file_that_states_its_size_is_refused_when_it_was_cut_anywhere(tmp_path, name):
    path = CUT_REFUSED[name](tmp_path / f"film.{name[:3].lower().replace('web', 'webm')}")
    data = path.read_bytes()
    for size in [*(int(share * len(data)) for share in SHARES), len(data) - 1]:
        path.write_bytes(data[:size])
        with pytest.raises(BadVideo, match=r"cut short|not a video"):
            open_video(path)


@pytest.mark.parametrize("name", CUT_HONEST)
def test_a_recording_that_was_cut_anywhere_has_fewer_frames_and_all_of_them_right(tmp_path, name):
    kind = CUT_HONEST[name]
    path = write_film(tmp_path / f"film.{kind.suffix}", kind)
    data, whole = path.read_bytes(), list(open_video(path).frames())
    counts = []
    for share in SHARES:
        path.write_bytes(data[: int(share * len(data))])
        came, error = read(path)
        numbers = [number_in(frame.rgb) for frame in came]
        assert numbers == sorted(set(numbers))
        for number, frame in zip(numbers, came, strict=True):
            assert np.array_equal(frame.rgb, whole[number].rgb), f"picture {number}, cut at {share}"
            # A program stream dates one picture in several; of the last ones in a cut one the date is a guess.
            assert frame.pts == whole[number].pts or name == "program stream"
        assert came or error, "an empty success"
        assert not (came and error), "all that is left can be read"
        counts.append(len(came))
    assert max(counts[:12]) >= FRAMES // 4
    assert counts[-1] >= FRAMES - 3, "what came before the cut is not lost"


def test_a_transport_stream_that_ends_before_its_first_picture_has_no_frame(tmp_path):
    path = write_film(tmp_path / "film.ts", HEVC.to("ts"))
    data = path.read_bytes()
    for size in range(188, 1_200, 47):
        path.write_bytes(data[:size])
        with pytest.raises(BadVideo, match=r"no frame|no pictures|not a video"):
            open_video(path)


@pytest.mark.parametrize(("before", "after"), [(0, 0), (4, 0), (0, 16)], ids=["188", "192", "204"])
def test_a_transport_stream_that_ends_inside_a_packet_is_known_by_that(before, after):
    packet = bytes(before) + b"\x47" + bytes(range(71)) * 2 + bytes(45) + bytes(after)
    for missing_head in (0, 1, 100):
        whole = (packet * 20)[missing_head:]
        assert not breaks_off(io.BytesIO(whole))
        assert breaks_off(io.BytesIO(whole[: len(whole) - after - 1]))
        assert breaks_off(io.BytesIO(whole[: len(whole) - after - 187]))


def test_a_gif_is_refused_when_it_was_cut_inside_a_picture_and_needs_no_trailer(tmp_path):
    path = write_film(tmp_path / "film.gif", KINDS["GIF"])
    data = path.read_bytes()
    for share in SHARES:
        path.write_bytes(data[: int(share * len(data))])
        with pytest.raises(BadVideo, match=r"cut short|not a video"):
            open_video(path)
    path.write_bytes(data[:-1])
    assert numbers_in(open_video(path)) == list(range(FRAMES))


# Damaged in the middle


DAMAGED = {
    "H.264 in MP4": (H264, 0xFF),
    "H.264 in MKV": (H264.to("mkv"), 0xFF),
    "HEVC in MP4": (HEVC, 0xFF),
    "VP9": (VP9, 0xFF),
    "AV1": (replace(AV1, options=AV1.options | {"svtav1-params": "lp=1:pred-struct=1"}), 0xFF),
    "MPEG-4": (MPEG4, 0xFF),
    "FFV1": (KINDS["FFV1 in MKV"], 0xFF),
    "Motion JPEG": (MJPEG, 0x00),
}


@pytest.mark.parametrize("packet", [4, 13, 22])
@pytest.mark.parametrize("name", DAMAGED)
def test_before_a_damaged_picture_all_is_right_and_then_comes_an_error_that_names_the_frame(tmp_path, name, packet):
    kind, fill = DAMAGED[name]
    path = write_film(tmp_path / f"film.{kind.suffix}", kind)
    whole = [frame.rgb for frame in open_video(path).frames()]
    came, error = read(destroyed(path, packet, fill))
    assert error is not None
    assert f"damaged: frame {len(came)} of " in error
    assert packet - 4 <= len(came) <= packet + 2, "pictures are coded up to two places before their turn"
    for frame in came:
        assert np.array_equal(frame.rgb, whole[frame.index]), frame.index


CABAC = replace(H264, options=H264.options | {"preset": "veryfast"})
MENDED = {
    "H.264 in MP4": H264,
    "H.264 with CABAC in MKV": CABAC.to("mkv"),
    "H.264 in TS": H264.to("ts"),
    "MPEG-4 in AVI": MPEG4,
}


@pytest.mark.parametrize("packet", [4, 9, 13, 18])
@pytest.mark.parametrize("name", MENDED)
def test_a_picture_that_the_decoder_mended_by_guesswork_is_not_shown(tmp_path, name, packet):
    kind = MENDED[name]
    path = write_film(tmp_path / f"film.{kind.suffix}", kind)
    whole = [frame.rgb for frame in open_video(path).frames()]
    scratched(path, packet, fill=0)
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "NONE"
        assert any(frame.is_corrupt for frame in container.decode(video=0)), "FFmpeg alone would show it"
    came, error = read(path)
    assert f"damaged: frame {len(came)} of " in error
    assert packet - 4 <= len(came) <= packet + 2
    for frame in came:
        assert np.array_equal(frame.rgb, whole[frame.index]), frame.index


@pytest.mark.parametrize("packet", [9, 12, 17])
@pytest.mark.parametrize("kind", [HEVC, HEVC.to("ts")], ids=str)
def test_a_picture_that_the_decoder_would_leave_out_without_a_word_is_missed(tmp_path, kind, packet):
    path = write_film(tmp_path / f"film.{kind.suffix}", kind)
    whole = [frame.rgb for frame in open_video(path).frames()]
    with av.open(str(path)) as container:
        content = [bytes(one) for one in container.demux(video=0) if one.size][packet]
    data = bytearray(path.read_bytes())
    at = data.index(content[:40]) + 8  # in the head of the slice
    data[at : at + 3] = bytes(255 - byte for byte in data[at : at + 3])
    path.write_bytes(data)
    with av.open(str(path)) as container:
        assert sum(1 for _ in container.decode(video=0)) < FRAMES, "FFmpeg alone says nothing"
    came, error = read(path)
    assert f"damaged: frame {len(came)} of " in error
    for frame in came:
        assert np.array_equal(frame.rgb, whole[frame.index]), frame.index


def test_damage_far_behind_leaves_earlier_and_later_frames_readable(tmp_path):
    path = write_film(tmp_path / "film.mp4", H264)
    whole = [frame.rgb for frame in open_video(path).frames()]
    video = open_video(destroyed(path, 13))
    for index in (0, 8, 16, FRAMES - 1):
        assert np.array_equal(next(video.frames_at([index])).rgb, whole[index])
    with pytest.raises(BadVideo, match=f"damaged: frame 12 of {FRAMES} "):
        list(video.frames_at([12]))


def test_two_recordings_in_one_stream_are_one_film(tmp_path, film):
    path = tmp_path / "joined.ts"
    path.write_bytes(film("H.264 in TS").read_bytes() * 2)
    assert numbers_in(open_video(path)) == [*range(FRAMES), *range(FRAMES)]


MUTANTS = {"MP4": H264, "MKV": H264.to("mkv"), "TS": H264.to("ts"), "AVI": MPEG4, "VP9": VP9, "GIF": KINDS["GIF"]}


@pytest.mark.parametrize("name", MUTANTS)
def test_flipped_bytes_anywhere_give_frames_or_one_clear_error(tmp_path, name):
    kind = MUTANTS[name]
    path = write_film(tmp_path / f"film.{kind.suffix}", kind, pictures=[picture(n) for n in range(9)])
    data = path.read_bytes()
    dice = np.random.default_rng(5)
    for _ in range(40):
        mutant = bytearray(data)
        for at in dice.integers(0, len(data), 6):
            mutant[at] ^= int(dice.integers(1, 256))
        path.write_bytes(mutant)
        came, error = read(path)
        assert came or error, "an empty success"


# What is no film


def nothing(path):
    path.write_bytes(b"")


def a_text(path):
    path.write_text("Dear reader,\nthis is no video.\n" * 100)


def noise(path):
    path.write_bytes(np.random.default_rng(0).bytes(100_000))


def zeros(path):
    path.write_bytes(bytes(100_000))


def unknown_codec(path):
    patched(write_film(path, H264), b"avc1", b"zzz9")


NO_FILMS = [
    ("nothing.mp4", nothing, r"nothing\.mp4 is empty \(0 bytes\)"),
    ("letter.mp4", a_text, r"letter\.mp4 is not a video.*masklet reads MP4"),
    ("letter.gif", a_text, r"letter\.gif is not a video"),
    ("noise.mkv", noise, r"noise\.mkv is not a video"),
    ("zeros.mp4", zeros, r"zeros\.mp4 is not a video"),
    ("song.m4a", lambda path: write_sound(path, Sound()), r"song\.m4a has sound but no pictures: give a video"),
    ("blank.mp4", lambda path: write_film(path, H264, pictures=[]), r"blank\.mp4 has no pictures"),
    ("blank.avi", lambda path: write_film(path, MPEG4, pictures=[]), r"blank\.avi has no frame that can be decoded"),
    ("blank.mkv", lambda path: write_film(path, H264.to("mkv"), pictures=[]), r"blank\.mkv is not a video"),
    ("new.mp4", unknown_codec, r"new\.mp4: its codec \(unknown\) is not one masklet reads; convert it"),
    (
        "rare.avi",
        lambda path: write_film(path, Kind("avi", "zmbv", pix_fmt="bgr0")),
        r"rare\.avi: its codec \(zmbv\) is not one masklet reads; convert it",
    ),
    ("rare.nut", lambda path: write_film(path, H264.to("nut")), r"rare\.nut is not a video|of a kind that masklet"),
]


@pytest.mark.parametrize(("name", "make", "message"), NO_FILMS, ids=[name for name, *_ in NO_FILMS])
def test_what_is_no_film_is_refused_by_name_with_the_way_out(tmp_path, name, make, message):
    make(tmp_path / name)
    with pytest.raises(BadVideo, match=message):
        open_video(tmp_path / name)


def test_a_film_that_vanishes_while_it_is_used_is_a_bad_video(tmp_path):
    path = write_film(tmp_path / "gone.mp4", H264)
    video = open_video(path)
    path.unlink()
    with pytest.raises(BadVideo, match=r"gone\.mp4 cannot be read any more \(No such file"):
        list(video.frames())


SMALL, LARGE = [picture(n) for n in range(9)], [picture(n, 128, 192) for n in range(9, 18)]


def joined_streams(path):
    """Put a small and a large transport stream one after the other."""
    small, large = (
        write_film(path.with_suffix(f".{n}.ts"), H264.to("ts"), pictures=p) for n, p in enumerate((SMALL, LARGE))
    )
    path.write_bytes(small.read_bytes() + large.read_bytes())


def joined_packets(path):
    """Put the packets of a small and of a large film into one WebM."""
    with av.open(str(path), "w") as film:
        stream, shift = None, 0
        for n, pictures in enumerate((SMALL, LARGE)):
            part = write_film(path.with_suffix(f".{n}.webm"), VP9, pictures=pictures)
            with av.open(str(part)) as container:
                stream = stream or film.add_stream_from_template(container.streams.video[0], opaque=True)
                for packet in container.demux(video=0):
                    if packet.size:
                        packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                        packet.stream = stream
                        film.mux(packet)
            shift = 900


CHANGING = {"joined.ts": joined_streams, "joined.webm": joined_packets}


@pytest.mark.parametrize("name", CHANGING)
def test_a_film_that_changes_its_size_is_read_up_to_there_and_no_further(tmp_path, name):
    CHANGING[name](tmp_path / name)
    came, error = read(tmp_path / name)
    assert [number_in(frame.rgb) for frame in came] == list(range(9))
    assert "changes its size to 192x128 at frame 9: re-encode it with one size" in error


@pytest.mark.parametrize("name", CHANGING)
def test_a_later_picture_with_too_many_pixels_is_not_even_decoded(tmp_path, name):
    CHANGING[name](tmp_path / name)
    reader = FilmReader(tmp_path / name, most_pixels=HEIGHT * WIDTH)
    came = []
    with pytest.raises(BadVideo, match=r"damaged: frame [789] of "):
        came.extend(reader.read(0, len(reader.pts)))
    assert [number_in(rgb) for rgb in came] == list(range(len(came)))


def test_too_many_pixels_are_refused_with_the_limit(tmp_path):
    path = write_film(tmp_path / "large.mp4", H264)
    assert FilmReader(path, most_pixels=HEIGHT * WIDTH).height == HEIGHT
    with pytest.raises(BadVideo, match=r"large\.mp4 has 96x64 pixels: the limit is 6143, make it smaller"):
        FilmReader(path, most_pixels=HEIGHT * WIDTH - 1)


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path):
    path = write_film(tmp_path / "bomb.gif", KINDS["GIF"], pictures=[picture(0)])
    data = bytearray(path.read_bytes())
    data[6:10] = struct.pack("<HH", 60_000, 50_000)
    path.write_bytes(data)
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BadVideo, match=r"bomb\.gif has no frame that can be decoded"):
        open_video(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 100_000, "it would take 12 GB"


# What would open other files or connections

PLAYLIST = """#EXTM3U
#EXT-X-VERSION:3
#EXT-X-TARGETDURATION:3
#EXTINF:2.4,
{target}
#EXT-X-ENDLIST
"""
CONCAT = "ffconcat version 1.0\nfile {target}\n"
MANIFEST = """<?xml version="1.0"?>
<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT2S" minBufferTime="PT1S"
     profiles="urn:mpeg:dash:profile:isoff-on-demand:2011">
 <Period><AdaptationSet mimeType="video/mp2t"><Representation id="1" bandwidth="1000">
  <BaseURL>{target}</BaseURL><SegmentList duration="2"><SegmentURL media="{target}"/></SegmentList>
 </Representation></AdaptationSet></Period>
</MPD>
"""
PAYLOADS = {"playlist": PLAYLIST, "concat": CONCAT, "manifest": MANIFEST}
DISGUISES = ["x.mp4", "x.mkv", "x.avi", "x.ts", "x.gif", "x.mov", "x.webm", "x.m3u8", "x.ffconcat", "x.mpd"]


@pytest.fixture
def canary():
    """Listen on this machine, and note what is asked for."""
    heard = []

    class Ear(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            heard.append(self.path)
            self.send_error(404)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Ear) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        heard_at = f"http://127.0.0.1:{server.server_port}/canary.ts"
        try:
            yield heard_at, heard
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def openings(path):
    """Note each time that anybody opens a file, by inotify: Python's own hooks do not see what FFmpeg opens."""
    libc = ctypes.CDLL(None, use_errno=True)
    watch, noted = libc.inotify_init1(os.O_NONBLOCK), []
    in_open = 0x20
    assert libc.inotify_add_watch(watch, os.fsencode(path), in_open) >= 0
    try:
        yield noted
        while True:
            try:
                noted.append(os.read(watch, 4096))
            except BlockingIOError:
                break
    finally:
        os.close(watch)


@pytest.mark.parametrize("name", DISGUISES)
@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_playlist_in_disguise_is_refused_and_calls_nobody(tmp_path, canary, payload, name):
    address, heard = canary
    (tmp_path / name).write_text(PAYLOADS[payload].format(target=address))
    with pytest.raises(BadVideo):
        open_video(tmp_path / name)
    assert heard == []


@pytest.mark.skipif(sys.platform != "linux", reason="inotify tells who opens a file on Linux only")
@pytest.mark.parametrize("target", ["sibling.ts", "{folder}/sibling.ts", "file://{folder}/sibling.ts"])
@pytest.mark.parametrize("name", DISGUISES)
@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_playlist_in_disguise_opens_no_other_file(tmp_path, payload, name, target):
    sibling = write_film(tmp_path / "sibling.ts", H264.to("ts"), pictures=SMALL)
    (tmp_path / name).write_text(PAYLOADS[payload].format(target=target.format(folder=tmp_path)))
    with openings(sibling) as noted, pytest.raises(BadVideo):
        open_video(tmp_path / name)
    assert noted == []


def test_the_playlist_of_these_tests_does_call_where_nothing_stops_it(tmp_path, canary):
    address, heard = canary
    (tmp_path / "x.m3u8").write_text(PLAYLIST.format(target=address))
    with pytest.raises(av.error.FFmpegError):
        av.open(str(tmp_path / "x.m3u8"), options={"protocol_whitelist": "file,http,tcp"})
    assert heard != []


@pytest.mark.skipif(sys.platform != "linux", reason="inotify tells who opens a file on Linux only")
def test_the_concat_of_these_tests_does_open_its_sibling_where_nothing_stops_it(tmp_path):
    sibling = write_film(tmp_path / "sibling.ts", H264.to("ts"), pictures=SMALL)
    (tmp_path / "x.mp4").write_text(CONCAT.format(target="sibling.ts"))
    with openings(sibling) as noted, av.open(str(tmp_path / "x.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == len(SMALL)
    assert noted != []
