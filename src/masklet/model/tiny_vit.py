"""TinyViT-5M, the trunk of nano (Wu et al., arXiv 2207.10666), as MobileSAM uses it, and SAM's plain neck.

Batch norms are folded into the convolutions: this is a trunk to run and to fine-tune, not to train from nothing.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from masklet.model.config import TinyViTConfig
from masklet.model.layers import LayerNorm2d, Linear

WIDTH = 256
STRIP_ROWS = 12
"""Rows that are widened at a time. At stride 4 the widened picture has 20 MB: to find so much fresh memory takes the
system longer than GELU takes on it. A strip stays in the processor's cache."""


def conv3(width_in: int, width_out: int, *, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A 3 x 3 convolution that keeps the size, or halves it."""
    return nn.Conv2d(width_in, width_out, kernel_size=3, stride=stride, padding=1, groups=groups)


class MBConv(nn.Module):
    """Widen, mix each channel with its neighbourhood, narrow again; with a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, 4 * width, kernel_size=1)
        self.conv2 = conv3(4 * width, 4 * width, groups=4 * width)
        self.conv3 = nn.Conv2d(4 * width, width, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """Transform `[b, c, h, w]`."""
        tops = range(0, x.shape[2], STRIP_ROWS)
        return torch.cat([self._strip(x, top, min(top + STRIP_ROWS, x.shape[2])) for top in tops], dim=2)

    def _strip(self, x: Tensor, top: int, bottom: int) -> Tensor:
        # The neighbourhoods reach one row further; beyond the picture they are filled with zeros.
        above, below = max(0, top - 1), min(bottom + 1, x.shape[2])
        wide = functional.gelu(self.conv2(functional.gelu(self.conv1(x[:, :, above:below]))))
        return functional.gelu(x[:, :, top:bottom] + self.conv3(wide[:, :, top - above : bottom - above]))


class PatchMerging(nn.Module):
    """The way from one stage to the next."""

    def __init__(self, width_in: int, width_out: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width_out, kernel_size=1)
        self.conv2 = conv3(width_out, width_out, stride=stride, groups=width_out)
        self.conv3 = nn.Conv2d(width_out, width_out, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv3(functional.gelu(self.conv2(functional.gelu(self.conv1(x)))))
        return out


class WindowAttention(nn.Module):
    """Self-attention within square windows, with a learned bias for each distance in rows and columns."""

    distances: Tensor

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.window = window
        self.norm = nn.LayerNorm(width)
        self.qkv = Linear(width, 3 * width)
        self.proj = Linear(width, width)
        self.attention_biases = nn.Parameter(torch.zeros(heads, window * window))
        at = torch.arange(window)
        apart = (at[:, None] - at).abs()  # [window, window]
        rows, columns = apart[:, None, :, None], apart[None, :, None, :]
        cells = window * window
        self.register_buffer("distances", (rows * window + columns).reshape(cells, cells), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Attend in `[b, h, w, c]`; windows that stick out are filled with zeros, which take part."""
        batch, height, width, channels = x.shape
        side = self.window
        padded = functional.pad(x, (0, 0, 0, -width % side, 0, -height % side))
        rows, columns = padded.shape[1] // side, padded.shape[2] // side
        windows = padded.view(batch, rows, side, columns, side, channels).transpose(2, 3)
        tokens = self._attend(windows.flatten(0, 2).flatten(1, 2))
        joined = tokens.view(windows.shape).transpose(2, 3).reshape(padded.shape)
        return joined[:, :height, :width]

    def _attend(self, tokens: Tensor) -> Tensor:
        # Each head's query, key and value lie together, unlike in Hiera.
        q, k, v = self.qkv(self.norm(tokens)).unflatten(-1, (self.heads, 3, -1)).permute(3, 0, 2, 1, 4)
        bias = self.attention_biases[:, self.distances]
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias[None])  # of three dimensions it is slow
        out: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return out


class FeedForward(nn.Module):
    """Norm, widen, narrow."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc1 = Linear(width, 4 * width)
        self.fc2 = Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(functional.gelu(self.fc1(self.norm(x))))
        return out


class TinyViTBlock(nn.Module):
    """Windowed attention, a depthwise convolution between neighbours, feed-forward."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.attn = WindowAttention(width, heads, window)
        self.local_conv = conv3(width, width, groups=width)
        self.mlp = FeedForward(width)

    def forward(self, x: Tensor) -> Tensor:
        """Transform `[b, c, h, w]`."""
        y = x.permute(0, 2, 3, 1)
        y = self.local_conv((y + self.attn(y)).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        out: Tensor = (y + self.mlp(y)).permute(0, 3, 1, 2)
        return out


class Stage(nn.Module):
    """Blocks of one width, and the way to the next."""

    def __init__(self, blocks: list[nn.Module], downsample: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)
        self.downsample = downsample

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return what it sees, and what the next one is given."""
        seen: Tensor = self.blocks(x)
        return seen, self.downsample(seen)


class PatchEmbed(nn.Module):
    """The picture at stride 4."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.seq = nn.Sequential(conv3(3, width // 2, stride=2), nn.GELU(), conv3(width // 2, width, stride=2))

    def forward(self, pixels: Tensor) -> Tensor:
        out: Tensor = self.seq(pixels)
        return out


class TinyViT(nn.Module):
    """Two maps of `[b, 3, h, w]`, sides multiples of 16: `[b, 64, h / 4, w / 4]` and `[b, 320, h / 16, w / 16]`."""

    def __init__(self, config: TinyViTConfig) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(config.widths[0])
        self.layers = nn.Sequential()
        strides = (2, 2, 1)  # the last merging widens only, which keeps stride 16
        for i, (width, depth) in enumerate(zip(config.widths, config.depths, strict=True)):
            blocks: list[nn.Module] = [
                MBConv(width) if i == 0 else TinyViTBlock(width, config.heads[i], config.windows[i])
                for _ in range(depth)
            ]
            last = i == len(config.widths) - 1
            down = nn.Identity() if last else PatchMerging(width, config.widths[i + 1], stride=strides[i])
            self.layers.append(Stage(blocks, down))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        first, *others = self.layers
        # Channels last in memory: depthwise convolutions and GELU of the first stages take a quarter of the time.
        early, deep = first(self.patch_embed(pixels.contiguous(memory_format=torch.channels_last)))
        for stage in others:
            _, deep = stage(deep)
        return early, deep


class PlainNeck(nn.Sequential):
    """SAM's neck: 320 channels to 256, at the same stride."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(320, WIDTH, kernel_size=1, bias=False),
            LayerNorm2d(WIDTH),
            nn.Conv2d(WIDTH, WIDTH, kernel_size=3, padding=1, bias=False),
            LayerNorm2d(WIDTH),
        )
