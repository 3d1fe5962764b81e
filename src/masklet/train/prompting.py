"""A person who knows the truth: what they say first, and how they correct.

As the SAM 2 paper simulates them (section 5.1, appendix D.2): a mask half of the time, else a box or a click; boxes a
little off; corrective clicks anywhere in what is wrong.
"""

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from masklet.masks import box_of
from masklet.metrics import deepest
from masklet.prompts import Box, Click, Prompt
from masklet.train.clips import Clip

Kind = Literal["mask", "box", "click"]

KINDS: dict[Kind, float] = {"mask": 0.5, "box": 0.25, "click": 0.25}
"""How often each is what a person says first."""
CENTRED = 0.5
"""Share of clicks in the middle of what is meant, where people aim; the others fall anywhere in it."""
BOX_NOISE, MOST_BOX_NOISE_PX = 0.1, 20.0
"""Standard deviation of a box's sides, as a share of its size, and its limit (`sam2_utils.py`)."""
MOST_CORRECTED = 2
"""Frames of a clip that a person corrects, or rounds of clicks on a single picture."""


@dataclass(eq=False)
class Person:
    """Says things about the objects of one clip, named by their row; `rng` decides what and where."""

    clip: Clip
    rng: np.random.Generator
    kinds: list[Kind] = field(init=False)
    rounds: Counter[int] = field(init=False)
    """How many rounds of corrective clicks each frame gets."""
    _said: dict[tuple[int, int], Prompt] = field(default_factory=dict)

    def __post_init__(self) -> None:
        frames, count = self.clip.masks.shape[:2]
        # On a single picture, a mask for a prompt leaves nothing to answer.
        odds = np.array([odds if frames > 1 or kind != "mask" else 0.0 for kind, odds in KINDS.items()])
        names = list(KINDS)
        drawn = np.asarray(self.rng.choice(len(names), size=count, p=odds / odds.sum()))
        self.kinds = [names[i] for i in drawn]
        for row in self.clip.parts:
            if self.kinds[row] == "click":
                self.kinds[row] = "box"
        corrected = int(self.rng.integers(MOST_CORRECTED + 1))
        once = [int(i) for i in self.rng.permutation(frames)[:corrected]]
        self.rounds = Counter(once if frames > 1 else [0] * corrected)

    def start(self, row: int) -> Prompt:
        """Say where an object is on the first frame, which shows it."""
        mask, kind = self.clip.masks[0, row], self.kinds[row]
        prompt = Prompt(str(row), 0)
        if kind == "mask":
            prompt = replace(prompt, mask=mask)
        elif kind == "box":
            prompt = replace(prompt, box=self._box(mask))
        else:
            prompt = replace(prompt, clicks=(self._click(mask, positive=True),))
        self._said[0, row] = prompt
        return prompt

    def correct(self, frame: int, row: int, found: NDArray[np.bool_]) -> Prompt | None:
        """Click on what is wrong with a mask of any size, and return all that is now said on the frame.

        None where nothing is wrong, or where the person gave the mask themselves.
        """
        said = self._said.get((frame, row), Prompt(str(row), frame))
        if said.mask is not None:
            return None
        truth = shrunk(self.clip.masks[frame, row], (found.shape[0], found.shape[1]))
        missing, wrong = truth & ~found, found & ~truth
        if not missing.any() and not wrong.any():
            return None
        total = np.count_nonzero(missing) + np.count_nonzero(wrong)
        positive = bool(self.rng.random() < np.count_nonzero(missing) / total)
        cell = self._click(missing if positive else wrong, positive=positive)
        click = self._pixel(cell, found.shape, self.clip.masks[frame, row] == positive)
        said = replace(said, clicks=(*said.clicks, click))
        self._said[frame, row] = said
        return said

    def _click(self, mask: NDArray[np.bool_], *, positive: bool) -> Click:
        box = box_of(mask)
        assert box is not None  # noqa: S101 - only what is there is clicked
        x0, y0, x1, y1 = box
        if self.rng.random() < CENTRED:
            x, y = deepest(mask[y0:y1, x0:x1])
            return Click(x + x0, y + y0, positive)
        ys, xs = np.nonzero(mask)
        i = self.rng.integers(len(ys))
        return Click(float(xs[i]), float(ys[i]), positive)

    def _pixel(self, cell: Click, shape: tuple[int, ...], meant: NDArray[np.bool_]) -> Click:
        """Choose one of the meant pixels in a cell of a smaller picture; rounding may leave none, then its middle."""
        y_scale, x_scale = meant.shape[0] / shape[0], meant.shape[1] / shape[1]
        top, left = round(cell.y * y_scale), round(cell.x * x_scale)
        bottom, right = round((cell.y + 1) * y_scale), round((cell.x + 1) * x_scale)
        ys, xs = np.nonzero(meant[top:bottom, left:right])
        if not len(ys):
            return replace(cell, x=(left + right - 1) / 2, y=(top + bottom - 1) / 2)
        i = self.rng.integers(len(ys))
        return replace(cell, x=float(left + xs[i]), y=float(top + ys[i]))

    def _box(self, mask: NDArray[np.bool_]) -> Box:
        box = box_of(mask)
        assert box is not None  # noqa: S101
        height, width = mask.shape
        x0, y0, x1, y1 = (float(v) for v in box)
        limits = np.minimum(BOX_NOISE * np.array([x1 - x0, y1 - y0] * 2), MOST_BOX_NOISE_PX)
        dx0, dy0, dx1, dy1 = np.clip(self.rng.normal(size=4) * limits, -MOST_BOX_NOISE_PX, MOST_BOX_NOISE_PX)
        xs = np.clip(sorted((x0 + dx0, x1 + dx1)), 0, width)
        ys = np.clip(sorted((y0 + dy0, y1 + dy1)), 0, height)
        return Box(float(xs[0]), float(ys[0]), float(xs[1]), float(ys[1]))


def shrunk(mask: NDArray[np.bool_], size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """Return a mask `[..., h, w]` at a smaller size: true where at least half of a cell's area is."""
    flat = torch.from_numpy(np.ascontiguousarray(mask)).reshape(-1, 1, *mask.shape[-2:]).float()
    cells = functional.interpolate(flat, size_hw, mode="area")[:, 0] >= 0.5
    small: NDArray[np.bool_] = cells.numpy().reshape(*mask.shape[:-2], *size_hw)
    return small
