"""Webhooks waiting to be sent: written with the event that causes them, so that a crash between loses none.

Those of one prediction go in order. `completed` is tried for more than a day; the others, overtaken by what follows,
once. Retries follow the wall clock, because they outlive the machine's.
"""

import sqlite3
from collections.abc import Callable, Collection
from itertools import islice

from masklet.jobs.database import Clock, Database
from masklet.jobs.folder import Folder
from masklet.jobs.records import Delivery
from masklet.jobs.rows import as_prediction

PAUSES_S = (10, 30, 120, 600, 1_800, 3_600, 3_600 * 2, 3_600 * 4, 3_600 * 6, 3_600 * 6, 3_600 * 6)
"""Before the second, third, ... try of a `completed` webhook: 12 tries over about 26 hours."""


class Outbox:
    """The webhooks' table."""

    def __init__(self, database: Database, folder: Folder, clock: Clock) -> None:
        self._database, self._folder, self._clock = database, folder, clock

    def due(
        self, *, limit: int = 100, busy: Collection[str] = (), wants: Callable[[str], bool] = lambda url: True
    ) -> tuple[Delivery, ...]:
        """Return what should be sent now: at most the oldest of each prediction; `busy` ids are being sent already.

        `wants` is asked about each url in turn until there are enough, and what it wants is returned.
        """
        with self._database.read() as db:
            # No limit here: thousands that nobody wants now must not hide one behind them.
            rows = db.execute(
                "SELECT o.id, o.prediction, o.kind, o.url, o.seq, o.tries FROM outbox o "
                "WHERE o.state = 'pending' AND o.due_at <= ? AND NOT EXISTS "
                "(SELECT 1 FROM outbox e INDEXED BY outbox_pending WHERE e.state = 'pending' "
                "AND e.prediction = o.prediction AND e.number < o.number) ORDER BY o.due_at, o.number",
                (self._clock.wall(),),
            )
            wanted = (row for row in rows if row["id"] not in busy and wants(row["url"]))
            return tuple(self._delivery(db, row) for row in islice(wanted, limit))

    def _delivery(self, db: sqlite3.Connection, row: sqlite3.Row) -> Delivery:
        event = db.execute("SELECT seq, kind FROM events WHERE seq = ?", (row["seq"],)).fetchone()
        about = db.execute("SELECT * FROM predictions WHERE id = ?", (row["prediction"],)).fetchone()
        prediction = as_prediction(db, self._folder, about, as_of=event)
        return Delivery(row["id"], row["kind"], row["url"], prediction, row["tries"])

    def mark_delivered(self, id: str) -> None:
        """Note that the receiver has it."""
        with self._database.write("delivered") as db:
            db.execute(
                "UPDATE outbox SET state = 'delivered', tries = tries + 1, last_answer = 'delivered' WHERE id = ?",
                (id,),
            )

    def mark_failed(self, id: str, answer: str, *, final: bool = False) -> bool:
        """Note a failed try; returns whether there will be another. `final`: the receiver will never take it."""
        with self._database.write("delivered") as db:
            row = db.execute("SELECT kind, tries FROM outbox WHERE id = ?", (id,)).fetchone()
            if row is None:
                return False
            again = not final and row["kind"] == "completed" and row["tries"] < len(PAUSES_S)
            due = self._clock.wall() + (PAUSES_S[row["tries"]] if again else 0)
            db.execute(
                "UPDATE outbox SET state = ?, tries = tries + 1, due_at = ?, last_answer = ? WHERE id = ?",
                ("pending" if again else "undelivered", due, answer[:200], id),
            )
            return again

    def resend(self, prediction: str) -> int:
        """Try the end again that was given up; returns how many. The caller has checked the owner.

        Only the end: whatever else was given up is overtaken by it, and would come out of order.
        """
        with self._database.write("resend") as db:
            return db.execute(
                "UPDATE outbox SET state = 'pending', tries = 0, due_at = ? WHERE prediction = ? AND "
                "state = 'undelivered' AND kind = 'completed'",
                (self._clock.wall(), prediction),
            ).rowcount
