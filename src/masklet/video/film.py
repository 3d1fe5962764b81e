"""Film files through PyAV. Trusts no file: kinds are whitelisted, and nothing but the file itself can be opened.

FFmpeg is given an open file, never a name, and no protocol at all, so a playlist or a description in disguise has
nothing to open other files or connections with.

A picture is shown only if it is whole. Where one is lost, or the decoder mended it by guesswork, reading ends with an
error that names it, and no later one takes its number. What a decoder does not notice (a few flipped bits, in most
codecs) cannot be noticed here. Pictures before the first whole one, and an unfinished last one in a file that does not
state its size, are no damage: recordings begin and end anywhere. They do not count as frames.

Pixels are as stored: an aspect ratio of pixels other than 1 does not stretch them, and transparency is dropped.
"""

import logging
from array import array
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from av import Packet, VideoFrame
from av.audio.stream import AudioStream
from av.buffer import Buffer
from av.codec.context import CodecContext
from av.container import InputContainer
from av.sidedata.sidedata import Type
from av.stream import Disposition
from av.video.frame import PictureType
from av.video.reformatter import Colorspace, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from masklet.errors import BadVideo, NoFrames, SizeChanged, TooLarge
from masklet.video.outline import stated_size

CONTAINERS = "mov,mp4,matroska,webm,avi,gif,mpegts,mpeg,flv,asf,ogg"
CODECS = (
    "h264,hevc,vp8,vp9,av1,libdav1d,libvpx,libvpx-vp9,mpeg1video,mpeg2video,mpeg4,msmpeg4v2,msmpeg4,mjpeg,prores,"
    "dnxhd,gif,ffv1,theora,wmv1,wmv2,wmv3,vc1,flv,h263,png,qtrle,rawvideo,huffyuv,utvideo,"
    "aac,mp3,mp3float,mp2,mp2float,ac3,eac3,opus,libopus,vorbis,flac,alac,pcm_s16le,pcm_s16be,pcm_s24le,pcm_f32le,"
    "pcm_u8,pcm_alaw,pcm_mulaw,wmav2"
)
OPTIONS = {"format_whitelist": CONTAINERS, "codec_whitelist": CODECS, "protocol_whitelist": "none"}
INDEXED = {"h264", "hevc", "vp9", "av1"}
"""In containers that stamp every packet (MP4, Matroska) theirs are the frames; all else is indexed by decoding."""
HEAD_FRAMES, TAIL_FRAMES = 16, 300
"""So many frames are decoded at either end to check an index made of packets."""
STRICT = {"err_detect": "explode"}
"""Makes FFmpeg's HEVC decoder report a picture it cannot decode; else it is left out without a word."""
MOST_LEANING = 4
"""B-pictures in a row that wait for the picture they lean on; encoders use 3, and some code nothing but B-pictures."""
READ_AHEAD_BYTES = 2**20
LENIENT: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
"""A title in an old encoding is no reason to refuse a film; from 19 on, PyAV thinks so too."""
UNTAGGED = 2
"""ITU-T H.273's number for a colour matrix that nobody stated."""
HD_HEIGHT = 720
"""From here on, pictures without a colour tag are BT.709, as players take them; below, BT.601."""
READABLE = "MP4, MOV, MKV, WebM, AVI, GIF, MPEG, FLV, WMV or Ogg with a common codec"

logging.getLogger("libav").setLevel(logging.CRITICAL)  # what matters is raised


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


class _Damage(Exception):
    """Here a picture is missing or not whole; what comes after it is not to be trusted."""


@contextmanager
def opened(path: Path) -> Iterator[InputContainer]:
    """Open a film file, and say in our words what FFmpeg has against it, then or in the block."""
    try:
        with (
            path.open("rb") as file,
            av.open(file, "r", buffer_size=READ_AHEAD_BYTES, options=OPTIONS, **LENIENT) as container,
        ):
            yield container
    except (av.error.InvalidDataError, av.error.EOFError) as error:
        raise BadVideo(f"{path} is not a video, or is cut short or damaged: masklet reads {READABLE}") from error
    except av.error.FFmpegError as error:
        raise BadVideo(
            f"{path} is of a kind that masklet does not open ({error.strerror}): convert it to {READABLE}"
        ) from error
    except OSError as error:
        raise BadVideo(f"{path} cannot be read any more ({error.strerror or error})") from error


