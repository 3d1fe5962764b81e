"""A database that is locked, full, damaged, lost, older or newer: waited for, refused or migrated, never reset."""

import json
import os
import signal
import sqlite3
import threading
from dataclasses import replace

import pytest
from stores import ANY, accept, in_a_process, raw, see, succeed

from masklet.jobs import (
    StoreBusy,
    StoreRefused,
)
from masklet.jobs import schema as tables
from masklet.jobs.database import Database


def test_a_database_that_is_locked_for_a_while_is_waited_for(store):
    db = sqlite3.connect(store.folder.database, isolation_level=None, check_same_thread=False)
    db.execute("BEGIN IMMEDIATE")
    released = threading.Event()

    def release():
        released.set()
        db.execute("COMMIT")

    holder = threading.Timer(0.3, release)
    holder.start()
    try:
        prediction = accept(store)
        assert released.is_set()
        assert see(store, prediction) == prediction
    finally:
        holder.join()
        db.close()


def test_a_database_that_stays_locked_is_busy_and_reading_goes_on(opened):
    store = opened(busy_s=0.1)
    prediction = accept(store)
    db = raw(store)
    db.execute("BEGIN IMMEDIATE")
    try:
        with pytest.raises(StoreBusy, match="try again in a moment; nothing was changed"):
            store.create(ANY)
        with pytest.raises(StoreBusy):
            store.cancel(prediction.id, owner="ann")
        assert see(store, prediction) == prediction
    finally:
        db.close()
    assert len(store.list(owner=None).results) == 1
    assert accept(store).status == "starting"


def test_writers_of_one_process_wait_for_each_other_no_longer_than_for_another_process(tmp_path):
    database = Database(tmp_path / "masklet.db", reach=lambda point: None, busy_s=0.05)
    database.start(check=False)
    entered, left = threading.Event(), threading.Event()

    def hold():
        with database.write("first"):
            entered.set()
            left.wait(2)

    holder = threading.Thread(target=hold)
    holder.start()
    entered.wait(2)
    with pytest.raises(StoreBusy), database.write("second"):
        pass
    left.set()
    holder.join()
    with database.write("third") as db:
        db.execute("INSERT INTO tokens DEFAULT VALUES")
    database.close()


def test_every_commit_is_flushed_and_nothing_outlives_its_prediction(store, tmp_path):
    database = Database(store.folder.database, reach=lambda point: None)
    with database.read() as db:
        assert [db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("synchronous", "foreign_keys")] == [2, 1]
    database.close()


def test_what_people_send_is_for_this_user_alone(store):
    folders = (store.folder.root, store.folder.uploads, store.folder.outputs, store.folder.work)
    assert [folder.stat().st_mode & 0o777 for folder in folders] == [0o700] * 4


def test_a_failure_inside_a_transaction_changes_nothing(store, opened):
    class Interrupted(Exception):
        pass

    def reach(point):
        if point == "claim.before_commit":
            raise Interrupted

    prediction = accept(store)
    broken = opened(reach=reach)
    with pytest.raises(Interrupted):
        broken.queue.claim("w")
    assert see(store, prediction) == prediction
    assert broken.cancel(prediction.id, owner="ann").status == "canceled", "the connection is in order"


def damaged(store, how):
    """Close a store and damage its file; returns what is in it then."""
    for _ in range(200):
        accept(store, replace(ANY, input={"much": "x" * 500}))
    store.close()
    path = store.folder.database
    content = bytearray(path.read_bytes())
    how(content)
    path.write_bytes(content)
    return path, bytes(content)


@pytest.mark.parametrize(
    "how",
    [
        lambda content: content.__setitem__(slice(4096 * 3, 4096 * 12), os.urandom(4096 * 9)),
        lambda content: content.__delitem__(slice(4096 * 20, None)),
        lambda content: content.__setitem__(slice(0, 100), b"\0" * 100),
        lambda content: content.__setitem__(slice(0, 16), b"-- not SQLite --"),
    ],
    ids=["pages of noise", "cut short", "no header", "another kind of file"],
)
def test_a_damaged_database_is_refused_with_the_way_out_and_left_as_it_is(store, opened, how):
    path, content = damaged(store, how)
    with pytest.raises(StoreRefused, match=r"is damaged \(.*Restore masklet.db and masklet.db-wal from a backup"):
        opened(server=True)
    assert path.read_bytes() == content


def test_a_database_of_a_newer_masklet_is_refused_and_left_as_it_is(store, opened):
    version = len(tables.MIGRATIONS) + 1
    accept(store)
    db = raw(store)
    db.execute(f"PRAGMA user_version = {version}")
    db.close()
    store.close()
    content = store.folder.database.read_bytes()
    with pytest.raises(StoreRefused, match=f"schema version {version}, but this masklet knows versions up to"):
        opened(server=True)
    assert store.folder.database.read_bytes() == content


def test_an_older_database_is_brought_up_to_date_once_with_everything_in_it(store, opened, monkeypatch):
    prediction = succeed(store)
    store.close()
    calls = []

    def add_column(db):
        calls.append(1)
        db.execute("ALTER TABLE predictions ADD COLUMN note TEXT NOT NULL DEFAULT 'old'")

    monkeypatch.setattr(tables, "MIGRATIONS", (*tables.MIGRATIONS, add_column))
    newer = opened(server=True)
    assert see(newer, prediction) == prediction
    opened()
    assert calls == [1]
    assert accept(newer).status == "starting"


