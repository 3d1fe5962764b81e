"""Clips made of moving textured shapes, and what a person does with them, as data that every peer can act out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

HEIGHT, WIDTH = 144, 192
"""Neither square nor the network's size, so both scalings take part."""
FRAMES = 12
CURTAIN = (4, 8, 9)
"""Frames on which nearly everything is hidden."""
ALL = tuple(range(FRAMES))
LONG = tuple(range(18))
"""More than 16, beyond which pointer times are no longer divided by the clip's length."""
TO_AND_FRO = (0, 1, 2, 4, 2, 1, 0, 1, 2, 4, 2, 1)
"""As many frames of four pictures: seeing them is most of the work of a large network."""


@dataclass(frozen=True, eq=False)
class Say:
    """A prompt. `again` adds the clicks to those already on the frame, as a second click does."""

    object: str
    frame: int
    clicks: tuple[tuple[float, float, int], ...] = ()
    """x, y, 1 or 0."""
    box: tuple[float, float, float, float] | None = None
    mask: NDArray[np.bool_] | None = None
    again: bool = False


@dataclass(frozen=True)
class Track:
    """A pass over the clip from the first prompted frame, or from `start`, over at most `count` frames."""

    reverse: bool = False
    start: int | None = None
    count: int | None = None


@dataclass(frozen=True)
class Withdraw:
    """Take back what was said of an object on a frame."""

    object: str
    frame: int


@dataclass(frozen=True)
class Remove:
    """Drop an object."""

    object: str


Action = Say | Track | Withdraw | Remove


