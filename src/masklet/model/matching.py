"""Where things went: masks of remembered frames, carried to a new frame by how alike its places look.

Each place of the new frame takes the mask of the remembered places that look like it, near ones rather than far ones:
attention with the picture's own features and colours for keys and masks for values (Oh et al., arXiv 1904.00607),
without any weights. It is what nano has for a memory; `docs/nano.md` says what it gives.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional

from masklet.model.colours import CELL, shared, tints_of
from masklet.model.target_model import TargetModel

LIKENESS = 55.0
"""Weight of the cosine between what two places look like."""
COLOUR = 0.5
"""Share of colours in what a place looks like; the rest is the trunk's features."""
UNLIKE = 0.45
"""A place that looks less than this like every remembered one is taken for something new, and so not the object."""
SAME = 0.55
"""A thing that shares less than this of its colours with every remembered look of an object is another one."""
SMALLER, SHRINKING = 0.15, 0.03
"""What is smaller must share so much more, times the logarithm of how much smaller: a piece of anything has some of an
object's colours. Things that go away shrink, in each frame by a logarithm of so much."""
NEAR, FAR, FRAMES = 1 / 14, 2 / 7, 6
"""How far things move, as a share of the picture's longer side: in up to so many frames, and at most ever."""
ANYWHERE = math.ceil(FRAMES * FAR / NEAR)
"""After so many frames they have moved as far as they ever do."""
RECENT = 3
"""So many frames on which it was last present are remembered; six find no more (`docs/nano.md`), and take almost twice
the time."""
EMPTY = 2
"""So many frames just passed are remembered for being without it: what is there instead is not the object."""
TRUST, LAST_TRUST = math.log(RECENT), 2 * math.log(RECENT)
"""Logarithm of how much more what a person said of one frame weighs than what was found on another, as found masks
drift: as much as those of all recent frames. Once the object is lost these are the likeliest to be wrong."""
SMALL = 40
"""Places of an object of which what was carried counts half as much as what the decoder answers: its edges are blurred
by about a place, which of a small object is all there is."""
EDGE = 0.001
"""Carried masks stay this far from 0 and 1, so that their logits are finite."""
FAINT = 0.75 * EDGE
"""A remembered place of which no cell is more the object than this shows none."""
AROUND = 2
"""Places to every side among which the likeliest one for a place of the next frame is sought."""
ROWS = 128
"""Places of the new frame that are compared at a time: what is computed of them stays in the processor's cache."""


@dataclass(frozen=True, eq=False)
class Sighting:
    """An object on a remembered frame."""

    looks: Tensor
    """`[h*w, 288]`, from `looks_of`; shared by all objects of the frame."""
    cover: Tensor
    """`[h*w, 16]`, 0..1: of each place the cells that are the object."""
    palette: Tensor | None
    """`[864]`, the object's colours; None where it is absent."""
    target: TargetModel | None = None
    """What was learned of it where a person showed it; None elsewhere."""
    trust: float = 0.0
    """Logarithm of what it weighs."""

    @cached_property
    def size(self) -> float:
        """Cells that it covers."""
        return float(self.cover.sum())

    def without(self) -> "Sighting":
        """Return the same frame without the object."""
        return replace(self, cover=torch.zeros_like(self.cover), palette=None, target=None)


def looks_of(image: Tensor, colours: Tensor) -> Tensor:
    """Return what tells the places of a picture apart, `[h*w, 288]`: unit vectors.

    Features `[1, 256, h, w]` and colours `[3, 4h, 4w]`, each around their common mean.
    """
    places = image[0].float().flatten(1).T
    features = functional.normalize(places - places.mean(0), dim=1)
    return torch.cat((math.sqrt(1 - COLOUR) * features, math.sqrt(COLOUR) * tints_of(colours)), dim=1)


def cover_of(probability: Tensor) -> Tensor:
    """Cut masks `[b, 1, 4h, 4w]`, 0..1, into places, `[b, h*w, 16]`."""
    return functional.pixel_unshuffle(probability, CELL).flatten(2).transpose(1, 2)


def carry(looks: Tensor, size_hw: tuple[int, int], remembered: Sequence[Sequence[tuple[Sighting, int]]]) -> Tensor:
    """Return where each object is by what it remembers, as logits `[b, 1, 4h, 4w]`.

    Each object remembers sightings and how many frames away they are. Objects that remember the same frames are carried
    together; an object that remembers nothing is nowhere.
    """
    found = looks.new_zeros(len(remembered), len(looks), CELL * CELL)
    places = _places(size_hw, looks)
    asked = _queries(looks, places)
    for rows in _alike(remembered):
        sightings = remembered[rows[0]]
        if not sightings:
            continue
        known = [_keys(sighting, distance, places) for sighting, distance in sightings]
        newest = known[min(range(len(sightings)), key=lambda i: sightings[i][1])]
        keys = torch.cat([*known, _new(asked)])
        covers = [torch.cat([sighting.cover for sighting, _ in remembered[row]]) for row in rows]
        values = functional.pad(torch.cat(covers, dim=1), (0, 0, 0, 1))  # [k*h*w + 1, 16*rows]; what is new is not it
        for at in _within_reach(asked, keys[values.amax(dim=1) > FAINT], newest, size_hw).split(ROWS):
            carried = (asked[at] @ keys.T).softmax(dim=1) @ values
            found[rows, at[:, None]] = carried.unflatten(1, (len(rows), -1))
    cells = functional.pixel_shuffle(found.transpose(1, 2).unflatten(2, size_hw), CELL)
    return torch.logit(cells.clamp(EDGE, 1 - EDGE))