def sound_of(container: InputContainer) -> AudioStream | None:
    """Return the first sound track that masklet reads."""
    return next((track for track in container.streams.audio if _allowed(track.codec_context)), None)


def fraction(rate: Fraction | None) -> Fraction | None:
    """PyAV 19 gives a type of its own, which is false when unset."""
    return Fraction(rate.numerator, rate.denominator) if rate else None


class FilmReader:
    """Reads one film from any frame on."""

    has_audio: bool

    def __init__(self, path: Path, *, most_pixels: int, most_frames: int | None = None) -> None:
        self._path = path
        self._most_pixels, self._most_frames = most_pixels, most_frames
        self._open_ended = self._stated_size() is None
        self._by_decoding = False
        with opened(self._path) as container:
            stream = self._stream(container)
            self.time_base = fraction(stream.time_base) or Fraction(1, 1000)
            self.average_rate = fraction(stream.average_rate) or fraction(stream.guessed_rate)
            self.has_audio = sound_of(container) is not None
            by_packets = self._by_packets(container, stream)
        if by_packets is None or not self._holds(by_packets):
            self._by_decoding = True
            self._index = self._by_frames()
            if by_packets is not None and self._index.agrees_up_to_damage(by_packets):
                self._by_decoding, self._index = False, by_packets
        self.pts = self._index.stamps
        first = next(self._decoded(0), None) if self.pts else None
        if first is None:
            raise NoFrames(f"{path} has no frame that can be decoded: re-encode it, for instance as H.264")
        self._turns, self._mirrored = _orientation(first)
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
            rgb = np.rot90(_rgb(frame, reformatter), self._turns)
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
        """Return the film in the file; a cover picture is none."""
        for stream in container.streams.video:
            if stream.disposition & Disposition.attached_pic:
                continue
            coder = stream.codec_context
            if not _allowed(coder):
                name = "unknown" if coder is None else coder.codec.name
                raise BadVideo(f"{self._path}: its codec ({name}) is not one masklet reads; convert it to {READABLE}")
            self._check_size(coder.height, coder.width)
            # A later picture may be of any size, whatever the header says.
            coder.options = {"max_pixels": str(self._most_pixels * 2)}  # it counts padding too
            if self._by_decoding and coder.codec.name == "hevc":
                coder.options |= STRICT
            # Several threads notice damage late or not at all, so what is not promised by packets is left to one.
            stream.thread_type = "NONE" if self._by_decoding else "AUTO"
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
            for packet in _packets(container, stream):
                if not packet.size or packet.is_discard:
                    continue
                if packet.pts is None:
                    return None
                stamps.append(packet.pts)
                self._check_count(stamps)
                if packet.is_keyframe:
                    keys.append(packet.pts)
        except _Damage:
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
                for frame in _steady(_whole(container, stream)):
                    pts = frame.pts
                    if pts is None or (stamps and pts <= stamps[-1]):
                        told, pts = False, len(stamps)
                    stamps.append(pts)
                    self._check_count(stamps)
                    if frame.key_frame:
                        keys.append(pts)
            except _Damage:
                broken = not self._open_ended or _goes_on(container, stream)
        whole = len(stamps)
        if broken:
            stamps.append(stamps[-1] + 1 if stamps else 0)  # reading gets to the damaged frame and says so
        if told:
            return _Index(stamps, keys, whole)
        rate = self.average_rate or Fraction(25)
        first = round(stamps[0] * self.time_base * rate)  # the sound keeps the file's own time
        self.time_base = 1 / rate
        return _Index(array("q", range(first, first + len(stamps))), array("q"), whole, told=False)

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
            frames = _whole(container, stream)
            with suppress(_Damage):
                frames = _steady(self._promised(frames, at) if self._index.told else frames)
                yield from islice(frames, start - at, max(start, self._index.whole) - at)

    def _promised(self, frames: Iterator[VideoFrame], at: int) -> Iterator[VideoFrame]:
        """Let pass frame `at`, the one after it and so on; raise `_Damage` when another comes instead."""
        stamps = self._index.stamps
        for frame in frames:
            if frame.pts is not None and frame.pts < stamps[at]:
                continue  # before the first one wanted
            if frame.pts != stamps[at]:
                raise _Damage
            yield frame
            at += 1
            if at == len(stamps):
                return


