"""Who runs what: claims by lease, everything a worker writes under one, and what happens when one is lost.

A lease ends by the monotonic clock, which no one can set, and with the server's start that gave it (`boot_id`). Every
write under a lease is refused once the prediction has ended or another worker has it.
"""

import sqlite3
from collections.abc import Collection
from dataclasses import dataclass

from masklet.jobs.database import Clock, Database
from masklet.jobs.folder import Durable, Folder
from masklet.jobs.journal import append, end
from masklet.jobs.records import ENDINGS, Claim, Lease, Outcome, Output, Role, as_json
from masklet.jobs.refusals import LeaseLost
from masklet.jobs.rows import as_output, as_prediction

LEASE_S = 10.0
MOST_CRASHES = 3
"""So many workers may die with a prediction before it is taken to be what kills them."""
MOST_ATTEMPTS = 12
"""So often a prediction is begun at all, restarts of the server included."""
MOST_LOG_CHARACTERS = 1_000_000

_RELEASED = "status = 'starting', worker = NULL, boot_id = NULL, claimed_monotonic = NULL, expires_monotonic = NULL"


@dataclass(frozen=True)
class Lost:
    """A prediction whose worker is gone."""

    prediction: str
    worker: str
    failed: bool
    """It was given up; otherwise it waits for the next worker."""


