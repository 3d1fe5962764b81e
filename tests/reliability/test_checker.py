"""The checker itself: it finds nothing in order, and each damage that is done by hand."""

import json
import sqlite3
import subprocess
import sys

import pytest

from reliability.rounds import check


def without_guards(database, *statements):
    """Change rows as no program of masklet can."""
    for trigger in ("final_states_stay", "events_stay"):
        database.execute(f"DROP TRIGGER {trigger}")
    database.execute("DROP INDEX events_once")
    database.execute("PRAGMA ignore_check_constraints = ON")
    for statement in statements:
        assert database.execute(*statement).rowcount > 0, statement


def note(root, **ack):
    with (root / "acks" / "client.log").open("a") as log:
        log.write(json.dumps(ack) + "\n")


def output_of(root, id, number=1):
    [claim] = (root / "data" / "outputs" / id).iterdir()
    return claim / f"frame_{number:05d}.png"


def test_what_is_in_order_is_found_in_order(healthy):
    root, ids = healthy
    violations, looked = check(root / "data", root / "acks")
    assert violations == []
    assert "4 creates, 4 ends, " in looked
    assert "against 4 predictions {'succeeded': 2, 'failed': 1, 'canceled': 1, 'aborted': 0}" in looked
    assert len(ids) == 4


ROWS = {
    "a row is gone": ("I1", "succeeded", "DELETE FROM predictions WHERE id = ?"),
    "it belongs to somebody else": ("I1", "succeeded", "UPDATE predictions SET owner = 'eve' WHERE id = ?"),
    "it runs again": ("I2", "succeeded", "UPDATE predictions SET status = 'starting' WHERE id = ?"),
    "it has failed after it had succeeded": (
        "I2",
        "succeeded",
        "UPDATE predictions SET status = 'failed' WHERE id = ?",
    ),
    "it ended twice": (
        "I2",
        "succeeded",
        "INSERT INTO events (prediction, kind, data, created_at) "
        "VALUES (?, 'completed', '{\"status\": \"failed\"}', 0)",
    ),
    "its end was never told": ("I2", "failed", "DELETE FROM events WHERE kind = 'completed' AND prediction = ?"),
    "an output's row is gone": ("I3", "succeeded", "DELETE FROM outputs WHERE position = 1 AND prediction = ?"),
    "the last output's row is gone": ("I3", "bobs", "DELETE FROM outputs WHERE position = 2 AND prediction = ?"),
    "a failure has no code": ("I4", "failed", "UPDATE predictions SET error_code = NULL WHERE id = ?"),
    "a failure names a file": ("I4", "failed", "UPDATE predictions SET error = 'see /var/lib/x.mp4' WHERE id = ?"),
    "a failure is a traceback": ("I4", "failed", "UPDATE predictions SET error = 'Traceback (most ...' WHERE id = ?"),
    "something cancelled has outputs": (
        "I5",
        "canceled",
        "INSERT INTO outputs VALUES (?, 'output', 0, 'frame_00000.png', 1, '', 0, 'image/png')",
    ),
    "it was begun too often": ("I6", "succeeded", "UPDATE predictions SET attempts = 2 WHERE id = ?"),
    "an output was published twice": (
        "I6",
        "succeeded",
        "INSERT INTO events SELECT 0, prediction, kind, data, created_at FROM events WHERE kind = 'output' "
        "AND prediction = ? LIMIT 1",
    ),
    "a webhook was forgotten": ("I7", "succeeded", "DELETE FROM outbox WHERE kind = 'completed' AND prediction = ?"),
    "a webhook still waits": ("I7", "canceled", "UPDATE outbox SET state = 'pending' WHERE prediction = ?"),
    "a webhook was not sent": ("I7", "canceled", "UPDATE outbox SET id = id || 'x' WHERE prediction = ?"),
    "a lease was left": ("I8", "succeeded", "UPDATE predictions SET worker = 'w' WHERE id = ?"),
    "it holds what another sent": ("I9", "bobs", 'UPDATE predictions SET input = \'{"a": "ann-canary"}\' WHERE id = ?'),
}


