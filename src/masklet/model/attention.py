"""Attention: the plain projected kind, and attention to a long memory in blocks."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from masklet.model.layers import Linear, product

QUERY_BLOCK = KEY_BLOCK = 1024


class Attention(nn.Module):
    """Projected multi-head attention whose inner width may be narrower than its outer one."""

    def __init__(self, width: int, heads: int = 1, *, inner: int | None = None, key_width: int | None = None) -> None:
        super().__init__()
        inner, key_width = inner or width, key_width or width
        self.heads = heads
        self.q_proj = Linear(width, inner)
        self.k_proj = Linear(key_width, inner)
        self.v_proj = Linear(key_width, inner)
        self.out_proj = Linear(inner, width)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend: `[b, n, c]` queries to `[b, m, c]` keys and values."""
        return self.attend(self.q_proj(q), self.k_proj(k), self.v_proj(v))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The part after the projections of queries, keys and values."""
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (q, k, v))
        mixed = functional.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return out


def attend_one_head(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention of `[n, c]` queries to `[m, c]` keys with values of any width `[m, d]`, by the quickest way."""
    if torch.is_grad_enabled():  # sums in place have no gradient
        return functional.softmax(product(q, k) * (q.shape[-1] ** -0.5), dim=-1) @ v
    if q.device.type != "cpu" or q.dtype != torch.float32:  # sums in half precision would be ten times less exact
        return functional.scaled_dot_product_attention(q[None, None], k[None, None], v[None, None])[0, 0]
    return attend_in_blocks(q, k, v)


def attend_in_blocks(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same, for processors.

    The sums of one large softmax, taken block by block so that they stay in the processor's cache (Milakov and
    Gimelshein 2018, arXiv 1805.02867). Values narrower than keys are the point: PyTorch's fused kernel pads them.
    """
    q = q * (q.shape[-1] ** -0.5)
    v = torch.cat((v, v.new_ones(len(v), 1)), dim=1)  # the column of ones sums the weights in the same product
    out = q.new_empty(len(q), v.shape[1] - 1)
    blocks = [
        (keys, values.T.contiguous()) for keys, values in zip(k.split(KEY_BLOCK), v.split(KEY_BLOCK), strict=True)
    ]
    for start in range(0, len(q), QUERY_BLOCK):
        rows = q[start : start + QUERY_BLOCK]
        top = rows.new_full((len(rows), 1), float("-inf"))
        total = rows.new_zeros(len(rows), v.shape[1])
        for keys, values in blocks:
            scores = product(rows, keys)
            new_top = torch.maximum(top, scores.amax(dim=1, keepdim=True))
            total.mul_((top - new_top).exp_()).add_(product(scores.sub_(new_top).exp_(), values))
            top = new_top
        torch.div(total[:, :-1], total[:, -1:], out=out[start : start + QUERY_BLOCK])
    return out
