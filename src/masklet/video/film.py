"""Film files through PyAV. Trusts no file: kinds are whitelisted, and nothing but the file itself can be opened.

FFmpeg is given an open file, never a name, and no protocol at all, so a playlist or a description in disguise has
nothing to open other files or connections with.
"""

import logging
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
from av import VideoFrame
from av.container import InputContainer
from av.stream import Disposition
from av.video.reformatter import Colorspace
from av.video.stream import VideoStream
from numpy.typing import NDArray

from masklet.errors import BadVideo

CONTAINERS = "mov,mp4,matroska,webm,avi,gif,mpegts,mpeg,flv,asf,ogg"
CODECS = (
    "h264,hevc,vp8,vp9,av1,libdav1d,libvpx,libvpx-vp9,mpeg1video,mpeg2video,mpeg4,msmpeg4v2,msmpeg4,mjpeg,prores,"
    "dnxhd,gif,ffv1,theora,wmv1,wmv2,wmv3,vc1,flv,h263,png,qtrle,rawvideo,huffyuv,utvideo,"
    "aac,mp3,mp3float,mp2,mp2float,ac3,eac3,opus,libopus,vorbis,flac,alac,pcm_s16le,pcm_s16be,pcm_s24le,pcm_f32le"
)
OPTIONS = {"format_whitelist": CONTAINERS, "codec_whitelist": CODECS, "protocol_whitelist": "none"}
INDEXED = {"h264", "hevc", "vp8", "vp9", "av1"}
"""In containers that stamp every packet (MP4, Matroska) theirs are the frames; all else is indexed by decoding."""
HEAD_FRAMES, TAIL_FRAMES = 16, 300
"""So many frames are decoded at either end to check an index made of packets."""
READ_AHEAD_BYTES = 2**20
UNTAGGED = 2
"""ITU-T H.273's number for a colour matrix that nobody stated."""
HD_HEIGHT = 720
"""From here on, pictures without a colour tag are BT.709, as players take them; below, BT.601."""
READABLE = "MP4, MOV, MKV, WebM, AVI, GIF, MPEG, FLV, WMV or Ogg with a common codec"

logging.getLogger("libav").setLevel(logging.CRITICAL)  # what matters is raised


@dataclass(frozen=True)
class _Index:
    """A time stamp for each frame that will be decoded, and those at which decoding can start (none: only at 0)."""

    stamps: "array[int]"
    keys: "array[int]"


