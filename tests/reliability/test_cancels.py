"""A few of the cancels that `cancels.py` sends: at each moment, beside the work of others."""

import pytest

from reliability.cancels import MOMENTS, run

pytestmark = pytest.mark.slow


def test_a_cancel_at_any_moment_ends_its_own_prediction_and_no_other(tmp_path):
    result, left = run(tmp_path, each=1)
    assert left.violations == []
    assert set(result.ends) == set(MOMENTS)
    for moment in ("queued", "downloading", "segmenting", "encoding"):
        assert result.ends[moment] == {"canceled": 1}, moment
    assert result.ends["done"] == {"succeeded": 1}
    assert set(result.others) == {"succeeded"}
    assert result.others["succeeded"] >= 1
