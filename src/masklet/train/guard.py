"""Evaluation-only data never enters training: its frames are known here by their content, whatever they are called.

Each forbidden frame has two fingerprints in `evaluation_only.txt`. The first is a hash of its decoded pixels: exact,
whatever the file's name, container and metadata. The second says where the picture gets brighter from left to right on
a coarse grid, and still knows a frame that was scaled or compressed again. Neither notices a frame that was cropped,
mirrored or painted over, a mask without its frame, or a sequence never listed: `fingerprints` makes the lines to add.
"""

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from masklet.errors import BadVideo
from masklet.train.prepared import read_rgb

LIST = "evaluation_only.txt"
PICTURES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
HASH_BYTES = 8
GRID_HW = (12, 16)
ALIKE = 0.1
"""Pictures are the same if at most this share of the coarse fingerprint's bits differ."""


@dataclass(frozen=True, eq=False)
class _Forbidden:
    """Every frame that may not be trained on."""

    names: tuple[str, ...]
    exact: dict[bytes, int]
    coarse: NDArray[np.uint8]
    """`[n, bytes]`."""


def refuse_evaluation_data(folder: str | Path) -> None:
    """Raise `BadVideo` if any picture below a folder is a frame of evaluation-only data; masks are not looked at."""
    found = Path(folder).rglob("*")
    paths = sorted(p for p in found if p.suffix.lower() in PICTURES and not _holds_masks(p, Path(folder)))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(_refuse_file, paths):
            pass


def read_allowed(path: Path) -> Image.Image:
    """Read a picture for training, and refuse it if it is for evaluation only, however it came here."""
    picture = read_rgb(path)
    refuse_evaluation_frame(np.asarray(picture), str(path))
    return picture


def refuse_evaluation_frame(rgb: NDArray[np.uint8], where: str) -> None:
    """Raise `BadVideo`, naming `where`, if a frame `[h, w, 3]` is evaluation-only."""
    name = evaluation_frame(rgb)
    if name is not None:
        raise BadVideo(f"{where} is {name}, which is for evaluation only: take it out of the training data")


def evaluation_frame(rgb: NDArray[np.uint8]) -> str | None:
    """Return the name of the evaluation-only frame that a picture `[h, w, 3]` is, or None."""
    forbidden = _forbidden()
    row = forbidden.exact.get(_exact(rgb))
    if row is None:
        differing = np.bitwise_count(forbidden.coarse ^ _coarse(rgb)).sum(axis=1)
        nearest = int(differing.argmin())
        row = nearest if differing[nearest] <= ALIKE * GRID_HW[0] * GRID_HW[1] else None
    return None if row is None else forbidden.names[row]


def fingerprints(folder: str | Path, *, prefix: str) -> Iterator[str]:
    """Yield the lines that forbid every picture below a folder, such as a dataset's `JPEGImages`."""
    for path in sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in PICTURES):
        rgb = np.asarray(read_rgb(path))
        name = f"{prefix}/{path.relative_to(folder).with_suffix('').as_posix()}"
        yield f"{name} {_exact(rgb).hex()} {_coarse(rgb).tobytes().hex()}"


@cache
def _forbidden() -> _Forbidden:
    lines = (files("masklet.train") / LIST).read_text("utf-8").splitlines()
    rows = [line.split() for line in lines if line and not line.startswith("#")]
    coarse = np.array([list(bytes.fromhex(row[2])) for row in rows], np.uint8)
    return _Forbidden(tuple(row[0] for row in rows), {bytes.fromhex(row[1]): i for i, row in enumerate(rows)}, coarse)


def _exact(rgb: NDArray[np.uint8]) -> bytes:
    digest = hashlib.sha256(repr(rgb.shape).encode())
    digest.update(np.ascontiguousarray(rgb).data)
    return digest.digest()[:HASH_BYTES]


def _coarse(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = GRID_HW
    grey = Image.fromarray(rgb).convert("L").resize((width + 1, height), Image.Resampling.BOX)
    levels = np.asarray(grey, np.int16)
    return np.packbits(levels[:, 1:] > levels[:, :-1])


def _refuse_file(path: Path) -> None:
    read_allowed(path)


def _holds_masks(path: Path, below: Path) -> bool:
    return any(part.startswith("Annotations") for part in path.relative_to(below).parts[:-1])