def clip(times: Sequence[int] = ALL, *, height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.uint8]:
    """Return `[times, height, width, 3]`: a disc and a bar over a ground, each textured; a pale curtain passes."""
    rng = np.random.default_rng(20)
    texture = [_texture(rng, height + 64, width + 64) for _ in range(3)]
    y, x = np.mgrid[:height, :width]
    pictures = []
    for t in times:
        picture = texture[0][t : t + height, 2 * t : 2 * t + width].copy()
        for paint, inside in zip(texture[1:], (_disc(t, y, x), _bar(t, y, x)), strict=True):
            picture[inside] = paint[:height, :width][inside]
        if t in CURTAIN:
            picture[:, width // 8 :] = 255 - picture[:, width // 8 :, ::-1] // 4
        pictures.append(picture)
    return np.ascontiguousarray(np.stack(pictures))


def disc_mask(t: int, *, height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.bool_]:
    """Return where the disc is, `[height, width]`, with a hole of a few low-resolution cells."""
    y, x = np.mgrid[:height, :width]
    mask = _disc(t, y, x)
    mask[66:73, 58 + 3 * t : 64 + 3 * t] = False
    return mask


def _disc(t: int, y: NDArray[np.int_], x: NDArray[np.int_]) -> NDArray[np.bool_]:
    return (x - 60 - 3 * t) ** 2 + (y - 70 - 4 * np.sin(t)) ** 2 < 24**2


def _bar(t: int, y: NDArray[np.int_], x: NDArray[np.int_]) -> NDArray[np.bool_]:
    return (np.abs(x - 150 + 4 * t) < 14) & (np.abs(y - 50 - 3 * t) < 26)


def _texture(rng: np.random.Generator, height: int, width: int) -> NDArray[np.uint8]:
    """Noise at three scales about a colour of its own."""
    total = np.broadcast_to(rng.uniform(60, 190, 3), (height, width, 3)).copy()
    for cell, strength in ((32, 40.0), (8, 25.0), (2, 15.0)):
        coarse = rng.uniform(-1, 1, (height // cell + 1, width // cell + 1, 3))
        total += strength * coarse.repeat(cell, axis=0).repeat(cell, axis=1)[:height, :width]
    return total.clip(0, 255).astype(np.uint8)


DISC, BAR = (62.0, 68.5, 1), (148.25, 52.0, 1)
OUTSIDE = (20.0, 20.0, 0)
DISC_BOX = (35.0, 45.0, 85.0, 95.0)

SCENARIOS: dict[str, tuple[Action, ...]] = {
    "one click": (Say("disc", 0, (DISC,)), Track()),
    "three clicks in one call": (Say("disc", 0, (DISC, (70.0, 80.0, 1), OUTSIDE)), Track()),
    "three clicks one after another": (
        Say("disc", 0, (DISC,)),
        Say("disc", 0, ((70.0, 80.0, 1),), again=True),
        Say("disc", 0, (OUTSIDE,), again=True),
        Track(),
    ),
    "a click replaced by another": (Say("disc", 0, ((*OUTSIDE[:2], 1),)), Say("disc", 0, (DISC,)), Track()),
    "a box": (Say("disc", 0, box=DISC_BOX), Track()),
    "a box and clicks": (Say("disc", 0, ((80.0, 60.0, 0), DISC), box=DISC_BOX), Track()),
    "a mask": (Say("disc", 0, mask=disc_mask(0)), Track()),
    "an empty mask": (Say("disc", 0, mask=np.zeros((HEIGHT, WIDTH), bool)), Track()),
    "a mask and then a click": (Say("disc", 0, mask=disc_mask(0)), Say("disc", 0, (DISC,)), Track()),
    "two objects": (Say("disc", 0, (DISC,)), Say("bar", 0, (BAR, OUTSIDE)), Track()),
    "two prompted frames": (Say("disc", 0, (DISC,)), Say("disc", 7, box=(55.0, 45.0, 105.0, 95.0)), Track()),
    "a late object": (Say("disc", 0, (DISC,)), Say("bar", 5, ((130.0, 66.0, 1),)), Track()),
    "an object after a pass": (Say("disc", 0, (DISC,)), Track(), Say("bar", 5, ((130.0, 66.0, 1),)), Track()),
    "backward": (Say("disc", 11, ((93.0, 68.0, 1),)), Track(reverse=True)),
    "forward, then backward": (Say("disc", 6, ((78.0, 68.0, 1),)), Track(), Track(reverse=True)),
    "backward with two objects": (
        Say("disc", 9, ((87.0, 70.0, 1),)),
        Say("bar", 9, box=(95.0, 50.0, 130.0, 105.0)),
        Track(reverse=True),
    ),
    "a correction after a pass": (
        Say("disc", 0, (DISC,)),
        Track(),
        Say("disc", 5, ((90.0, 80.0, 0),)),
        Say("disc", 5, ((75.0, 70.0, 1),), again=True),
        Track(),
    ),
    "a correction of the first frame": (
        Say("disc", 0, (DISC,)),
        Track(),
        Say("disc", 0, (OUTSIDE,), again=True),
        Track(),
    ),
    "a correction of the first frame in two clicks": (
        Say("disc", 0, (DISC,)),
        Track(),
        Say("disc", 0, (OUTSIDE,)),
        Say("disc", 0, ((70.0, 80.0, 1),), again=True),
        Track(),
    ),
    "two corrections before a pass": (
        Say("disc", 0, (DISC,)),
        Track(),
        Say("disc", 5, ((90.0, 80.0, 0),)),
        Say("disc", 6, ((78.0, 68.0, 1),)),
        Track(),
    ),
    "a new prompt and a correction before a pass": (
        Say("disc", 0, (DISC,)),
        Track(count=7),
        Say("disc", 10, ((90.0, 70.0, 1),)),
        Say("disc", 3, ((90.0, 80.0, 0),)),
        Track(),
    ),
    "a correction before the first prompted frame": (
        Say("disc", 6, ((78.0, 68.0, 1),)),
        Track(reverse=True),
        Say("disc", 2, ((66.0, 68.0, 1),)),
        Track(),
    ),
    "a mask for a tracked frame": (
        Say("disc", 0, (DISC,)),
        Track(),
        Say("disc", 5, mask=disc_mask(5)),
        Track(start=6, count=3),
        Track(),
    ),
    "a correction after a backward pass": (
        Say("disc", 9, ((87.0, 70.0, 1),)),
        Track(reverse=True),
        Say("disc", 4, ((72.0, 68.0, 1),)),
        Track(reverse=True),
    ),
    "an object removed": (
        Say("disc", 0, (DISC,)),
        Say("bar", 0, (BAR,)),
        Track(count=6),
        Remove("disc"),
        Track(),
    ),
    "a prompt withdrawn": (
        Say("disc", 0, (DISC,)),
        Say("disc", 6, ((78.0, 68.0, 1),)),
        Track(),
        Withdraw("disc", 6),
        Track(),
    ),
    "a prompt withdrawn and the way back": (
        Say("disc", 0, (DISC,)),
        Say("disc", 6, ((78.0, 68.0, 1),)),
        Track(),
        Withdraw("disc", 6),
        Track(reverse=True, start=5),
    ),
    "a prompt withdrawn and given anew": (
        Say("disc", 0, (DISC,)),
        Say("disc", 6, ((78.0, 68.0, 1),)),
        Track(),
        Withdraw("disc", 6),
        Say("disc", 6, ((82.0, 68.0, 1),)),
        Track(),
    ),
    "passes over parts": (
        Say("disc", 3, ((69.0, 70.0, 1),)),
        Track(count=5),
        Track(start=9, count=3),
        Track(start=8, reverse=True, count=4),
    ),
    "everything together": (
        Say("disc", 2, ((66.0, 72.0, 1), (70.0, 80.0, 1), OUTSIDE)),
        Say("bar", 0, box=(130.0, 25.0, 170.0, 80.0)),
        Track(),
        Say("bar", 7, ((122.0, 72.0, 1),)),
        Track(reverse=True, start=8, count=3),
    ),
    "backward from the first frame": (Say("disc", 0, (DISC,)), Track(reverse=True)),
}
