"""Background islands of at most eight cells are filled, and nothing else changes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from masklet.model.holes import FILLED, LARGEST_PX, fill_holes


def drawn(*rows):
    """Return logits of a drawing: `#` object, `.` background."""
    cells = torch.tensor([[1.0 if cell == "#" else -1.0 for cell in row] for row in rows])
    return cells[None, None]


def by_labelling(logits):
    """Fill by the words of the rule: label 8-connected islands, measure them, fill the small ones."""
    out = logits.copy()
    for plane in out[:, 0]:
        islands, count = ndimage.label(plane <= 0, structure=np.ones((3, 3)))
        sizes = ndimage.sum_labels(np.ones_like(plane), islands, np.arange(count + 1))
        plane[(islands > 0) & (sizes[islands] <= LARGEST_PX)] = FILLED
    return out


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 3), st.integers(1, 40), st.integers(1, 40), st.floats(0.02, 0.98), st.integers(0, 2**32 - 1))
def test_the_same_cells_are_filled_as_by_labelling(planes, height, width, share, seed):
    rng = np.random.default_rng(seed)
    logits = np.where(rng.random((planes, 1, height, width)) < share, -1, 1) * rng.uniform(0.1, 9, (height, width))
    logits = logits.astype(np.float32)
    assert np.array_equal(fill_holes(torch.from_numpy(logits)).numpy(), by_labelling(logits))


@pytest.mark.parametrize(
    ("drawing", "filled"),
    [
        (("#####", "#...#", "#...#", "#..##", "#####"), 8),
        (("#####", "#...#", "#...#", "#...#", "#####"), 0),  # nine
        (("###########", "#........##", "###########"), 8),  # as long as eight can be
        (("###########", "#.........#", "###########"), 0),
        (("#.########", "##.#######", "#.########", "##########"), 3),  # corners connect
        (("..........", "..######..", "..#....#..", "..######.."), 4),  # inside, and outside stays
        ((".#########", "##########", "#########."), 2),  # at the picture's edge too
        (("########", "########"), 0),
        (("........", "........"), 0),
        (("....", "...."), 8),  # a picture that is one small island
    ],
)
def test_holes_of_at_most_eight_cells_are_filled(drawing, filled):
    logits = drawn(*drawing)
    out = fill_holes(logits)
    changed = out != logits
    assert int(changed.sum()) == filled
    assert (logits[changed] == -1).all()
    assert torch.equal(out[changed], torch.full((filled,), FILLED))


def test_two_holes_that_do_not_touch_are_two():
    logits = drawn("##########", "#....##..#", "#....##..#", "##########")
    assert (fill_holes(logits) > 0).all()


def test_the_border_between_object_and_background_is_zero_itself():
    logits = torch.full((1, 1, 8, 8), 2.0)
    logits[..., 3, 3] = 0.0
    assert float(fill_holes(logits)[0, 0, 3, 3]) == pytest.approx(FILLED)


def test_each_mask_of_a_batch_is_its_own():
    rng = torch.Generator().manual_seed(4)
    logits = torch.randn(6, 1, 32, 32, generator=rng) + 1
    together = fill_holes(logits)
    for i in range(len(logits)):
        assert torch.equal(together[i : i + 1], fill_holes(logits[i : i + 1]))


def test_what_is_filled_stays_filled():
    logits = torch.randn(2, 1, 48, 48, generator=torch.Generator().manual_seed(5)) + 1
    once = fill_holes(logits)
    assert not torch.equal(once, logits)
    assert torch.equal(fill_holes(once), once)
