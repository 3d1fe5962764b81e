"""What colours there are: at each place of a picture, and in each object.

nano's trunk was taught outlines, whatever they enclose: by its features an object is hardly told from what hides it,
or from another one that passes. Colours tell most of them apart (`docs/nano.md` says by how much), and they stay when a
thing turns or bends. They are compared as histograms (Swain and Ballard, Color Indexing, IJCV 7, 1991).
"""

import torch
from torch import Tensor
from torch.nn import functional

CELL = 4
"""A place is so many cells wide, and a cell so many pixels: masks have a quarter of the input's size."""
TINTS = (8, 12, 12)
"""Shades of each channel that are told apart at a place, where each channel is counted by itself."""
PALETTE = (6, 12, 12)
"""The same of an object, where all three are counted together."""


def colours_of(rgb: Tensor) -> Tensor:
    """Turn the mean colours of a picture's cells `[1, 3, 4h, 4w]`, 0..1, into `[3, 4h, 4w]`, 0..1.

    The channels are lightness, red against green, and yellow against blue, so that less light changes the first one
    most. Of the other two what is more vivid than half of all there is counts as half.
    """
    red, green, blue = rgb[0]
    opponents = torch.stack((red - green, (red + green) / 2 - blue)) + 0.5
    return torch.cat(((red + green + blue)[None] / 3, opponents)).clamp(0, 1)


def tints_of(colours: Tensor) -> Tensor:
    """Return what tells the places of `[3, 4h, 4w]` apart by colour, `[h*w, 32]`: unit vectors around their mean."""
    h, w = colours.shape[1] // CELL, colours.shape[2] // CELL
    places = torch.arange(h * w, device=colours.device).view(h, w)
    places = places.repeat_interleave(CELL, dim=0).repeat_interleave(CELL, dim=1)
    counts = []
    for shades, count in zip(_shades(colours, TINTS), TINTS, strict=True):
        cells = torch.bincount((places * count + shades).flatten(), minlength=h * w * count).view(h * w, 1, count)
        counts.append(_softened(cells.float(), (count,))[:, 0].sqrt())  # products of roots say how much is shared
    tints = torch.cat(counts, dim=1)
    return functional.normalize(tints - tints.mean(0), dim=1)


def palettes_of(colours: Tensor, masks: Tensor) -> list[Tensor | None]:
    """Return how much there is of each colour inside masks `[b, 4h, 4w]`, `[864]` each; None where a mask is empty."""
    bins = _bins(colours)
    return [_palette(bins[mask]) if mask.any() else None for mask in masks]


def shared(one: Tensor, other: Tensor) -> float:
    """Return how much of two palettes is the same, 0..1."""
    return float(torch.minimum(one, other).sum())


def _bins(colours: Tensor) -> Tensor:
    """Number the colour of each cell in palettes, `[4h, 4w]`."""
    light, red, yellow = _shades(colours, PALETTE)
    bins: Tensor = (light * PALETTE[1] + red) * PALETTE[2] + yellow
    return bins


def _palette(bins: Tensor) -> Tensor:
    counts = torch.bincount(bins, minlength=PALETTE[0] * PALETTE[1] * PALETTE[2]).float()
    soft = _softened(counts.view(1, 1, *PALETTE), PALETTE).flatten()
    return soft / soft.sum()


def _shades(colours: Tensor, counts: tuple[int, int, int]) -> Tensor:
    """Number the shade that each cell has of each channel, `[3, 4h, 4w]`."""
    limits = torch.tensor(counts, device=colours.device).view(3, 1, 1)
    return torch.minimum((colours * limits).long(), limits - 1)


def _softened(counts: Tensor, size: tuple[int, ...]) -> Tensor:
    """Spread counts `[n, 1, *size]` over neighbouring shades: a little more light must not make another colour."""
    pool = functional.avg_pool1d if len(size) == 1 else functional.avg_pool3d
    return pool(counts, 3, stride=1, padding=1)
