"""What happened, in order: feeds streams (`Last-Event-ID` is a `seq`)."""

from masklet.jobs.database import Database
from masklet.jobs.records import Event
from masklet.jobs.rows import as_event

MOST_AT_ONCE = 500


class Events:
    """The append-only table of events."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def after(self, seq: int, *, prediction: str, limit: int = MOST_AT_ONCE) -> tuple[Event, ...]:
        """Return a prediction's events after a number, oldest first; 0 for all. The caller has checked the owner."""
        with self._database.read() as db:
            rows = db.execute(
                "SELECT * FROM events WHERE prediction = ? AND seq > ? ORDER BY seq LIMIT ?", (prediction, seq, limit)
            )
            return tuple(as_event(row) for row in rows)

    def changed(self, seq: int) -> tuple[int, frozenset[str]]:
        """Return the number of the last event, and which predictions had one after `seq`: who waits is woken by it.

        The first call, with -1, only gives the number to go on from.
        """
        with self._database.read() as db:
            if seq < 0:
                row = db.execute("SELECT coalesce(max(seq), 0) FROM events").fetchone()
                return int(row[0]), frozenset()
            rows = db.execute("SELECT seq, prediction FROM events WHERE seq > ? ORDER BY seq", (seq,)).fetchall()
            return (rows[-1]["seq"] if rows else seq), frozenset(row["prediction"] for row in rows)