class Queue:
    """What workers, and who watches over them, do with predictions."""

    def __init__(self, database: Database, folder: Folder, clock: Clock, *, boot_id: str, machine: str) -> None:
        self._database, self._folder, self._clock = database, folder, clock
        self._boot_id, self._machine = boot_id, machine

    def claim(self, worker: str, *, weights: Collection[str] | None = None, lease_s: float = LEASE_S) -> Claim | None:
        """Take the next prediction (of these models, if given), or None when none waits.

        The owner who was served longest ago is next; within one, the oldest prediction.
        """
        allowed = None if weights is None else as_json(sorted(weights))
        with self._database.read() as db:
            if _next(db, allowed) is None:
                return None
        with self._database.write("claim") as db:
            while (row := _next(db, allowed)) is not None:
                if not self._expired(row):
                    return self._take(db, row, worker, lease_s)
                end(db, row["id"], _past_deadline(row), self._clock.wall())
        return None

    def _take(self, db: sqlite3.Connection, row: sqlite3.Row, worker: str, lease_s: float) -> Claim:
        token = db.execute("INSERT INTO tokens DEFAULT VALUES").lastrowid or 0
        db.execute("DELETE FROM tokens WHERE token < ?", (token,))
        now, monotonic = self._clock.wall(), self._clock.monotonic()
        db.execute(
            "UPDATE predictions SET status = 'processing', token = ?, worker = ?, boot_id = ?, claimed_monotonic = ?, "
            "expires_monotonic = ?, attempts = attempts + 1, started_at = coalesce(started_at, max(?, created_at)) "
            "WHERE id = ?",
            (token, worker, self._boot_id, monotonic, monotonic + lease_s, now, row["id"]),
        )
        db.execute("UPDATE turns SET token = ? WHERE owner = ?", (token, row["owner"]))
        if row["started_at"] is None:
            append(db, row["id"], "start", {"status": "processing", "attempt": row["attempts"] + 1}, now)
        taken = db.execute("SELECT * FROM predictions WHERE id = ?", (row["id"],)).fetchone()
        prediction = as_prediction(db, self._folder, taken)
        uploads = {name: self._folder.uploads / file for name, file in prediction.files.items()}
        return Claim(Lease(row["id"], token, worker), prediction, uploads)

    def holds(self, lease: Lease) -> None:
        """Raise `LeaseLost` unless the lease still counts; only reads, so it may be asked for every frame."""
        with self._database.read() as db:
            _fence(db, lease)

    def heartbeat(self, lease: Lease, *, lease_s: float = LEASE_S) -> None:
        """Say that the worker lives, and keep the lease for so much longer; raises `LeaseLost`."""
        with self._database.write("heartbeat") as db:
            _fence(db, lease)
            expires = self._clock.monotonic() + lease_s
            db.execute("UPDATE predictions SET expires_monotonic = ? WHERE id = ?", (expires, lease.prediction))

    def add_output(
        self, lease: Lease, file: Durable, *, position: int, content_type: str, role: Role = "output"
    ) -> Output:
        """Publish a file that `make_durable` has seen, from the lease's own folder; raises `LeaseLost`.

        A second attempt publishes the same positions again; clients hear of each once.
        """
        with self._database.write("output") as db:
            _fence(db, lease)
            known = db.execute(
                "SELECT 1 FROM outputs WHERE prediction = ? AND role = ? AND position = ?",
                (lease.prediction, role, position),
            ).fetchone()
            db.execute(
                "INSERT OR REPLACE INTO outputs (prediction, role, position, name, token, sha256, size, content_type) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (lease.prediction, role, position, file.path.name, lease.token, file.sha256, file.size, content_type),
            )
            if known is None and role == "output":
                data = {"position": position, "name": file.path.name}
                append(db, lease.prediction, "output", data, self._clock.wall())
            row = db.execute(
                "SELECT * FROM outputs WHERE prediction = ? AND role = ? AND position = ?",
                (lease.prediction, role, position),
            ).fetchone()
            return as_output(self._folder, row)

    def add_logs(self, lease: Lease, text: str) -> None:
        """Append to the logs, up to `MOST_LOG_CHARACTERS` in all; raises `LeaseLost`."""
        with self._database.write("logs") as db:
            row = _fence(db, lease)
            text = text[: MOST_LOG_CHARACTERS - row["log_characters"]]
            if not text:
                return
            db.execute(
                "UPDATE predictions SET log_characters = log_characters + ? WHERE id = ?", (len(text), lease.prediction)
            )
            append(db, lease.prediction, "logs", {"text": text}, self._clock.wall())

    def finish(self, lease: Lease, outcome: Outcome, *, outputs: int | None = None) -> None:
        """Give the prediction its final state; raises `LeaseLost`.

        One that succeeded says how many `outputs` it has, and all of them must be there and be of this lease; what an
        earlier attempt left is taken back.
        """
        with self._database.write("finish") as db:
            _fence(db, lease)
            if outcome.status == "succeeded":
                _check_outputs(db, lease, outputs)
            end(db, lease.prediction, outcome, self._clock.wall())

    def discard(self, lease: Lease) -> None:
        """Remove the files of a lost lease, unless some were published and still count: those the sweep takes."""
        with self._database.read() as db:
            published = db.execute(
                "SELECT 1 FROM outputs WHERE prediction = ? AND token = ?", (lease.prediction, lease.token)
            ).fetchone()
        # Nothing can be published under a lost lease in between.
        if published is None:
            self._folder.discard(lease)

    def release(self, lease: Lease) -> None:
        """Put a prediction back because its worker stops for reasons of its own: it does not count as an attempt."""
        with self._database.write("release") as db:
            _fence(db, lease)
            db.execute(
                f"UPDATE predictions SET {_RELEASED}, attempts = attempts - 1 WHERE id = ?",  # noqa: S608
                (lease.prediction,),
            )

    def release_worker(self, worker: str) -> list[str]:
        """As `release`, for whatever a worker has that was stopped on purpose; returns the predictions."""
        with self._database.write("release") as db:
            mine = "worker = ? AND boot_id = ? AND status = 'processing'"
            found = db.execute(f"SELECT id FROM predictions WHERE {mine}", (worker, self._boot_id)).fetchall()  # noqa: S608
            db.execute(
                f"UPDATE predictions SET {_RELEASED}, attempts = attempts - 1 WHERE {mine}",  # noqa: S608
                (worker, self._boot_id),
            )
            return [row["id"] for row in found]

    def worker_died(self, worker: str, why: str) -> list[Lost]:
        """Put back what a dead worker had, or give it up after `MOST_CRASHES`; `why` is for the owner to read."""
        with self._database.write("requeue") as db:
            rows = db.execute(
                "SELECT * FROM predictions WHERE status = 'processing' AND worker = ? AND boot_id = ?",
                (worker, self._boot_id),
            ).fetchall()
            return [self._lose(db, row, why, crashed=True) for row in rows]

    def requeue_lost(self) -> list[Lost]:
        """Put back what was claimed before this start of the server, and what no heartbeat has kept in time."""
        monotonic = self._clock.monotonic()
        lost = "status = 'processing' AND (boot_id <> ? OR expires_monotonic < ?)"
        with self._database.read() as db:
            if db.execute(f"SELECT 1 FROM predictions WHERE {lost}", (self._boot_id, monotonic)).fetchone() is None:  # noqa: S608
                return []
        with self._database.write("requeue") as db:
            rows = db.execute(f"SELECT * FROM predictions WHERE {lost}", (self._boot_id, monotonic)).fetchall()  # noqa: S608
            # A restart of the server is no fault of the prediction; a worker that fell silent may be.
            return [
                self._lose(db, row, "its worker stopped answering", crashed=row["boot_id"] == self._boot_id)
                for row in rows
            ]

    def _lose(self, db: sqlite3.Connection, row: sqlite3.Row, why: str, *, crashed: bool) -> Lost:
        crashes = row["crashes"] + crashed
        db.execute("UPDATE predictions SET crashes = ? WHERE id = ?", (crashes, row["id"]))
        given_up = crashes >= MOST_CRASHES or row["attempts"] >= MOST_ATTEMPTS
        if given_up:
            text = f"It was given up after {row['attempts']} attempts: {why}."
            end(db, row["id"], Outcome("failed", text, "E_WORKER_CRASHED"), self._clock.wall())
        else:
            db.execute(f"UPDATE predictions SET {_RELEASED} WHERE id = ?", (row["id"],))  # noqa: S608
        return Lost(row["id"], row["worker"], given_up)

    def expire(self, *, most_run_s: float | None = None) -> list[str]:
        """End what is past its deadline, and what one attempt has run longer than it may; returns the predictions."""
        with self._database.read() as db:
            if not self._late(db, most_run_s):
                return []
        with self._database.write("expire") as db:
            now = self._clock.wall()
            return [id for id, outcome in self._late(db, most_run_s) if end(db, id, outcome, now)]

    def _late(self, db: sqlite3.Connection, most_run_s: float | None) -> list[tuple[str, Outcome]]:
        dated = db.execute(
            "SELECT * FROM predictions WHERE deadline IS NOT NULL AND status IN ('starting', 'processing')"
        ).fetchall()
        late = [(row["id"], _past_deadline(row)) for row in dated if self._expired(row)]
        if most_run_s is None:
            return late
        ran_out = db.execute(
            "SELECT id FROM predictions WHERE status = 'processing' AND boot_id = ? AND claimed_monotonic < ?",
            (self._boot_id, self._clock.monotonic() - most_run_s),
        )
        text = f"It ran for {most_run_s:g} s, the longest that one may: shorten the video, or ask for a faster model."
        return late + [(row["id"], Outcome("failed", text, "E_TIMEOUT")) for row in ran_out]

    def _expired(self, row: sqlite3.Row) -> bool:
        """Whether a deadline has passed: by the monotonic clock as long as it is the same one."""
        if row["deadline"] is None:
            return False
        if row["deadline_machine"] == self._machine:
            return bool(row["deadline_monotonic"] <= self._clock.monotonic())
        return bool(row["deadline"] <= self._clock.wall())


