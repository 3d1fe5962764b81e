"""The durable store of predictions: the one object that doors, workers and the supervisor share.

    with JobStore(folder, server=True) as store:
        created = store.create(NewPrediction(...))          # committed when this returns
        store.get(id, owner=...)                            # None: unknown, or another's
        store.events.after(seq, prediction=id)              # for streams
        store.uploads / store.outbox / store.queue          # files in, webhooks out, workers

Everything blocks (a create for one flush of the disk, a read for microseconds): call it from a thread, not from an
event loop. Any number of threads and processes may use one data folder at once, one of them as its server.
"""

import secrets
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from masklet.jobs.database import BUSY_S, Clock, Database
from masklet.jobs.events import Events
from masklet.jobs.folder import Folder
from masklet.jobs.journal import end
from masklet.jobs.outbox import Outbox
from masklet.jobs.queue import Queue
from masklet.jobs.records import (
    Counts,
    Created,
    NewPrediction,
    Outcome,
    Output,
    Page,
    Prediction,
    Status,
    as_json,
    new_id,
)
from masklet.jobs.refusals import KeyReused, QueueFull, UnknownFile
from masklet.jobs.rows import as_output, as_prediction
from masklet.jobs.sweep import Retention, Sweep, Swept
from masklet.jobs.uploads import Uploads

PAGE = 100


@dataclass(frozen=True)
class Limits:
    """What is accepted at most."""

    waiting: int = 10_000
    waiting_per_owner: int = 2_000
    room_bytes: int = 256 * 2**20
    """With less than this free on the disk nothing new is accepted."""


