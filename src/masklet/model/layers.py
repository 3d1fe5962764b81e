"""The two small layers that every part of the network shares."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of a picture, `[b, c, h, w]`."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class MLP(nn.Module):
    """Linear layers with an activation between them, none after the last."""

    def __init__(
        self,
        widths: tuple[int, ...],
        activation: Callable[[Tensor], Tensor] = functional.relu,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        last: Tensor = self.layers[-1](x)
        return last


def resize(x: Tensor, size_hw: tuple[int, int], *, antialias: bool = False) -> Tensor:
    """Resample `[b, c, h, w]` bilinearly, pixel areas aligned (as the official code does everywhere)."""
    if x.shape[-2:] == torch.Size(size_hw):
        return x
    return functional.interpolate(x.float(), size_hw, mode="bilinear", align_corners=False, antialias=antialias)
