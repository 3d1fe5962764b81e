"""Pictures as a video: natural order, upright, and every kind of pixel as it looks."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from films import HEIGHT, PATCH_COLOUR, WIDTH, number_in, patch_in, picture
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from masklet.errors import BadVideo
from masklet.video import open_video
from masklet.video.pictures import _natural

NUMBER = 77
GREY = np.asarray(Image.fromarray(picture(NUMBER)).convert("L"))


def image(number=NUMBER):
    return Image.fromarray(picture(number))


def the_only(path):
    (frame,) = open_video(path).frames()
    return frame.rgb


def png(colour_type, depth, rows, *, size=(WIDTH, HEIGHT), before_pixels=b"", behind_pixels=b""):
    """Write a PNG by hand, for what Pillow does not write; rows are bytes."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, colour_type, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    extra = [chunk(b"eXIf", content) if content else b"" for content in (before_pixels, behind_pixels)]
    return b"\x89PNG\r\n\x1a\n" + head + extra[0] + pixels + extra[1] + chunk(b"IEND", b"")


def in_sixteen_bits(pixels):
    return [row.tobytes() for row in (pixels.astype(">u2") * 257)]


# Folders


def test_a_folder_is_read_in_natural_order_whatever_the_kinds(tmp_path):
    names = ["frame_1.png", "frame_2.jpg", "frame_9.bmp", "frame_10.webp", "frame_11.tif", "frame_100.JPEG", "g.PNG"]
    for number, name in enumerate(names):
        image(number).save(tmp_path / name)
    video = open_video(tmp_path)
    assert [number_in(frame.rgb) for frame in video.frames()] == list(range(len(names)))
    assert (video.height, video.width, video.frame_count) == (HEIGHT, WIDTH, len(names))


ORDER = [
    "0.png", "1.png", "01.png", "2.png", "10.png", "A1.png", "a2.png", "a10b1.png", "a10b2.png", "a²3.png", "b.png",
    "犬1.png", "犬2.png",
]  # fmt: skip


def test_numbers_in_names_count_as_numbers(tmp_path):
    assert sorted(map(tmp_path.joinpath, reversed(ORDER)), key=_natural) == sorted(
        map(tmp_path.joinpath, ORDER), key=_natural
    )
    names = [path.name for path in sorted(map(tmp_path.joinpath, ORDER), key=_natural)]
    assert names.index("2.png") < names.index("10.png") < names.index("A1.png") < names.index("a2.png")
    assert names.index("a2.png") < names.index("a10b1.png") < names.index("a10b2.png")
    assert names.index("犬1.png") < names.index("犬2.png")


@given(
    st.lists(st.text("aB01９²٣_ .", min_size=1, max_size=9).filter(lambda n: n.strip(" .")), unique=True, max_size=9)
)
def test_any_names_have_one_order(names):
    paths = [Path(name) for name in names]
    assert sorted(paths, key=_natural) == sorted(reversed(paths), key=_natural)


def test_what_is_no_picture_in_a_folder_is_left_out(tmp_path):
    image().save(tmp_path / "1.png")
    image().save(tmp_path / ".hidden.png")
    (tmp_path / "notes.txt").write_text("a note")
    (tmp_path / "2.png").mkdir()
    (tmp_path / "Thumbs.db").write_bytes(b"\0")
    assert open_video(tmp_path).frame_count == 1


def test_pictures_have_indices_for_time(tmp_path):
    for number in range(3):
        image(number).save(tmp_path / f"{number}.png")
    video = open_video(tmp_path)
    assert [(frame.index, frame.pts, frame.seconds) for frame in video.frames()] == [(n, n, float(n)) for n in range(3)]
    assert (video.average_rate, video.has_audio) == (None, False)


@pytest.mark.parametrize("other", [(WIDTH + 1, HEIGHT), (HEIGHT, WIDTH)])
def test_pictures_of_different_sizes_are_refused_before_the_first_is_read(tmp_path, other):
    for number in range(3):
        image().save(tmp_path / f"{number}.png")
    image().resize(other).save(tmp_path / "3.png")
    with pytest.raises(BadVideo, match=rf"3\.png is {other[0]}x{other[1]}, but 0\.png is 96x64: .*must have one size"):
        open_video(tmp_path)


def test_a_damaged_picture_is_named_and_those_before_it_come(tmp_path):
    for number in range(3):
        image(number).save(tmp_path / f"{number}.png")
    data = (tmp_path / "2.png").read_bytes()
    (tmp_path / "2.png").write_bytes(data[:-200])
    came = []
    with pytest.raises(BadVideo, match=r"2\.png is damaged, or not a picture"):
        came.extend(number_in(frame.rgb) for frame in open_video(tmp_path).frames())
    assert came == [0, 1]


