"""Connections and transactions. What `write` has committed outlives a killed process and a power cut.

SQLite in WAL mode with `synchronous=FULL`: readers never wait, writers take turns, a commit is on the disk.
"""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, LifoQueue
from threading import Lock

from masklet.errors import NoSpace
from masklet.jobs.refusals import StoreBusy, StoreRefused
from masklet.jobs.schema import migrate

BUSY_S = 10.0
"""How long a call waits for the database before it is `StoreBusy`."""
_WAL_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Clock:
    """The two clocks: what people read, which may jump, and what leases are measured by, which only goes forward."""

    wall: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic


class Database:
    """One database file, for any number of threads. `reach` is called with the name of each point a crash may hit."""

    def __init__(self, path: Path, *, reach: Callable[[str], None], busy_s: float = BUSY_S) -> None:
        self.path = path
        self.reach = reach
        self._busy_s = busy_s
        self._idle: LifoQueue[sqlite3.Connection] = LifoQueue()
        # SQLite makes waiting writers sleep and try again; within a process a lock is fair and wakes at once.
        self._writing = Lock()
        self._watcher: sqlite3.Connection | None = None
        self._watching = Lock()

    def start(self, *, check: bool) -> None:
        """Open, examine (`check`) and migrate; raises `StoreRefused` for a database that cannot be trusted."""
        with _refusals(self.path):
            db = self._take()
            try:
                if check:
                    _check_pages(db, self.path)
                migrate(db)
            finally:
                self._give(db)

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection that sees one moment."""
        with _refusals(self.path):
            db = self._take()
            try:
                db.execute("BEGIN")
                yield db
            finally:
                self._give(db)

    @contextmanager
    def write(self, verb: str) -> Iterator[sqlite3.Connection]:
        """Yield a connection whose changes are all on the disk when the block has ended, or none are.

        Crash points: `VERB.before_commit` and `VERB.after_commit`.
        """
        if not self._writing.acquire(timeout=self._busy_s):
            raise _busy(self._busy_s)
        try:
            with _refusals(self.path):
                db = self._take()
                try:
                    db.execute("BEGIN IMMEDIATE")
                    yield db
                    self.reach(f"{verb}.before_commit")
                    db.execute("COMMIT")
                finally:
                    self._give(db)
        finally:
            self._writing.release()
        self.reach(f"{verb}.after_commit")

    def version(self) -> int:
        """Return a number that changes whenever any process commits a change; microseconds, so it may be polled."""
        with self._watching, _refusals(self.path):
            if self._watcher is None:
                self._watcher = self._connect()
            return int(self._watcher.execute("PRAGMA data_version").fetchone()[0])

    def close(self) -> None:
        """Close every connection that is not in use."""
        with suppress(Empty):
            while True:
                self._idle.get_nowait().close()
        with self._watching:
            if self._watcher is not None:
                self._watcher.close()
                self._watcher = None

    def _take(self) -> sqlite3.Connection:
        try:
            return self._idle.get_nowait()
        except Empty:
            return self._connect()

    def _give(self, db: sqlite3.Connection) -> None:
        """End what was not committed and keep the connection for the next."""
        try:
            if db.in_transaction:
                db.execute("ROLLBACK")
        except sqlite3.Error:
            db.close()
        else:
            self._idle.put(db)

    def _connect(self) -> sqlite3.Connection:
        # Transactions are begun and ended in words here; each connection is used by one thread at a time.
        db = sqlite3.connect(self.path, timeout=self._busy_s, isolation_level=None, check_same_thread=False)
        try:
            db.row_factory = sqlite3.Row
            mode = db.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            if mode != "wal":
                raise StoreRefused(
                    f"{self.path} cannot use a write-ahead log (it says {mode!r}): put the data folder on a local disk"
                )
            db.execute("PRAGMA synchronous = FULL")
            db.execute("PRAGMA foreign_keys = ON")
            db.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
        except BaseException:
            db.close()
            raise
        return db


def _check_pages(db: sqlite3.Connection, path: Path) -> None:
    found = [row[0] for row in db.execute("PRAGMA quick_check(3)")]
    if found != ["ok"]:
        raise _damaged(path, "; ".join(line for text in found for line in str(text).splitlines()[:3]))


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """Say SQLite's errors in words that help; mistakes of this program stay what they are."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise _busy(BUSY_S) from error
        if code == sqlite3.SQLITE_FULL:
            raise NoSpace("the server's disk is full: try again when there is room; nothing was changed") from error
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise _damaged(path, str(error)) from error
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
            raise StoreRefused(
                f"{path} cannot be written ({error}): let this user write to it and to its folder, or choose another "
                "--data-dir"
            ) from error
        if code == sqlite3.SQLITE_IOERR:
            raise NoSpace(
                f"the server's disk refused to write ({error}); nothing was changed: check the disk"
            ) from error
        raise


def _busy(waited_s: float) -> StoreBusy:
    return StoreBusy(f"the database was locked for {waited_s:g} s: try again in a moment; nothing was changed")


def _damaged(path: Path, what: str) -> StoreRefused:
    return StoreRefused(
        f"{path} is damaged ({what}). Nothing was changed. Restore masklet.db and masklet.db-wal from a backup, "
        f"or save what can be read: sqlite3 {path.name} .recover | sqlite3 recovered.db"
    )