def _whole(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """Decode in display order, from the first whole picture on; raise `_Damage` at one that is not."""
    begun = False
    for packet in _packets(container, stream):
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            if begun:
                yield from _finished(stream, packet)
                raise _Damage from None
            continue
        for frame in frames:
            if frame.is_corrupt and begun:
                raise _Damage
            if not frame.is_corrupt:
                begun = True
                yield frame


def _packets(container: InputContainer, stream: VideoStream) -> "Iterator[Packet[VideoStream]]":
    try:
        yield from container.demux(stream)
    except av.error.FFmpegError:
        raise _Damage from None


def _finished(stream: VideoStream, lost: "Packet[VideoStream]") -> Iterator[VideoFrame]:
    """Yield what the decoder still holds from before a packet that it could not decode."""
    with suppress(av.error.FFmpegError):
        for frame in stream.decode(None):
            if frame.is_corrupt or frame.pts is None or lost.pts is None or frame.pts >= lost.pts:
                return
            yield frame


def _steady(frames: Iterator[VideoFrame]) -> Iterator[VideoFrame]:
    """Hold back B-pictures until the picture after them has come whole: what they lean on may be that one."""
    waiting: deque[VideoFrame] = deque()
    for frame in frames:
        waiting.append(frame)
        if frame.pict_type != PictureType.B:
            yield from _drained(waiting)
        elif len(waiting) > MOST_LEANING:
            yield waiting.popleft()
    yield from _drained(waiting)


def _drained(waiting: deque[VideoFrame]) -> Iterator[VideoFrame]:
    while waiting:
        yield waiting.popleft()


def _goes_on(container: InputContainer, stream: VideoStream) -> bool:
    """Whether the film has more packets from here."""
    try:
        return any(packet.size for packet in container.demux(stream))
    except av.error.FFmpegError:
        return True


def _ever_earlier(key: int) -> Iterator[int]:
    """Count down from a key picture in growing steps to 0: seeking may land late, and some cannot be started at."""
    step = 1
    while key > 0:
        yield key
        key, step = key - step, step * 2
    yield 0


def _allowed(coder: CodecContext | None) -> bool:
    """Whether a decoder is on the list: FFmpeg's own check binds its probing only."""
    return coder is not None and coder.codec.name in CODECS.split(",")


def _orientation(frame: VideoFrame) -> tuple[int, bool]:
    """Return how a picture is to be shown: quarter turns counterclockwise, then whether upside down."""
    turns = round(frame.rotation / 90) % 4
    with suppress(KeyError, ValueError):  # none; or other facts beside it of a type that PyAV does not know
        facts = cast("Mapping[Type, Buffer]", frame.side_data)
        a, b, _, c, d, *_ = np.frombuffer(bytes(facts[Type.DISPLAYMATRIX]), np.int32).tolist()
        if a * d < b * c:  # a mirror; the angle is read off the first row, which it turned round
            return -turns % 4, True
    return turns, False


def _rgb(frame: VideoFrame, reformatter: VideoReformatter) -> NDArray[np.uint8]:
    """Return the pixels as stored, colours by the frame's own matrix."""
    untagged = frame.colorspace == UNTAGGED
    matrix = Colorspace.ITU709 if untagged and frame.height >= HD_HEIGHT else None
    return reformatter.reformat(frame, format="rgb24", src_colorspace=matrix).to_ndarray().astype(np.uint8, copy=False)
