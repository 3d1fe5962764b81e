"""Webhooks survive crashes, come in order, and are tried for a day."""

from dataclasses import replace

from stores import HOOKED, accept, publish, see, sent, succeed

from masklet.jobs import (
    Outcome,
)
from masklet.jobs.outbox import PAUSES_S


def test_webhooks_come_in_order_and_show_the_prediction_as_it_was(store, hands):
    prediction = accept(store, HOOKED)
    lease = store.queue.claim("w").lease
    publish(store, lease, 0)
    hands.go(1)
    publish(store, lease, 1)
    store.queue.add_logs(lease, "50%\n")
    publish(store, lease, 0, role="manifest", name="manifest.json")
    store.queue.finish(lease, Outcome("succeeded", metrics={"predict_time": 1.0}), outputs=2)
    heard = []
    while deliveries := sent(store):
        heard += [(d.kind, d.prediction.status, len(d.prediction.outputs), d.prediction.logs) for d in deliveries]
        hands.go(1)
    assert heard == [
        ("start", "processing", 0, ""),
        ("output", "processing", 1, ""),
        ("output", "processing", 2, ""),
        ("logs", "processing", 2, "50%\n"),
        ("completed", "succeeded", 2, "50%\n"),
    ]
    assert store.counts().webhooks_pending == 0
    assert see(store, prediction).status == "succeeded"


def test_the_end_waits_for_the_start_to_be_told(store):
    accept(store, HOOKED)
    store.queue.finish(store.queue.claim("w").lease, Outcome("failed", "no", "E_INTERNAL"))
    [start] = store.outbox.due()
    assert start.kind == "start"
    assert store.outbox.due(busy=[start.id]) == ()
    assert store.outbox.mark_failed(start.id, "HTTP 500") is False, "only the end is worth a second try"
    [end] = store.outbox.due()
    assert (end.kind, end.prediction.status) == ("completed", "failed")


def test_only_the_events_that_were_asked_for_are_sent(store):
    accept(store, replace(HOOKED, webhook_events=("completed",)))
    succeed(store, see(store, store.list(owner="ann").results[0]))
    assert [delivery.kind for delivery in sent(store)] == ["completed"]
    assert sent(store) == ()


def test_a_hundred_frames_a_second_make_two_webhooks_a_second(store, hands):
    accept(store, replace(HOOKED, webhook_events=("output",)))
    lease = store.queue.claim("w").lease
    heard = []
    for position in range(100):
        publish(store, lease, position)
        hands.go(0.01)
        heard += [len(delivery.prediction.outputs) for delivery in sent(store)]
    hands.go(1)
    heard += [len(delivery.prediction.outputs) for delivery in sent(store)]
    assert heard[0] == 1
    assert heard[-1] == 100
    assert 2 <= len(heard) <= 4


def test_the_end_is_tried_for_more_than_a_day_and_then_shown_as_undelivered(store, hands):
    prediction = accept(store, replace(HOOKED, webhook_events=("completed",)))
    store.cancel(prediction.id, owner="ann")
    ids, began, tries = set(), hands.wall, 0
    while True:
        [delivery] = store.outbox.due()
        assert delivery.tries == tries
        ids.add(delivery.id)
        tries += 1
        if not store.outbox.mark_failed(delivery.id, f"HTTP 500, {'x' * 1000}"):
            break
        assert store.outbox.due() == ()
        hands.go(PAUSES_S[tries - 1])
    assert (len(ids), tries) == (1, 12)
    assert hands.wall - began > 86_400
    assert store.outbox.due() == ()
    assert (store.counts().webhooks_pending, store.counts().webhooks_undelivered) == (0, 1)
    assert store.outbox.resend(prediction.id) == 1
    assert [delivery.id for delivery in store.outbox.due()] == [*ids]


def test_a_forbidden_address_is_tried_once(store):
    prediction = accept(store, replace(HOOKED, webhook_events=("completed",)))
    store.cancel(prediction.id, owner="ann")
    [delivery] = store.outbox.due()
    assert store.outbox.mark_failed(delivery.id, "the address is private", final=True) is False
    assert store.counts().webhooks_undelivered == 1


def test_a_webhook_that_was_not_marked_is_due_again_after_a_restart_under_the_same_id(store, opened):
    prediction = accept(store, HOOKED)
    store.cancel(prediction.id, owner="ann")
    [before] = store.outbox.due()
    store.close()
    [after] = opened(server=True, boot_id="second").outbox.due()
    assert (after.id, after.kind) == (before.id, "completed")


def test_a_cancelled_prediction_sends_its_end_and_no_late_pictures(store):
    prediction = accept(store, HOOKED)
    publish(store, store.queue.claim("w").lease)
    store.cancel(prediction.id, owner="ann")
    assert [d.kind for d in (*sent(store), *sent(store), *sent(store))] == ["start", "completed"]


def test_a_webhook_of_a_prediction_that_is_gone_cannot_fail(store):
    assert store.outbox.mark_failed("msg_unknown", "x") is False
    store.outbox.mark_delivered("msg_unknown")
