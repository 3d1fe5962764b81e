"""Film files as numbered frames, which can be read from any on.

Reading ends at a picture that is not whole, with an error that names it; no later one takes its number. An unfinished
last picture, in a file that does not state its size, is no damage: recordings end anywhere. It is no frame either.

Pixels are as stored: an aspect ratio of pixels other than 1 does not stretch them, and transparency is dropped.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
from av import VideoFrame
from av.container import InputContainer
from av.stream import Disposition
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from masklet.errors import BadVideo, NoFrames, SizeChanged, TooLarge
from masklet.video.decoding import Damage, goes_on, orientation, packets_of, rgb_of, steady, whole_pictures
from masklet.video.opening import READABLE, allowed, fraction, opened, sound_of
from masklet.video.outline import breaks_off, stated_size

STRICT = {"err_detect": "explode"}
"""Makes FFmpeg's HEVC decoder report a picture it cannot decode; else it is left out without a word."""
INDEXED = {"h264", "hevc", "vp9", "av1"}
"""In containers that stamp every packet (MP4, Matroska) theirs are the frames; all else is indexed by decoding."""
HEAD_FRAMES, TAIL_FRAMES = 16, 300
"""So many frames are decoded at either end to check an index made of packets."""


@dataclass(frozen=True)
class _Index:
    """What is known of the frames before they are read."""

    stamps: "array[int]"
    """A time stamp for each frame that will be decoded."""
    keys: "array[int]"
    """Time stamps at which decoding can start; none: only at the beginning."""
    whole: int
    """Frames before the first damage, where that was looked for: the damaged one has a stamp, those after it none."""
    told: bool = True
    """Whether the stamps are the file's; else it gave no usable ones, and they count frames."""

    def agrees_up_to_damage(self, by_packets: "_Index") -> bool:
        """Whether a damaged frame, which ended this index, is all that made another one seem wrong."""
        return self.whole < len(self.stamps) and self.stamps[: self.whole] == by_packets.stamps[: self.whole]


