"""A film, a folder of pictures or one picture, as frames with an index in display order and a time stamp."""

import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from masklet.errors import BadVideo
from masklet.video.film import FilmReader
from masklet.video.pictures import PictureReader, is_picture

MOST_PIXELS = 64_000_000
"""A larger frame is refused before it is decoded: 8K has 33 million pixels."""
BACKWARD_BYTES = 256 * 2**20
BACKWARD_FRAMES = 32
"""Going backward decodes forward and turns round; so much is held at once at most."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of a video."""

    index: int
    """In display order, from 0."""
    pts: int
    """The file's own time stamp, in units of the video's `time_base`."""
    seconds: float
    """Since the first frame."""
    rgb: NDArray[np.uint8]
    """`[h, w, 3]`, rotation applied."""


class Reader(Protocol):
    """What is behind a video: something that can be read from any frame on."""

    height: int
    width: int
    time_base: Fraction
    has_audio: bool

    @property
    def average_rate(self) -> Fraction | None:
        """Frames a second, if the file says."""

    @property
    def pts(self) -> Sequence[int]:
        """Return one time stamp for each frame, ascending."""

    def read(self, start: int, stop: int) -> Iterator[NDArray[np.uint8]]:
        """Yield frames `start` to `stop - 1`."""


class Video:
    """Frames of one size; `open_video` makes it. Each iteration reads on its own, so several may run at once."""

    def __init__(self, path: Path, reader: Reader) -> None:
        self.path = path
        self.height = reader.height
        self.width = reader.width
        self.frame_count = len(reader.pts)
        self.time_base = reader.time_base
        self.average_rate = reader.average_rate
        """Frames per second; None for pictures, which have no time (they count as one a second)."""
        self.has_audio = reader.has_audio
        self._reader = reader

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        """Yield frames `start` to `stop - 1` (default: the last)."""
        stop = self.frame_count if stop is None else min(stop, self.frame_count)
        if start >= stop:
            return
        self._check(start)
        for index, rgb in enumerate(self._reader.read(start, stop), start):
            yield Frame(index, self._reader.pts[index], self.seconds_at(index), rgb)

    def frames_backward(self, start: int, stop: int = 0) -> Iterator[Frame]:
        """Yield frames `start`, `start - 1`, ..., `stop`, holding a bounded number at once."""
        if start >= stop:
            self._check(start)
        held = max(1, min(BACKWARD_FRAMES, BACKWARD_BYTES // (self.height * self.width * 3)))
        for after in range(start + 1, stop, -held):
            yield from reversed(list(self.frames(max(stop, after - held), after)))

    def frames_at(self, indices: Sequence[int]) -> Iterator[Frame]:
        """Yield the frames of these indices, in their order."""
        for index in indices:
            self._check(index)
            yield from self.frames(index, index + 1)

    def seconds_at(self, index: int) -> float:
        """Return when a frame is shown, counted from the first."""
        self._check(index)
        return float((self._reader.pts[index] - self._reader.pts[0]) * self.time_base)

    def close(self) -> None:
        """Nothing stays open between iterations; this marks the end for the reader of the code."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _check(self, index: int) -> None:
        if not 0 <= index < self.frame_count:
            raise BadVideo(
                f"{self.path} has no frame {index}: it has {self.frame_count} frames, 0..{self.frame_count - 1}"
            )


def open_video(path: str | Path) -> Video:
    """Open a film file, a folder of pictures (in natural order: 2 before 10) or one picture.

    Raises `BadVideo` for what is missing, empty, cut short, not a video, or of a kind masklet will not open. A path
    is always a local file, never an address or a pattern.
    """
    return Video(Path(path), open_reader(Path(path)))


def open_reader(path: Path, *, most_pixels: int = MOST_PIXELS, most_frames: int | None = None) -> Reader:
    """Open what is behind a video; raises `BadVideo`, soon if it is larger than it may be."""
    try:
        mode = _mode(path)
        if stat.S_ISDIR(mode):
            return PictureReader(path, most_pixels=most_pixels)
        if not stat.S_ISREG(mode):  # a pipe would be waited for, a device never ends
            raise BadVideo(f"{path} is neither a file nor a folder: save the video to a file first")
        if is_picture(path):
            return PictureReader(path, most_pixels=most_pixels)
        return FilmReader(path, most_pixels=most_pixels, most_frames=most_frames)
    except FileNotFoundError:
        raise BadVideo(
            f"{path} does not exist: give the path of a video, of a picture or of a folder of them"
        ) from None
    except PermissionError:
        raise BadVideo(f"{path} may not be read: check its permissions") from None
    except OSError as error:
        raise BadVideo(f"{path} cannot be read ({error.strerror or error}): check the path and the disk") from error


def _mode(path: Path) -> int:
    """Return what kind of thing lies at a path, as `os.stat` codes it."""
    try:
        return path.stat().st_mode
    except ValueError as error:  # a NUL, or half a character
        raise BadVideo(f"{str(path)!a} cannot be a path ({error}): give the path of a video") from None
