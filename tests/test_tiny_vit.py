"""The trunk of nano at any size of picture. That it equals MobileSAM is tested in test_convert_nano.py."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from masklet.model.config import TinyViTConfig
from masklet.model.tiny_vit import STRIP_ROWS, MBConv, PlainNeck, TinyViT, WindowAttention


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("size_hw", [(432, 768), (768, 432), (16, 16), (48, 208), (224, 224)])
def test_any_rectangle_becomes_maps_at_strides_4_and_16(size_hw: tuple[int, int]) -> None:
    trunk, neck = TinyViT(TinyViTConfig()).eval(), PlainNeck().eval()
    with torch.inference_mode():
        early, deep = trunk(torch.randn(1, 3, *size_hw))
        assert early.shape == (1, 64, size_hw[0] // 4, size_hw[1] // 4)
        assert deep.shape == (1, 320, size_hw[0] // 16, size_hw[1] // 16)
        assert neck(deep).shape == (1, 256, size_hw[0] // 16, size_hw[1] // 16)


def test_pictures_of_a_batch_do_not_see_each_other() -> None:
    trunk = TinyViT(TinyViTConfig()).eval()
    pixels = torch.randn(3, 3, 96, 160)
    with torch.inference_mode():
        together, alone = trunk(pixels), [trunk(one[None]) for one in pixels]
    for seen, singly in zip(together, zip(*alone, strict=True), strict=True):
        torch.testing.assert_close(seen, torch.cat(singly), rtol=0, atol=1e-5)


@pytest.mark.parametrize("rows", [1, STRIP_ROWS - 1, STRIP_ROWS, STRIP_ROWS + 1, 2 * STRIP_ROWS, 3 * STRIP_ROWS - 2])
def test_widening_strip_by_strip_is_widening_all_at_once(rows: int) -> None:
    block, x = MBConv(8).eval(), torch.randn(2, 8, rows, 7)
    with torch.inference_mode():
        wide = functional.gelu(block.conv2(functional.gelu(block.conv1(x))))
        torch.testing.assert_close(block(x), functional.gelu(x + block.conv3(wide)), rtol=0, atol=1e-6)


def test_trunk_has_the_size_of_tiny_vit_5m() -> None:
    assert sum(p.numel() for p in TinyViT(TinyViTConfig()).parameters()) == pytest.approx(5.07e6, rel=0.01)


def attended_one_by_one(attention: WindowAttention, x: Tensor) -> Tensor:
    """Window attention by the book: window after window, head after head, pair after pair of cells."""
    side, heads = attention.window, attention.heads
    height, width, channels = x.shape
    padded = functional.pad(x, (0, 0, 0, -width % side, 0, -height % side))
    out = torch.empty_like(padded)
    bias = torch.tensor(
        [
            [
                [table[abs(i // side - j // side) * side + abs(i % side - j % side)] for j in range(side**2)]
                for i in range(side**2)
            ]
            for table in attention.attention_biases.tolist()
        ]
    )
    for top in range(0, padded.shape[0], side):
        for left in range(0, padded.shape[1], side):
            window = padded[top : top + side, left : left + side].reshape(side * side, channels)
            per_head = attention.qkv(attention.norm(window)).split(3 * channels // heads, dim=1)
            mixed = []
            for head, qkv in enumerate(per_head):
                q, k, v = qkv.chunk(3, dim=1)
                mixed.append(((q @ k.T) / q.shape[1] ** 0.5 + bias[head]).softmax(1) @ v)
            out[top : top + side, left : left + side] = attention.proj(torch.cat(mixed, 1)).view(side, side, channels)
    return out[:height, :width]


@pytest.mark.parametrize("size_hw", [(7, 7), (14, 21), (5, 9), (8, 13)], ids=str)
def test_windows_are_square_and_filled_with_zeros_right_and_below(size_hw: tuple[int, int]) -> None:
    attention = WindowAttention(width=16, heads=2, window=7).eval()
    torch.nn.init.normal_(attention.attention_biases)
    torch.nn.init.normal_(attention.norm.bias)  # which is what a filled cell says
    x = torch.randn(2, *size_hw, 16)
    with torch.inference_mode():
        expected = torch.stack([attended_one_by_one(attention, one) for one in x])
        torch.testing.assert_close(attention(x), expected, rtol=0, atol=1e-5)
