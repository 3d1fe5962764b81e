"""Answers already given, kept on disk: one row per object and frame, so that a video's length costs no memory."""

import sqlite3
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from masklet.errors import NoSpace
from masklet.masks import decode_rle, encode_rle

LOGITS_PER_UNIT = 4
"""Logits serve as a later prompt, clamped to +-32: a quarter is fine enough, and an eighth of the bytes."""


@dataclass(frozen=True, eq=False)
class Answer:
    """One object on one frame."""

    mask: NDArray[np.bool_]
    """`[h, w]`, source size."""
    score: float
    iou: float
    logits: NDArray[np.float32]
    """`[4h, 4w]`, the network's own size."""
    tracked: bool | None
    """Whether a pass went over this frame, and how: True backward, False forward, None not yet."""


class Results:
    """A private temporary database, deleted with the object. `exact` keeps logits in float32, else in quarters."""

    def __init__(self, *, height: int, width: int, exact: bool = False) -> None:
        self._size = [height, width]
        self._exact = exact
        # An empty name is SQLite's own temporary file: it spills to disk and vanishes with the connection.
        self._rows = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._rows.execute("pragma journal_mode = off")
        self._rows.execute(
            "create table answers (object text, frame integer, counts text, score real, iou real, logits blob, "
            "height integer, tracked integer, primary key (object, frame)) without rowid"
        )
        self._rows.execute("create table shown (object text, frame integer, primary key (object, frame)) without rowid")

    def put(self, name: str, frame: int, answer: Answer) -> None:
        """Store an answer in place of an older one; raises `NoSpace`."""
        row = (encode_rle(answer.mask)["counts"], answer.score, answer.iou, self._pack(answer.logits))
        key = (name, frame)
        try:
            self._rows.execute(
                "insert or replace into answers values (?, ?, ?, ?, ?, ?, ?, ?)",
                (*key, *row, len(answer.logits), answer.tracked),
            )
            if answer.tracked is not None:
                self._rows.execute("insert or ignore into shown values (?, ?)", key)
        except sqlite3.OperationalError as error:
            raise NoSpace(
                f"Cannot keep masks among the temporary files ({error}): make room, or set TMPDIR to a larger disk."
            ) from error

    def get(self, name: str, frame: int) -> Answer | None:
        """Return what is known of an object on a frame."""
        query = "select counts, score, iou, logits, height, tracked from answers where object = ? and frame = ?"
        row = self._rows.execute(query, (name, frame)).fetchone()
        if row is None:
            return None
        counts, score, iou, logits, height, tracked = row
        mask = decode_rle({"size": self._size, "counts": counts})
        return Answer(mask, score, iou, self._unpack(logits, height), None if tracked is None else bool(tracked))

    def was_shown(self, name: str, frame: int) -> bool:
        """Tell whether a pass ever answered an object on a frame, even if that was dropped since."""
        query = "select 1 from shown where object = ? and frame = ?"
        return self._rows.execute(query, (name, frame)).fetchone() is not None

    def drop(self, name: str, frames: range) -> None:
        """Drop an object's answers on some frames, as they are stale."""
        self._rows.execute(
            "delete from answers where object = ? and frame >= ? and frame < ?", (name, frames.start, frames.stop)
        )

    def forget(self, name: str) -> None:
        """Forget an object."""
        self._rows.execute("delete from answers where object = ?", (name,))
        self._rows.execute("delete from shown where object = ?", (name,))

    def gaps(self, name: str, frames: range) -> Iterator[range]:
        """Yield the runs of frames on which nothing is known of an object."""
        query = "select frame from answers where object = ? and frame >= ? and frame < ? order by frame"
        expected = frames.start
        for (frame,) in self._rows.execute(query, (name, frames.start, frames.stop)):
            if frame > expected:
                yield range(expected, frame)
            expected = frame + 1
        if expected < frames.stop:
            yield range(expected, frames.stop)

    def close(self) -> None:
        """Delete everything."""
        self._rows.close()

    def _pack(self, logits: NDArray[np.float32]) -> bytes:
        if self._exact:
            return logits.tobytes()
        quarters = np.rint(logits * LOGITS_PER_UNIT).clip(-127, 127).astype(np.int8)
        return zlib.compress(quarters.tobytes(), 1)

    def _unpack(self, blob: bytes, height: int) -> NDArray[np.float32]:
        if self._exact:
            return np.frombuffer(bytearray(blob), np.float32).reshape(height, -1)  # writable, as torch wants it
        quarters = np.frombuffer(zlib.decompress(blob), np.int8)
        return np.asarray(quarters.reshape(height, -1) / LOGITS_PER_UNIT, np.float32)