def test_a_picture_that_vanishes_is_named(tmp_path):
    for number in range(2):
        image(number).save(tmp_path / f"{number}.png")
    video = open_video(tmp_path)
    (tmp_path / "1.png").unlink()
    with pytest.raises(BadVideo, match=r"1\.png.*No such file"):
        list(video.frames())


def test_a_picture_that_was_exchanged_for_a_larger_one_is_named(tmp_path):
    for number in range(2):
        image(number).save(tmp_path / f"{number}.png")
    video = open_video(tmp_path)
    image().resize((10, 10)).save(tmp_path / "1.png")
    with pytest.raises(BadVideo, match=r"1\.png is 10x10, but 0\.png is 96x64"):
        list(video.frames())


# Upright


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tif"])
def test_a_camera_picture_is_upright(tmp_path, kind, orientation):
    # What EXIF says of the stored picture: where its row 0 and its column 0 are seen.
    stored = {
        1: lambda p: p,
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.swapaxes(0, 1),
        6: lambda p: p.swapaxes(0, 1)[::-1],
        7: lambda p: p[::-1, ::-1].swapaxes(0, 1),
        8: lambda p: p.swapaxes(0, 1)[:, ::-1],
    }[orientation](picture(NUMBER))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"jpg": {"quality": 98, "subsampling": 0}, "webp": {"lossless": True}}.get(kind, {})
    path = tmp_path / f"camera.{kind}"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif, **options)
    video = open_video(path)
    (frame,) = video.frames()
    assert (video.height, video.width) == frame.rgb.shape[:2] == (HEIGHT, WIDTH)
    assert np.abs(frame.rgb.astype(int) - picture(NUMBER)).max() <= (30 if kind == "jpg" else 0)


def test_an_orientation_that_exif_does_not_know_turns_nothing(tmp_path):
    Image.fromarray(picture(NUMBER)).save(tmp_path / "odd.png", exif=exif_of(9))
    [frame] = open_video(tmp_path / "odd.png").frames()
    assert np.array_equal(frame.rgb, picture(NUMBER))


