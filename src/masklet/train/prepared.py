"""Prepared data on disk: frames at the student's size, sequences in SA-V's layout that appear once they are whole."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from masklet.errors import BadVideo
from masklet.files import make_folder, refusals

LONG_SIDE_PX = 768
"""Frames are kept at nano's input size."""
JPEG_QUALITY = 95
NOTES = "objects.json"
BARREN = "nothing"
"""Folder of a dataset for the names of sequences that had nothing to show, so that they are not tried again."""


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """Open a picture; raises `BadVideo` if it cannot be read, even if that is only found inside the block."""
    try:
        with Image.open(path) as image:
            yield image
    except Exception as error:  # readers of damaged pictures raise whatever they stumble over
        raise BadVideo(f"{path} cannot be read ({error}): remove it or replace it") from error


def read_rgb(path: Path) -> Image.Image:
    """Read a picture's colours, upright as `masklet evaluate` sees it: of that size its masks are."""
    with opened(path) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


def reduced(rgb: NDArray[np.uint8]) -> Image.Image:
    """Return a frame `[h, w, 3]`, or a mask `[h, w]` of 0 and 255, as a picture of at most `LONG_SIDE_PX`."""
    picture = Image.fromarray(rgb)
    scale = LONG_SIDE_PX / max(picture.size)
    if scale >= 1:
        return picture
    return picture.resize((round(scale * picture.width), round(scale * picture.height)), Image.Resampling.LANCZOS)


def is_made(dataset: Path, name: str) -> bool:
    """Whether a sequence is there, or was tried and had nothing to show."""
    return (dataset / "Annotations" / name).exists() or (dataset / BARREN / name).exists()


def write_sequence(
    dataset: Path,
    name: str,
    pictures: Sequence[Image.Image],
    masks: Mapping[str, Sequence[NDArray[np.bool_]]],
    notes: Mapping[str, object] | None = None,
) -> None:
    """Write a sequence in SA-V's layout: a picture a frame, and for each object a 1-bit PNG a frame it is seen on.

    It appears whole: first the pictures, then the masks. One without any mask, which no reader of datasets would take,
    leaves only its name.
    """
    if not any(mask.any() for frames in masks.values() for mask in frames):
        make_folder(dataset / BARREN / name)
        return
    with _appearing(dataset / "JPEGImages" / name) as folder:
        for i, picture in enumerate(pictures):
            picture.save(folder / f"{i:05d}.jpg", "JPEG", quality=JPEG_QUALITY)
    with _appearing(dataset / "Annotations" / name) as folder:
        for key, frames in masks.items():
            (folder / key).mkdir()
            for i, mask in enumerate(frames):
                if mask.any():
                    Image.fromarray(mask).save(folder / key / f"{i:05d}.png", optimize=True)
        if notes is not None:
            (folder / NOTES).write_text(json.dumps(notes, indent=1), "utf-8")


@contextmanager
def _appearing(path: Path) -> Iterator[Path]:
    """Give a folder to fill, and rename it when it is full; one that is there already makes way."""
    draft = path.parent.parent / f".{path.parent.name}-{path.name}.part"
    rmtree(draft, ignore_errors=True)
    make_folder(path.parent)
    make_folder(draft)
    with refusals(path):
        yield draft
        rmtree(path, ignore_errors=True)
        draft.rename(path)