def evidence(carried: Tensor) -> Tensor:
    """Return what carried logits `[b, 1, 4h, 4w]` add to the decoder's answer: the more, the larger the object."""
    places = carried.sigmoid().sum(dim=(1, 2, 3), keepdim=True) / CELL**2
    return carried * places / (places + SMALL)


def recognised(found: Sighting, remembered: Sequence[tuple[Sighting, int]]) -> bool:
    """Tell whether something is the object, by its colours and size on any of the frames on which that is remembered.

    Masks are carried to what hides an object, or to another one like it, as well.
    """
    return any(_likeness(found, known, distance) >= SAME for known, distance in remembered)


def _likeness(found: Sighting, known: Sighting, distance: int) -> float:
    if found.palette is None or known.palette is None:
        return 0.0
    shrunk = math.log(max(known.size, 1.0) / max(found.size, 1.0)) - SHRINKING * distance
    return shared(found.palette, known.palette) - SMALLER * max(0.0, shrunk)


def _alike(remembered: Sequence[Sequence[tuple[Sighting, int]]]) -> Iterable[list[int]]:
    """Yield the rows that remember the same frames, equally far away, and trust them as much."""
    groups: dict[tuple[tuple[int, int, float], ...], list[int]] = {}
    for row, sightings in enumerate(remembered):
        frames = tuple((id(sighting.looks), distance, sighting.trust) for sighting, distance in sightings)
        groups.setdefault(frames, []).append(row)
    return groups.values()


def _places(size_hw: tuple[int, int], like: Tensor) -> Tensor:
    """Return where places are, `[h*w, 2]`, the picture's longer side being one."""
    return torch.cartesian_prod(
        *(torch.arange(n, device=like.device, dtype=like.dtype) / max(size_hw) for n in size_hw)
    )


def _queries(looks: Tensor, places: Tensor) -> Tensor:
    """Return what asks for remembered places, `[h*w, 292]`: its products with `_keys` are log odds."""
    return torch.cat((LIKENESS * looks, 2 * places, -_squares(places), torch.ones_like(places[:, :1])), dim=1)


def _keys(sighting: Sighting, distance: int, places: Tensor) -> Tensor:
    """Return what a sighting's places answer to, `[h*w, 292]`.

    A product is how alike two places look, less the square of how far apart they are by what things move in `distance`
    frames, which is a product too: `-(p - q)**2 = 2*p*q - p**2 - q**2`; and what the sighting is trusted.
    """
    weight = 1 / min(FAR, NEAR * max(1.0, distance / FRAMES)) ** 2
    squares = _squares(places)
    last = sighting.trust - weight * squares
    return torch.cat((sighting.looks, weight * places, torch.full_like(squares, weight), last), dim=1)


def _squares(places: Tensor) -> Tensor:
    return (places**2).sum(dim=1, keepdim=True)


def _new(asked: Tensor) -> Tensor:
    """Return the key of what is like nothing remembered, `[1, 292]`."""
    return functional.pad(asked.new_full((1, 1), LIKENESS * UNLIKE), (asked.shape[1] - 1, 0))


def _within_reach(asked: Tensor, objects: Tensor, newest: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Return the places to which some object may be carried, `[n]`: to all others it is by less than `EDGE`.

    `objects` are the keys of places that show some, `newest` those of the nearest frame, `[h*w, 292]`.
    What the likeliest place of that around it weighs is the least that all together weigh, so what shows objects
    has at most that share. Most of a picture need not be compared with all that is remembered.
    """
    known = functional.pad(newest.unflatten(0, size_hw), (0, 0, *[AROUND] * 4))
    asking = asked.unflatten(0, size_hw)
    least = torch.full_like(asking[..., 0], LIKENESS * UNLIKE)
    for y, x in product(range(2 * AROUND + 1), repeat=2):
        least = torch.maximum(least, (asking * known[y : y + size_hw[0], x : x + size_hw[1]]).sum(dim=2))
    others = least.flatten()[:, None]
    shares = [
        1 - torch.cat((some @ objects.T, other), dim=1).softmax(dim=1)[:, -1]
        for some, other in zip(asked.split(ROWS), others.split(ROWS), strict=True)
    ]
    return (torch.cat(shares) > EDGE - FAINT).nonzero()[:, 0]
