"""Masks as values: one frame's masks, their boxes, and COCO run-length codes. Knows no files but mask pictures."""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco

from masklet.errors import BadPrompt

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
"""Kinds of pictures a mask may be. Pillow reads more, some by starting other programs."""

_UNREADABLE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
"""What Pillow raises for damaged pictures, and for those that are far too large."""
LONGEST_RUN_GROUPS = 7
"""Characters of one run length: 35 bits, so that no sum of them overflows."""


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
    """Return the mask `[h, w]` of a code; raises `ValueError` for one that is damaged, whoever made it.

    Not by pycocotools, which reads a damaged code beyond its end, and uses what numpy is about to drop.
    """
    height, width = rle["size"]
    runs = _runs(np.frombuffer(rle["counts"].encode(), np.uint8))
    if (runs < 0).any() or runs.sum() != height * width:
        raise ValueError(f"the run-length code does not describe {height}x{width} pixels")
    kinds = np.arange(len(runs)) % 2 == 1
    return np.repeat(kinds, runs).reshape(width, height).T


def _runs(code: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Read run lengths, the first of background: groups of five bits, lowest first, a sixth bit where more follow.

    The fifth bit of the last group is the sign; from the fourth number on each is the difference to the last but one.
    """
    groups = code.astype(np.int64) - ord("0")
    last = groups & 32 == 0
    if not len(groups) or not last[-1] or groups.min() < 0 or groups.max() > 63:
        raise ValueError("the run-length code is cut short or holds other characters")
    starts = np.concatenate(([0], np.flatnonzero(last)[:-1] + 1))
    sizes = np.diff(starts, append=len(groups))
    if sizes.max() > LONGEST_RUN_GROUPS:
        raise ValueError("the run-length code holds a number longer than any picture")
    shifts = 5 * (np.arange(len(groups)) - np.repeat(starts, sizes))
    numbers = np.add.reduceat((groups & 31) << shifts, starts)
    numbers -= (groups[last] >> 4 & 1) << 5 * sizes
    numbers[1::2] = numbers[1::2].cumsum()
    numbers[2::2] = numbers[2::2].cumsum()
    return numbers


def read_mask(path: str | Path, *, height: int, width: int) -> NDArray[np.bool_]:
    """Read a mask picture of the video's size.

    Object is: with a palette, every index but 0 (a grey one that does not begin with black is as none); with
    transparency, what is more than half opaque; else what is brighter than half.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.size != (width, height):
                raise BadPrompt(
                    f"mask {path} is {image.size[0]}x{image.size[1]}, but the video is {width}x{height}: "
                    "give a mask of the video's size"
                )
            return _object_in(path, image)
    except BadPrompt:  # a ValueError too
        raise
    except FileNotFoundError:
        raise BadPrompt(f"mask {path} does not exist: give an existing picture") from None
    except _UNREADABLE as error:
        raise BadPrompt(f"mask {path} cannot be read ({error}): give a PNG of the video's size") from error


def _object_in(path: str | Path, image: Image.Image) -> NDArray[np.bool_]:
    if image.mode == "P" and _numbers_objects(image):
        return np.asarray(np.asarray(image) != 0)
    # Browsers and many editors save black and white pictures with a transparency that hides nothing.
    if "A" in image.getbands() and image.getchannel("A").getextrema() != (255, 255):
        return np.asarray(np.asarray(image.getchannel("A")) > 127)
    if image.mode.startswith("I"):  # 16 bits a pixel, which convert("L") cuts off at 255
        return _brighter(path, np.asarray(image), 32767)
    return _brighter(path, np.asarray(image.convert("L")), 127)


def _numbers_objects(image: Image.Image) -> bool:
    """Say whether a palette's indices are numbers of objects, as in datasets, whose palettes begin with black.

    Programs that save a grey picture with a palette sort it as they like: often white is 0.
    """
    palette = np.reshape(image.getpalette() or [0, 0, 0], (-1, 3))
    return bool((palette[0] == 0).all() or (palette != palette[:, :1]).any())


def _brighter(path: str | Path, pixels: NDArray[Any], half: int) -> NDArray[np.bool_]:
    """Return what is brighter than half; refuse 0 and 1, which would pass for an object that is gone."""
    mask = np.asarray(pixels > half)
    if pixels.any() and not mask.any():
        raise BadPrompt(
            f"mask {path} has no pixel brighter than half, the brightest is {pixels.max()} of {2 * half + 1}: "
            "save it with white where the object is"
        )
    return mask