class FilmReader:
    """Reads one film from any frame on."""

    has_audio: bool

    def __init__(self, path: Path, *, most_pixels: int, most_frames: int | None = None) -> None:
        self._path = path
        self._most_pixels, self._most_frames = most_pixels, most_frames
        self._open_ended = self._stated_size() is None
        self._careful = False
        with opened(self._path) as container:
            stream = self._stream(container)
            self.time_base = fraction(stream.time_base) or Fraction(1, 1000)
            self.average_rate = fraction(stream.average_rate) or fraction(stream.guessed_rate)
            self.has_audio = sound_of(container) is not None
            by_packets = self._by_packets(container, stream)
        if by_packets is None or not self._holds(by_packets):
            self._careful = True
            self._index = self._by_frames()
            if by_packets is not None and self._index.agrees_up_to_damage(by_packets):
                self._index = by_packets
        self.pts = self._index.stamps
        first = next(self._decoded(0), None) if self.pts else None
        if first is None:
            raise NoFrames(f"{path} has no frame that can be decoded: re-encode it, for instance as H.264")
        self._turns, self._mirrored = orientation(first)
        self._size = (first.height, first.width)
        self.height, self.width = self._size if self._turns % 2 == 0 else self._size[::-1]

    def read(self, start: int, stop: int) -> Iterator[NDArray[np.uint8]]:
        """Yield frames `start` to `stop - 1`."""
        index, reformatter = start, VideoReformatter()
        for frame in islice(self._decoded(start), stop - start):
            if (frame.height, frame.width) != self._size:
                raise SizeChanged(
                    f"{self._path} changes its size to {frame.width}x{frame.height} at frame {index}: "
                    "re-encode it with one size"
                )
            rgb = np.rot90(rgb_of(frame, reformatter), self._turns)
            yield np.ascontiguousarray(rgb[::-1] if self._mirrored else rgb)
            index += 1
        if index < stop:
            raise BadVideo(
                f"{self._path} is damaged: frame {index} of {len(self.pts)} cannot be decoded; "
                "re-encode it, or cut it before that frame"
            )

    def _stated_size(self) -> int | None:
        """Return how long the file says it is; raise `BadVideo` if it is shorter."""
        size = self._path.stat().st_size
        if size == 0:
            raise BadVideo(f"{self._path} is empty (0 bytes): copy or download it again")
        with self._path.open("rb") as file:
            stated = stated_size(file)
        if stated is not None and stated > size:
            raise BadVideo(f"{self._path} is cut short: it holds {size} of {stated} bytes; copy or download it again")
        return stated

    def _stream(self, container: InputContainer) -> VideoStream:
        """Return the film in the file; a cover picture is none, nor is an animated AVIF's first picture by itself."""
        moves = any(stream.frames > 1 for stream in container.streams.video)
        for stream in container.streams.video:
            if stream.disposition & Disposition.attached_pic or (moves and stream.frames == 1):
                continue
            if stream.disposition & Disposition.dependent:
                raise BadVideo(f"{self._path} is a photo made of tiles, as HEIC and AVIF have them: convert it to JPEG")
            coder = stream.codec_context
            if not allowed(coder):
                name = "unknown" if coder is None else coder.codec.name
                raise BadVideo(f"{self._path}: its codec ({name}) is not one masklet reads; convert it to {READABLE}")
            self._check_size(coder.height, coder.width)
            # A later picture may be of any size, whatever the header says.
            coder.options = {"max_pixels": str(self._most_pixels * 2)}  # it counts padding too
            if self._careful and coder.codec.name == "hevc":
                coder.options |= STRICT
            # Several threads notice damage late, or not always: damaged and undescribed films are left to one.
            stream.thread_type = "NONE" if self._careful else "AUTO"
            return stream
        what = "sound but no pictures" if container.streams.audio else "no pictures"
        raise NoFrames(f"{self._path} has {what}: give a video")

    def _check_size(self, height: int, width: int) -> None:
        if height * width > self._most_pixels:
            raise TooLarge(
                f"{self._path} has {width}x{height} pixels: the limit is {self._most_pixels}, make it smaller"
            )

    def _check_count(self, stamps: "array[int]") -> None:
        if self._most_frames is not None and len(stamps) > self._most_frames:
            raise TooLarge(f"{self._path} has more frames than the limit, {self._most_frames}: cut it into parts")

    def _by_packets(self, container: InputContainer, stream: VideoStream) -> _Index | None:
        """Read every packet's time stamp, which is fast; None where packets do not tell."""
        container_stamps = any(name in container.format.name for name in ("mp4", "matroska"))
        if not container_stamps or stream.codec_context.codec.canonical_name not in INDEXED:
            return None
        stamps, keys = array("q"), array("q")
        try:
            for packet in packets_of(container, stream):
                if not packet.size or packet.is_discard:
                    continue
                if packet.pts is None:
                    return None
                stamps.append(packet.pts)
                self._check_count(stamps)
                if packet.is_keyframe:
                    keys.append(packet.pts)
        except Damage:
            return None
        if not keys or len(set(stamps)) < len(stamps):
            return None
        return _Index(array("q", sorted(stamps)), array("q", sorted(keys)), whole=len(stamps))

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
        told, broken = True, False
        with opened(self._path) as container:
            stream = self._stream(container)
            try:
                for frame in steady(whole_pictures(container, stream)):
                    pts = frame.pts
                    if pts is None or (stamps and pts <= stamps[-1]):
                        told, pts = False, len(stamps)
                    stamps.append(pts)
                    self._check_count(stamps)
                    if frame.key_frame:
                        keys.append(pts)
            except Damage:
                broken = not self._open_ended or goes_on(container, stream)
        if told:
            unfinished = self._unfinished()
            stamps, keys = (array("q", (pts for pts in found if pts != unfinished)) for found in (stamps, keys))
        whole = len(stamps)
        if broken:
            stamps.append(stamps[-1] + 1 if stamps else 0)  # reading gets to the damaged frame and says so
        if told:
            return _Index(stamps, keys, whole)
        rate = self.average_rate or Fraction(25)
        first = round(stamps[0] * self.time_base * rate)  # the sound keeps the file's own time
        self.time_base = 1 / rate
        return _Index(array("q", range(first, first + len(stamps))), array("q"), whole, told=False)

    def _unfinished(self) -> int | None:
        """Return the time stamp of the picture in which a file breaks off, where the decoder would show half of it."""
        with opened(self._path) as container, self._path.open("rb") as file:
            stream = self._stream(container)
            if stream.codec_context.name != "hevc" or container.format.name != "mpegts" or not breaks_off(file):
                return None
            last = None
            with suppress(Damage):
                for packet in packets_of(container, stream):
                    last = packet.pts if packet.size else last
            return last

    def _decoded(self, start: int) -> Iterator[VideoFrame]:
        """Yield frames from `start` on, each the one that the index promises; end where one is missing."""
        key = bisect_right(self._index.keys, self._index.stamps[start]) - 1
        for earlier in _ever_earlier(key):
            frames = self._decoded_from(earlier, start)
            first = next(frames, None)
            if first is not None:
                yield first
                yield from frames
                return

    def _decoded_from(self, key: int, start: int) -> Iterator[VideoFrame]:
        """Seek to a key picture (0: the beginning), decode, and yield frames from `start` on."""
        stamps, at = self._index.stamps, 0
        with opened(self._path) as container:
            stream = self._stream(container)
            if key > 0:
                with suppress(av.error.FFmpegError):  # if one cannot seek, what comes will not be what is promised
                    container.seek(self._index.keys[key], stream=stream)
                at = bisect_left(stamps, self._index.keys[key])
            frames = whole_pictures(container, stream)
            with suppress(Damage):
                frames = steady(self._promised(frames, at) if self._index.told else frames)
                yield from islice(frames, start - at, max(start, self._index.whole) - at)

    def _promised(self, frames: Iterator[VideoFrame], at: int) -> Iterator[VideoFrame]:
        """Let pass frame `at`, the one after it and so on; raise `Damage` when another comes instead."""
        stamps = self._index.stamps
        for frame in frames:
            if frame.pts is not None and frame.pts < stamps[at]:
                continue  # before the first one wanted
            if frame.pts != stamps[at]:
                raise Damage
            yield frame
            at += 1
            if at == len(stamps):
                return


def _ever_earlier(key: int) -> Iterator[int]:
    """Count down from a key picture in growing steps to 0: seeking may land late, and some cannot be started at."""
    step = 1
    while key > 0:
        yield key
        key, step = key - step, step * 2
    yield 0
