"""How long a film file says it is: its outermost boxes, read without trusting or decoding anything inside them.

MP4, Matroska and AVI state their sizes in front and a GIF piece by piece, so a copy that was broken off shows at once.
Files that were written as a stream (fragments, sizes left open) and other kinds do not say: they end where they end.
"""

from typing import BinaryIO

_ISO_BOXES = {b"ftyp", b"styp", b"moov", b"mdat", b"free", b"skip", b"wide", b"udta", b"meta", b"uuid", b"pnot"}
_FRAGMENT = b"moof"
_EBML, _SEGMENT = 0x1A45DFA3, 0x18538067
_GIF_PICTURE, _GIF_EXTENSION = b",", b"!"
_MOST_BOXES = 10_000
_TS_SYNC, _TS_BYTES = 0x47, 188
_TS_STEPS = (188, 192, 204)
"""From one packet of a transport stream to the next: bare, with an arrival time, with a checksum."""
_TS_LOOK = 8


def stated_size(file: BinaryIO) -> int | None:
    """Return how many bytes the outermost boxes take together; None where the file does not say."""
    file.seek(0)
    head = file.read(12)
    if head[4:8] in _ISO_BOXES:
        return _iso_size(file)
    if int.from_bytes(head[:4]) == _EBML:
        return _matroska_size(file)
    if head[:4] == b"RIFF" and head[8:] == b"AVI ":
        return _avi_size(file)
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return _gif_size(file)
    return None


def breaks_off(file: BinaryIO) -> bool:
    """Whether a transport stream ends inside a packet (ISO/IEC 13818-1, section 2.4.3.2), wherever it begins."""
    size = file.seek(0, 2)
    for step in _TS_STEPS:
        tail_at = file.seek(max(0, size - _TS_LOOK * step))
        tail = file.read()
        for first in range(min(step, len(tail))):
            if all(byte == _TS_SYNC for byte in tail[first::step]):
                last = tail_at + first + (len(tail) - 1 - first) // step * step
                return size - last < _TS_BYTES
    return False


def _iso_size(file: BinaryIO) -> int | None:
    """Go from box to box (ISO/IEC 14496-12, section 4.2); what follows them may be anything."""
    end = 0
    for _ in range(_MOST_BOXES):
        file.seek(end)
        head = file.read(16)
        size, kind = int.from_bytes(head[:4]), head[4:8]
        if kind == _FRAGMENT:
            return None  # made to be cut anywhere
        if kind not in _ISO_BOXES or size == 0:  # 0: to the end of the file
            break
        if size == 1:
            size = int.from_bytes(head[8:16])
        if size < 8:
            break
        end += size
    return end


def _matroska_size(file: BinaryIO) -> int | None:
    """Return where the segment ends (RFC 8794, section 4, and RFC 9559, section 4.5)."""
    at = 0
    for _ in range(_MOST_BOXES):
        file.seek(at)
        head = file.read(12)
        name, name_bytes = _vint(head, marked=True)
        size, size_bytes = _vint(head[name_bytes:], marked=False)
        if not name_bytes or not size_bytes or size == (1 << 7 * size_bytes) - 1:  # all ones: size not known
            return None
        at += name_bytes + size_bytes + size
        if name == _SEGMENT:
            return at
    return None


def _vint(data: bytes, *, marked: bool) -> tuple[int, int]:
    """Read a number of variable length, with or without the mark of its length; returns it and its bytes."""
    length = 9 - data[0].bit_length() if data and data[0] else 0
    if not 0 < length <= len(data):
        return 0, 0
    number = int.from_bytes(data[:length])
    return (number if marked else number & ((1 << 7 * length) - 1)), length


def _avi_size(file: BinaryIO) -> int | None:
    """Add up the RIFF chunks: one, and further ones beyond a gigabyte (OpenDML)."""
    end = 0
    for _ in range(_MOST_BOXES):
        file.seek(end + end % 2)
        head = file.read(12)
        size = int.from_bytes(head[4:8], "little")
        if head[:4] != b"RIFF" or size in (0, 0xFFFFFFFF):  # left open by a recorder that was stopped
            break
        end += end % 2 + 8 + size
    return end or None


def _gif_size(file: BinaryIO) -> int:
    """Go from block to block (GIF89a, sections 17 to 27) up to the trailer, which many files lack."""
    file.seek(0)
    end = 13 + _palette_size(file.read(13)[10:11])
    while True:
        file.seek(end)
        block = file.read(10)
        if block[:1] == _GIF_PICTURE:
            end += 10 + _palette_size(block[9:]) + 1  # 1: how long the codes are at first
        elif block[:1] == _GIF_EXTENSION:
            end += 2
        else:
            return end
        end = _gif_block_end(file, end)


def _gif_block_end(file: BinaryIO, at: int) -> int:
    """Return where a row of sub-blocks ends; the zero that ends it counts even where the file has ended before."""
    while True:
        file.seek(at)
        length = file.read(1)
        if length in (b"", b"\0"):
            return at + 1
        at += 1 + length[0]


def _palette_size(flags: bytes) -> int:
    return 3 * 2 ** ((flags[0] & 7) + 1) if flags and flags[0] & 0x80 else 0
