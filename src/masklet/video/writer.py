"""MP4 that every player shows: H.264, 4:2:0, BT.709, index in front; whole or not at all."""

from __future__ import annotations  # Packet takes a parameter in the stubs only

import errno
import logging
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import numpy as np
from av import AudioFrame, Packet, VideoFrame
from av.codec import Codec
from av.container import OutputContainer
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from masklet.errors import BadPrompt
from masklet.files import make_folder, refusals
from masklet.video.opening import fraction, opened, sound_of
from masklet.video.video import Video

_log = logging.getLogger(__name__)

ENCODER = "libx264"
QUALITY = {"crf": "18", "preset": "veryfast"}
"""18 is visually lossless for x264; slower presets make smaller files and hold up the network."""
COPIED_AUDIO = {"aac", "mp3", "ac3", "eac3", "opus", "alac", "flac"}
"""Sound that MP4 takes as it is; the rest becomes AAC."""
AAC_RATES = (48000, 96000, 88200, 64000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)
"""What the encoder takes; any other rate becomes the first."""
AAC_LAYOUTS = {1: "mono", 6: "5.1"}
"""By channels, since many files do not say which is which; all others become stereo."""
LONGEST_SLIP = 0.1
"""Seconds by which sound that is coded anew may come late before silence is left in its place."""
LONGEST_SIDE_PX = 16384
"""What x264 takes."""
BT709 = 1
"""ITU-T H.273's number for BT.709 primaries and transfer."""


def can_write() -> bool:
    """Whether this PyAV has the encoder."""
    try:
        return Codec(ENCODER, "w").is_encoder
    except ValueError:
        return False


