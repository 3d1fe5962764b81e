"""Webhooks on their way: in order, side by side, never in the way of work, and never lost."""

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from threading import Event, Lock

import pytest

from masklet.jobs import JobStore, NewPrediction, Outcome
from masklet.server.postman import AT_ONCE_PER_HOST, Answer, Postman
from server.patches import wait_for

TAKEN = Answer(True, "HTTP 200")


@pytest.fixture
def store(tmp_path):
    with JobStore(tmp_path / "data", server=True) as store:
        yield store


class Receiver:
    """Takes webhooks, in the way each host is told to."""

    def __init__(self, **hosts):
        self.hosts = hosts
        self.heard, self.lock = [], Lock()

    def send(self, delivery):
        host = delivery.url.split("/")[2]
        with self.lock:
            self.heard.append((delivery.id, delivery.prediction.id, delivery.kind))
        answer = self.hosts.get(host, TAKEN)
        return answer(delivery) if callable(answer) else answer

    def kinds(self, prediction):
        with self.lock:
            return [kind for _, id, kind in self.heard if id == prediction.id]


@contextmanager
def delivering(store, receiver):
    postman = Postman(store, receiver.send)
    postman.start()
    try:
        yield postman
    finally:
        postman.stop()


def run(store, host="receiver"):
    """Accept and run a prediction."""
    new = NewPrediction("ann", "m/n", "v", "nano", {}, webhook=f"http://{host}/hook")
    prediction = store.create(new).prediction
    lease = store.queue.claim("w").lease
    store.queue.add_logs(lease, "50%\n")
    store.queue.finish(lease, Outcome("succeeded"), outputs=0)
    return prediction


def settled(store):
    wait_for(lambda: store.counts().webhooks_pending == 0)


def test_each_prediction_hears_its_events_once_and_in_order(store):
    receiver = Receiver()
    with delivering(store, receiver):
        with ThreadPoolExecutor(4) as pool:
            predictions = list(pool.map(lambda _: store.create(_hooked()).prediction, range(12)))
        for _ in predictions:
            lease = store.queue.claim("w").lease
            store.queue.finish(lease, Outcome("succeeded"), outputs=0)
        settled(store)
    assert all(receiver.kinds(prediction) == ["start", "completed"] for prediction in predictions)
    assert max(Counter(id for id, _, _ in receiver.heard).values()) == 1


def _hooked():
    return NewPrediction("ann", "m/n", "v", "nano", {}, webhook="http://receiver/hook")


def test_a_receiver_that_does_not_answer_holds_up_nobody_else(store):
    let_go = Event()

    def silent(delivery):
        let_go.wait(30)
        return Answer(False, "no answer")

    receiver = Receiver(blackhole=silent)
    try:
        with delivering(store, receiver) as postman:
            silenced = [run(store, "blackhole") for _ in range(30)]
            others = [run(store) for _ in range(10)]
            wait_for(lambda: all(receiver.kinds(other)[-1:] == ["completed"] for other in others), 5)
            assert sum(len(receiver.kinds(prediction)) for prediction in silenced) == AT_ONCE_PER_HOST
            began = time.monotonic()
            postman.stop()
            assert time.monotonic() - began < 1, "a stop waits for no receiver"
    finally:
        let_go.set()


def test_a_dead_host_with_very_many_webhooks_holds_up_nobody_else(store):
    let_go = Event()

    def silent(delivery):
        let_go.wait(30)
        return Answer(False, "no answer")

    new = NewPrediction("ann", "m/n", "v", "nano", {}, webhook="http://blackhole/hook", webhook_events=("completed",))
    for _ in range(200):
        store.cancel(store.create(new).prediction.id, owner="ann")
    other = store.create(replace(new, webhook="http://receiver/hook")).prediction
    store.cancel(other.id, owner="ann")
    receiver = Receiver(blackhole=silent)
    try:
        with delivering(store, receiver):
            wait_for(lambda: receiver.kinds(other) == ["completed"], 5)
            assert len(receiver.heard) == AT_ONCE_PER_HOST + 1
    finally:
        let_go.set()


def test_a_receiver_that_fails_is_tried_again_under_the_same_id(store, monkeypatch):
    monkeypatch.setattr("masklet.jobs.outbox.PAUSES_S", (0.05, 0.05, 0.05))
    answers = iter([Answer(False, "HTTP 500"), Answer(False, "HTTP 503"), TAKEN])
    receiver = Receiver(receiver=lambda delivery: next(answers) if delivery.kind == "completed" else TAKEN)
    with delivering(store, receiver):
        prediction = run(store)
        settled(store)
    ends = [id for id, _, kind in receiver.heard if kind == "completed"]
    assert (len(ends), len(set(ends))) == (3, 1)
    assert receiver.kinds(prediction)[0] == "start"
    assert store.counts().webhooks_undelivered == 0


def test_a_receiver_that_always_fails_is_given_up_visibly(store, monkeypatch):
    monkeypatch.setattr("masklet.jobs.outbox.PAUSES_S", (0.02, 0.02))
    receiver = Receiver(receiver=Answer(False, "HTTP 500"))
    prediction = run(store)
    with delivering(store, receiver):
        settled(store)
    assert receiver.kinds(prediction).count("completed") == 3
    assert store.counts().webhooks_undelivered == 2  # the start, and at last the end


def test_a_sender_with_a_mistake_loses_nothing(store, monkeypatch):
    monkeypatch.setattr("masklet.jobs.outbox.PAUSES_S", (0.02, 0.02, 0.02))
    calls = []

    def broken(delivery):
        calls.append(delivery.id)
        if len(calls) < 4:
            raise RuntimeError("a mistake")
        return TAKEN

    run(store)
    with delivering(store, Receiver(receiver=broken)):
        settled(store)
    assert (len(calls), store.counts().webhooks_undelivered) == (4, 1)


def test_what_was_under_way_at_a_stop_is_sent_again_after_the_next_start(store):
    let_go = Event()

    def slow(delivery):
        let_go.wait(30)
        return TAKEN

    first = Receiver(receiver=slow)
    with delivering(store, first):
        prediction = run(store)
        wait_for(lambda: first.heard)
    second = Receiver()
    with delivering(store, second):
        wait_for(lambda: second.kinds(prediction)[-1:] == ["completed"])
    let_go.set()
    assert second.heard[0] == first.heard[0]