def exif_of(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes().removeprefix(b"Exif\0\0")


def test_an_orientation_behind_a_pngs_pixels_turns_it_or_is_refused_but_never_gives_another_size(tmp_path):
    rows = [row.tobytes() for row in picture(NUMBER)]
    (tmp_path / "half.png").write_bytes(png(2, 8, rows, behind_pixels=exif_of(3)))
    assert np.array_equal(the_only(tmp_path / "half.png"), picture(NUMBER)[::-1, ::-1])
    (tmp_path / "quarter.png").write_bytes(png(2, 8, rows, behind_pixels=exif_of(6)))
    with pytest.raises(BadVideo, match=r"quarter\.png is 64x96, but quarter\.png is 96x64"):
        list(open_video(tmp_path / "quarter.png").frames())


# Pixels


def saved(mode, **options):
    return lambda path: image().convert(mode).save(path, **options)


def see_through(path):
    rgba = image().convert("RGBA")
    rgba.putalpha(0)
    rgba.save(path)


def half_a_palette(path):
    image().quantize(64).save(path, transparency=bytes([0, 128] + [255] * 62))


EXACT = {
    "rgb.png": saved("RGB"),
    "rgb.bmp": saved("RGB"),
    "rgb.tif": saved("RGB"),
    "rgb.webp": saved("RGB", lossless=True),
    "lzw.tif": saved("RGB", compression="tiff_lzw"),
    "see_through.png": see_through,
    "see_through.tif": see_through,
    "sixteen.png": lambda path: path.write_bytes(png(2, 16, in_sixteen_bits(picture(NUMBER)))),
}
CLOSE = {
    "palette.png": lambda path: image().quantize(64).save(path),
    "half_a_palette.png": half_a_palette,
    "one_of_a_palette.png": lambda path: image().quantize(64).save(path, transparency=5),
    "rgb.jpg": saved("RGB", quality=97),
    "cmyk.jpg": saved("CMYK", quality=97),
    "cmyk.tif": saved("CMYK"),
    "lab.tif": saved("LAB"),
}


@pytest.mark.parametrize("name", EXACT)
def test_lossless_colours_are_exact(tmp_path, name):
    EXACT[name](tmp_path / name)
    assert np.array_equal(the_only(tmp_path / name), picture(NUMBER))


@pytest.mark.parametrize("name", CLOSE)
def test_other_colours_look_as_they_should(tmp_path, name):
    CLOSE[name](tmp_path / name)
    rgb = the_only(tmp_path / name)
    assert rgb.dtype == np.uint8
    assert number_in(rgb) == NUMBER
    assert patch_in(rgb) == pytest.approx(PATCH_COLOUR, abs=4)


GREYS = {
    "eight.png": lambda path: image().convert("L").save(path),
    "eight.jpg": lambda path: image().convert("L").save(path, quality=98),
    "alpha.png": lambda path: image().convert("LA").save(path),
    "sixteen.png": lambda path: Image.fromarray(GREY.astype(np.uint16) * 257).save(path),
    "sixteen.tif": lambda path: Image.fromarray(GREY.astype(np.uint16) * 257).save(path),
    "sixteen_alpha.png": lambda path: path.write_bytes(
        png(4, 16, in_sixteen_bits(np.stack([GREY, np.full_like(GREY, 255)], axis=-1)))
    ),
}


@pytest.mark.parametrize("name", GREYS)
def test_grey_is_grey_in_three_channels_however_deep(tmp_path, name):
    GREYS[name](tmp_path / name)
    rgb = the_only(tmp_path / name)
    assert rgb.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(rgb.astype(int) - GREY[:, :, None]).max() <= (12 if name.endswith("jpg") else 0)


def test_black_and_white_is_black_and_white(tmp_path):
    image().convert("1").save(tmp_path / "fax.png")
    rgb = the_only(tmp_path / "fax.png")
    assert set(np.unique(rgb)) == {0, 255}
    assert number_in(rgb) == NUMBER


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_pixels_without_a_known_white_are_refused(tmp_path, kind):
    Image.fromarray(GREY.astype(kind)).save(tmp_path / "heights.tif")
    with pytest.raises(BadVideo, match=r"heights\.tif has 32-bit pixels.*convert it to 8 or 16 bits"):
        list(open_video(tmp_path / "heights.tif").frames())


# Files with several pictures


@pytest.mark.parametrize(("kind", "word"), [("webp", "WEBP"), ("png", "PNG")])
def test_an_animation_is_refused_with_the_way_out(tmp_path, kind, word):
    path = tmp_path / f"moving.{kind}"
    image(0).save(path, save_all=True, append_images=[image(1)], duration=100)
    with pytest.raises(BadVideo, match=rf"moving\.{kind} is an animated {word}: convert it to GIF or MP4 first"):
        open_video(path)


@pytest.mark.parametrize(("name", "options"), [("pages.tif", {}), ("views.jpg", {"format": "MPO", "quality": 98})])
def test_of_pages_and_views_the_first_counts(tmp_path, name, options):
    image(3).save(tmp_path / name, save_all=True, append_images=[image(4)], **options)
    with Image.open(tmp_path / name) as held:
        assert held.n_frames == 2
    assert number_in(the_only(tmp_path / name)) == 3


# What is no picture


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tif", "bmp"])
def test_a_picture_that_was_cut_anywhere_is_one_clear_refusal(tmp_path, kind):
    path = tmp_path / f"cut.{kind}"
    image().save(path)
    data = path.read_bytes()
    for share in np.linspace(0.005, 0.98, 40):
        path.write_bytes(data[: int(share * len(data))])
        with pytest.raises(BadVideo, match=rf"cut\.{kind}"):
            list(open_video(path).frames())


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tif", "bmp"])
def test_flipped_bytes_anywhere_give_a_picture_or_one_clear_refusal(tmp_path, kind):
    path = tmp_path / f"flipped.{kind}"
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    image().save(path, exif=exif)
    data = path.read_bytes()
    dice = np.random.default_rng(3)
    for _ in range(150):
        mutant = bytearray(data)
        for at in dice.integers(0, min(len(data), 400), 4):
            mutant[at] ^= int(dice.integers(1, 256))
        path.write_bytes(mutant)
        try:
            video = open_video(path)
            assert {frame.rgb.shape for frame in video.frames()} == {(video.height, video.width, 3)}
        except BadVideo:
            pass


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((8_000, 8_001), r"has 8000x8001 pixels: the limit is 64000000, make it smaller"),
        ((10_000, 10_000), r"has too many pixels, make it smaller"),
        ((60_000, 60_000), r"has too many pixels, make it smaller"),
    ],
)
def test_too_many_pixels_are_refused_by_the_header(tmp_path, size, message):
    (tmp_path / "large.png").write_bytes(png(2, 8, [], size=size))
    with pytest.raises(BadVideo, match=rf"large\.png {message}"):
        open_video(tmp_path / "large.png")


def test_a_film_in_a_folder_of_pictures_under_a_pictures_name_is_refused(tmp_path):
    image().save(tmp_path / "0.gif")
    (tmp_path / "0.gif").rename(tmp_path / "0.png")
    with pytest.raises(BadVideo, match=r"0\.png is damaged, or not a picture that masklet reads \(BMP, JPEG"):
        open_video(tmp_path)


def test_only_listed_kinds_are_tried(tmp_path):
    (tmp_path / "drawing.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 96 64\n")
    with pytest.raises(BadVideo, match=r"drawing\.png"):
        open_video(tmp_path)


def test_a_single_picture_is_a_video_of_one_frame(tmp_path):
    image().save(tmp_path / "one.jpg", quality=98)
    video = open_video(tmp_path / "one.jpg")
    assert (video.frame_count, video.height, video.width) == (1, HEIGHT, WIDTH)
    assert number_in(next(video.frames()).rgb) == NUMBER
