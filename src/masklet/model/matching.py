"""Where things went: masks of remembered frames, carried to a new frame by how alike its places look.

Each place of the new frame takes the mask of the remembered places that look like it, near ones rather than far ones:
attention with the picture's own features for keys and masks for values (Oh et al., arXiv 1904.00607), without any
weights. It is what nano has for a memory; `docs/nano.md` says what it gives.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

LIKENESS = 40.0
"""Weight of the cosine between two places' features."""
UNLIKE = 0.45
"""A place that looks less than this like every remembered one is taken for something new, and so not the object.
So is a whole thing whose places do so on the mean."""
NEAR, FAR, FRAMES = 1 / 14, 2 / 7, 6
"""How far things move, as a share of the picture's longer side: in up to so many frames, and at most ever."""
RECENT = 3
"""So many frames just passed are remembered; six find no more (`docs/nano.md`), and take almost twice the time."""
TRUST = math.log(RECENT)
"""What a person said of one frame weighs as much as what was found on those: found masks drift."""
SMALL = 40
"""Places of an object of which what was carried counts half as much as what the decoder answers: its edges are blurred
by about a place, which of a small object is all there is."""
EDGE = 0.001
"""Carried masks stay this far from 0 and 1, so that their logits are finite."""
MOST = 0.8
"""Places with so much of the most that any has of a small object are its own."""
CELL = 4
"""A place is so many cells of a mask wide, as logits have a quarter of the input's size and features a sixteenth."""
ROWS = 512
"""Places of the new frame that are compared at a time, which bounds the memory that is needed."""


@dataclass(frozen=True, eq=False)
class Sighting:
    """An object on a remembered frame."""

    looks: Tensor
    """`[h*w, 256]`, from `looks_of`; shared by all objects of the frame."""
    cover: Tensor
    """`[h*w, 16]`, 0..1: of each place the cells that are the object."""
    prompted: bool = False
    """Whether a person said so."""
    present: bool = True
    """False where the object was said to be absent, and only what was carried was followed on."""


def looks_of(image: Tensor) -> Tensor:
    """Return what tells the places of features `[1, 256, h, w]` apart: unit vectors around their common mean."""
    places = image[0].float().flatten(1).T
    return functional.normalize(places - places.mean(0), dim=-1)


def cover_of(probability: Tensor) -> Tensor:
    """Cut masks `[b, 1, 4h, 4w]`, 0..1, into places, `[b, h*w, 16]`."""
    return functional.pixel_unshuffle(probability, CELL).flatten(2).transpose(1, 2)


def carry(looks: Tensor, size_hw: tuple[int, int], remembered: Sequence[Sequence[tuple[Sighting, int]]]) -> Tensor:
    """Return where each object is by what it remembers, as logits `[b, 1, 4h, 4w]`.

    Each object remembers sightings and how many frames away they are. Objects that remember the same frames are carried
    together; an object that remembers nothing is nowhere.
    """
    found = looks.new_zeros(len(remembered), len(looks), CELL * CELL)
    farness = _farness(size_hw, looks)
    for rows in _alike(remembered):
        sightings = remembered[rows[0]]
        if not sightings:
            continue
        keys = torch.cat([sighting.looks for sighting, _ in sightings])
        covers = [torch.cat([sighting.cover for sighting, _ in remembered[row]]) for row in rows]
        values = torch.cat(covers, dim=1)  # [k*h*w, 16*rows]
        spreads = [min(FAR, NEAR * max(1.0, distance / FRAMES)) for _, distance in sightings]
        trusts = [TRUST if sighting.prompted else 0.0 for sighting, _ in sightings]
        for at in torch.arange(len(looks), device=looks.device).split(ROWS):
            moved = torch.cat(
                [farness[at] / spread**2 - trust for spread, trust in zip(spreads, trusts, strict=True)], dim=1
            )
            odds = torch.addmm(moved, looks[at], keys.T, beta=-1, alpha=LIKENESS)
            unlike = odds.new_full((len(at), 1), LIKENESS * UNLIKE)
            weights = torch.cat((odds, unlike), dim=1).softmax(dim=1)[:, :-1]
            carried = weights @ values
            found[rows, at[:, None]] = carried.unflatten(1, (len(rows), -1))
    cells = functional.pixel_shuffle(found.transpose(1, 2).unflatten(2, size_hw), CELL)
    return torch.logit(cells.clamp(EDGE, 1 - EDGE))


def evidence(carried: Tensor) -> Tensor:
    """Return what carried logits `[b, 1, 4h, 4w]` add to the decoder's answer: the more, the larger the object."""
    places = carried.sigmoid().sum(dim=(1, 2, 3), keepdim=True) / CELL**2
    return carried * places / (places + SMALL)


def recognised(looks: Tensor, carried: Tensor, remembered: Sequence[Sequence[tuple[Sighting, int]]]) -> list[bool]:
    """Tell of each object whether what was carried, logits `[b, 1, 4h, 4w]`, looks like it.

    Something is carried to a look-alike, or to what hides the object, as well: there its own places are not found
    again. They are looked for of every remembered sighting on which it was present, and the best one counts.
    """
    places = [_body(cover) for cover in cover_of(carried.sigmoid())]
    return [
        any(_found_again(looks[inside], sighting) >= UNLIKE for sighting, _ in sightings if sighting.present)
        for inside, sightings in zip(places, remembered, strict=True)
    ]


def _found_again(looks: Tensor, sighting: Sighting) -> float:
    """Return how much each place of a remembered object looks like the most alike of some `[n, 256]`, on the mean."""
    body = sighting.looks[_body(sighting.cover)]
    return float((body @ looks.T).amax(dim=1).mean())


def _body(cover: Tensor) -> Tensor:
    """Tell which places are mostly the object, `[h*w]`; of one smaller than a place, where most of it is."""
    share = cover.mean(dim=1)
    return share >= (MOST * share.amax()).clamp(max=0.5)


def _alike(remembered: Sequence[Sequence[tuple[Sighting, int]]]) -> Iterable[list[int]]:
    """Yield the rows that remember the same frames, and of each the same kind of mask."""
    groups: dict[tuple[tuple[int, bool], ...], list[int]] = {}
    for row, sightings in enumerate(remembered):
        groups.setdefault(tuple((id(sighting.looks), sighting.prompted) for sighting, _ in sightings), []).append(row)
    return groups.values()


def _farness(size_hw: tuple[int, int], like: Tensor) -> Tensor:
    """Return the squared distances between places, `[h*w, h*w]`, the picture's longer side being one."""
    y, x = (torch.arange(n, device=like.device, dtype=like.dtype) / max(size_hw) for n in size_hw)
    down, across = (y[:, None] - y) ** 2, (x[:, None] - x) ** 2
    return (down[:, None, :, None] + across[None, :, None, :]).reshape(len(y) * len(x), -1)
