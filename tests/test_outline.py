"""How long a file says it is: by hand-made outlines, and by files of many kinds."""

import io
import struct

import pytest
from films import H264, KINDS, MPEG4, VP9, write_film

from masklet.video.outline import stated_size


def box(kind, content=b""):
    return struct.pack(">I4s", 8 + len(content), kind) + content


def large_box(kind, size):
    return struct.pack(">I4sQ", 1, kind, size)


def element(name, size, size_bytes=8):
    return bytes.fromhex(name) + (size | 1 << 7 * size_bytes).to_bytes(size_bytes)


def chunk(kind, size):
    return b"RIFF" + struct.pack("<I", size) + kind


FTYP = box(b"ftyp", b"isom")
EBML = element("1a45dfa3", 4, 1) + b"head"
UNKNOWN = (1 << 56) - 1
GIF = b"GIF89a" + bytes(4) + b"\0\0\0"
GIF_PICTURE = b"," + bytes(8) + b"\0" + b"\x02" + b"\x03abc" + b"\x02de" + b"\0"

OUTLINES = {
    "MP4, index behind": (FTYP + box(b"mdat", bytes(50)) + box(b"moov", bytes(20)), 12 + 58 + 28),
    "MP4, cut in the data": (FTYP + box(b"moov", bytes(20)) + box(b"mdat", bytes(900))[:40], 12 + 28 + 908),
    "MP4, large data": (FTYP + large_box(b"mdat", 2**33) + bytes(5), 12 + 2**33),
    "MP4, data to the end": (FTYP + box(b"moov") + struct.pack(">I4s", 0, b"mdat") + bytes(9), 20),
    "MP4 with something behind": (FTYP + box(b"moov") + b"what a camera wrote there", 20),
    "MP4, an impossible size": (FTYP + struct.pack(">I4s", 7, b"mdat"), 12),
    "MP4 in fragments": (FTYP + box(b"moov") + box(b"moof") + box(b"mdat", bytes(900))[:40], None),
    "QuickTime": (box(b"wide") + box(b"mdat", bytes(10))[:12], 26),
    "MKV": (EBML + element("18538067", 5000) + bytes(10), len(EBML) + 12 + 5000),
    "MKV, short sizes": (EBML + element("18538067", 100, 1), len(EBML) + 5 + 100),
    "MKV, an element between": (EBML + element("ec", 3, 1) + b"pad" + element("18538067", 9, 1), len(EBML) + 5 + 5 + 9),
    "WebM from a browser": (EBML + element("18538067", UNKNOWN) + bytes(10), None),
    "WebM, short unknown size": (EBML + element("18538067", 127, 1), None),
    "MKV, cut in the head": (EBML[:3], None),
    "MKV, no segment": (EBML, None),
    "AVI": (chunk(b"AVI ", 700) + bytes(9), 708),
    "AVI, odd": (chunk(b"AVI ", 7) + bytes(3), 15),
    "AVI in two parts": (chunk(b"AVI ", 9) + bytes(6) + chunk(b"AVIX", 400), 18 + 408),
    "AVI of a stopped recorder": (chunk(b"AVI ", 0) + bytes(50), None),
    "GIF": (GIF + GIF_PICTURE + b"!\xf9\x04abcd\0" + GIF_PICTURE + b";", 13 + 2 * len(GIF_PICTURE) + 8),
    "GIF without a trailer": (GIF + GIF_PICTURE, 13 + len(GIF_PICTURE)),
    "GIF, cut in a picture": (GIF + GIF_PICTURE[:-3], 13 + len(GIF_PICTURE)),
    "GIF, cut before a zero": (GIF + GIF_PICTURE[:-1], 13 + len(GIF_PICTURE)),
    "GIF with palettes": (
        b"GIF87a" + bytes(4) + b"\x81\0\0" + bytes(12) + b"," + bytes(8) + b"\x80" + bytes(6) + b"\x02\0;",
        13 + 12 + 10 + 6 + 2,
    ),
    "a transport stream": (b"\x47" + bytes(187), None),
    "a sound": (b"RIFF" + struct.pack("<I", 900) + b"WAVE", None),
    "nothing": (b"", None),
}


@pytest.mark.parametrize("name", OUTLINES)
def test_an_outline_says_how_long_the_file_should_be(name):
    data, expected = OUTLINES[name]
    assert stated_size(io.BytesIO(data)) == expected


@pytest.mark.parametrize(
    "kind", [H264, H264.to("mp4", movflags="faststart"), H264.to("mov"), H264.to("mkv"), VP9, MPEG4], ids=str
)
def test_whole_files_say_their_true_length(tmp_path, kind):
    path = write_film(tmp_path / f"film.{kind.suffix}", kind)
    with path.open("rb") as file:
        assert stated_size(file) == path.stat().st_size


def test_a_whole_gif_ends_at_its_trailer(tmp_path):
    path = write_film(tmp_path / "film.gif", KINDS["GIF"])
    with path.open("rb") as file:
        assert stated_size(file) == path.stat().st_size - 1


def test_an_endless_row_of_boxes_ends():
    assert stated_size(io.BytesIO(FTYP + box(b"free") * 50_000)) < 100_000