@pytest.mark.parametrize("damage", ROWS)
def test_damage_to_the_database_is_found(damaged, damage):
    root, ids = damaged
    invariant, which, statement = ROWS[damage]
    database = sqlite3.connect(root / "data" / "masklet.db", isolation_level=None)
    without_guards(database, (statement, (ids[which],)))
    database.close()
    violations, _ = check(root / "data", root / "acks")
    assert any(line.startswith(f"{invariant} {ids[which]} ") for line in violations), violations


FILES = {
    "a byte is another": ("I3", lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\0")),
    "a file is cut short": ("I3", lambda path: path.write_bytes(path.read_bytes()[:-1])),
    "a file is gone": ("I3", lambda path: path.unlink()),
    "a file was never finished": ("I8", lambda path: path.with_name(".0123.part").write_bytes(b"half")),
}


@pytest.mark.parametrize("damage", FILES)
def test_damage_to_an_output_is_found(damaged, damage):
    root, ids = damaged
    invariant, do = FILES[damage]
    do(output_of(root, ids["succeeded"]))
    violations, _ = check(root / "data", root / "acks")
    assert len(violations) == 1
    assert violations[0].startswith(f"{invariant} ")


@pytest.mark.parametrize("left", ["work/x.1", "outputs/x/1", "uploads/" + "x" * 26])
def test_what_a_job_left_behind_is_found(damaged, left):
    root, _ = damaged
    (root / "data" / left).mkdir(parents=True)
    [violation] = check(root / "data", root / "acks")[0]
    assert violation.startswith("I8 x")


def test_a_worker_without_a_server_is_found(damaged):
    root, _ = damaged
    code = "import time; time.sleep(60)  # masklet.server.worker"
    left = subprocess.Popen([sys.executable, "-c", code, str(root / "data")])
    try:
        assert check(root / "data", root / "acks")[0] == [f"I8 {left.pid} is a worker whose server is gone"]
        assert check(root / "data", root / "acks", running=[left.pid])[0] == []
    finally:
        left.kill()
        left.wait()


@pytest.mark.parametrize(
    ("invariant", "ack"),
    [
        ("I1", {"did": "create", "id": "lost", "owner": "ann", "key": None, "frames": None, "canary": None}),
        ("I2", {"did": "saw", "id": "succeeded", "status": "canceled", "outputs": []}),
        ("I3", {"did": "saw", "id": "succeeded", "status": "succeeded", "outputs": ["frame_00000.png"]}),
        ("I5", {"did": "hook", "hook": "msg", "id": "canceled", "kind": "completed", "status": "succeeded"}),
        ("I6", {"did": "create", "id": "failed", "owner": "ann", "key": "succeeded", "frames": None, "canary": None}),
    ],
)
def test_what_clients_know_and_the_service_does_not_is_found(damaged, invariant, ack):
    root, ids = damaged
    note(root, **(ack | {"id": ids.get(ack["id"], ack["id"])}))
    violations, _ = check(root / "data", root / "acks")
    assert [line.split()[0] for line in violations] == [invariant]


def test_an_end_that_was_told_before_the_start_is_found(damaged):
    root, ids = damaged
    log = root / "acks" / "client.log"
    lines = log.read_text().splitlines()
    hooks = [line for line in lines if '"hook"' in line and ids["succeeded"] in line]
    log.write_text("\n".join([*[line for line in lines if line not in hooks], *hooks[::-1]]) + "\n")
    [violation] = check(root / "data", root / "acks")[0]
    assert violation.startswith(f"I7 {ids['succeeded']} webhooks came in the order ['completed'")


def test_a_line_that_a_kill_cut_is_no_promise(damaged):
    root, _ = damaged
    with (root / "acks" / "client.log").open("a") as log:
        log.write('{"did": "create", "id": "ha')
    assert check(root / "data", root / "acks")[0] == []
