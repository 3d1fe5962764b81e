"""Codes of place and time: each value by the formula it is defined by, and what it is good for."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from masklet.model.position import fourier, rotary_map, rotate, sine_map, sine_times

CPU = torch.device("cpu")


@pytest.mark.parametrize(("height", "width", "channels"), [(3, 5, 8), (1, 1, 64), (16, 16, 64)])
def test_a_cells_sine_code_is_the_formulas(height, width, channels):
    half = channels // 2
    code = sine_map(height, width, channels, CPU)
    assert code.shape == (channels, height, width)
    for y, x, c in [(0, 0, 0), (height - 1, 0, 1), (0, width - 1, half), (height // 2, width // 2, channels - 1)]:
        cell, cells = (y, height) if c < half else (x, width)
        angle = (cell + 1) / (cells + 1e-6) * 2 * math.pi / 10000 ** (2 * (c % half // 2) / half)
        expected = math.cos(angle) if c % 2 else math.sin(angle)
        assert float(code[c, y, x]) == pytest.approx(expected, abs=1e-5)


def test_rows_are_told_by_the_first_half_and_columns_by_the_second():
    code = sine_map(4, 6, 16, CPU)
    assert torch.equal(code[:8], code[:8, :, :1].expand(-1, -1, 6))
    assert torch.equal(code[8:], code[8:, :1].expand(-1, 4, -1))
    assert not torch.equal(code[:8, 0], code[:8, 1])


def test_now_is_sines_of_nothing_and_every_time_has_its_own_code():
    codes = sine_times(torch.arange(16) / 15, 256)
    assert codes.shape == (16, 256)
    assert torch.equal(codes[0], torch.cat((torch.zeros(128), torch.ones(128))))
    assert float(torch.pdist(codes).min()) > 0.05


def test_past_and_future_differ_in_the_sines_alone():
    ahead, behind = sine_times(torch.tensor([-0.4, 0.4]), 64)
    assert torch.allclose(ahead[:32], -behind[:32])
    assert torch.equal(ahead[32:], behind[32:])


def test_the_middle_of_the_picture_is_where_fourier_codes_begin():
    frequencies = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    middle, left, right = fourier(torch.tensor([[0.5, 0.5], [0.2, 0.7], [0.8, 0.3]]), frequencies)
    assert torch.equal(middle, torch.cat((torch.zeros(8), torch.ones(8))))
    assert torch.allclose(left[:8], -right[:8], atol=1e-5)
    assert torch.allclose(left[8:], right[8:], atol=1e-5)


@given(*[st.integers(0, 5)] * 4, st.integers(0, 2), st.integers(0, 2))
def test_rotated_products_depend_on_the_way_between_two_cells_alone(y, x, y2, x2, down, right):
    """That is what rotary codes are for."""
    side = 8
    codes = rotary_map(side, side, 16, CPU)
    q, k = torch.randn(2, 16, generator=torch.Generator().manual_seed(1))

    def product(qy, qx, ky, kx):
        turned = [rotate(v[None], codes[None, cell])[0] for v, cell in ((q, qy * side + qx), (k, ky * side + kx))]
        return float(turned[0] @ turned[1])

    moved = product(y + down, x + right, y2 + down, x2 + right)
    assert product(y, x, y2, x2) == pytest.approx(moved, abs=1e-4)


def test_rotating_keeps_lengths_and_types_and_leaves_the_first_cell_alone():
    codes = rotary_map(4, 6, 16, CPU)
    x = torch.randn(2, 24, 16, generator=torch.Generator().manual_seed(2))
    turned = rotate(x, codes)
    assert torch.allclose(turned.norm(dim=-1), x.norm(dim=-1), atol=1e-5)
    assert torch.equal(turned[:, 0], x[:, 0])
    assert not torch.allclose(turned[:, 1:], x[:, 1:])
    assert rotate(x.bfloat16(), codes).dtype == torch.bfloat16


def test_a_step_to_the_right_turns_the_first_pairs_and_a_step_down_the_others():
    codes = rotary_map(4, 6, 16, CPU)
    still = torch.ones(4, dtype=torch.complex64)
    assert torch.equal(codes[1, 4:], still)
    assert torch.equal(codes[6, :4], still)
    assert torch.equal(codes[1, :4], codes[6, 4:])


@pytest.mark.parametrize("make", [sine_map, rotary_map])
def test_a_code_made_for_inference_serves_training_too(make):
    with torch.inference_mode():
        code = make(3, 5, 8, torch.device("cpu"))
    assert not code.is_inference()