def _machine() -> str:
    """Name this boot of the machine: its monotonic clock means something only until the next."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return secrets.token_hex(8)


@dataclass(frozen=True)
class Surroundings:
    """What a store takes from the world around it; tests replace it."""

    clock: Clock = field(default_factory=Clock)
    machine: str = field(default_factory=_machine)
    reach: Callable[[str], None] = lambda point: None
    """Called with the name of each point that a crash is tested at."""
    busy_s: float = BUSY_S
    """How long a call waits for the database."""


class JobStore:
    """A data folder, opened. `server`: as the one that serves it, which examines, migrates and locks it first.

    `boot_id` names one start of the server: leases of another one count for nothing. Workers are given their server's.
    Raises `StoreRefused` for a folder that cannot be used or trusted; nothing is ever reset silently.
    """

    def __init__(
        self,
        root: Path,
        *,
        server: bool = False,
        boot_id: str | None = None,
        limits: Limits | None = None,
        surroundings: Surroundings | None = None,
    ) -> None:
        surroundings = surroundings or Surroundings()
        self.folder = Folder(root)
        self.boot_id = boot_id or secrets.token_hex(8)
        self._limits = limits or Limits()
        self._clock = surroundings.clock
        self._machine = surroundings.machine
        self._database = Database(self.folder.database, reach=surroundings.reach, busy_s=surroundings.busy_s)
        self.queue = Queue(self._database, self.folder, self._clock, boot_id=self.boot_id, machine=self._machine)
        self.events = Events(self._database)
        self.outbox = Outbox(self._database, self.folder, self._clock)
        self.uploads = Uploads(self._database, self.folder, self._clock)
        self._sweep = Sweep(self._database, self.folder, self._clock)
        self.folder.make()
        try:
            if server:
                self.folder.lock()
                self._refuse_a_lost_database()
            self._database.start(check=server)
            if server:
                self.folder.check_mark(self._highest())
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections, and give the folder back."""
        self._database.close()
        self.folder.unlock()

    def create(self, new: NewPrediction) -> Created:
        """Accept a prediction; when this returns it is on the disk.

        The same key (or chosen id) with the same request gives the prediction that was made first. Raises `KeyReused`
        for another request, `QueueFull`, `UnknownFile`, `NoSpace`, `StoreBusy`.
        """
        digest = new.digest()
        with self._database.write("create") as db:
            known = _known(db, new)
            if known is not None:
                return Created(self._same(db, known, new, digest), fresh=False)
            self.folder.check_room(self._limits.room_bytes)
            self._check_queue(db, new.owner)
            number = self._insert(db, new, digest)
            row = db.execute("SELECT * FROM predictions WHERE number = ?", (number,)).fetchone()
            prediction = as_prediction(db, self.folder, row)
        self.folder.mark(number)
        return Created(prediction, fresh=True)

    def _same(self, db: sqlite3.Connection, known: sqlite3.Row, new: NewPrediction, digest: str) -> Prediction:
        if known["owner"] != new.owner:
            raise KeyReused(f"the id {new.id!r} is taken, for all owners of a server share its ids: choose another")
        if known["request_hash"] != digest:
            what = "the id" if new.key is None else "the idempotency key"
            raise KeyReused(f"{what} was used before with another request: choose a new one, or send the same request")
        return as_prediction(db, self.folder, known)

    def _check_queue(self, db: sqlite3.Connection, owner: str) -> None:
        for what, limit, clause, values in (
            ("all together", self._limits.waiting, "", ()),
            ("yours", self._limits.waiting_per_owner, "AND owner = ?", (owner,)),
        ):
            [count] = db.execute(
                f"SELECT count(*) FROM predictions WHERE status = 'starting' {clause}",  # noqa: S608
                values,
            ).fetchone()
            if count >= limit:
                raise QueueFull(f"{count} predictions wait ({what}), and the limit is {limit}: try again when some ran")

    def _insert(self, db: sqlite3.Connection, new: NewPrediction, digest: str) -> int:
        id = new.id or new_id()
        now, monotonic, within = self._clock.wall(), self._clock.monotonic(), new.cancel_after_s
        row = {
            "id": id,
            "owner": new.owner,
            "model": new.model,
            "version": new.version,
            "weights": new.weights,
            "input": as_json(dict(new.input)),
            "source": new.source,
            "request_hash": digest,
            "idempotency_key": new.key,
            "status": "starting",
            "created_at": now,
            "deadline": None if within is None else now + within,
            "deadline_monotonic": None if within is None else monotonic + within,
            "deadline_machine": self._machine,
            "webhook": new.webhook,
            "webhook_events": as_json(list(new.webhook_events)),
            "base": new.base,
        }
        cursor = db.execute(
            f"INSERT INTO predictions ({', '.join(row)}) VALUES ({', '.join(':' + name for name in row)})",  # noqa: S608
            row,
        )
        db.execute("INSERT OR IGNORE INTO turns (owner) VALUES (?)", (new.owner,))
        for name, file in new.files.items():
            _check_upload(db, new.owner, name, file, now)
            db.execute("INSERT INTO prediction_files (prediction, field, file) VALUES (?, ?, ?)", (id, name, file))
        return cursor.lastrowid or 0

    def get(self, id: str, *, owner: str | None) -> Prediction | None:
        """Return a prediction, or None for one that is unknown or another's; owner None: anybody's."""
        with self._database.read() as db:
            row = _row(db, id, owner)
            return None if row is None else as_prediction(db, self.folder, row)

    def status(self, id: str, *, owner: str | None) -> Status | None:
        """Return a prediction's status alone, which costs as little however much it has made; None as for `get`."""
        with self._database.read() as db:
            row = db.execute(
                "SELECT status FROM predictions WHERE id = ? AND (? IS NULL OR owner = ?)", (id, owner, owner)
            ).fetchone()
            return None if row is None else row["status"]

    def list(
        self,
        *,
        owner: str | None,
        cursor: str | None = None,
        limit: int = PAGE,
        created_after: float | None = None,
        created_before: float | None = None,
    ) -> Page:
        """Return a page of predictions, newest first; `cursor` is a page's `next` or `previous`, owner None: all.

        Raises ValueError for a cursor that this method did not make.
        """
        newer, number = _parse_cursor(cursor)
        clause = f"number {'>' if newer else '<'} :number"
        clauses = ["(:owner IS NULL OR owner = :owner)", "(:after IS NULL OR created_at >= :after)"]
        clauses += ["(:before IS NULL OR created_at < :before)"]
        values = {
            "owner": owner,
            "number": number,
            "after": created_after,
            "before": created_before,
            "limit": limit + 1,
        }
        order = "ASC" if newer else "DESC"
        with self._database.read() as db:
            rows = db.execute(
                f"SELECT * FROM predictions WHERE {' AND '.join([clause, *clauses])} "  # noqa: S608
                f"ORDER BY number {order} LIMIT :limit",
                values,
            ).fetchall()
            more, rows = len(rows) > limit, rows[:limit]
            if newer:
                rows.reverse()
            results = tuple(as_prediction(db, self.folder, row) for row in rows)
        has_next, has_previous = (True, more) if newer else (more, cursor is not None)
        return Page(
            results,
            next=f"b{results[-1].number}" if results and has_next else None,
            previous=f"a{results[0].number}" if results and has_previous else None,
        )

    def cancel(self, id: str, *, owner: str | None) -> Prediction | None:
        """End a prediction that has not ended, at once: its worker is refused from now on and stops at its next frame.

        Returns it as it is then, or None for one that is unknown or another's.
        """
        with self._database.write("cancel") as db:
            if _row(db, id, owner) is None:
                return None
            end(db, id, Outcome("canceled", "It was cancelled.", "E_CANCELED"), self._clock.wall())
            row = _row(db, id, owner)
            return None if row is None else as_prediction(db, self.folder, row)

    def find_output(self, id: str, name: str) -> Output | None:
        """Return a published file; the caller has checked a signature or the owner. None: there is none (any more)."""
        with self._database.read() as db:
            row = db.execute("SELECT * FROM outputs WHERE prediction = ? AND name = ?", (id, name)).fetchone()
            return None if row is None else as_output(self.folder, row)

    def runs(self, *, owner: str) -> dict[str, int]:
        """Count an owner's predictions by the model's name, as far back as they are kept."""
        with self._database.read() as db:
            rows = db.execute("SELECT model, count(*) FROM predictions WHERE owner = ? GROUP BY model", (owner,))
            return {row[0]: row[1] for row in rows}

    def counts(self) -> Counts:
        """Count what there is."""
        with self._database.read() as db:
            by_status = dict(map(tuple, db.execute("SELECT status, count(*) FROM predictions GROUP BY status")))
            [oldest] = db.execute("SELECT min(created_at) FROM predictions WHERE status = 'starting'").fetchone()
            hooks = dict(map(tuple, db.execute("SELECT state, count(*) FROM outbox GROUP BY state")))
        waits = 0.0 if oldest is None else max(0.0, self._clock.wall() - oldest)
        return Counts(by_status, waits, hooks.get("pending", 0), hooks.get("undelivered", 0))

    def version(self) -> int:
        """Return a number that changes whenever anything was committed, by any process.

        It costs microseconds: poll it (every 20 ms, say) and look at the tables only when it changed.
        """
        return self._database.version()

    def secret(self, name: str) -> bytes:
        """Return 32 random bytes that stay the same for this data folder, made when first asked for."""
        with self._database.read() as db:
            row = db.execute("SELECT value FROM secrets WHERE name = ?", (name,)).fetchone()
        if row is None:
            with self._database.write("secret") as db:
                db.execute("INSERT OR IGNORE INTO secrets VALUES (?, ?)", (name, secrets.token_bytes(32)))
                row = db.execute("SELECT value FROM secrets WHERE name = ?", (name,)).fetchone()
        return bytes(row["value"])

    def sweep(self, retention: Retention, *, unfinished_before: float | None = None) -> Swept:
        """Remove what was kept as long as promised, and what a crash left behind.

        `unfinished_before` is for a server that starts: temporary files from before then are nobody's, however young.
        """
        return self._sweep.run(retention, unfinished_before=unfinished_before)

    def _highest(self) -> int:
        with self._database.read() as db:
            row = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'predictions'").fetchone()
            return 0 if row is None else int(row["seq"])

    def _refuse_a_lost_database(self) -> None:
        if not self.folder.database.exists():
            self.folder.check_mark(0)