def test_predictions_of_the_first_schema_do_not_say_how_their_client_came(store, opened, monkeypatch):
    store.close()
    with monkeypatch.context() as patch:
        patch.setattr(tables, "MIGRATIONS", tables.MIGRATIONS[:1])
        store.folder.database.unlink()
        db = raw(store)
        tables.migrate(db)
        db.execute(
            "INSERT INTO predictions (id, owner, model, version, weights, input, source, request_hash, status, "
            "created_at, webhook_events) "
            "VALUES ('old', 'ann', 'm/n', 'v', 'nano', '{}', 'api', '', 'starting', 1, '[]')"
        )
        db.close()
    newer = opened(server=True)
    assert newer.get("old", owner="ann").base is None
    assert accept(newer, replace(ANY, base="http://masks.example")).base == "http://masks.example"


def test_a_migration_that_fails_leaves_the_database_as_it_was(store, opened, monkeypatch):
    prediction = accept(store)
    store.close()

    def breaks(db):
        db.execute("DROP TABLE events")
        raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(tables, "MIGRATIONS", (*tables.MIGRATIONS, breaks))
        with pytest.raises(RuntimeError, match="power cut"):
            opened(server=True)
    assert see(opened(server=True), prediction) == prediction


def test_a_folder_has_one_server_and_any_number_of_others(store, opened):
    with pytest.raises(StoreRefused, match="is in use by another masklet server: stop that one"):
        opened(server=True)
    other = opened()
    prediction = accept(other)
    store.close()
    assert see(opened(server=True), prediction) == prediction


def test_a_killed_server_leaves_its_folder_free(tmp_path, opened):
    died = in_a_process(
        """
        import os, signal, sys
        from pathlib import Path
        from masklet.jobs import JobStore
        store = JobStore(Path(sys.argv[1]), server=True)
        os.kill(os.getpid(), signal.SIGKILL)
        """,
        tmp_path / "data",
    )
    assert died.returncode == -signal.SIGKILL
    opened(server=True)


@pytest.mark.parametrize("lost", ["masklet.db-wal", "masklet.db"])
def test_a_lost_part_of_the_data_is_noticed_and_never_reset_silently(tmp_path, opened, lost):
    died = in_a_process(
        """
        import os, signal, sys
        from pathlib import Path
        from masklet.jobs import JobStore, NewPrediction
        store = JobStore(Path(sys.argv[1]), server=True)
        for i in range(3):
            store.create(NewPrediction(owner="ann", model="m/n", version="v", weights="nano", input={}))
        os.kill(os.getpid(), signal.SIGKILL)
        """,
        tmp_path / "data",
    )
    assert died.returncode == -signal.SIGKILL
    (tmp_path / "data" / lost).rename(tmp_path / "aside")
    if lost == "masklet.db":
        (tmp_path / "data" / "masklet.db-wal").unlink()
    with pytest.raises(StoreRefused, match=r"number 3 was accepted: its write-ahead log .* is missing"):
        opened(server=True)
    if lost == "masklet.db":
        assert not (tmp_path / "data" / "masklet.db").exists()
    (tmp_path / "data" / "masklet.db-mark").unlink()
    assert opened(server=True).list(owner=None).results == ()


def test_a_folder_that_may_not_be_written_is_refused(store):
    store.close()
    database = store.folder.database
    database.chmod(0o444)
    database.parent.chmod(0o555)
    for folder in database.parents[:-2]:
        if folder != database.parent:
            folder.chmod(folder.stat().st_mode | 0o055)
    refused = in_a_process(
        """
        import os, sys
        from pathlib import Path
        from masklet.jobs import JobStore, StoreRefused
        from masklet.errors import Problem
        if os.geteuid() == 0:  # whom no permission stops
            os.setgid(65534)
            os.setuid(65534)
        try:
            JobStore(Path(sys.argv[1]), server=len(sys.argv) > 2)
        except Problem as problem:
            print(type(problem).__name__, problem)
        """,
        database.parent,
    )
    database.parent.chmod(0o755)
    assert refused.stdout.startswith("StoreRefused"), refused.stdout + refused.stderr
    assert "cannot be written" in refused.stdout
    assert "choose another --data-dir" in refused.stdout


def test_a_full_disk_refuses_what_is_new_and_keeps_what_is_old(tmp_path, opened):
    """A limit on the size of files stands in for a full disk: the same writes fail, with another number."""
    store = opened(server=True)
    kept = succeed(store)
    store.close()
    size = store.folder.database.stat().st_size
    full = in_a_process(
        """
        import resource, signal, sys
        from pathlib import Path
        from masklet.errors import NoSpace
        from masklet.jobs import JobStore, NewPrediction
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        store = JobStore(Path(sys.argv[1]), server=True)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), limits[1]))
        big = NewPrediction(owner="ann", model="m/n", version="v", weights="nano", input={"x": "x" * 20_000})
        accepted = []
        try:
            for i in range(1000):
                accepted.append(store.create(big).prediction.id)
        except NoSpace as problem:
            print("refused", problem)
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        accepted.append(store.create(big).prediction.id)
        found = {p.id for p in store.list(owner="ann", limit=1000).results}
        print("all there" if set(accepted) <= found and len(found) == len(accepted) + 1 else "lost")
        """,
        tmp_path / "data",
        size + 100_000,
    )
    assert full.stdout.startswith("refused the server's disk"), full.stdout + full.stderr
    assert full.stdout.endswith("all there\n")
    assert see(opened(server=True), kept) == kept


def test_an_answer_in_the_database_is_strict_json(store):
    succeed(store)
    db = raw(store)
    try:
        texts = [row[0] for row in db.execute("SELECT data FROM events UNION ALL SELECT input FROM predictions")]
    finally:
        db.close()
    assert len(texts) == 4
    assert all(isinstance(json.loads(text), dict) for text in texts)
