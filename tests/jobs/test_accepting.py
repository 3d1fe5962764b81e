"""What the store has accepted stays as it was asked for, and is seen by its owner alone."""

import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from stores import ANY, HOOKED, accept, in_a_process, see, succeed

from masklet.errors import NoSpace
from masklet.jobs import (
    KeyReused,
    Limits,
    QueueFull,
)

# Accepting


def test_what_was_accepted_is_there_after_the_process_is_killed(tmp_path, opened):
    died = in_a_process(
        """
        import os, signal, sys
        from pathlib import Path
        from masklet.jobs import JobStore, NewPrediction
        store = JobStore(Path(sys.argv[1]), server=True)
        for i in range(5):
            new = NewPrediction(owner="ann", model="m/n", version="v", weights="nano", input={"n": i})
            print(store.create(new).prediction.id, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
        """,
        tmp_path / "data",
    )
    assert died.returncode == -signal.SIGKILL
    accepted = died.stdout.split()
    assert len(accepted) == 5
    assert [p.id for p in opened(server=True).list(owner="ann").results] == accepted[::-1]


def test_a_prediction_waits_as_it_was_asked_for(store, hands):
    new = replace(HOOKED, input={"click_coordinates": "[1,2]", "unicode": "ü\u2028"}, webhook_events=("completed",))
    found = accept(store, replace(new, cancel_after_s=60.0, key="k"))
    assert (found.owner, found.model, found.version, found.weights) == ("ann", "meta/sam-2-video", "v1", "nano")
    assert (found.input, found.webhook, found.webhook_events) == (new.input, new.webhook, ("completed",))
    assert (found.status, found.ended, found.outputs, found.logs, found.error) == ("starting", False, (), "", None)
    assert (found.created_at, found.started_at, found.deadline) == (hands.wall, None, hands.wall + 60)
    assert found == store.get(found.id, owner="ann")


def test_ids_are_26_letters_and_digits_and_all_different(store):
    ids = {accept(store).id for _ in range(50)}
    assert len(ids) == 50
    assert all(len(id) == 26 and id.isascii() and id.isalnum() and id == id.lower() for id in ids)


def test_a_key_makes_one_prediction_however_often_and_at_once_it_is_sent(store):
    new = replace(ANY, key="the key")
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(store.create, [new] * 100))
    assert len({answer.prediction.id for answer in answers}) == 1
    assert sum(answer.fresh for answer in answers) == 1
    assert len(store.list(owner="ann").results) == 1


def test_a_key_counts_whichever_way_its_client_reaches_the_server(store):
    made = [accept(store, replace(ANY, key="k", base=f"http://{host}")) for host in ("10.0.0.1", "masks.example")]
    assert [prediction.base for prediction in made] == ["http://10.0.0.1"] * 2
    assert made[0].id == made[1].id


@pytest.mark.parametrize(
    "change",
    [
        {"input": {"click_frames": "1"}},
        {"model": "masklet/nano"},
        {"version": "v2"},
        {"webhook": "http://127.0.0.1/other"},
        {"webhook_events": ("completed",)},
        {"files": {"input_video": "another"}},
        {"cancel_after_s": 5.0},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_key_does_not_serve_for_another_request(store, change):
    first = accept(store, replace(ANY, key="k"))
    with pytest.raises(KeyReused, match="choose a new one, or send the same request"):
        store.create(replace(ANY, key="k", **change))
    assert [p.id for p in store.list(owner=None).results] == [first.id]


def test_two_owners_may_choose_the_same_key(store):
    assert accept(store, replace(ANY, key="k")).id != accept(store, replace(ANY, key="k", owner="bob")).id


def test_an_id_that_the_client_chose_works_like_a_key(store):
    chosen = replace(ANY, id="my-own")
    assert accept(store, chosen).id == accept(store, chosen).id == "my-own"
    with pytest.raises(KeyReused, match="the id was used before"):
        store.create(replace(chosen, input={}))
    assert store.get("my-own", owner="bob") is None


def test_an_id_that_another_owner_chose_is_said_to_be_taken(store):
    accept(store, replace(ANY, id="chosen", owner="ann"))
    with pytest.raises(KeyReused, match=r"the id 'chosen' is taken.*choose another$"):
        store.create(replace(ANY, id="chosen", owner="bob"))


def test_a_full_queue_refuses_and_running_predictions_are_not_in_it(opened):
    store = opened(limits=Limits(waiting=3, waiting_per_owner=2, room_bytes=1))
    accept(store)
    accept(store)
    with pytest.raises(QueueFull, match=r"2 predictions wait \(yours\), and the limit is 2"):
        store.create(ANY)
    accept(store, replace(ANY, owner="bob"))
    with pytest.raises(QueueFull, match="3 predictions wait"):
        store.create(replace(ANY, owner="eve"))
    store.queue.claim("worker")
    assert accept(store, replace(ANY, owner="eve")).status == "starting"


def test_a_repeated_request_is_answered_although_the_queue_or_the_disk_is_full(opened):
    store = opened(limits=Limits(waiting=1))
    first = accept(store, replace(ANY, key="k"))
    for full in (store, opened(limits=Limits(room_bytes=2**60))):
        assert accept(full, replace(ANY, key="k")).id == first.id


def test_nothing_is_accepted_when_the_disk_is_nearly_full(opened):
    store = opened(limits=Limits(room_bytes=2**60))
    with pytest.raises(NoSpace, match="MB free and keeps"):
        store.create(ANY)
    assert store.list(owner=None).results == ()


def test_what_json_cannot_say_is_not_stored(store):
    with pytest.raises(ValueError, match="Out of range float"):
        store.create(replace(ANY, input={"x": float("nan")}))
    assert store.list(owner=None).results == ()


# Reading


def test_what_is_unknown_and_what_is_anothers_look_the_same(store):
    mine = accept(store)
    assert store.get(mine.id, owner="bob") is store.get("nothing", owner="ann") is None
    assert store.status(mine.id, owner="bob") is store.status("nothing", owner="ann") is None
    assert store.cancel(mine.id, owner="bob") is store.cancel("nothing", owner="ann") is None
    assert store.list(owner="bob").results == ()
    assert see(store, mine).status == "starting"


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8])
def test_pages_lead_through_everything_once_and_back(store, limit):
    ids = [accept(store).id for _ in range(7)][::-1]
    accept(store, replace(ANY, owner="bob"))
    forward, page = [], store.list(owner="ann", limit=limit)
    forward += page.results
    assert page.previous is None
    while page.next:
        page = store.list(owner="ann", limit=limit, cursor=page.next)
        forward += page.results
    assert [p.id for p in forward] == ids
    backward = [*page.results]
    while page.previous:
        page = store.list(owner="ann", limit=limit, cursor=page.previous)
        backward = [*page.results, *backward]
    assert [p.id for p in backward] == ids


