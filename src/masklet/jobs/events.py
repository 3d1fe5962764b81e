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
