"""A few rounds of what `kills.py` does: SIGKILL to the real server at random times, while clients write."""

import pytest

from reliability.kills import run

pytestmark = pytest.mark.slow


def test_a_server_that_is_killed_again_and_again_loses_nothing(tmp_path):
    result, left = run(tmp_path, rounds=3, clients=4, seed=20, longest_s=3.0)
    assert left.violations == []
    assert result.served.kills >= 3
    made = sum(left.statuses.values())
    assert made >= result.at_kill[-1] > 0
    assert f"against {made} predictions" in left.looked


def test_what_many_clients_queue_is_run_to_the_end_although_the_server_is_killed(tmp_path):
    result, left = run(tmp_path, rounds=1, clients=20, each=2, seed=4)
    assert left.violations == []
    assert 0 < result.at_kill[0] < 40, "the kill came between"
    assert left.statuses == {"succeeded": 40}


def test_a_server_that_ends_at_named_points_loses_nothing(tmp_path):
    points = ("create.after_commit", "worker.before_finish", "webhook.after_send", "upload.after_rename")
    result, left = run(tmp_path, rounds=0, clients=4, points=points, hit_within_s=180.0)
    assert left.violations == []
    assert result.hits == dict.fromkeys(points, 1)


def test_workers_that_are_killed_at_work_are_noticed_and_lose_nothing(tmp_path):
    result, left = run(tmp_path, rounds=0, clients=4, worker_kills=3)
    assert left.violations == []
    assert len(result.noticed_s) == 3
    assert max(result.noticed_s) < 10, "a bound for machines that do much else; kills.py says how long it took"
    assert set(left.statuses) == {"succeeded", "canceled"}