class VideoWriter:
    """Writes frames of one size to a file that appears when the writer closes; after an error nothing is left.

    Give `fps` for a constant rate, or else `source` to keep that video's time stamps and, with `audio`, its sound.
    Odd sizes are padded by repeating the last row or column.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        fps: Fraction | None = None,
        source: Video | None = None,
        audio: bool = False,
    ) -> None:
        if (fps is None) == (source is None):
            raise ValueError("give fps, or source for its time stamps")
        self.path = Path(path)
        self._time_base = 1 / fps if fps else source.time_base if source else Fraction(1)
        self._rate = fps or (source.average_rate if source else None) or Fraction(25)
        make_folder(self.path.parent)
        _check_name(self.path)
        self._temporary = self.path.with_name(f".{secrets.token_hex(8)}.part")
        with refusals(self.path):
            # "file:" keeps FFmpeg from reading a protocol into a name.
            self._film = av.open(f"file:{self._temporary}", "w", format="mp4", options={"movflags": "+faststart"})
        self._stream: VideoStream | None = None
        self._sound = _Sound(source, self._film) if source is not None and audio and source.has_audio else None
        self._reformatter = VideoReformatter()
        self._size: tuple[int, int] | None = None
        self._first = 0
        self._count = 0
        self._last = -1

    def write(self, rgb: NDArray[np.uint8], *, pts: int | None = None) -> None:
        """Add a frame, `[h, w, 3]` or one channel `[h, w]`; with `source`, `pts` is its time stamp there."""
        height, width = rgb.shape[:2]
        if self._stream is None:
            self._size = height, width
            self._stream = self._started(height + height % 2, width + width % 2)
            self._first = pts or 0
        if (height, width) != self._size:
            raise ValueError(f"frame {self._count} is {height} high and {width} wide, the first one was {self._size}")
        at = self._count if pts is None else pts - self._first
        if at <= self._last:
            raise ValueError(f"frame {self._count} has time stamp {pts}, not after the one before")
        seconds = float(at * self._time_base)
        with refusals(self.path):
            self._mux_sound(seconds)
            self._film.mux(self._stream.encode(self._coded(rgb, at)))
        self._count, self._last = self._count + 1, at
        self._end = seconds + float(1 / self._rate)

    def close(self) -> None:
        """Finish the file and let it appear; without a single frame there is none."""
        if self._stream is None:
            self.discard()
            return
        try:
            with refusals(self.path):
                self._mux_sound(self._end)
                self._film.mux(self._stream.encode(None))
                self._film.close()
                self._temporary.replace(self.path)
        finally:
            self.discard()

    def discard(self) -> None:
        """Leave no trace of what is not finished."""
        with suppress(OSError, av.error.FFmpegError):
            self._film.close()
        with suppress(OSError):
            self._temporary.unlink(missing_ok=True)
        if self._sound is not None:
            self._sound.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is None:
            self.close()
        else:
            self.discard()

    def _coded(self, rgb: NDArray[np.uint8], at: int) -> VideoFrame:
        """Pad to even sides, convert colours, and stamp."""
        padded = np.pad(rgb, [(0, n % 2) for n in rgb.shape[:2]] + [(0, 0)] * (rgb.ndim - 2), mode="edge")
        frame = self._reformatter.reformat(
            VideoFrame.from_ndarray(padded, format="rgb24" if rgb.ndim == 3 else "gray"),
            format="yuv420p",
            src_color_range=ColorRange.JPEG,
            dst_color_range=ColorRange.MPEG,
            dst_colorspace=Colorspace.ITU709,
        )
        frame.pts, frame.time_base = at, self._time_base
        return frame

    def _started(self, height: int, width: int) -> VideoStream:
        if max(height, width) > LONGEST_SIDE_PX:
            raise BadPrompt(
                f"The picture is {width}x{height}, but a video has at most {LONGEST_SIDE_PX} pixels a side: "
                "ask for pictures instead"
            )
        stream = self._film.add_stream(ENCODER, rate=self._rate, options=QUALITY)
        assert isinstance(stream, VideoStream)  # noqa: S101 - of a video codec's name
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        coder = stream.codec_context
        coder.time_base = self._time_base
        coder.color_range, coder.colorspace = ColorRange.MPEG, Colorspace.ITU709
        coder.color_primaries = coder.color_trc = BT709
        return stream

    def _mux_sound(self, until: float) -> None:
        if self._sound is not None:
            for packet in self._sound.packets(self._first * self._time_base, until):
                self._film.mux(packet)


def _check_name(path: Path) -> None:
    """Refuse at the start a name that the finished file could not take."""
    with refusals(path), suppress(FileNotFoundError):
        if stat.S_ISDIR(path.stat().st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))


class _Sound:
    """The first sound track of a video, given out as the film goes on, as far from the pictures as it was.

    Starts with the packet that reaches into the first picture's time, and ends early where it is damaged.
    """

    def __init__(self, source: Video, film: OutputContainer) -> None:
        self._path = source.path
        self._held = ExitStack()
        self._input = self._held.enter_context(opened(source.path))
        track = sound_of(self._input)
        assert track is not None  # noqa: S101 - the video has sound
        self._track = track
        self._copies = track.codec_context.codec.canonical_name in COPIED_AUDIO
        self._out = (
            film.add_stream_from_template(track)
            if self._copies
            else film.add_stream(
                "aac",
                rate=track.rate if track.rate in AAC_RATES else AAC_RATES[0],
                layout=AAC_LAYOUTS.get(track.layout.nb_channels, "stereo"),
            )
        )
        self._ready: Iterator[tuple[float, Packet[Any]]] | None = None
        self._next: tuple[float, Packet[Any]] | None = None

    def packets(self, start: Fraction, until: float) -> Iterator[Packet[Any]]:
        """Yield what sounds before `until`, in seconds after `start`; call it with ascending times."""
        if self._ready is None:
            self._ready = self._copied(start) if self._copies else self._encoded(start)
            self._advance(self._ready)
        while self._next is not None and self._next[0] < until:
            yield self._next[1]
            self._advance(self._ready)

    def close(self) -> None:
        """Close the source."""
        self._held.close()

    def _advance(self, ready: Iterator[tuple[float, Packet[Any]]]) -> None:
        try:
            self._next = next(ready, None)
        except (av.error.FFmpegError, OSError, ValueError) as error:  # ValueError: it changes its rate or channels
            after = f"after {self._next[0]:.1f} s" if self._next else "at its beginning"
            _log.warning(
                "The sound of %s cannot be read further %s (%s): the film goes on silent", self._path, after, error
            )
            self._next = None

    def _copied(self, start: Fraction) -> Iterator[tuple[float, Packet[Any]]]:
        for packet in self._input.demux(self._track):
            time_base = fraction(packet.time_base)
            if packet.pts is None or packet.dts is None or time_base is None:
                continue
            shift = round(start / time_base)
            # The one that ends just there is kept too: decoders of AAC and MP3 need it to begin.
            if packet.pts + (packet.duration or 0) < shift:
                continue
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            packet.stream = self._out
            yield float(packet.pts * time_base), packet

    def _encoded(self, start: Fraction) -> Iterator[tuple[float, Packet[Any]]]:
        samples: int | None = None
        for frame in self._input.decode(self._track):
            rate = frame.sample_rate
            if frame.time is None or frame.time + frame.samples / rate <= start:
                continue
            due = round((frame.time - start) * rate)
            if samples is None or due - samples > rate * LONGEST_SLIP:
                samples = due
            frame.pts, frame.time_base = samples, Fraction(1, rate)
            samples += frame.samples
            yield from self._timed(frame)
        yield from self._timed(None)

    def _timed(self, frame: AudioFrame | None) -> Iterator[tuple[float, Packet[Any]]]:
        for packet in self._out.encode(frame):
            yield float((packet.pts or 0) * packet.time_base), packet
