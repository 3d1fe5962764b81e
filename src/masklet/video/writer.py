"""MP4 that every player shows: H.264, 4:2:0, BT.709, index in front; whole or not at all."""

from __future__ import annotations  # Packet takes a parameter in the stubs only

import secrets
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import numpy as np
from av import Packet, VideoFrame
from av.codec import Codec
from av.container import OutputContainer
from av.video.reformatter import ColorRange, Colorspace
from av.video.stream import VideoStream
from numpy.typing import NDArray

from masklet.files import make_folder, refusals
from masklet.video.film import OPTIONS
from masklet.video.video import Video

ENCODER = "libx264"
QUALITY = {"crf": "18", "preset": "veryfast"}
"""18 is visually lossless for x264; slower presets make smaller files and hold up the network."""
COPIED_AUDIO = {"aac", "mp3", "ac3", "eac3", "opus", "alac", "flac"}
"""Sound that MP4 takes as it is; the rest becomes AAC."""
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
        self._temporary = self.path.with_name(f".{secrets.token_hex(8)}.part")
        with refusals(self.path):
            # "file:" keeps FFmpeg from reading a protocol into a name.
            self._film = av.open(f"file:{self._temporary}", "w", format="mp4", options={"movflags": "+faststart"})
        self._stream: VideoStream | None = None
        self._sound = _Sound(source, self._film) if source is not None and audio and source.has_audio else None
        self._first = 0
        self._count = 0

    def write(self, rgb: NDArray[np.uint8], *, pts: int | None = None) -> None:
        """Add a frame, `[h, w, 3]` or one channel `[h, w]`; with `source`, `pts` is its time stamp there."""
        padded = np.pad(rgb, [(0, n % 2) for n in rgb.shape[:2]] + [(0, 0)] * (rgb.ndim - 2), mode="edge")
        frame = VideoFrame.from_ndarray(padded, format="rgb24" if rgb.ndim == 3 else "gray").reformat(
            format="yuv420p",
            src_color_range=ColorRange.JPEG,
            dst_color_range=ColorRange.MPEG,
            dst_colorspace=Colorspace.ITU709,
        )
        if self._stream is None:
            self._stream = self._started(frame.height, frame.width)
            self._first = pts or 0
        frame.time_base = self._time_base
        frame.pts = self._count if pts is None else pts - self._first
        self._count += 1
        seconds = float(frame.pts * self._time_base)
        with refusals(self.path):
            self._mux_sound(seconds)
            self._film.mux(self._stream.encode(frame))
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
        with suppress(OSError):
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

    def _started(self, height: int, width: int) -> VideoStream:
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
            for packet in self._sound.packets(float(self._first * self._time_base), until):
                self._film.mux(packet)


class _Sound:
    """The first sound track of a video, given out as the film goes on."""

    def __init__(self, source: Video, film: OutputContainer) -> None:
        self._file = source.path.open("rb")
        self._input = av.open(self._file, "r", options=OPTIONS)
        self._track = self._input.streams.audio[0]
        self._copies = self._track.codec_context.codec.canonical_name in COPIED_AUDIO
        self._out = (
            film.add_stream_from_template(self._track)
            if self._copies
            else film.add_stream("aac", rate=self._track.rate, layout=self._track.layout.name)
        )
        self._ready: Iterator[tuple[float, Packet[Any]]] | None = None
        self._next: tuple[float, Packet[Any]] | None = None

    def packets(self, start: float, until: float) -> Iterator[Packet[Any]]:
        """Yield what sounds before `until`, in seconds after `start`; call it with ascending times."""
        if self._ready is None:
            self._ready = self._copied(start) if self._copies else self._encoded(start)
            self._next = next(self._ready, None)
        while self._next is not None and self._next[0] < until:
            yield self._next[1]
            self._next = next(self._ready, None)

    def close(self) -> None:
        """Close the source."""
        self._input.close()
        self._file.close()

    def _copied(self, start: float) -> Iterator[tuple[float, Packet[Any]]]:
        for packet in self._input.demux(self._track):
            if packet.pts is None or packet.dts is None:
                continue
            shift = round(start / packet.time_base)
            if packet.pts < shift:
                continue
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            packet.stream = self._out
            yield float(packet.pts * packet.time_base), packet

    def _encoded(self, start: float) -> Iterator[tuple[float, Packet[Any]]]:
        samples, rate = 0, self._track.rate
        for frame in self._input.decode(self._track):
            if frame.time is None or frame.time < start:
                continue
            frame.pts, frame.time_base = samples, Fraction(1, rate)
            samples += frame.samples
            for packet in self._out.encode(frame):
                yield samples / rate, packet
        for packet in self._out.encode(None):
            yield samples / rate, packet
