"""A picture that remembers: self-attention, attention to memories, feed-forward (SAM 2 paper, section 4)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from masklet.model.attention import Attention, attend_one_head
from masklet.model.layers import Linear
from masklet.model.position import rotary_map, rotate, sine_map

WIDTH = 256
MEMORY_WIDTH = 64
FEED_FORWARD = 2048


@dataclass(frozen=True, eq=False)
class Tokens:
    """What one object remembers, ready to be attended to: whole maps first, pointer tokens after them."""

    values: Tensor
    """`[m, 64]`."""
    codes: Tensor
    """`[m, 64]`, position and time."""
    pointers: int
    """How many of the last tokens are pointers; those have no place in the picture and are not rotated."""


class RotaryAttention(Attention):
    """One head with rotary position codes."""

    def look_around(self, x: Tensor, rotary: Tensor) -> Tensor:
        """Self-attention over `[b, n, 256]`."""
        queries, keys = rotate(self.q_proj(x), rotary), rotate(self.k_proj(x), rotary)
        looked = [attend_one_head(q, k, v) for q, k, v in zip(queries, keys, self.v_proj(x), strict=True)]
        out: Tensor = self.out_proj(torch.stack(looked))
        return out

    def look_back(self, x: Tensor, memories: Sequence[Tokens], rotary: Tensor) -> Tensor:
        """Attention of each `[n, 256]` of a batch to its own object's memory.

        The weights sum to one, so attending to the 64-wide memory and projecting the result equals attending to the
        projected 256-wide values, for a quarter of the product.
        """
        queries = rotate(self.q_proj(x), rotary)
        looked = torch.stack(
            [attend_one_head(q, self._keys(m, rotary), m.values) for q, m in zip(queries, memories, strict=True)]
        )
        out: Tensor = self.out_proj(self.v_proj(looked))
        return out

    def _keys(self, memory: Tokens, rotary: Tensor) -> Tensor:
        keys: Tensor = self.k_proj(memory.values + memory.codes)
        maps = len(keys) - memory.pointers
        turned = rotate(keys[:maps].unflatten(0, (-1, len(rotary))), rotary).flatten(0, 1)
        return torch.cat((turned, keys[maps:]))


class MemoryAttentionLayer(nn.Module):
    """Pre-norm block. Sine codes enter only the keys of attention to memory; rotary codes say the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.self_attn = RotaryAttention(WIDTH)
        self.cross_attn_image = RotaryAttention(WIDTH, key_width=MEMORY_WIDTH, inner=WIDTH)
        self.linear1 = Linear(WIDTH, FEED_FORWARD)
        self.linear2 = Linear(FEED_FORWARD, WIDTH)
        self.norm1 = nn.LayerNorm(WIDTH)
        self.norm2 = nn.LayerNorm(WIDTH)
        self.norm3 = nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor, memories: Sequence[Tokens], rotary: Tensor) -> Tensor:
        x = x + self.self_attn.look_around(self.norm1(x), rotary)
        # Objects differ only by their memories: until here a batch of one stands for all of them.
        x = x + self.cross_attn_image.look_back(self.norm2(x).expand(len(memories), -1, -1), memories, rotary)
        out: Tensor = x + self.linear2(functional.relu(self.linear1(self.norm3(x))))
        return out


class MemoryAttention(nn.Module):
    """The layers and a last norm."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(MemoryAttentionLayer() for _ in range(layers))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, image: Tensor, memories: Sequence[Tokens]) -> Tensor:
        """Condition one picture `[1, 256, h, w]` on each object's memory: `[b, 256, h, w]`."""
        size_hw = (image.shape[-2], image.shape[-1])
        codes = sine_map(*size_hw, WIDTH, image.device).flatten(1).T[None].to(image.dtype)
        rotary = rotary_map(*size_hw, WIDTH, image.device)
        x = image.flatten(2).transpose(1, 2) + 0.1 * codes
        for layer in self.layers:
            x = layer(x, memories, rotary)
        out: Tensor = self.norm(x).transpose(1, 2).unflatten(2, size_hw)
        return out