class FilmReader:
    """Reads one film from any frame on."""

    has_audio: bool

    def __init__(self, path: Path, *, most_pixels: int) -> None:
        self._path = path
        if path.stat().st_size == 0:
            raise BadVideo(f"{path} is empty (0 bytes): copy or download it again")
        with self._open() as container:
            stream = self._stream(container)
            width, height = stream.codec_context.width, stream.codec_context.height
            if width * height > most_pixels:
                raise BadVideo(f"{path} has {width}x{height} pixels: the limit is {most_pixels}, make it smaller")
            self.time_base = _fraction(stream.time_base) or Fraction(1, 1000)
            self.average_rate = _fraction(stream.average_rate) or _fraction(stream.guessed_rate)
            self.has_audio = bool(container.streams.audio)
            by_packets = self._by_packets(container, stream)
        self._index = by_packets if by_packets and self._holds(by_packets) else self._by_frames()
        self.pts = self._index.stamps
        first = next(self._decoded(0), None)
        if first is None:
            raise BadVideo(f"{path} has no frame that can be decoded: re-encode it, for instance as H.264")
        self._turns = round(first.rotation / 90) % 4
        self._size = (first.height, first.width)
        self.height, self.width = self._size if self._turns % 2 == 0 else self._size[::-1]

    def read(self, start: int, stop: int) -> Iterator[NDArray[np.uint8]]:
        """Yield frames `start` to `stop - 1`."""
        index = start
        for frame in islice(self._decoded(start), stop - start):
            if (frame.height, frame.width) != self._size:
                raise BadVideo(
                    f"{self._path} changes its size to {frame.width}x{frame.height} at frame {index}: "
                    "re-encode it with one size"
                )
            yield _rgb(frame, self._turns)
            index += 1
        if index < stop:
            raise BadVideo(
                f"{self._path} is damaged: frame {index} of {len(self.pts)} cannot be decoded; "
                "re-encode it, or cut it before that frame"
            )

    @contextmanager
    def _open(self) -> Iterator[InputContainer]:
        """Open the file, and say in our words what FFmpeg has against it."""
        with self._path.open("rb") as file:
            try:
                with av.open(file, "r", buffer_size=READ_AHEAD_BYTES, options=OPTIONS) as container:
                    yield container
            except (av.error.InvalidDataError, av.error.EOFError) as error:
                raise BadVideo(
                    f"{self._path} is not a video, or is cut short or damaged: masklet reads {READABLE}"
                ) from error
            except av.error.FFmpegError as error:
                raise BadVideo(
                    f"{self._path} is of a kind that masklet does not open ({error.strerror}): convert it to {READABLE}"
                ) from error

    def _stream(self, container: InputContainer) -> VideoStream:
        """Return the film in the file; a cover picture is none."""
        for stream in container.streams.video:
            if stream.codec_context is None:
                raise BadVideo(f"{self._path}: its codec is unknown or not allowed; convert it to {READABLE}")
            if not stream.disposition & Disposition.attached_pic:
                stream.thread_type = "AUTO"
                return stream
        what = "sound but no pictures" if container.streams.audio else "no pictures"
        raise BadVideo(f"{self._path} has {what}: give a video")

    def _by_packets(self, container: InputContainer, stream: VideoStream) -> _Index | None:
        """Read every packet's time stamp, which is fast; None where packets do not tell."""
        stamps, keys = array("q"), array("q")
        found, end, unstamped = 0, 0.0, False
        for packet in container.demux():
            if not packet.size:
                continue
            if packet.pts is not None and packet.time_base:
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet.stream_index != stream.index:
                continue
            found += 1
            unstamped |= packet.pts is None
            if packet.pts is not None and not packet.is_discard:
                stamps.append(packet.pts)
                if packet.is_keyframe:
                    keys.append(packet.pts)
        self._check_whole(container, promised=stream.frames, found=found, end=end)
        container_stamps = any(name in container.format.name for name in ("mp4", "matroska"))
        if unstamped or not container_stamps or stream.codec_context.codec.canonical_name not in INDEXED:
            return None
        if not keys or len(set(stamps)) < len(stamps):
            return None
        return _Index(array("q", sorted(stamps)), array("q", sorted(keys)))

    def _check_whole(self, container: InputContainer, *, promised: int, found: int, end: float) -> None:
        """Raise `BadVideo` for a file that ends before what its header says."""
        again = "copy or download it again"
        if "mp4" in container.format.name and found < promised:
            raise BadVideo(f"{self._path} is cut short: it promises {promised} frames and holds {found}; {again}")
        seconds = (container.duration or 0) / av.time_base
        if "matroska" in container.format.name and end < seconds - 1:
            raise BadVideo(f"{self._path} is cut short: it promises {seconds:.1f} s and holds {end:.1f} s; {again}")

    def _holds(self, index: _Index) -> bool:
        """Whether decoding gives the frames that an index of packets promises, at the head and at the tail."""
        self._index = index
        tail = bisect_left(index.stamps, index.keys[-1])
        starts = {0: HEAD_FRAMES} | ({tail: TAIL_FRAMES} if len(index.stamps) - tail <= TAIL_FRAMES else {})
        return all(
            sum(1 for _ in islice(self._decoded(start), count)) == min(count, len(index.stamps) - start)
            for start, count in starts.items()
        )

    def _by_frames(self) -> _Index:
        """Decode everything once, for files whose packets do not tell which frames will come."""
        stamps, keys = array("q"), array("q")
        told = True
        with self._open() as container:
            for frame in _until_damaged(container, self._stream(container)):
                pts = frame.pts
                if pts is None or (stamps and pts <= stamps[-1]):
                    told, pts = False, len(stamps)
                stamps.append(pts)
                if frame.key_frame:
                    keys.append(pts)
        if told:
            return _Index(stamps, keys)
        self.time_base = 1 / (self.average_rate or Fraction(25))
        return _Index(array("q", range(len(stamps))), array("q"))

    def _decoded(self, start: int) -> Iterator[VideoFrame]:
        """Yield frames from `start` on, each the one that the index promises; end where one is missing."""
        stamps, keys = self._index.stamps, self._index.keys
        with self._open() as container:
            stream = self._stream(container)
            frames = _until_damaged(container, stream)
            if not keys:
                yield from islice(frames, start, None)
                return
            key = bisect_right(keys, stamps[start]) - 1
            if key > 0:
                container.seek(keys[key], stream=stream)
                frames = _until_damaged(container, stream)
            expected = start
            for frame in frames:
                if frame.pts is None or frame.pts < stamps[expected]:
                    continue  # before the first one wanted
                if frame.pts > stamps[expected]:
                    return
                yield frame
                expected += 1
                if expected == len(stamps):
                    return


def _until_damaged(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """Decode until the end or the first damage."""
    with suppress(av.error.InvalidDataError):
        yield from container.decode(stream)


def _rgb(frame: VideoFrame, turns: int) -> NDArray[np.uint8]:
    """Return the pixels as they are shown: colours by the frame's own matrix, turned upright."""
    untagged = frame.colorspace == UNTAGGED
    matrix = Colorspace.ITU709 if untagged and frame.height >= HD_HEIGHT else None
    rgb = frame.reformat(format="rgb24", src_colorspace=matrix).to_ndarray().astype(np.uint8, copy=False)
    return np.ascontiguousarray(np.rot90(rgb, turns))


def _fraction(rate: Fraction | None) -> Fraction | None:
    """PyAV 19 gives a type of its own, which is false when unset."""
    return Fraction(rate.numerator, rate.denominator) if rate else None
