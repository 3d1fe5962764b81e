"""Some of the cut and changed videos that `damage.py` gives to the service's decoder."""

import pytest

from reliability.damage import FILMS, damage, left

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", FILMS, ids=str)
def test_what_was_cut_or_changed_anywhere_gives_frames_or_one_clear_error(tmp_path, kind):
    ends, _ = damage(tmp_path, kind, cuts=4, mutants=4)
    assert [end for counts in ends.values() for end in counts if end.startswith("WRONG")] == []
    assert [sum(counts.values()) for counts in ends.values()] == [4, 4]
    assert left(tmp_path) == []
