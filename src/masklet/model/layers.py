"""The small layers that every part of the network shares."""

import platform
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

CONVOLVES = torch.backends.mkldnn.is_available() and platform.machine() in ("x86_64", "AMD64")
"""PyTorch gives float32 products to BLAS and convolutions to oneDNN. On x86 the latter is no slower, and with MKL on an
AMD processor twice as fast (`bench/products.py`); on ARM, BLAS is the better one."""
FEW_ROWS = 64
"""Below this, starting a convolution takes longer than the product."""


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return `x @ weight.T + bias` by the quickest way: `[..., n, c]` and `[m, c]` to `[..., n, m]`."""
    rows = x.numel() // x.shape[-1]
    if not CONVOLVES or x.device.type != "cpu" or x.dtype != torch.float32 or rows < FEW_ROWS:
        return functional.linear(x, weight, bias)
    pixels = x.reshape(1, rows, 1, -1).permute(0, 3, 1, 2)
    # On one pixel dilation means nothing, but without it and with a single thread PyTorch goes back to BLAS.
    out = functional.conv2d(pixels, weight[:, :, None, None], bias, dilation=2)
    return out.permute(0, 2, 3, 1).reshape(*x.shape[:-1], len(weight))


class Linear(nn.Linear):
    """A linear layer over the last axis."""

    def forward(self, x: Tensor) -> Tensor:
        return product(x, self.weight, self.bias)


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
        self.layers = nn.ModuleList(Linear(a, b) for a, b in pairwise(widths))
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
