"""Masks as values: one frame's masks, their boxes, and COCO run-length codes. Knows no files but mask pictures."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from pycocotools import mask as coco

from masklet.errors import BadPrompt


@dataclass(frozen=True, eq=False)
class FrameMasks:
    """The masks of one frame; row i of every array belongs to `objects[i]`."""

    frame: int
    """Index in display order."""
    seconds: float
    objects: tuple[str, ...]
    masks: NDArray[np.bool_]
    """`[n, h, w]`, source size."""
    object_scores: NDArray[np.float32]
    """`[n]`, occlusion logits: above 0 the object is present."""
    ious: NDArray[np.float32]
    """`[n]`, how well the network thinks each mask fits."""
    logits: NDArray[np.float32] | None = None
    """`[n, h, w]` on request: above 0 is object."""

    def __getitem__(self, name: str) -> NDArray[np.bool_]:
        """Return one object's mask, `[h, w]`."""
        if name not in self.objects:
            raise KeyError(f"frame {self.frame} has no object {name!r}, only {list(self.objects)}")
        mask: NDArray[np.bool_] = self.masks[self.objects.index(name)]
        return mask


class Rle(TypedDict):
    """COCO's compressed run-length code of a mask."""

    size: list[int]
    """Height, width."""
    counts: str


def box_of(mask: NDArray[np.bool_]) -> tuple[int, int, int, int] | None:
    """Return the smallest x0, y0, x1, y1 around a mask, x1 and y1 exclusive; None if it is empty."""
    rows = np.flatnonzero(mask.any(axis=1))
    if not rows.size:
        return None
    y0, y1 = int(rows[0]), int(rows[-1]) + 1
    columns = np.flatnonzero(mask[y0:y1].any(axis=0))
    return int(columns[0]), y0, int(columns[-1]) + 1, y1


def encode_rle(mask: NDArray[np.bool_]) -> Rle:
    """Code a mask `[h, w]` as COCO does."""
    code = coco.encode(np.asfortranarray(mask, np.uint8))
    return {"size": [int(n) for n in code["size"]], "counts": code["counts"].decode("ascii")}


def decode_rle(rle: Rle) -> NDArray[np.bool_]:
    """Return the mask `[h, w]` of a code that `encode_rle` made; codes from strangers need a check of their own."""
    mask: NDArray[np.uint8] = coco.decode({"size": rle["size"], "counts": rle["counts"].encode("ascii")})
    return np.asarray(mask, np.bool_)


def read_mask(path: str | Path, *, height: int, width: int) -> NDArray[np.bool_]:
    """Read a mask picture of the video's size.

    Object is: with a palette, every index but 0; with transparency, what is more than half opaque; else what is
    brighter than half.
    """
    try:
        with Image.open(path) as image:
            if image.size != (width, height):
                raise BadPrompt(
                    f"mask {path} is {image.size[0]}x{image.size[1]}, but the video is {width}x{height}: "
                    "give a mask of the video's size"
                )
            if image.mode == "P":
                return np.asarray(np.asarray(image) != 0)
            channel = image.getchannel("A") if "A" in image.getbands() else image.convert("L")
            if image.mode == "1":
                return np.asarray(image)
            return np.asarray(np.asarray(channel) > 127)
    except FileNotFoundError:
        raise BadPrompt(f"mask {path} does not exist: give an existing picture") from None
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        raise BadPrompt(f"mask {path} cannot be read ({error}): give a PNG of the video's size") from error
