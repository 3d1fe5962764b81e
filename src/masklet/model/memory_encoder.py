"""A mask and its picture to a memory map of 64 channels (SAM 2 paper, section 4, "memory encoder")."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from masklet.model.layers import LayerNorm2d, Linear

WIDTH = 256
MEMORY_WIDTH = 64


class MaskDownSampler(nn.Module):
    """Stride 16 in four halvings: 1, 4, 16, 64, 256 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential()
        for width in (1, 4, 16, 64):
            self.encoder.append(nn.Conv2d(width, 4 * width, kernel_size=3, stride=2, padding=1))
            self.encoder.append(LayerNorm2d(4 * width))
            self.encoder.append(nn.GELU())
        self.encoder.append(nn.Conv2d(WIDTH, WIDTH, kernel_size=1))

    def forward(self, mask: Tensor) -> Tensor:
        out: Tensor = self.encoder(mask)
        return out


class ConvNextBlock(nn.Module):
    """A depthwise 7 x 7, a wide pointwise pair, and a residual with learned scale (arXiv 2201.03545)."""

    def __init__(self) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(WIDTH, WIDTH, kernel_size=7, padding=3, groups=WIDTH)
        self.norm = LayerNorm2d(WIDTH)
        self.pwconv1 = Linear(WIDTH, 4 * WIDTH)
        self.pwconv2 = Linear(4 * WIDTH, WIDTH)
        self.gamma = nn.Parameter(torch.full((WIDTH,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dwconv(x)).permute(0, 2, 3, 1)
        y = self.gamma * self.pwconv2(functional.gelu(self.pwconv1(y)))
        out: Tensor = x + y.permute(0, 3, 1, 2)
        return out


class Fuser(nn.Module):
    """Two ConvNeXt blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(ConvNextBlock(), ConvNextBlock())

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


class MemoryEncoder(nn.Module):
    """Adds a downsampled mask to the picture's features and mixes them."""

    def __init__(self) -> None:
        super().__init__()
        self.mask_downsampler = MaskDownSampler()
        self.pix_feat_proj = nn.Conv2d(WIDTH, WIDTH, kernel_size=1)
        self.fuser = Fuser()
        self.out_proj = nn.Conv2d(WIDTH, MEMORY_WIDTH, kernel_size=1)

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """Return `[b, 64, h, w]` for features `[1, 256, h, w]` and scaled masks `[b, 1, 16h, 16w]`."""
        out: Tensor = self.out_proj(self.fuser(self.pix_feat_proj(image) + self.mask_downsampler(mask)))
        return out
