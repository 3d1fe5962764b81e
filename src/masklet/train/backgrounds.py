"""Backgrounds of made clips: frames of real films, and a window on them that may pan and zoom.

They lie in one folder as `CLIP-FRAME.jpg`; frames of one clip whose numbers follow each other are taken for a film.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.Image import Resampling, Transpose

from masklet.errors import BadVideo
from masklet.files import draft_path, make_folder
from masklet.train.guard import read_allowed, refuse_evaluation_frame
from masklet.train.movement import Stage, fold, wander
from masklet.train.prepared import JPEG_QUALITY, reduced
from masklet.video import open_video

REAL_MOTION, CAMERA_MOVES, MIRRORED = 0.5, 0.6, 0.5
"""How often a background is a running film, not a still; is panned and zoomed; is mirrored."""
ZOOMS = (1.05, 1.8)
PACE = 0.01
"""Panning and zooming go about so far from one frame to the next, as a share."""
RUN, STRIDES = 24, (1, 2, 3)
"""Frames kept from one place of a clip, and the steps between them, by turns."""


@dataclass(frozen=True)
class Backgrounds:
    """A folder of backgrounds."""

    films: tuple[tuple[Path, ...], ...]

    @classmethod
    def of(cls, folder: Path) -> "Backgrounds":
        """Find the films of a folder; raises `BadVideo` where there are none."""
        films = tuple(_films_in(folder))
        if not films:
            raise BadVideo(f"{folder} has no pictures CLIP-FRAME.jpg: run scripts/make_training_data.py first")
        return cls(films)

    def film(
        self, rng: np.random.Generator, *, frames: int, size_hw: tuple[int, int]
    ) -> tuple[list[Image.Image], Stage]:
        """Draw one background for each frame, and say how the camera moved."""
        paths = self._choose(rng, frames)
        opened = {path: read_allowed(path) for path in dict.fromkeys(paths)}
        windows, camera = _windows(rng, frames, opened[paths[0]].size, size_hw)
        pictures = [
            opened[path].resize(size_hw[::-1], Resampling.BILINEAR, box=tuple(window))
            for path, window in zip(paths, windows.tolist(), strict=True)
        ]
        if rng.random() < MIRRORED:
            pictures = [picture.transpose(Transpose.FLIP_LEFT_RIGHT) for picture in pictures]
            camera = camera * (-1, 1)
        return pictures, Stage(frames, size_hw, camera)

    def piece(self, rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
        """Draw a piece of some background, width and height given, as a surface for something."""
        film = self.films[int(rng.integers(len(self.films)))]
        surface = read_allowed(film[int(rng.integers(len(film)))])
        share = min(surface.width / size[0], surface.height / size[1]) * rng.uniform(0.4, 1.0)
        w, h = share * size[0], share * size[1]
        x, y = rng.uniform(0, 1, 2) * (surface.width - w, surface.height - h)
        return surface.resize(size, Resampling.BILINEAR, box=(x, y, x + w, y + h))

    def _choose(self, rng: np.random.Generator, frames: int) -> Sequence[Path]:
        film = self.films[int(rng.integers(len(self.films)))]
        if rng.random() >= REAL_MOTION or len(film) < frames:
            return (film[int(rng.integers(len(film)))],) * frames
        start = int(rng.integers(len(film) - frames + 1))
        run = film[start : start + frames]
        return run[::-1] if rng.random() < 0.5 else run


def write_backgrounds(clips: Sequence[Path], out: Path, rng: np.random.Generator, *, runs: int) -> int:
    """Keep `runs` short films from each clip, spread over its length, and return how many frames there are."""
    make_folder(out)
    count = 0
    for path in clips:
        with open_video(path) as video:
            for run in range(runs):
                stride = STRIDES[run % len(STRIDES)]
                part = video.frame_count / runs
                start = int(run * part + rng.uniform(0, max(0.0, part - RUN * stride)))
                stop = min(start + RUN * stride, video.frame_count)
                for place, frame in enumerate(f for f in video.frames(start, stop) if (f.index - start) % stride == 0):
                    refuse_evaluation_frame(frame.rgb, f"{path}, frame {frame.index}")
                    # A hundred numbers to each run, so that the last frame of one never precedes the next.
                    with draft_path(out / f"{path.stem}-{100 * run + place:05d}.jpg") as draft:
                        reduced(frame.rgb).save(draft, "JPEG", quality=JPEG_QUALITY)
                    count += 1
    return count


def _windows(
    rng: np.random.Generator, frames: int, size: tuple[int, int], size_hw: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Place a window of the clip's shape in pictures of a size (width, height): its corners `[t, 4]`, and how far what
    is seen through it moves, in pixels of the clip, `[t, 2]`."""
    pace = PACE * (rng.random() < CAMERA_MOVES)
    zoom = np.maximum(1.0, rng.uniform(*ZOOMS) * np.exp(wander(rng, frames, pace)))
    fit = min(size[0] / size_hw[1], size[1] / size_hw[0]) / zoom  # [t, 1], picture pixels for one of the clip
    sides = fit * size_hw[::-1]
    room = np.array(size) - sides
    start = rng.uniform(0, 1, 2) * room[0] + sides[0] / 2
    corners = fold(start + wander(rng, frames, pace * size[0], 2) - sides / 2, 0.0, room)
    middles = corners + sides / 2
    return np.hstack((corners, np.minimum(corners + sides, size))), (middles[0] - middles) / fit


def _films_in(folder: Path) -> Iterator[tuple[Path, ...]]:
    run: list[Path] = []
    for path in sorted(folder.glob("*.jpg")):
        if run and _place(path) != (_place(run[-1])[0], _place(run[-1])[1] + 1):
            yield tuple(run)
            run = []
        run.append(path)
    if run:
        yield tuple(run)


def _place(path: Path) -> tuple[str, int]:
    clip, _, number = path.stem.rpartition("-")
    return clip, int(number) if number.isdecimal() else -1
