"""Short clips with true masks, cut at random out of dataset folders; the same generator gives the same clip.

Reads what `masklet evaluate` reads: the layouts of DAVIS, MOSE and SA-V. Where a sequence is shorter than a clip, it is
played to and fro; a window that moves over the pictures turns even one still into a clip.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from masklet.dataset import Sequence as Video
from masklet.dataset import sequences
from masklet.errors import BadVideo
from masklet.masks import box_of
from masklet.train.guard import read_allowed
from masklet.video.pictures import pictures_in

LEAST_AREA = 0.0005
"""An object is worth a prompt from this share of the picture on: about 170 of 768 x 432 pixels."""
MOST_OBJECTS = 12
"""Of one clip; teachers find more, and each costs time to read."""
MOST_STRIDE = 3
"""Clips skip up to two frames between two of theirs, so that motion comes at several speeds."""
ZOOM = 0.55
"""A window is at least this much of the largest one that fits."""
DRIFT, STILL_DRIFT = 0.03, 0.12
"""Standard deviation of how far a window moves in a clip, as a share of its side: over films, over stills."""
LIGHT = 0.15
"""Standard deviation of gain, and of each colour's own."""
ATTEMPTS = 50
PART = "part-"
"""Beginning of the names that `masklet.train.teacher` gives to what is only part of a thing."""


@dataclass(frozen=True, eq=False)
class Clip:
    """Frames and what is true of them."""

    name: str
    frames: NDArray[np.uint8]
    """`[t, h, w, 3]`."""
    masks: NDArray[np.bool_]
    """`[t, n, h, w]`, visible pixels of each object; all False where it is hidden or gone. Masks may overlap."""
    parts: frozenset[int] = frozenset()
    """Rows of objects that are only parts of things: a person who means one does not say so by a single click."""

    def __post_init__(self) -> None:
        expected = (len(self.frames), self.masks.shape[1], *self.frames.shape[1:3])
        if self.masks.shape != expected:
            raise ValueError(f"{self.name}: masks are {self.masks.shape}, but its frames ask for {expected}")

    def only(self, rows: Sequence[int]) -> "Clip":
        """Return the clip with some of its objects."""
        parts = frozenset(new for new, old in enumerate(rows) if old in self.parts)
        return Clip(self.name, self.frames, self.masks[:, list(rows)], parts)


class Source(Protocol):
    """Where clips come from."""

    def clip(self, rng: np.random.Generator, *, frames: int, size_hw: tuple[int, int]) -> Clip:
        """Return a clip of that many frames of that size; every object can be seen on the first one."""


class Mixture:
    """Several sources, each drawn from equally often; one that is given twice comes twice as often."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = tuple(sources)

    def clip(self, rng: np.random.Generator, *, frames: int, size_hw: tuple[int, int]) -> Clip:
        source = self._sources[rng.integers(len(self._sources))]
        return source.clip(rng, frames=frames, size_hw=size_hw)


class FolderSource:
    """A dataset's folder: windows of random place and size move over its annotated frames."""

    def __init__(self, dataset: str | Path) -> None:
        self._scenes = tuple(_scenes(dataset))
        for scene in self._scenes:  # the other frames are looked at when they are read
            scene.read(scene.pictures[0])
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._scenes)

    def clip(self, rng: np.random.Generator, *, frames: int, size_hw: tuple[int, int]) -> Clip:
        """Return a clip; raises `BadVideo` where no object is large enough to be prompted."""
        for _ in range(ATTEMPTS):
            scene = self._scenes[rng.integers(len(self._scenes))]
            clip = scene.cut(rng, frames, size_hw)
            if clip is not None:
                return clip
        raise BadVideo(f"{self._dataset}: {ATTEMPTS} clips showed no object larger than {LEAST_AREA:.2%} of a picture")