def _row(db: sqlite3.Connection, id: str, owner: str | None) -> sqlite3.Row | None:
    row: sqlite3.Row | None = db.execute(
        "SELECT * FROM predictions WHERE id = ? AND (? IS NULL OR owner = ?)", (id, owner, owner)
    ).fetchone()
    return row


def _known(db: sqlite3.Connection, new: NewPrediction) -> sqlite3.Row | None:
    """Find what an earlier create with this key or id made."""
    row: sqlite3.Row | None = None
    if new.key is not None:
        row = db.execute(
            "SELECT * FROM predictions WHERE owner = ? AND idempotency_key = ?", (new.owner, new.key)
        ).fetchone()
    if row is None and new.id is not None:
        row = db.execute("SELECT * FROM predictions WHERE id = ?", (new.id,)).fetchone()
    return row


def _check_upload(db: sqlite3.Connection, owner: str, field: str, file: str, now: float) -> None:
    known = db.execute(
        "SELECT 1 FROM files WHERE id = ? AND owner = ? AND expires_at > ?", (file, owner, now)
    ).fetchone()
    if known is None:
        raise UnknownFile(
            f"input.{field} names the upload {file}, which does not exist or has expired: upload it again"
        )


def _parse_cursor(cursor: str | None) -> tuple[bool, int]:
    """Read `b17` (before number 17: older) or `a17` (after it: newer)."""
    if cursor is None:
        return False, 2**62
    if cursor[:1] not in ("a", "b") or not cursor[1:].isascii() or not cursor[1:].isdigit() or len(cursor) > 19:
        raise ValueError(f"{cursor[:40]!r} is not a page cursor: follow the links of a page")
    return cursor[0] == "a", int(cursor[1:])
