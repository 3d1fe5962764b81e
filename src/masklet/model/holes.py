"""Small holes in masks, filled by the official rule on every device, with no compiled extension."""

import torch
from torch import Tensor
from torch.nn import functional

LARGEST_PX = 8
"""Of the low-resolution map; the official predictor's `fill_hole_area`."""
FILLED = 0.1


def _spread(x: Tensor) -> Tensor:
    return functional.max_pool2d(x[:, None], 3, stride=1, padding=1)[:, 0]


def fill_holes(logits: Tensor) -> Tensor:
    """Raise background islands of at most 8 cells (8-connected) to 0.1, in `[b, 1, h, w]` logits.

    Every cell takes the largest label within reach of seven steps through background. An island of eight cells or
    fewer then has one label, and a group of one label that touches no other label is a whole island. So a few poolings
    find exactly the small islands.
    """
    empty = logits[:, 0] <= 0
    own = torch.arange(1, empty[0].numel() + 1, device=logits.device, dtype=torch.float32).view_as(empty[0])
    labels = own * empty
    for _ in range(LARGEST_PX - 1):
        labels = _spread(labels) * empty
    lowest = -_spread(torch.where(empty, -labels, float("-inf")))
    touches = empty & ((_spread(labels) != labels) | (lowest != labels))
    first = torch.arange(len(labels), device=logits.device).view(-1, 1, 1) * (own.numel() + 1)
    groups = labels.long() + first
    sizes = torch.bincount(groups.flatten(), minlength=len(labels) * (own.numel() + 1))
    open_sizes = torch.bincount(groups[touches], minlength=len(sizes))
    holes = empty & ((sizes <= LARGEST_PX) & (open_sizes == 0))[groups]
    return torch.where(holes[:, None], FILLED, logits)
