"""How wrong the decoder's answers are: focal 20, dice 1, IoU 1, occlusion 1 (SAM 2 paper, appendix D).

Masks are compared at the logits' own size, a quarter of the input's, with the truth averaged over each cell's area and
cut at a half. Mask and IoU losses count where the object is visible; the occlusion score is judged everywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from masklet.model.mask_decoder import Answers

FOCAL, DICE, IOU, OCCLUSION = 20.0, 1.0, 1.0, 1.0
"""Weights of the four losses."""
SUMMED_FOCAL = 1.0
"""Weight of the first one where the sum of two answers is judged, as nano shows it: that is sure of itself where both
are, and the few clips on which it is surely wrong would be all that is learned from (`docs/nano.md`)."""
ALPHA, GAMMA = 0.25, 2.0

Judged = Literal["one", "three", "rated", "all"]
"""Which mask tokens answer for a prompt: token 0; the best of the three readings; that, but token 0 learns to rate
itself too, as nano compares with it what it finds when it asks again; or both."""


@dataclass(frozen=True, eq=False)
class Truth:
    """What is true of some objects on a frame."""

    masks: Tensor
    """`[b, 4h, 4w]`, 0 or 1."""
    present: Tensor
    """`[b]` bool, whether a single pixel can be seen; its mask may be empty if they fill no cell by half."""


@dataclass(frozen=True, eq=False)
class Verdict:
    """Losses of a batch of objects, each `[b]`, not yet weighted."""

    focal: Tensor
    dice: Tensor
    iou: Tensor
    occlusion: Tensor
    visible: Tensor
    """`[b]` bool, where the first three count."""
    weight: float
    """Of the focal loss."""


@dataclass(frozen=True, eq=False)
class Losses:
    """Means over everything that was answered."""

    focal: Tensor
    dice: Tensor
    iou: Tensor
    occlusion: Tensor
    weight: float
    """Of the focal loss."""

    @property
    def total(self) -> Tensor:
        return self.weight * self.focal + DICE * self.dice + IOU * self.iou + OCCLUSION * self.occlusion


def focal_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Return the focal loss (Lin et al., arXiv 1708.02002) of `[..., h, w]`, averaged over each mask."""
    wrong = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    probability = logits.sigmoid()
    missed = probability * (1 - truth) + (1 - probability) * truth
    balance = ALPHA * truth + (1 - ALPHA) * (1 - truth)
    return (balance * missed**GAMMA * wrong).mean(dim=(-2, -1))


def dice_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Return one minus the soft Dice overlap of `[..., h, w]`, smoothed by one cell."""
    probability = logits.sigmoid()
    shared = (probability * truth).sum(dim=(-2, -1))
    return 1 - (2 * shared + 1) / ((probability + truth).sum(dim=(-2, -1)) + 1)


def overlap(logits: Tensor, truth: Tensor) -> Tensor:
    """Return the intersection over union of the masks that logits `[..., h, w]` mean."""
    mask, real = logits > 0, truth > 0.5
    union = (mask | real).sum(dim=(-2, -1))
    return (mask & real).sum(dim=(-2, -1)) / union.clamp(min=1)


def judge(answers: Answers, truth: Truth, judged: Judged, *, weight: float = FOCAL) -> Verdict:
    """Compare a batch's answers with the truth, in float32.

    Of the three readings the best one learns its mask, by focal loss of that weight and dice together, and all learn to
    rate themselves.
    """
    logits, ious = answers.logits.float(), answers.ious.float()
    real = truth.masks[:, None].expand_as(logits)
    focal, dice = focal_loss(logits, real), dice_loss(logits, real)  # [b, 4]
    rating = (ious - overlap(logits, real)).abs()
    best = 1 + (weight * focal + DICE * dice)[:, 1:].argmin(dim=1, keepdim=True)
    first = torch.zeros_like(best)
    tokens = {"one": first, "three": best, "rated": best, "all": torch.cat((first, best), dim=1)}[judged]
    rated = {"one": rating[:, :1], "three": rating[:, 1:], "rated": rating, "all": rating}[judged]
    occlusion = functional.binary_cross_entropy_with_logits(
        answers.scores[:, 0].float(), truth.present.float(), reduction="none"
    )
    return Verdict(
        focal.gather(1, tokens).mean(dim=1),
        dice.gather(1, tokens).mean(dim=1),
        rated.mean(dim=1),
        occlusion,
        truth.masks.flatten(1).any(dim=1),
        weight,
    )


def mean(verdicts: Sequence[Verdict]) -> Losses:
    """Average over all answers of a clip, each object on each frame counting once."""
    visible = torch.cat([v.visible for v in verdicts]).float()
    count = visible.sum().clamp(min=1)

    def where_visible(values: list[Tensor]) -> Tensor:
        return (torch.cat(values) * visible).sum() / count

    return Losses(
        where_visible([v.focal for v in verdicts]),
        where_visible([v.dice for v in verdicts]),
        where_visible([v.iou for v in verdicts]),
        torch.cat([v.occlusion for v in verdicts]).mean(),
        verdicts[0].weight,
    )
