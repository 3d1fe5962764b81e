"""What tells one object from what is around it: learned from one mask, it puts the edges of later masks in place.

nano's decoder has seen millions of outlines, but not this object's: its edges are a guess. The trunk's first stage sees
texture and colour four pixels apart, and a logistic regression on that, learned while the person waits, knows which
side of an edge is the object: a target model (Robinson et al., CVPR 2020, arXiv 2003.00908), in its simplest form.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

EDGE, AROUND = 3, 10
"""Cells (of four pixels) to either side of an edge that may move, and as far as which there is ground to learn from."""
TIMID, STEPS = 1e-3, 8
"""Penalty of large weights, and Newton's steps to the best ones: more change nothing."""
WEIGHT, LIMIT = 2.0, 8.0
"""What the model's log odds count near an edge, beside logits of at most so much either way."""
SURE = 4.0
"""Its log odds are at most so large either way: of what it has not seen, such as another object beside it, it knows
nothing, however sure it is, and must not overrule what a correction has just said."""
REACH = 6
"""Cells around a mask in which the decoder is told the model's log odds."""


@dataclass(frozen=True, eq=False)
class TargetModel:
    """A logistic regression: the log odds that a cell is the object."""

    weights: Tensor
    """`[64]`, one for each channel of the trunk's first stage."""
    bias: Tensor
    """`[]`."""

    def odds(self, early: Tensor) -> Tensor:
        """Return log odds `[4h, 4w]` within `SURE` of what the first stage sees, `[64, 4h, 4w]`; no gradients."""
        return (torch.einsum("chw,c->hw", early.detach().float(), self.weights) + self.bias).clamp(-SURE, SURE)


@torch.no_grad()
def learned(early: Tensor, mask: Tensor) -> TargetModel | None:
    """Learn what tells the inside of a mask `[4h, 4w]` from its surroundings in `[64, 4h, 4w]`.

    Inside and around weigh the same, whatever their areas. None where the mask has no inside or nothing around it.
    """
    near = _spread(mask, AROUND)
    cells, inside = early[:, near].T.cpu().double(), mask[near].cpu()  # Apple's GPUs have no double precision
    if not inside.any() or inside.all():
        return None
    count = inside.sum()
    shares = torch.where(inside, 0.5 / count, 0.5 / (len(inside) - count))[:, None]
    mean = (shares * cells).sum(0)
    deviation = (shares * (cells - mean) ** 2).sum(0).sqrt() + TIMID
    known = functional.pad((cells - mean) / deviation, (0, 1), value=1.0)  # the last weight is the bias
    weights = _fitted(known, inside.double(), shares[:, 0])
    slopes = weights[:-1] / deviation
    bias = weights[-1] - slopes @ mean
    return TargetModel(slopes.float().to(early.device), bias.float().to(early.device))


def sharpened(logits: Tensor, early: Tensor, target: TargetModel | None) -> Tensor:
    """Move the edges of a mask, logits `[..., 4h, 4w]`, to where its model puts them; the rest stays."""
    if target is None:
        return logits
    inside = logits > 0
    edge = _spread(inside, EDGE) & _spread(~inside, EDGE)
    return torch.where(edge, logits.clamp(-LIMIT, LIMIT) + WEIGHT * target.odds(early), logits)


def hinted(logits: Tensor, early: Tensor, target: TargetModel | None) -> Tensor:
    """Add what its model thinks of the cells in and around a mask to its logits `[..., 4h, 4w]`, for the decoder."""
    if target is None:
        return logits
    return torch.where(_spread(logits > 0, REACH), logits + target.odds(early), logits)


def _fitted(known: Tensor, inside: Tensor, shares: Tensor) -> Tensor:
    """Find the weights of `known` `[n, k]` that make `inside` `[n]` likeliest, by Newton's method."""
    weights = known.new_zeros(known.shape[1])
    ridge = TIMID * torch.eye(len(weights), dtype=known.dtype, device=known.device)
    for _ in range(STEPS):
        guess = (known @ weights).sigmoid()
        slope = known.T @ (shares * (guess - inside)) + TIMID * weights
        # Where everything is certain already the likelihood has no curvature left to divide by.
        curvature = shares * (guess * (1 - guess) + TIMID)
        weights = weights - torch.linalg.solve(known.T @ (curvature[:, None] * known) + ridge, slope)
    return weights


def _spread(mask: Tensor, cells: int) -> Tensor:
    """Grow a mask `[..., 4h, 4w]` by so many cells to every side."""
    grown = mask.reshape(-1, *mask.shape[-2:]).float()
    for _ in range(2):  # across, then down
        grown = functional.max_pool1d(grown, 2 * cells + 1, stride=1, padding=cells).transpose(1, 2)
    return grown.view(mask.shape) > 0
