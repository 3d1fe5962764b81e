"""Webhooks survive crashes, come in order, and are tried for a day."""

from dataclasses import replace

import pytest
from stores import HOOKED, accept, publish, see, sent, succeed

from masklet.jobs import (
    Outcome,
)
from masklet.jobs.outbox import PAUSES_S


def tell_all(store, hands):
    """Send what there is, one after another; returns what each said."""
    heard = []
    while deliveries := sent(store):
        heard += [(d.kind, d.prediction.status, len(d.prediction.outputs), d.prediction.logs) for d in deliveries]
        hands.go(1)
    return heard


def test_webhooks_come_in_order_and_show_the_prediction_as_it_was(store, hands):
    prediction = accept(store, HOOKED)
    lease = store.queue.claim("w").lease
    heard = tell_all(store, hands)
    publish(store, lease, 0)
    heard += tell_all(store, hands)
    publish(store, lease, 1)
    store.queue.add_logs(lease, "50%\n")
    heard += tell_all(store, hands)
    publish(store, lease, 0, role="manifest", name="manifest.json")
    store.queue.finish(lease, Outcome("succeeded", metrics={"predict_time": 1.0}), outputs=2)
    heard += tell_all(store, hands)
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
    lease = store.queue.claim("w").lease
    publish(store, lease, 0, role="manifest", name="manifest.json")
    store.queue.finish(lease, Outcome("failed", "no", "E_INTERNAL", {"predict_time": 1.0}))
    [start] = store.outbox.due()
    told = start.prediction
    assert (start.kind, told.status, told.error, told.error_code) == ("start", "processing", None, None)
    assert (told.manifest, told.metrics, told.completed_at) == (None, {}, None)
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


def test_a_clock_that_was_set_back_holds_no_webhook_back(store, hands):
    accept(store, replace(HOOKED, webhook_events=("output",)))
    lease = store.queue.claim("w").lease
    publish(store, lease, 0)
    sent(store)
    hands.wall -= 3_600
    publish(store, lease, 1)
    hands.go(1)
    assert [len(delivery.prediction.outputs) for delivery in sent(store)] == [2]


def work_on(store, hands, lease, seconds, first=0):
    """Publish a picture and a line a second."""
    for position in range(first, first + seconds):
        hands.go(1)
        publish(store, lease, position)
        store.queue.add_logs(lease, f"{position}\n")


def test_a_slow_receiver_has_few_webhooks_waiting_and_each_says_no_less_than_the_one_before(store, hands):
    accept(store, HOOKED)
    lease = store.queue.claim("w").lease
    [start] = store.outbox.due()
    work_on(store, hands, lease, 20)
    assert store.counts().webhooks_pending == 3, "the one on its way, one of pictures, one of lines"
    store.outbox.mark_delivered(start.id)
    [pictures] = store.outbox.due()
    work_on(store, hands, lease, 20, first=20)
    assert len(store.outbox.due()[0].prediction.outputs) == 20, "what may be on its way does not change"
    assert store.counts().webhooks_pending == 3
    store.outbox.mark_delivered(pictures.id)
    publish(store, lease, 40)
    heard = tell_all(store, hands)
    assert [(kind, count) for kind, _, count, _ in heard] == [("logs", 40), ("output", 41)]


def test_what_is_told_after_a_picture_shows_it_too(store, hands):
    accept(store, HOOKED)
    lease = store.queue.claim("w").lease
    publish(store, lease, 0)
    store.queue.add_logs(lease, "a line between the two\n")
    publish(store, lease, 1)
    heard = tell_all(store, hands)
    assert [(kind, count) for kind, _, count, _ in heard] == [("start", 0), ("output", 2), ("logs", 2)]


@pytest.mark.parametrize("status", ["succeeded", "failed"])
def test_a_slow_receiver_hears_the_end_next_and_not_what_it_overtook(store, hands, status):
    accept(store, HOOKED)
    lease = store.queue.claim("w").lease
    sent(store)
    work_on(store, hands, lease, 1)
    [under_way] = store.outbox.due()
    work_on(store, hands, lease, 19, first=1)
    code = "E_TIMEOUT" if status == "failed" else None
    store.queue.finish(lease, Outcome(status, code and "late", code), outputs=20)
    store.outbox.mark_delivered(under_way.id)
    assert tell_all(store, hands) == [("completed", status, 20, see(store, under_way.prediction).logs)]


def test_who_does_not_ask_for_the_end_still_hears_of_the_last_picture(store, hands):
    accept(store, replace(HOOKED, webhook_events=("start", "output")))
    lease = store.queue.claim("w").lease
    work_on(store, hands, lease, 3)
    store.queue.finish(lease, Outcome("succeeded"), outputs=3)
    assert [(kind, count) for kind, _, count, _ in tell_all(store, hands)] == [("start", 0), ("output", 3)]


def test_what_is_not_wanted_takes_nobody_elses_place(store):
    for host in ["dead"] * 200 + ["alive"]:
        prediction = accept(store, replace(HOOKED, webhook=f"http://{host}/", webhook_events=("completed",)))
        store.cancel(prediction.id, owner="ann")
    [alive] = store.outbox.due(limit=16, wants=lambda url: "alive" in url)
    assert alive.prediction == see(store, prediction)
    assert len(store.outbox.due(limit=16)) == 16


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
    assert store.outbox.mark_failed(*ids, "HTTP 500") is True, "and is tried for as long again"


def test_only_the_end_is_sent_again_since_what_came_before_it_is_overtaken(store):
    prediction = accept(store, HOOKED)
    lease = store.queue.claim("w").lease
    store.outbox.mark_failed(store.outbox.due()[0].id, "HTTP 503")
    store.queue.finish(lease, Outcome("failed", "no", "E_INTERNAL"))
    sent(store)
    assert store.counts().webhooks_undelivered == 1
    assert store.outbox.resend(prediction.id) == 0
    assert store.outbox.due() == ()


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