def _past_deadline(row: sqlite3.Row) -> Outcome:
    if row["started_at"] is None:
        return Outcome("aborted", "Its deadline passed before its turn came.", "E_DEADLINE")
    return Outcome("canceled", "Its deadline passed while it ran.", "E_DEADLINE")


def _next(db: sqlite3.Connection, weights: str | None) -> sqlite3.Row | None:
    """Find the oldest waiting prediction of the owner who was served longest ago; `weights` is a JSON list."""
    fits = "status = 'starting' AND (?1 IS NULL OR weights IN (SELECT value FROM json_each(?1)))"
    owner = db.execute(
        f"SELECT owner FROM turns t WHERE EXISTS (SELECT 1 FROM predictions p WHERE p.owner = t.owner AND {fits}) "  # noqa: S608
        "ORDER BY token LIMIT 1",
        (weights,),
    ).fetchone()
    if owner is None:
        return None
    row: sqlite3.Row | None = db.execute(
        f"SELECT * FROM predictions WHERE owner = ?2 AND {fits} ORDER BY number LIMIT 1",  # noqa: S608
        (weights, owner["owner"]),
    ).fetchone()
    return row


def _fence(db: sqlite3.Connection, lease: Lease) -> sqlite3.Row:
    """Return the prediction's row if the lease still counts."""
    row: sqlite3.Row | None = db.execute("SELECT * FROM predictions WHERE id = ?", (lease.prediction,)).fetchone()
    if row is None or row["status"] in ENDINGS:
        raise LeaseLost(lease.prediction, "ended")
    if row["status"] != "processing" or row["token"] != lease.token:
        raise LeaseLost(lease.prediction, "taken over")
    return row


def _check_outputs(db: sqlite3.Connection, lease: Lease, expected: int | None) -> None:
    db.execute("DELETE FROM outputs WHERE prediction = ? AND token <> ?", (lease.prediction, lease.token))
    [found] = db.execute(
        "SELECT count(*) FROM outputs WHERE prediction = ? AND role = 'output' AND position < ?",
        (lease.prediction, expected),
    ).fetchone()
    if expected is None or found != expected:
        raise ValueError(f"{lease.prediction} cannot have succeeded: {expected} outputs were made, {found} published")
