"""The changes of state that several verbs share: every event is appended, and every prediction ended, here.

All work inside a transaction of the caller.
"""

import sqlite3
from collections.abc import Mapping
from typing import Any

from masklet.jobs.records import EventKind, Outcome, as_json, new_id

WEBHOOK_PAUSE_S = 0.5
"""Between two `output` webhooks of a prediction, and between two `logs`; what happens meanwhile goes with the next."""
PACED: tuple[EventKind, ...] = ("output", "logs")


def append(db: sqlite3.Connection, prediction: str, kind: EventKind, data: Mapping[str, Any], now: float) -> int:
    """Append an event, and the webhook it causes; returns its number."""
    cursor = db.execute(
        "INSERT INTO events (prediction, kind, data, created_at) VALUES (?, ?, ?, ?)",
        (prediction, kind, as_json(data), now),
    )
    seq = cursor.lastrowid or 0
    if (url := _wanted_at(db, prediction, kind)) is not None:
        _enqueue(db, prediction, kind, url, seq, now)
    return seq


def _wanted_at(db: sqlite3.Connection, prediction: str, kind: EventKind) -> str | None:
    """Return the address that is to be told of events of a kind, if any is."""
    hook = db.execute("SELECT webhook, webhook_events FROM predictions WHERE id = ?", (prediction,)).fetchone()
    url: str | None = hook["webhook"] if f'"{kind}"' in hook["webhook_events"] else None
    return url


def _next_webhook(db: sqlite3.Connection, prediction: str) -> int:
    """Return the number of the oldest webhook that waits, 0 if none does: it alone may be on its way."""
    [number] = db.execute(
        "SELECT coalesce(min(number), 0) FROM outbox INDEXED BY outbox_pending "
        "WHERE prediction = ? AND state = 'pending'",
        (prediction,),
    ).fetchone()
    return int(number)


def _enqueue(db: sqlite3.Connection, prediction: str, kind: EventKind, url: str, seq: int, now: float) -> None:
    due = now
    if kind in PACED:
        last = db.execute(
            "SELECT number, state, tries, due_at FROM outbox WHERE prediction = ? AND kind = ? "
            "ORDER BY number DESC LIMIT 1",
            (prediction, kind),
        ).fetchone()
        untold = last is not None and last["state"] == "pending" and last["tries"] == 0
        if untold and (last["due_at"] > now or last["number"] > _next_webhook(db, prediction)):
            # What follows it must not show less than it does.
            db.execute(
                "UPDATE outbox SET seq = ? WHERE prediction = ? AND state = 'pending' AND number >= ?",
                (seq, prediction, last["number"]),
            )
            return
        if last is not None:
            # Not beyond one pause: a clock that was set back must not hold webhooks back.
            due = min(max(now, last["due_at"] + WEBHOOK_PAUSE_S), now + WEBHOOK_PAUSE_S)
    db.execute(
        "INSERT INTO outbox (id, prediction, kind, url, seq, due_at) VALUES (?, ?, ?, ?, ?, ?)",
        (f"msg_{new_id()}", prediction, kind, url, seq, due),
    )


def end(db: sqlite3.Connection, prediction: str, outcome: Outcome, now: float) -> bool:
    """Give a prediction its final state, unless it has one; returns whether this did it.

    A cancelled one has no outputs from then on.
    """
    changed = db.execute(
        "UPDATE predictions SET status = ?, error = ?, error_code = ?, metrics = ?, "
        "completed_at = max(?, created_at, coalesce(started_at, 0)), "
        "worker = NULL, boot_id = NULL, claimed_monotonic = NULL, expires_monotonic = NULL "
        "WHERE id = ? AND status IN ('starting', 'processing')",
        (outcome.status, outcome.error, outcome.error_code, as_json(dict(outcome.metrics)), now, prediction),
    ).rowcount
    if not changed:
        return False
    if outcome.status in ("canceled", "aborted"):
        db.execute("DELETE FROM outputs WHERE prediction = ?", (prediction,))
        # Nobody waits for the pictures of something cancelled.
        _drop_paced(db, prediction, after=0)
    elif _wanted_at(db, prediction, "completed") is not None:
        # The end tells all that they would, and a slow receiver should not have to hear them first.
        _drop_paced(db, prediction, after=_next_webhook(db, prediction))
    data = {"status": outcome.status, "error": outcome.error, "error_code": outcome.error_code}
    append(db, prediction, "completed", data, now)
    return True


def _drop_paced(db: sqlite3.Connection, prediction: str, *, after: int) -> None:
    """Drop the webhooks of outputs and logs that wait, with greater numbers; `start` stays: the order is whole."""
    db.execute(
        "DELETE FROM outbox WHERE prediction = ? AND state = 'pending' AND kind IN ('output', 'logs') AND number > ?",
        (prediction, after),
    )
