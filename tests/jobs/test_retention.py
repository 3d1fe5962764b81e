"""Uploads and results are kept as long as promised, and nothing is left behind."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from stores import (
    ANY,
    EVERYTHING_IS_KEPT,
    HOOKED,
    NOTHING_IS_KEPT,
    accept,
    files_in,
    kinds,
    publish,
    raw,
    see,
    sent,
    succeed,
    upload,
)

from masklet.jobs import (
    Outcome,
    Retention,
    UnknownFile,
)

# Uploads


def test_an_upload_is_kept_for_its_owner_alone(store):
    kept = upload(store)
    assert kept.path.read_bytes() == b"film"
    assert (kept.size, kept.name, kept.content_type, kept.metadata) == (4, "a.mp4", "video/mp4", {})
    assert store.uploads.get(kept.id, owner="ann") == kept
    assert store.uploads.get(kept.id, owner="bob") is None
    assert store.uploads.list(owner="bob") == ()
    assert store.uploads.delete(kept.id, owner="bob") is False
    assert [path.name for path in store.folder.uploads.iterdir()] == [kept.id]


def test_the_newest_uploads_are_listed_first(store):
    ids = [upload(store).id for _ in range(3)]
    assert [kept.id for kept in store.uploads.list(owner="ann")] == ids[::-1]
    assert [kept.id for kept in store.uploads.list(owner="ann", limit=1)] == ids[-1:]


def test_what_an_owner_sends_again_inside_a_request_is_the_same_upload_and_kept_longer(store, hands):
    def send(owner="ann", content=b"film", keep_s=100.0):
        path = store.uploads.temporary()
        path.write_bytes(content)
        return store.uploads.add_content(owner, path, content_type="video/mp4", keep_s=keep_s)

    first = send()
    hands.go(10)
    assert send() == replace(first, expires_at=hands.wall + 100)
    assert send(keep_s=1.0).expires_at == hands.wall + 100, "and never less long"
    assert len({first.id, send("bob").id, send(content=b"another film").id}) == 3


def test_an_upload_is_gone_after_its_date_or_when_it_is_deleted(store, hands):
    old, deleted = upload(store, keep_s=10), upload(store)
    assert store.uploads.delete(deleted.id, owner="ann") is True
    assert store.uploads.delete(deleted.id, owner="ann") is False
    hands.go(11)
    assert store.uploads.get(old.id, owner="ann") is store.uploads.get(deleted.id, owner="ann") is None
    assert store.sweep(EVERYTHING_IS_KEPT).uploads == 2
    store.sweep(replace(EVERYTHING_IS_KEPT, unfinished_s=-1))
    assert list(store.folder.uploads.iterdir()) == []


def test_a_prediction_finds_its_upload_until_it_has_ended(store, hands):
    kept = upload(store, keep_s=10)
    prediction = accept(store, replace(ANY, files={"input_video": kept.id}))
    store.uploads.delete(kept.id, owner="ann")
    hands.go(11)
    store.sweep(replace(EVERYTHING_IS_KEPT, unfinished_s=-1))
    claim = store.queue.claim("w")
    assert claim.uploads["input_video"].read_bytes() == b"film"
    store.cancel(prediction.id, owner="ann")
    store.sweep(replace(EVERYTHING_IS_KEPT, unfinished_s=-1))
    assert not claim.uploads["input_video"].exists()


@pytest.mark.parametrize("whose", ["nobody", "bob", "expired"])
def test_a_prediction_cannot_name_an_upload_that_is_not_its_owners(store, hands, whose):
    id = {
        "nobody": lambda: "x" * 26,
        "bob": lambda: upload(store, "bob").id,
        "expired": lambda: upload(store, keep_s=-1).id,
    }[whose]()
    with pytest.raises(UnknownFile, match=r"input\.input_video names the upload .* does not exist or has expired"):
        store.create(replace(ANY, files={"input_video": id}))
    assert store.list(owner=None).results == ()


# What is over is removed


def test_data_goes_first_the_row_later_and_meanwhile_says_so(store, hands):
    done = succeed(store, accept(store, replace(ANY, key="k", files={"input_video": upload(store).id})))
    hands.go(100)
    young = succeed(store)
    kept = Retention(data_s=50, rows_s=1_000, unfinished_s=0)
    assert (store.sweep(kept).data, store.sweep(kept).data) == (1, 0)
    found = see(store, done)
    assert (found.status, found.data_removed, found.input, found.outputs, found.logs) == ("succeeded", True, {}, (), "")
    assert (found.completed_at, found.files, kinds(store, done)) == (done.completed_at, {}, [])
    assert store.find_output(done.id, "frame_00000.png") is None
    assert files_in(store.folder.outputs) == [f"{young.id}/{2}/frame_00000.png"]
    assert see(store, young) == young
    assert accept(store, replace(ANY, key="k", files=done.files)).id == done.id, "the key counts as long as the row"
    hands.go(1_000)
    assert store.sweep(replace(kept, data_s=5_000)).rows == 1
    assert see(store, done) is None


def test_what_has_not_ended_is_never_swept(store, hands):
    waiting, running = accept(store), accept(store)
    leases = [store.queue.claim("w").lease, store.queue.claim("w").lease]
    store.queue.release(leases[0])
    publish(store, leases[1])
    (store.folder.work_of(leases[1]) / "input").write_bytes(b"film")
    hands.go(10 * 365 * 86_400)
    swept = store.sweep(NOTHING_IS_KEPT)
    assert (swept.data, swept.rows, swept.orphans) == (0, 0, 0)
    assert [see(store, p).status for p in (waiting, running)] == ["starting", "processing"]
    assert see(store, running).outputs[0].path.exists()
    assert files_in(store.folder.work) == [f"{running.id}.2/input"]


def test_what_a_worker_has_written_is_there_to_be_published(store):
    prediction = accept(store)
    lease = store.queue.claim("w").lease
    (store.folder.outputs_of(lease) / "frame_00000.png").write_bytes(b"first")
    store.sweep(NOTHING_IS_KEPT)
    publish(store, lease, 1)
    assert files_in(store.folder.outputs / prediction.id) == ["1/frame_00000.png", "1/frame_00001.png"]


def test_data_waits_for_its_webhook(store, hands):
    done = accept(store, replace(HOOKED, webhook_events=("completed",)))
    store.cancel(done.id, owner="ann")
    hands.go(100)
    kept = Retention(data_s=50, rows_s=50)
    assert (store.sweep(kept).data, store.sweep(kept).rows) == (0, 0)
    sent(store)
    assert store.sweep(kept).data == 1
    assert see(store, done) is None


def test_one_sweep_removes_all_that_is_over_a_few_at_a_time(store, hands, monkeypatch):
    monkeypatch.setattr("masklet.jobs.sweep._AT_ONCE", 2)
    for _ in range(5):
        succeed(store)
    hands.go(100)
    assert store.sweep(Retention(data_s=50)).data == 5


def test_data_stays_for_a_while_after_its_webhook_was_given_up_so_that_it_can_be_sent_again(store, hands):
    kept = Retention(data_s=86_400)
    done = accept(store, replace(HOOKED, webhook_events=("completed",)))
    store.cancel(done.id, owner="ann")
    while store.counts().webhooks_pending:
        hands.go(60)
        for delivery in store.outbox.due():
            store.outbox.mark_failed(delivery.id, "HTTP 503")
        assert store.sweep(kept).data == 0
    assert hands.wall - done.created_at > kept.data_s
    hands.go(kept.data_s - 1)
    assert store.sweep(kept).data == 0
    assert (store.counts().webhooks_undelivered, store.outbox.resend(done.id)) == (1, 1)
    store.outbox.mark_failed(store.outbox.due()[0].id, "HTTP 410", final=True)
    hands.go(kept.data_s + 1)
    assert store.sweep(kept).data == 1
    assert store.outbox.resend(done.id) == 0, "there is nothing left to tell"


def test_a_predictions_webhooks_are_found_without_a_look_at_everybody_elses(store):
    db = raw(store)
    [plan] = db.execute("EXPLAIN QUERY PLAN DELETE FROM outbox WHERE prediction = ?", ("x",)).fetchall()
    assert plan[3].startswith("SEARCH outbox USING")
    db.close()


def test_data_waits_for_no_webhook_that_the_end_overtook(store, hands):
    done = accept(store, replace(HOOKED, webhook_events=("start",)))
    succeed(store, done)
    hands.go(100)
    store.outbox.mark_failed(store.outbox.due()[0].id, "HTTP 503")
    assert store.sweep(Retention(data_s=50)).data == 1


def test_what_crashes_left_behind_is_removed_and_nothing_else(store):
    done = succeed(store)
    crashed = accept(store)
    lease = store.queue.claim("w").lease
    (store.folder.outputs_of(lease) / "frame_00000.png").write_bytes(b"no row")
    (store.folder.work_of(lease) / "input").write_bytes(b"film")
    store.queue.worker_died("w", "it died")
    kept = upload(store)
    (store.folder.uploads / ("z" * 26)).write_bytes(b"renamed, but its row never came")
    store.uploads.temporary().write_bytes(b"half")
    assert store.sweep(EVERYTHING_IS_KEPT).orphans == 2, "young uploads may have their rows yet to come"
    assert store.sweep(replace(EVERYTHING_IS_KEPT, unfinished_s=-1)).orphans == 2
    assert files_in(store.folder.outputs) == [f"{done.id}/1/frame_00000.png"]
    assert files_in(store.folder.work) == []
    assert files_in(store.folder.uploads) == [kept.id]
    assert see(store, crashed).status == "starting"


def test_what_an_owner_deleted_leaves_the_disk_long_before_an_unfinished_upload(store):
    deleted, half = upload(store), store.uploads.temporary()
    half.write_bytes(b"half")
    store.uploads.delete(deleted.id, owner="ann")
    past = time.time() - EVERYTHING_IS_KEPT.unknown_s - 1
    for path in (deleted.path, half):
        os.utime(path, (past, past))
    assert EVERYTHING_IS_KEPT.unknown_s < EVERYTHING_IS_KEPT.unfinished_s
    store.sweep(EVERYTHING_IS_KEPT)
    assert list(store.folder.uploads.iterdir()) == [half]


def test_a_cancelled_predictions_files_are_removed(store):
    prediction = accept(store)
    publish(store, store.queue.claim("w").lease)
    store.cancel(prediction.id, owner="ann")
    store.sweep(EVERYTHING_IS_KEPT)
    assert list(store.folder.outputs.iterdir()) == []


def test_a_download_that_has_begun_ends(store, hands):
    done = succeed(store)
    with done.outputs[0].path.open("rb") as download:
        first = download.read(3)
        hands.go(100)
        store.sweep(NOTHING_IS_KEPT)
        assert not done.outputs[0].path.exists()
        assert first + download.read() == b"picture"


def test_a_sweep_between_a_predictions_folder_and_its_claims_stops_no_worker(store, monkeypatch):
    prediction = accept(store)
    lease = store.queue.claim("w").lease
    make, swept = os.mkdir, []

    def make_and_sweep(path, mode=0o777):
        make(path, mode)
        if Path(path).name == prediction.id and len(swept) < 2:
            store.sweep(EVERYTHING_IS_KEPT)
            swept.append(not Path(path).exists())

    monkeypatch.setattr(os, "mkdir", make_and_sweep)
    publish(store, lease)
    assert swept == [True, True]
    assert see(store, prediction).outputs[0].path.read_bytes() == b"picture"


def test_sweeping_beside_workers_takes_nothing_from_them(store, opened):
    stop = threading.Event()
    predictions = [accept(store) for _ in range(30)]

    def sweep():
        own = opened()
        while not stop.is_set():
            own.sweep(replace(EVERYTHING_IS_KEPT, unfinished_s=-1))

    def work(name):
        own = opened()
        while (claim := own.queue.claim(name)) is not None:
            publish(own, claim.lease, 0)
            publish(own, claim.lease, 1)
            own.queue.finish(claim.lease, Outcome("succeeded"), outputs=2)

    with ThreadPoolExecutor(3) as pool:
        sweeper = pool.submit(sweep)
        try:
            list(pool.map(work, ["w1", "w2"]))
        finally:
            stop.set()
        sweeper.result()
    for prediction in predictions:
        found = see(store, prediction)
        assert [output.path.read_bytes() for output in found.outputs] == [b"picture"] * 2
