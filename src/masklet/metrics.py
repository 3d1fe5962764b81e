"""How well a mask fits the truth: region similarity J and contour accuracy F (Perazzi et al., CVPR 2016)."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, hypot, isqrt

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

TOLERANCE = 0.008
"""Contours count as met within this share of the picture's diagonal (DAVIS)."""


@dataclass(frozen=True)
class Fit:
    """How well an object's mask fits the truth on one frame."""

    j: float
    f: float
    shown: bool
    """Whether the truth shows the object."""
    answered: bool
    """Whether the mask does."""

    @property
    def jf(self) -> float:
        return (self.j + self.f) / 2


def compare(mask: Mask, truth: Mask) -> Fit:
    """Compare one frame."""
    return Fit(region_similarity(mask, truth), contour_accuracy(mask, truth), bool(truth.any()), bool(mask.any()))


def counted(fits: Sequence[Fit]) -> Sequence[Fit]:
    """Return which of an object's annotated frames, given in order, count.

    The first and the last do not (DAVIS). An object comes into being where truth or mask first show it after that, and
    one that the truth never shows has no score (the `vos-benchmark` package, which MOSE and SA-V are scored with).
    """
    inner = fits[1:-1]
    if not any(fit.shown for fit in inner):
        return ()
    start = next(i for i, fit in enumerate(inner) if fit.shown or fit.answered)
    return inner[start:]


def region_similarity(mask: Mask, truth: Mask) -> float:
    """Return J, the intersection over union; 1 where both are empty."""
    union = int(np.count_nonzero(mask | truth))
    return int(np.count_nonzero(mask & truth)) / union if union else 1.0


def contour_accuracy(mask: Mask, truth: Mask) -> float:
    """Return F, the harmonic mean of how much of each contour lies near the other."""
    radius_px = ceil(TOLERANCE * hypot(*mask.shape))
    ours, theirs = contour(mask), contour(truth)
    count, true_count = int(np.count_nonzero(ours)), int(np.count_nonzero(theirs))
    if not count or not true_count:
        return 1.0 if count == true_count else 0.0
    precision = int(np.count_nonzero(ours & dilate(theirs, radius_px))) / count
    recall = int(np.count_nonzero(theirs & dilate(ours, radius_px))) / true_count
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def contour(mask: Mask) -> Mask:
    """Return the pixels that differ from their right, lower or lower right neighbour, one pixel wide."""
    edge = np.zeros_like(mask)
    edge[:, :-1] |= mask[:, :-1] ^ mask[:, 1:]
    edge[:-1] |= mask[:-1] ^ mask[1:]
    edge[:-1, :-1] |= mask[:-1, :-1] ^ mask[1:, 1:]
    return edge


def dilate(mask: Mask, radius_px: int) -> Mask:
    """Return everything within a disk of `radius_px` around a mask, row by row of the disk."""
    height, width = mask.shape
    sums = np.zeros((height, width + 2 * radius_px + 1), np.int32)
    np.cumsum(np.pad(mask, ((0, 0), (radius_px, radius_px))), axis=1, out=sums[:, 1:])
    grown = np.zeros_like(mask)
    reach = min(radius_px, height - 1)
    for dy in range(-reach, reach + 1):
        half = isqrt(radius_px**2 - dy**2)
        left = radius_px - half
        near = sums[:, left + 2 * half + 1 : left + 2 * half + 1 + width] > sums[:, left : left + width]
        grown[max(0, dy) : height + min(0, dy)] |= near[max(0, -dy) : height + min(0, -dy)]
    return grown


def deepest(mask: Mask) -> tuple[float, float]:
    """Return x, y of a pixel far inside a mask that is not empty: the last to go when it shrinks from its edge."""
    shrunk = np.pad(mask, 1)
    last = shrunk
    while shrunk.any():
        last, inner = shrunk, shrunk.copy()
        inner[1:] &= shrunk[:-1]
        inner[:-1] &= shrunk[1:]
        inner[:, 1:] &= shrunk[:, :-1]
        inner[:, :-1] &= shrunk[:, 1:]
        shrunk = inner
    ys, xs = np.nonzero(last)
    middle = np.argmin((ys - ys.mean()) ** 2 + (xs - xs.mean()) ** 2)
    return float(xs[middle] - 1), float(ys[middle] - 1)
