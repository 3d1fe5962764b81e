"""A kill at each named point: what was acknowledged is there after the next start, and everything ends once."""

import signal

import pytest
from server.patches import write_film

from masklet.server.crashpoints import POINTS
from reliability.nursery import nursery
from reliability.receiver import receiving
from reliability.rounds import check

TIMES = {"sweep.before_commit": 5, "sweep.after_commit": 5, "sweep.before_files": 2, "output.after_sync": 2}
"""At which pass the kill comes, where the first would show little."""
TOGETHER = 7
"""Points whose kills hit the same data, one after another."""
GROUPS = [POINTS[at : at + TOGETHER] for at in range(0, len(POINTS), TOGETHER)]


@pytest.fixture(scope="module")
def born():
    with nursery() as started:
        yield started


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    return write_film(folder / "short.mp4", frames=2), write_film(folder / "long.mp4", frames=60)


@pytest.mark.parametrize("points", GROUPS, ids=lambda points: f"{points[0]} to {points[-1]}")
def test_a_kill_at_any_point_loses_nothing(born, films, tmp_path, points):
    (tmp_path / "acks").mkdir()
    data, log = tmp_path / "data", tmp_path / "log"
    with receiving(tmp_path / "acks" / "receiver.log") as hook:
        order = (data, tmp_path / "acks" / "client.log", *films, hook)
        for point in points:
            said = len(log.read_text()) if log.exists() else 0
            crash = f"{point}:{TIMES.get(point, 1)}"
            status = born.wait(born.start("life", *order, point, log=log, MASKLET_CRASHPOINT=crash))
            said = log.read_text()[said:]
            assert status == -signal.SIGKILL or (status == 0 and "was ended by SIGKILL" in said), (point, said)
        said = len(log.read_text())
        assert born.wait(born.start("afterlife", *order, *points, log=log)) == 0, log.read_text()[said:]
        assert "ended by SIGKILL" not in log.read_text()[said:], "nothing else kills"
    violations, looked = check(data, tmp_path / "acks", kills=2 * len(points))
    assert violations == []
    assert f"against {8 * len(points)} predictions" in looked
