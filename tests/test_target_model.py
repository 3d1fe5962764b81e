"""Target models: what tells an object from its surroundings, learned from one mask."""

import pytest
import torch

from masklet.model.target_model import hinted, learned, sharpened

HEIGHT, WIDTH = 32, 64


def mask(edge):
    """Return a mask of all that is left of a column."""
    return (torch.arange(WIDTH) < edge).expand(HEIGHT, WIDTH)


def scene(edge, *, noise=0.3, seed=0):
    """Return what the first stage sees of something that ends at a column: two of 64 channels tell it, a little."""
    inside = mask(edge).float()
    early = noise * torch.randn(64, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(seed))
    early[3] += inside
    early[40] -= 5 * inside
    return early


def guess(edge, certainty=2.0):
    """Return logits of a mask that ends at a column, `[1, 32, 64]`, less and less certain towards it."""
    columns = edge - 0.5 - torch.arange(float(WIDTH))
    return (columns * certainty).clamp(-10, 10).expand(1, HEIGHT, WIDTH)


@pytest.mark.parametrize(("found", "shown"), [(27, 30), (28, 30), (30, 30), (33, 30), (36, 33), (22, 25)])
def test_an_edge_of_a_later_frame_moves_to_where_the_object_ends_by_three_cells_at_most(found, shown):
    target = learned(scene(20), mask(20))
    moved = sharpened(guess(found), scene(30, seed=1), target)
    assert torch.equal(moved[0] > 0, mask(shown))


def test_where_an_unsure_mask_is_wrong_it_learns_from_the_rest_of_it():
    wrong = mask(20).clone()
    wrong[:6] = mask(23)[:6]
    said = torch.where(wrong, 1.0, -1.0)[None]
    mended = sharpened(said, scene(20), learned(scene(20), wrong))[0] > 0
    assert torch.equal(mended[6:], mask(20)[6:])
    assert torch.count_nonzero(mended != mask(20)) < torch.count_nonzero(wrong != mask(20)) / 4


def test_away_from_edges_nothing_changes_whatever_is_there():
    target = learned(scene(20), mask(20))
    before = guess(18)
    after = sharpened(before, scene(40), target)
    assert torch.equal(after[..., :15], before[..., :15])
    assert torch.equal(after[..., 21:], before[..., 21:])


def test_where_nothing_tells_inside_from_around_nothing_changes():
    plain = torch.ones(64, HEIGHT, WIDTH)
    assert torch.allclose(sharpened(guess(18, 1.0), plain, learned(plain, mask(18))), guess(18, 1.0), atol=1e-4)


def test_inside_and_around_weigh_the_same_however_small_the_object():
    small = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    small[10:13, 10:13] = True
    blurred = torch.where(small, 1.0, 0.0) + 0.1 * torch.randn(64, HEIGHT, WIDTH)
    odds = learned(blurred, small).odds(blurred)
    assert torch.equal(odds > 0, small)


def test_a_mask_without_an_inside_or_without_surroundings_teaches_nothing():
    for everywhere in (mask(0), mask(WIDTH)):
        assert learned(scene(20), everywhere) is None


def test_without_a_model_edges_stay():
    assert torch.equal(sharpened(guess(18), scene(20), None), guess(18))


def test_a_hint_is_the_odds_in_and_around_a_mask_and_leaves_the_rest():
    target, before = learned(scene(20), mask(20)), guess(18)
    later = scene(30, seed=1)
    hint = hinted(before, later, target) - before
    assert torch.allclose(hint[0, :, :24], target.odds(later)[:, :24].clamp(-4, 4), atol=1e-5)
    assert not hint[..., 24:].any()
    assert torch.equal(hinted(before, later, None), before)


@pytest.mark.parametrize("nowhere", [-1024.0, 5.0])
def test_what_is_nowhere_or_everywhere_has_no_edges(nowhere):
    logits = torch.full((1, HEIGHT, WIDTH), nowhere)
    assert torch.equal(sharpened(logits, scene(20), learned(scene(20), mask(20))), logits)


def test_it_learns_in_half_precision_and_in_training():
    exact = learned(scene(20), mask(20)).odds(scene(20))
    half = learned(scene(20).half(), mask(20)).odds(scene(20).half())
    with torch.autocast("cpu", torch.bfloat16):
        narrow = learned(scene(20).requires_grad_(), mask(20))
    assert torch.allclose(half, exact, atol=0.05)
    assert torch.allclose(narrow.odds(scene(20)), exact, atol=1e-4)
