"""Rows as values."""

import json
import sqlite3
from collections.abc import Sequence

from masklet.jobs.folder import Folder
from masklet.jobs.records import Event, Output, Prediction, StoredFile


def as_prediction(
    db: sqlite3.Connection, folder: Folder, row: sqlite3.Row, *, as_of: sqlite3.Row | None = None
) -> Prediction:
    """Put a prediction together; `as_of` is an event: then as it was when that had just happened."""
    before_the_end = as_of is not None and as_of["kind"] != "completed"
    seq = as_of["seq"] if as_of is not None and before_the_end else None
    outputs = _outputs(db, folder, row["id"], seq)
    return Prediction(
        id=row["id"],
        number=row["number"],
        owner=row["owner"],
        model=row["model"],
        version=row["version"],
        weights=row["weights"],
        input=json.loads(row["input"]),
        files=dict(
            db.execute("SELECT field, file FROM prediction_files WHERE prediction = ?", (row["id"],)).fetchall()
        ),
        source=row["source"],
        base=row["base"],
        status="processing" if before_the_end else row["status"],
        error=None if before_the_end else row["error"],
        error_code=None if before_the_end else row["error_code"],
        logs=_logs(db, row["id"], seq),
        outputs=tuple(output for role, output in outputs if role == "output"),
        manifest=next((output for role, output in outputs if role == "manifest"), None),
        metrics={} if before_the_end else json.loads(row["metrics"]),
        created_at=row["created_at"],
        started_at=row["started_at"],
        completed_at=None if before_the_end else row["completed_at"],
        deadline=row["deadline"],
        webhook=row["webhook"],
        webhook_events=tuple(json.loads(row["webhook_events"])),
        attempts=row["attempts"],
        crashes=row["crashes"],
        worker=row["worker"],
        data_removed=bool(row["data_removed"]),
    )


def _logs(db: sqlite3.Connection, prediction: str, seq: int | None) -> str:
    rows = db.execute(
        "SELECT data FROM events WHERE prediction = ? AND kind = 'logs' AND (? IS NULL OR seq <= ?) ORDER BY seq",
        (prediction, seq, seq),
    )
    return "".join(json.loads(row["data"])["text"] for row in rows)


def _outputs(db: sqlite3.Connection, folder: Folder, prediction: str, seq: int | None) -> Sequence[tuple[str, Output]]:
    rows = db.execute("SELECT * FROM outputs WHERE prediction = ? ORDER BY position", (prediction,)).fetchall()
    if seq is not None:
        # Each position has one event, in order.
        [count] = db.execute(
            "SELECT count(*) FROM events WHERE prediction = ? AND kind = 'output' AND seq <= ?", (prediction, seq)
        ).fetchone()
        rows = [row for row in rows if row["role"] == "output" and row["position"] < count]
    return [(row["role"], as_output(folder, row)) for row in rows]


def as_output(folder: Folder, row: sqlite3.Row) -> Output:
    """Return an output with the path of its file."""
    return Output(
        position=row["position"],
        name=row["name"],
        path=folder.output(row["prediction"], row["token"], row["name"]),
        sha256=row["sha256"],
        size=row["size"],
        content_type=row["content_type"],
    )


def as_event(row: sqlite3.Row) -> Event:
    """Return an event."""
    return Event(row["seq"], row["prediction"], row["kind"], json.loads(row["data"]), row["created_at"])


def as_file(folder: Folder, row: sqlite3.Row) -> StoredFile:
    """Return an upload with the path of its file."""
    return StoredFile(
        id=row["id"],
        owner=row["owner"],
        name=row["name"],
        content_type=row["content_type"],
        size=row["size"],
        sha256=row["sha256"],
        metadata=json.loads(row["metadata"]),
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        path=folder.uploads / row["id"],
    )