def test_what_is_created_meanwhile_is_found_by_going_back(store):
    old = [accept(store) for _ in range(3)][::-1]
    second = store.list(owner="ann", limit=1, cursor=store.list(owner="ann", limit=1).next)
    new = accept(store)
    back = store.list(owner="ann", limit=5, cursor=second.previous)
    assert [p.id for p in back.results] == [new.id, old[0].id]
    assert back.previous is None


def test_lists_can_be_limited_in_time_and_have_an_order_that_no_clock_changes(store, hands):
    first = accept(store)
    hands.wall -= 3_600
    second = accept(store)
    hands.wall += 7_200
    third = accept(store)
    assert [p.id for p in store.list(owner="ann").results] == [third.id, second.id, first.id]
    between = store.list(owner="ann", created_after=first.created_at, created_before=third.created_at)
    assert [p.id for p in between.results] == [first.id]


@pytest.mark.parametrize("cursor", ["", "7", "c7", "b", "b-1", "b1e3", "b٣", "a" + "9" * 40])
def test_a_made_up_cursor_is_refused(store, cursor):
    with pytest.raises(ValueError, match="is not a page cursor"):
        store.list(owner="ann", cursor=cursor)


def test_everything_is_counted(store, hands):
    succeed(store)
    accept(store, HOOKED)
    hands.go(30)
    accept(store)
    store.cancel(accept(store).id, owner="ann")
    counts = store.counts()
    assert counts.by_status == {"succeeded": 1, "starting": 2, "canceled": 1}
    assert counts.oldest_waiting_s == 30
    assert (counts.webhooks_pending, counts.webhooks_undelivered) == (0, 0)
    hands.go(-3_600)
    assert store.counts().oldest_waiting_s == 0, "a clock that was set back makes no wait negative"


def test_events_are_read_on_from_the_last_one_heard(store):
    first, second = succeed(store, outputs=2), accept(store)
    store.cancel(second.id, owner="ann")
    heard = store.events.after(0, prediction=first.id)
    assert [event.kind for event in heard] == ["start", "output", "output", "completed"]
    for i, event in enumerate(heard):
        assert store.events.after(event.seq, prediction=first.id) == heard[i + 1 :]
    assert store.events.after(0, prediction=first.id, limit=3) == heard[:3]


def test_who_waits_is_woken_by_what_happened_since_and_not_by_what_was_before(store):
    first = succeed(store)
    last, woken = store.events.changed(-1)
    assert woken == frozenset()
    second = accept(store)
    store.cancel(second.id, owner="ann")
    assert store.events.changed(last) == (last + 1, {second.id})
    assert store.events.changed(last + 1) == (last + 1, frozenset())
    assert store.events.changed(0) == (last + 1, {first.id, second.id})


def test_a_change_by_any_process_changes_the_version(store, opened):
    other = opened()
    seen = store.version()
    assert store.version() == seen
    accept(other)
    assert store.version() != seen


def test_a_secret_is_made_once_and_outlives_the_process(store, opened):
    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(store.secret, ["urls"] * 32))
    assert len(made) == 1
    assert {opened().secret("urls")} == made
    assert len(made.pop()) == 32
    assert store.secret("urls") != store.secret("webhooks")
