"""What was kept as long as promised goes, and so does what a crash left behind. Rows first, files after.

A crash between leaves files that no row knows, which the next sweep finds.
"""

import math
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from masklet.jobs.database import Clock, Database
from masklet.jobs.folder import UNFINISHED, Folder, remove_tree

DAY_S = 86_400.0
_AT_ONCE = 200
"""Predictions a transaction, so that nobody waits long for one."""


@dataclass(frozen=True)
class Retention:
    """How long things are kept after their end."""

    data_s: float = DAY_S
    """Input, outputs and logs of a prediction; counted from the last try if the webhook of its end was given up."""
    rows_s: float = 30 * DAY_S
    """That it was, and how it ended; so long its idempotency key counts."""
    unfinished_s: float = 3_600.0
    """A temporary file that nobody has touched."""
    unknown_s: float = 300.0
    """An upload without a row: its owner deleted it, or its row is about to come."""


@dataclass(frozen=True)
class Swept:
    """What a sweep removed."""

    data: int
    rows: int
    uploads: int
    orphans: int


class Sweep:
    """Removes what is over."""

    def __init__(self, database: Database, folder: Folder, clock: Clock) -> None:
        self._database, self._folder, self._clock = database, folder, clock

    def run(self, retention: Retention, *, unfinished_before: float | None = None) -> Swept:
        """Sweep once; safe beside everything else that runs.

        `unfinished_before`: temporary files last touched before this time of the file system are nobody's.
        """
        now = self._clock.wall()
        if unfinished_before is None:
            unfinished_before = time.time() - retention.unfinished_s
        data = self._remove_data(now - retention.data_s)
        rows = self._remove_rows(now - retention.rows_s)
        uploads = self._remove_uploads(now)
        self._database.reach("sweep.before_files")
        unknown_before = max(unfinished_before, time.time() - retention.unknown_s)
        return Swept(data, rows, uploads, self._remove_orphans(unfinished_before, unknown_before))

    def _remove_data(self, before: float) -> int:
        count = 0
        old = "completed_at < ? AND data_removed = 0"
        # What the receiver of a webhook may still ask for stays until that is settled, and as long again after the
        # last try (`due_at`) of an end that was given up, so that it can be sent again.
        settled = (
            "NOT EXISTS (SELECT 1 FROM outbox o WHERE o.prediction = predictions.id AND (o.state = 'pending' "
            "OR (o.state = 'undelivered' AND o.kind = 'completed' AND o.due_at >= ?)))"
        )
        while True:
            with self._database.write("sweep") as db:
                ids = [
                    (row["id"],)
                    for row in db.execute(
                        f"SELECT id FROM predictions WHERE {old} AND {settled} LIMIT {_AT_ONCE}",  # noqa: S608
                        (before, before),
                    )
                ]
                db.executemany("DELETE FROM outputs WHERE prediction = ?", ids)
                db.executemany("DELETE FROM events WHERE prediction = ?", ids)
                db.executemany("DELETE FROM outbox WHERE prediction = ?", ids)
                db.executemany("DELETE FROM prediction_files WHERE prediction = ?", ids)
                db.executemany("UPDATE predictions SET data_removed = 1, input = '{}' WHERE id = ?", ids)
            count += len(ids)
            if len(ids) < _AT_ONCE:
                return count

    def _remove_rows(self, before: float) -> int:
        with self._database.write("sweep") as db:
            return db.execute("DELETE FROM predictions WHERE completed_at < ? AND data_removed = 1", (before,)).rowcount

    def _remove_uploads(self, now: float) -> int:
        with self._database.write("sweep") as db:
            return db.execute(
                "DELETE FROM files WHERE expires_at <= ? AND NOT EXISTS (SELECT 1 FROM prediction_files u "
                "JOIN predictions p ON p.id = u.prediction WHERE u.file = files.id "
                "AND p.status IN ('starting', 'processing'))",
                (now,),
            ).rowcount

    def _remove_orphans(self, unfinished_before: float, unknown_before: float) -> int:
        """Remove files that no row knows. The disk is read first: what a claim makes comes after its row."""
        orphans = [
            *self._claims_over(),
            *(
                path
                for path in self._unknown_uploads()
                if _touched_at(path) <= (unfinished_before if path.suffix == UNFINISHED else unknown_before)
            ),
        ]
        for path in orphans:
            if path.is_dir():
                remove_tree(path)
            else:
                path.unlink(missing_ok=True)
        for prediction in _inside(self._folder.outputs):
            with suppress(OSError):
                prediction.rmdir()  # if it is empty by now
        return len(orphans)

    def _unknown_uploads(self) -> list[Path]:
        """Find uploads without a row; the file comes first, so a young one may have its row yet to come."""
        found = _inside(self._folder.uploads)
        with self._database.read() as db:
            ids = {row["id"] for row in db.execute("SELECT id FROM files")}
        return [path for path in found if path.name not in ids]

    def _claims_over(self) -> list[Path]:
        """Find folders of claims that neither run nor have published anything that still counts."""
        results = [claim for prediction in _inside(self._folder.outputs) for claim in _inside(prediction)]
        work = _inside(self._folder.work)
        with self._database.read() as db:
            running = set(map(tuple, db.execute("SELECT id, token FROM predictions WHERE status = 'processing'")))
            published = set(map(tuple, db.execute("SELECT DISTINCT prediction, token FROM outputs")))
        kept = {f"{id}/{token}" for id, token in running | published}
        at_work = {f"{id}.{token}" for id, token in running}
        over = [path for path in results if f"{path.parent.name}/{path.name}" not in kept]
        return over + [path for path in work if path.name not in at_work]


def _inside(folder: Path) -> list[Path]:
    with suppress(FileNotFoundError, NotADirectoryError):
        return list(folder.iterdir())
    return []


def _touched_at(path: Path) -> float:
    with suppress(OSError):
        return path.stat().st_mtime
    return math.inf  # it is gone already
