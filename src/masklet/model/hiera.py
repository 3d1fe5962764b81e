"""Hiera, the image trunk of SAM 2: a plain hierarchical transformer (Ryali et al., arXiv 2306.00989)."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from masklet.model.config import HieraConfig
from masklet.model.layers import MLP, Linear


def split_windows(x: Tensor, side: int) -> Tensor:
    """Cut `[b, h, w, c]` into windows `[b * windows, side, side, c]`, padding right and bottom with zeros."""
    height, width = x.shape[1:3]
    x = functional.pad(x, (0, 0, 0, -width % side, 0, -height % side))
    cut: Tensor = x.unflatten(2, (-1, side)).unflatten(1, (-1, side))  # b, rows, side, columns, side, c
    return cut.transpose(2, 3).flatten(0, 2)


def join_windows(windows: Tensor, side: int, shape: torch.Size) -> Tensor:
    """Undo `split_windows` for a map of `shape` `[b, h, w, ...]`, dropping the padding."""
    batch, height, width = shape[:3]
    rows, columns = -(-height // side), -(-width // side)
    joined: Tensor = windows.unflatten(0, (batch, rows, columns)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
    return joined[:, :height, :width]


def pool(x: Tensor) -> Tensor:
    """Halve `[b, h, w, c]` by taking the largest of each 2 x 2."""
    return functional.max_pool2d(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)


class MultiScaleAttention(nn.Module):
    """Self-attention whose queries may be pooled, which halves the map."""

    def __init__(self, width_in: int, width_out: int, heads: int, *, pools: bool) -> None:
        super().__init__()
        self.heads = heads
        self.pools = pools
        self.qkv = Linear(width_in, 3 * width_out)
        self.proj = Linear(width_out, width_out)

    def forward(self, x: Tensor) -> Tensor:
        """Attend within each `[h, w]` of `[b, h, w, c]`."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        if self.pools:
            q = pool(q)
        shape = q.shape
        q, k, v = (y.flatten(1, 2).unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in (q, k, v))
        mixed = functional.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.proj(mixed.transpose(1, 2).reshape(shape))
        return out


class MultiScaleBlock(nn.Module):
    """Block in windows of `window` tokens (0: over the whole map); the first of a stage halves and widens."""

    def __init__(self, width_in: int, width_out: int, heads: int, window: int) -> None:
        super().__init__()
        self.pools = width_in != width_out
        self.window = window
        self.norm1 = nn.LayerNorm(width_in, eps=1e-6)
        self.attn = MultiScaleAttention(width_in, width_out, heads, pools=self.pools)
        self.norm2 = nn.LayerNorm(width_out, eps=1e-6)
        self.mlp = MLP((width_out, 4 * width_out, width_out), functional.gelu)
        if self.pools:
            self.proj = Linear(width_in, width_out)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm1(x)
        shortcut = pool(self.proj(normed)) if self.pools else x
        if self.window:
            mixed = self.attn(split_windows(normed, self.window))
            mixed = join_windows(mixed, self.window // 2 if self.pools else self.window, shortcut.shape)
        else:
            mixed = self.attn(normed)
        x = shortcut + mixed
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class PatchEmbed(nn.Module):
    """The picture as tokens of 4 x 4 pixels, each seeing 7 x 7."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=7, stride=4, padding=3)

    def forward(self, pixels: Tensor) -> Tensor:
        out: Tensor = self.proj(pixels)
        return out.permute(0, 2, 3, 1)


class Hiera(nn.Module):
    """Four maps of a picture at strides 4, 8, 16 and 32."""

    def __init__(self, config: HieraConfig) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(config.width)
        background, window = config.window_background, config.windows[0]
        self.pos_embed = nn.Parameter(torch.zeros(1, config.width, background, background))
        self.pos_embed_window = nn.Parameter(torch.zeros(1, config.width, window, window))
        self.blocks = nn.ModuleList()
        self.stage_ends: list[int] = []
        for stage, depth in enumerate(config.depths):
            width, heads = config.width << stage, config.heads << stage
            for i in range(depth):
                index, first = len(self.blocks), i == 0 and stage > 0
                # The block that opens a stage still uses the windows of the stage before, then halves them.
                window = 0 if index in config.global_blocks else config.windows[stage - first]
                self.blocks.append(MultiScaleBlock(width // 2 if first else width, width, heads, window))
            self.stage_ends.append(len(self.blocks) - 1)

    def _positions(self, size_hw: tuple[int, int]) -> Tensor:
        """A coarse map stretched over the picture plus one window's map repeated."""
        coarse = functional.interpolate(self.pos_embed, size_hw, mode="bicubic")
        side = self.pos_embed_window.shape[-1]
        window = self.pos_embed_window.tile(1, 1, size_hw[0] // side, size_hw[1] // side)
        return (coarse + window).permute(0, 2, 3, 1)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Return the four maps, finest first, each `[b, c, h, w]`; sides must be multiples of 32."""
        x = self.patch_embed(pixels)
        x = x + self._positions((x.shape[1], x.shape[2]))
        maps = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.stage_ends:
                maps.append(x.permute(0, 3, 1, 2))
        return maps
