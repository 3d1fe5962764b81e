"""Colours: of each place of a picture, and of each object."""

import pytest
import torch

from masklet.model.colours import PALETTE, TINTS, colours_of, palettes_of, shared, tints_of

RED, DARK_RED, GREEN, BLUE, YELLOW = (
    (0.8, 0.1, 0.1),
    (0.5, 0.05, 0.05),
    (0.1, 0.7, 0.2),
    (0.1, 0.1, 0.8),
    (0.9, 0.8, 0.1),
)


def board(*stripes):
    """Return the cells of a picture whose columns of places have these colours, `[3, 8, 4n]`."""
    columns = torch.tensor(stripes).T.repeat_interleave(4, dim=1)
    return colours_of(columns[None, :, None].expand(-1, -1, 8, -1))


def palette(*stripes):
    cells = board(*stripes)
    [found] = palettes_of(cells, torch.ones(1, *cells.shape[1:], dtype=torch.bool))
    return found


def test_channels_are_lightness_red_against_green_and_yellow_against_blue():
    cells = board((0.5, 0.5, 0.5), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), RED, GREEN, YELLOW, BLUE)[:, 0, ::4]
    lightness, red, yellow = cells
    assert lightness[:3].tolist() == pytest.approx([0.5, 0.0, 1.0])
    assert red[:3].tolist() == yellow[:3].tolist() == pytest.approx([0.5] * 3)
    assert red[3] > 0.9
    assert red[4] < 0.1
    assert yellow[5] > 0.8
    assert yellow[6] < 0.1


def test_no_colour_is_outside_the_histograms():
    extremes = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3).T.reshape(1, 3, 2, 4).repeat_interleave(4, dim=2)
    cells = colours_of(extremes)
    assert cells.min() >= 0
    assert cells.max() <= 1
    assert tints_of(cells).isfinite().all()
    assert palettes_of(cells, torch.ones(1, 8, 4, dtype=torch.bool))[0].sum() == pytest.approx(1)


def test_places_of_one_colour_look_the_same_and_of_two_colours_do_not():
    tints = tints_of(board(RED, BLUE, RED, GREEN)).unflatten(0, (2, 4))
    assert tints.shape == (2, 4, sum(TINTS))
    assert torch.allclose(tints.norm(dim=2), torch.ones(2, 4))
    alike = tints[0] @ tints[1].T
    assert alike[0, 2] == pytest.approx(1)
    assert max(alike[0, 1], alike[0, 3], alike[1, 3]) < 0.1


def test_a_picture_of_one_colour_tells_no_places_apart():
    assert not tints_of(board(RED, RED)).any()


def test_a_palette_is_the_same_wherever_its_colours_are():
    assert palette(RED, BLUE).shape == (PALETTE[0] * PALETTE[1] * PALETTE[2],)
    assert shared(palette(RED, BLUE), palette(BLUE, RED)) == pytest.approx(1)
    assert shared(palette(RED, BLUE), palette(RED, GREEN)) == pytest.approx(0.5, abs=0.05)
    assert shared(palette(RED), palette(GREEN)) < 0.05


def test_a_little_less_light_changes_a_palette_less_than_another_colour_does():
    assert shared(palette(RED), palette(tuple(0.85 * channel for channel in RED))) > 0.3
    assert shared(palette(RED), palette(DARK_RED)) > shared(palette(RED), palette(BLUE))


def test_each_mask_has_its_own_palette_and_an_empty_one_has_none():
    cells = board(RED, BLUE)
    left = torch.zeros(3, 8, 8, dtype=torch.bool)
    left[0, :, :4] = left[1, :, 4:] = True
    red, blue, nothing = palettes_of(cells, left)
    assert shared(red, palette(RED)) == pytest.approx(1)
    assert shared(blue, palette(BLUE)) == pytest.approx(1)
    assert nothing is None