@dataclass(frozen=True, eq=False)
class _Scene:
    """A sequence's annotated frames, in order."""

    video: Video
    pictures: tuple[Path, ...]

    def cut(self, rng: np.random.Generator, frames: int, size_hw: tuple[int, int]) -> Clip | None:
        """Cut a clip out, or None where its first frame shows no object well enough."""
        chosen = self._choose(rng, frames)
        seen = {path: self.read(path) for path in dict.fromkeys(chosen)}
        pictures, truths = zip(*(seen[path] for path in chosen), strict=True)
        if not truths[0]:
            return None
        names = rng.permutation(sorted(truths[0]))[:MOST_OBJECTS].tolist()
        target = box_of(truths[0][names[rng.integers(len(names))]])
        assert target is not None  # noqa: S101 - truths are visible
        drift = STILL_DRIFT if len(self.pictures) == 1 else DRIFT
        windows = _windows(rng, pictures[0].size, size_hw, target, drift * np.linspace(0, 1, frames))
        rgb = np.stack([_cut(picture, window, size_hw) for picture, window in zip(pictures, windows, strict=True)])
        masks = np.zeros((frames, len(names), *size_hw), bool)
        for row, truth, window in zip(masks, truths, windows, strict=True):
            for mask, name in zip(row, names, strict=True):
                if name in truth:
                    mask[:] = _cut(Image.fromarray(truth[name].view(np.uint8) * 255), window, size_hw) > 127
        parts = frozenset(row for row, name in enumerate(names) if name.startswith(PART))
        clip = Clip(self.video.name, *_varied(rng, rgb, masks), parts)
        rows = np.flatnonzero(clip.masks[0].mean(axis=(1, 2)) >= LEAST_AREA)
        return clip.only(rows.tolist()) if len(rows) else None

    def read(self, path: Path) -> tuple[Image.Image, dict[str, NDArray[np.bool_]]]:
        """Read a frame and the masks of the objects that can be seen on it, which are of its size."""
        picture = read_allowed(path)
        truth = self.video.truth(path.stem, size_hw=(picture.height, picture.width))
        return picture, {name: mask for name, mask in truth.items() if mask.any()}

    def _choose(self, rng: np.random.Generator, frames: int) -> list[Path]:
        """Choose frames at one stride, forward or backward in time."""
        count = len(self.pictures)
        stride = int(rng.integers(1, 1 + max(1, min(MOST_STRIDE, (count - 1) // max(1, frames - 1)))))
        span = stride * (frames - 1)
        start = int(rng.integers(max(1, count - span)))
        pictures = self.pictures if rng.random() < 0.5 else self.pictures[::-1]
        there_and_back = [*range(count), *range(count - 2, 0, -1)]
        return [pictures[there_and_back[(start + stride * i) % len(there_and_back)]] for i in range(frames)]


def _scenes(dataset: str | Path) -> Iterator[_Scene]:
    for video in sequences(dataset):
        pictures = pictures_in(video.pictures)
        yield _Scene(video, tuple(pictures[index] for index in video.frames()))


def _windows(
    rng: np.random.Generator,
    picture_wh: tuple[int, int],
    size_hw: tuple[int, int],
    target: tuple[int, int, int, int],
    drift: NDArray[np.float64],
) -> list[tuple[float, float, float, float]]:
    """Place windows of the clip's shape inside the picture, the first such that it shows the target."""
    aspect = size_hw[1] / size_hw[0]
    largest = min(picture_wh[0], picture_wh[1] * aspect)
    zoom, centre, way = rng.uniform(ZOOM, 1), [], rng.normal(size=3)
    for low, high, length, side in zip(
        target[:2], target[2:], picture_wh, (zoom * largest, zoom * largest / aspect), strict=True
    ):
        least, most = max(0.0, high - side), min(float(low), length - side)
        if least > most:  # the target is larger than the window
            least = most = float(np.clip((low + high - side) / 2, 0, length - side))
        centre.append(rng.uniform(least, most) + side / 2)
    found = []
    for share in drift:
        width = float(np.clip(zoom * np.exp(way[2] * share), ZOOM / 2, 1)) * largest
        height = width / aspect
        x = float(np.clip(centre[0] + way[0] * share * width - width / 2, 0, picture_wh[0] - width))
        y = float(np.clip(centre[1] + way[1] * share * height - height / 2, 0, picture_wh[1] - height))
        found.append((x, y, min(x + width, picture_wh[0]), min(y + height, picture_wh[1])))
    return found


def _cut(
    picture: Image.Image, window: tuple[float, float, float, float], size_hw: tuple[int, int]
) -> NDArray[np.uint8]:
    return np.asarray(picture.resize((size_hw[1], size_hw[0]), Image.Resampling.BILINEAR, box=window))


def _varied(
    rng: np.random.Generator, rgb: NDArray[np.uint8], masks: NDArray[np.bool_]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Mirror half of the clips, and let each have a light of its own."""
    if rng.random() < 0.5:
        rgb, masks = rgb[:, :, ::-1], masks[..., ::-1]
    gain = np.exp(rng.normal(0, LIGHT)) * np.exp(rng.normal(0, LIGHT / 3, 3))
    levels = np.clip(np.arange(256)[:, None] * gain, 0, 255).astype(np.uint8)  # [256, 3]
    lit = np.stack([levels[rgb[..., channel], channel] for channel in range(3)], axis=-1)
    return lit, np.ascontiguousarray(masks)
