"""Whole clips: masklet, keeping the official rules, beside Meta's predictor with the same weights.

The weights are random and amplified so that memory matters (`test_sensitivity.py` shows that it does). Meta's predictor
rounds memories to bfloat16 whatever it computes in; clips are also compared with memories that stay exact on both
sides, which says whether the rules are the same without the noise of that rounding.

Logits are compared with holes left open on both sides. With random weights a cell here and there lies within rounding
of zero: if it opens or closes a hole, up to nine cells jump. So where holes are filled, masks must overlap and all but
a few pixels be alike. The filling itself is compared bit by bit in `test_parts.py`.
"""

import pytest

from .answers import TOLERANCE, Difference
from .peers import REVISIONS, SIZES
from .scenes import LONG, SCENARIOS

OVERLAP = 0.999
ODD = 1e-3
"""So many of the pixels may differ by more than the tolerance where holes are filled."""
OTHERS = [(size, revision) for size in SIZES for revision in REVISIONS if (size, revision) != ("tiny", "2.1")]
REPRESENTATIVE = (
    "three clicks one after another",
    "a mask",
    "two prompted frames",
    "a late object",
    "backward with two objects",
    "a correction after a pass",
)
HOW = {
    "float32 memory": {"rounded": False, "holes": False},
    "bfloat16 memory": {"rounded": True, "holes": False},
    "bfloat16 memory, holes filled": {"rounded": True, "holes": True},
}
everyhow = pytest.mark.parametrize("how", HOW)


def check(difference: Difference) -> None:
    """Say which figure is too large."""
    assert difference.logits <= TOLERANCE, difference
    assert difference.score <= TOLERANCE, difference
    assert difference.iou <= TOLERANCE, difference
    assert difference.overlap >= OVERLAP, difference


def check_both(both, note, scenario: str, how: str) -> None:
    """Act out a scenario on both sides, keep the figures and judge them."""
    difference = both.difference(SCENARIOS[scenario], **HOW[how])
    note(both.name, how, difference)
    if not HOW[how]["holes"]:
        check(difference)
    assert difference.score <= TOLERANCE, difference
    assert difference.overlap >= OVERLAP, difference
    assert difference.odd <= ODD, difference


@everyhow
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_tiny_answers_as_metas_predictor_in_every_scene(pair, note, scenario, how):
    check_both(pair(), note, scenario, how)


@pytest.mark.parametrize(("size", "revision"), OTHERS)
@pytest.mark.parametrize("scenario", REPRESENTATIVE)
@everyhow
def test_every_size_and_revision_answers_as_metas_predictor(pair, note, size, revision, scenario, how):
    check_both(pair(size, revision), note, scenario, how)


@everyhow
def test_a_clip_longer_than_pointers_reach_is_answered_alike(pair, note, how):
    check_both(pair(frames=LONG), note, "two objects", how)


def test_one_clip_at_the_released_size_is_answered_alike(pair, note):
    check_both(pair(image_px=1024), note, "one click", "bfloat16 memory")


@pytest.mark.full
@pytest.mark.parametrize("revision", REVISIONS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scenario", REPRESENTATIVE)
@everyhow
def test_everything_at_the_released_size_is_answered_alike(pair, note, size, revision, scenario, how):
    check_both(pair(size, revision, 1024), note, scenario, how)
