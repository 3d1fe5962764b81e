"""Tables, one migration after another. A released migration is never changed; a new one goes at the end."""

import sqlite3
from collections.abc import Callable, Sequence

from masklet.jobs.refusals import StoreRefused

Migration = Callable[[sqlite3.Connection], None]

_FIRST = """
CREATE TABLE predictions (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    model TEXT NOT NULL,
    version TEXT NOT NULL,
    weights TEXT NOT NULL,
    input TEXT NOT NULL,
    source TEXT NOT NULL,
    request_hash TEXT NOT NULL,
    idempotency_key TEXT,
    status TEXT NOT NULL
        CHECK (status IN ('starting', 'processing', 'succeeded', 'failed', 'canceled', 'aborted')),
    error TEXT,
    error_code TEXT,
    metrics TEXT NOT NULL DEFAULT '{}',
    log_characters INTEGER NOT NULL DEFAULT 0,
    created_at REAL NOT NULL,
    started_at REAL,
    completed_at REAL,
    deadline REAL,
    deadline_monotonic REAL,
    deadline_machine TEXT,
    webhook TEXT,
    webhook_events TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    crashes INTEGER NOT NULL DEFAULT 0,
    token INTEGER,
    worker TEXT,
    boot_id TEXT,
    claimed_monotonic REAL,
    expires_monotonic REAL,
    data_removed INTEGER NOT NULL DEFAULT 0,
    CHECK ((status = 'processing') = (worker IS NOT NULL)),
    CHECK ((status = 'processing') = (expires_monotonic IS NOT NULL)),
    CHECK ((status IN ('starting', 'processing')) = (completed_at IS NULL)),
    CHECK ((status IN ('failed', 'aborted')) <= (error_code IS NOT NULL))
);
CREATE INDEX predictions_by_owner ON predictions (owner, number);
CREATE INDEX predictions_waiting ON predictions (owner, number) WHERE status = 'starting';
CREATE INDEX predictions_running ON predictions (worker) WHERE status = 'processing';
CREATE INDEX predictions_with_deadline ON predictions (deadline)
    WHERE deadline IS NOT NULL AND status IN ('starting', 'processing');
CREATE INDEX predictions_completed ON predictions (completed_at) WHERE completed_at IS NOT NULL;
CREATE UNIQUE INDEX predictions_key ON predictions (owner, idempotency_key) WHERE idempotency_key IS NOT NULL;

-- Whatever a program does wrong, a final state stays final.
CREATE TRIGGER final_states_stay BEFORE UPDATE OF status ON predictions
WHEN OLD.status NOT IN ('starting', 'processing') AND NEW.status <> OLD.status
BEGIN SELECT RAISE(ABORT, 'a final state never changes'); END;

CREATE TABLE events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    prediction TEXT NOT NULL REFERENCES predictions (id) ON DELETE CASCADE,
    kind TEXT NOT NULL CHECK (kind IN ('start', 'output', 'logs', 'completed')),
    data TEXT NOT NULL,
    created_at REAL NOT NULL
);
CREATE INDEX events_by_prediction ON events (prediction, seq);
CREATE UNIQUE INDEX events_once ON events (prediction, kind) WHERE kind IN ('start', 'completed');
CREATE TRIGGER events_stay BEFORE UPDATE ON events
BEGIN SELECT RAISE(ABORT, 'events are never changed'); END;

CREATE TABLE outputs (
    prediction TEXT NOT NULL REFERENCES predictions (id) ON DELETE CASCADE,
    role TEXT NOT NULL CHECK (role IN ('output', 'manifest')),
    position INTEGER NOT NULL,
    name TEXT NOT NULL,
    token INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    size INTEGER NOT NULL,
    content_type TEXT NOT NULL,
    PRIMARY KEY (prediction, role, position),
    UNIQUE (prediction, name)
);

CREATE TABLE outbox (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    prediction TEXT NOT NULL REFERENCES predictions (id) ON DELETE CASCADE,
    kind TEXT NOT NULL,
    url TEXT NOT NULL,
    seq INTEGER NOT NULL,
    state TEXT NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'delivered', 'undelivered')),
    tries INTEGER NOT NULL DEFAULT 0,
    due_at REAL NOT NULL,
    last_answer TEXT
);
CREATE INDEX outbox_pending ON outbox (prediction, number) WHERE state = 'pending';

CREATE TABLE files (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    name TEXT NOT NULL,
    content_type TEXT NOT NULL,
    size INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    metadata TEXT NOT NULL,
    created_at REAL NOT NULL,
    expires_at REAL NOT NULL
);
CREATE INDEX files_by_owner ON files (owner, number);

-- An upload in use outlives its date, and a deletion by its owner.
CREATE TABLE prediction_files (
    prediction TEXT NOT NULL REFERENCES predictions (id) ON DELETE CASCADE,
    field TEXT NOT NULL,
    file TEXT NOT NULL,
    PRIMARY KEY (prediction, field)
);
CREATE INDEX prediction_files_by_file ON prediction_files (file);

-- The owner whose last claim is longest ago is next, so that nobody's thousand predictions keep the others waiting.
CREATE TABLE turns (owner TEXT PRIMARY KEY, token INTEGER NOT NULL DEFAULT 0);
CREATE TABLE tokens (token INTEGER PRIMARY KEY AUTOINCREMENT);
CREATE TABLE secrets (name TEXT PRIMARY KEY, value BLOB NOT NULL);
"""


def _first(db: sqlite3.Connection) -> None:
    for statement in _statements(_FIRST):
        db.execute(statement)


def _add_base(db: sqlite3.Connection) -> None:
    db.execute("ALTER TABLE predictions ADD COLUMN base TEXT")


def _index_outbox(db: sqlite3.Connection) -> None:
    # The sweep looks for the delivered ones too. What is pending has an index of its own, which SQLite is told to use
    # where a prediction may have thousands of others.
    db.execute("CREATE INDEX outbox_by_prediction ON outbox (prediction)")


MIGRATIONS: Sequence[Migration] = (_first, _add_base, _index_outbox)


def migrate(db: sqlite3.Connection) -> None:
    """Bring a database up to date, each step whole or not at all; raises `StoreRefused` for one from the future."""
    version = schema_version(db)
    if version > len(MIGRATIONS):
        raise StoreRefused(
            f"the database has schema version {version}, but this masklet knows versions up to {len(MIGRATIONS)}: "
            "start the newer masklet that wrote it, or restore the backup made before that upgrade"
        )
    while version < len(MIGRATIONS):
        db.execute("BEGIN IMMEDIATE")
        try:
            # Another process may have migrated while this one waited for the lock.
            version = schema_version(db)
            if version < len(MIGRATIONS):
                MIGRATIONS[version](db)
                version += 1
                db.execute(f"PRAGMA user_version = {version}")
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise


def schema_version(db: sqlite3.Connection) -> int:
    """Return how many migrations a database has had."""
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _statements(script: str) -> list[str]:
    """Cut a script: `executescript` would commit the transaction that the migration runs in."""
    statements, rest = [], ""
    for line in script.splitlines():
        rest += line + "\n"
        if sqlite3.complete_statement(rest):
            statements.append(rest)
            rest = ""
    return statements
