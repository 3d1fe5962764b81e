"""One worker at a time works on a prediction, whatever dies or comes back late, and it ends once."""

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from stores import ANY, accept, files_in, kinds, publish, raw, see, succeed

from masklet.jobs import (
    MOST_CRASHES,
    LeaseLost,
    Outcome,
)

# Claims


def test_the_oldest_is_next_whatever_the_clock_did(store, hands):
    ids = []
    for _ in range(3):
        ids.append(accept(store).id)
        hands.wall -= 3_600
    assert [store.queue.claim("w").lease.prediction for _ in range(3)] == ids
    assert store.queue.claim("w") is None


def test_nobodys_thousand_predictions_keep_the_others_waiting(store):
    for _ in range(6):
        accept(store)
    for _ in range(2):
        accept(store, replace(ANY, owner="bob"))
    accept(store, replace(ANY, owner="eve"))
    owners = [store.queue.claim("w").prediction.owner for _ in range(9)]
    assert owners == ["ann", "bob", "eve", "ann", "bob", "ann", "ann", "ann", "ann"]


def test_a_worker_may_ask_for_certain_models_only(store):
    large = accept(store, replace(ANY, weights="large"))
    assert store.queue.claim("w", weights=["nano", "tiny"]) is None
    assert store.queue.claim("w", weights=["tiny", "large"]).lease.prediction == large.id


def test_a_prediction_is_claimed_once_by_many_workers_at_once(store, opened):
    ids = {accept(store).id for _ in range(40)}
    taken = []

    def work(name):
        own = opened()
        while (claim := own.queue.claim(name)) is not None:
            taken.append(claim.lease)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, ["w1", "w2", "w3", "w4"]))
    assert sorted(lease.prediction for lease in taken) == sorted(ids)
    assert len({lease.token for lease in taken}) == 40


def test_a_claimed_prediction_runs_and_says_so(store, hands):
    accept(store)
    hands.go(3)
    claim = store.queue.claim("w1")
    assert claim.prediction.status == "processing"
    assert (claim.prediction.started_at, claim.prediction.attempts) == (hands.wall, 1)
    assert kinds(store, claim.prediction) == ["start"]


def test_tokens_rise_over_all_predictions_and_restarts(store, opened):
    tokens = []
    for i in range(3):
        accept(store)
        own = opened(boot_id=f"boot {i}")
        tokens.append(own.queue.claim("w").lease.token)
        own.queue.requeue_lost()
    assert tokens == sorted(set(tokens))


def test_files_are_published_with_their_size_and_hash(store):
    prediction = accept(store)
    lease = store.queue.claim("w").lease
    publish(store, lease, 0, b"{}", role="manifest", name="manifest.json")
    made = publish(store, lease, 0, b"first")
    publish(store, lease, 1, b"second")
    found = see(store, prediction)
    assert [output.name for output in found.outputs] == ["frame_00000.png", "frame_00001.png"]
    assert found.outputs[0] == made == store.find_output(prediction.id, "frame_00000.png")
    assert (made.size, made.path.read_bytes()) == (5, b"first")
    assert made.sha256 == "a7937b64b8caa58f03721bb6bacf5c78cb235febe0e70b1b84cd99541461a08e"
    assert found.manifest.name == "manifest.json"
    assert kinds(store, prediction) == ["start", "output", "output"]
    assert store.find_output(prediction.id, "frame_00009.png") is None


def test_logs_grow_up_to_a_limit(store, monkeypatch):
    monkeypatch.setattr("masklet.jobs.queue.MOST_LOG_CHARACTERS", 10)
    prediction = accept(store)
    lease = store.queue.claim("w").lease
    for text in ("one\n", "two\n", "three\n", "four\n"):
        store.queue.add_logs(lease, text)
    assert see(store, prediction).logs == "one\ntwo\nth"
    assert kinds(store, prediction) == ["start", "logs", "logs", "logs"], "nobody is told of lines that are not kept"


def test_success_needs_every_output_of_this_very_attempt(store):
    prediction = accept(store)
    first = store.queue.claim("w").lease
    publish(store, first, 0)
    publish(store, first, 1)
    store.queue.release(first)
    second = store.queue.claim("w").lease
    publish(store, second, 0)
    with pytest.raises(ValueError, match="2 outputs were made, 1 published"):
        store.queue.finish(second, Outcome("succeeded"), outputs=2)
    assert see(store, prediction).status == "processing"
    assert len(see(store, prediction).outputs) == 2, "what was published stays until the end is known"
    store.queue.finish(second, Outcome("succeeded"), outputs=1)
    assert [output.path.parent.name for output in see(store, prediction).outputs] == [str(second.token)]


def test_success_needs_every_position_and_says_how_many_there_are(store):
    accept(store)
    lease = store.queue.claim("w").lease
    for position in (0, 2):
        publish(store, lease, position)
    for outputs in (2, None):
        with pytest.raises(ValueError, match=f"{outputs} outputs were made, "):
            store.queue.finish(lease, Outcome("succeeded"), outputs=outputs)
    publish(store, lease, 1)
    store.queue.finish(lease, Outcome("succeeded"), outputs=3)


def test_a_second_attempt_publishes_again_and_clients_hear_of_each_file_once(store):
    prediction = accept(store)
    first = store.queue.claim("w1").lease
    publish(store, first, 0, b"from the first")
    store.queue.worker_died("w1", "its worker died")
    second = store.queue.claim("w2").lease
    publish(store, second, 0, b"from the second")
    publish(store, second, 1, b"and one more")
    store.queue.finish(second, Outcome("succeeded", metrics={"predict_time": 1.5}), outputs=2)
    found = see(store, prediction)
    assert [output.path.read_bytes() for output in found.outputs] == [b"from the second", b"and one more"]
    assert (found.attempts, found.crashes, found.metrics) == (2, 1, {"predict_time": 1.5})
    assert kinds(store, prediction) == ["start", "output", "output", "completed"]


# Leases and fencing

VERBS = {
    "heartbeat": lambda store, lease: store.queue.heartbeat(lease),
    "look": lambda store, lease: store.queue.holds(lease),
    "publish": publish,
    "log": lambda store, lease: store.queue.add_logs(lease, "late"),
    "succeed": lambda store, lease: store.queue.finish(lease, Outcome("succeeded"), outputs=0),
    "fail": lambda store, lease: store.queue.finish(lease, Outcome("failed", "late", "E_INTERNAL")),
    "release": lambda store, lease: store.queue.release(lease),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_worker_that_comes_back_late_is_refused(store, opened, hands, verb):
    prediction = accept(store)
    late = store.queue.claim("w1").lease
    hands.go(60)
    store.queue.requeue_lost()
    current = opened(boot_id="first").queue.claim("w2").lease
    publish(store, current)
    before = see(store, prediction)
    with pytest.raises(LeaseLost) as refused:
        VERBS[verb](store, late)
    assert refused.value.why == "taken over"
    assert see(store, prediction) == before
    store.queue.finish(current, Outcome("succeeded"), outputs=1)


@pytest.mark.parametrize("verb", VERBS)
def test_a_worker_whose_prediction_ended_is_refused(store, verb):
    prediction = accept(store)
    lease = store.queue.claim("w").lease
    store.cancel(prediction.id, owner="ann")
    before = see(store, prediction)
    with pytest.raises(LeaseLost) as refused:
        VERBS[verb](store, lease)
    assert refused.value.why == "ended"
    assert see(store, prediction) == before


def test_a_late_worker_cannot_touch_the_files_of_the_next(store, hands):
    prediction = accept(store)
    late = store.queue.claim("w1").lease
    hands.go(60)
    store.queue.requeue_lost()
    current = store.queue.claim("w2").lease
    publish(store, current, 0, b"good")
    (store.folder.outputs_of(late) / "frame_00000.png").write_bytes(b"late")
    assert see(store, prediction).outputs[0].path.read_bytes() == b"good"
    store.queue.discard(late)
    assert see(store, prediction).outputs[0].path.read_bytes() == b"good"
    assert not (store.folder.outputs / prediction.id / str(late.token)).exists()


def test_what_earlier_attempts_made_goes_once_a_later_one_counts(store):
    prediction = accept(store)
    for attempt in range(3):
        lease = store.queue.claim("w").lease
        publish(store, lease)
        if attempt < 2:
            store.queue.release(lease)
    store.folder.discard_others(lease)
    assert files_in(store.folder.outputs / prediction.id) == [f"{lease.token}/frame_00000.png"]


def test_what_a_lost_lease_has_published_is_not_thrown_away_while_it_counts(store):
    prediction = accept(store)
    lease = store.queue.claim("w").lease
    publish(store, lease)
    assert store.queue.expire(most_run_s=-1.0) == [prediction.id]
    store.queue.discard(lease)
    assert see(store, prediction).outputs[0].path.read_bytes() == b"picture"


def test_a_heartbeat_keeps_a_lease_and_silence_loses_it(store, hands):
    prediction = accept(store)
    lease = store.queue.claim("w", lease_s=20).lease
    for _ in range(5):
        hands.go(19)
        assert store.queue.requeue_lost() == []
        store.queue.heartbeat(lease, lease_s=20)
    hands.go(21)
    [lost] = store.queue.requeue_lost()
    assert (lost.prediction, lost.worker, lost.failed) == (prediction.id, "w", False)
    assert (see(store, prediction).status, see(store, prediction).crashes) == ("starting", 1)


@pytest.mark.parametrize("jump_s", [3_600, -3_600, 1, 10 * 365 * 86_400])
def test_setting_the_clock_ends_no_lease_and_no_deadline(store, hands, jump_s):
    prediction = accept(store, replace(ANY, cancel_after_s=600))
    lease = store.queue.claim("w", lease_s=10).lease
    hands.wall += jump_s
    assert store.queue.requeue_lost() == store.queue.expire(most_run_s=100) == []
    store.queue.heartbeat(lease)
    publish(store, lease)
    store.queue.finish(lease, Outcome("succeeded"), outputs=1)
    found = see(store, prediction)
    assert found.created_at <= found.started_at <= found.completed_at


def test_a_restart_of_the_server_takes_every_lease_at_once_and_blames_nobody(store, opened):
    predictions = [accept(store) for _ in range(3)]
    leases = [store.queue.claim(f"w{i}").lease for i in range(2)]
    after = opened(boot_id="second")
    assert {lost.prediction for lost in after.queue.requeue_lost()} == {lease.prediction for lease in leases}
    assert [(see(after, p).status, see(after, p).crashes) for p in predictions] == [("starting", 0)] * 3
    for lease in leases:
        with pytest.raises(LeaseLost):
            store.queue.heartbeat(lease)
    assert after.queue.claim("w").lease.prediction == predictions[0].id


def test_a_prediction_does_not_begin_before_it_was_made_though_the_clock_was_set_back(store, hands):
    prediction = accept(store)
    hands.wall -= 3_600
    claim = store.queue.claim("w")
    assert claim.prediction.started_at == prediction.created_at
    store.queue.finish(claim.lease, Outcome("succeeded"), outputs=0)
    assert see(store, prediction).completed_at == prediction.created_at


def test_what_a_worker_of_the_same_name_had_under_an_earlier_start_is_not_this_ones(store, opened, hands):
    prediction = accept(store)
    store.queue.claim("w")
    hands.go(100)
    after = opened(boot_id="second")
    assert after.queue.worker_died("w", "it died") == after.queue.release_worker("w") == []
    assert after.queue.expire(most_run_s=60) == [], "its clock may have been another one"
    assert (see(after, prediction).status, see(after, prediction).attempts) == ("processing", 1)


def test_a_prediction_that_kills_its_workers_is_given_up_and_the_others_are_not(store):
    poison, bystander = accept(store), accept(store)
    for attempt in range(1, MOST_CRASHES + 1):
        assert store.queue.claim(f"w{attempt}").lease.prediction == poison.id
        [lost] = store.queue.worker_died(f"w{attempt}", "its worker was ended by SIGSEGV")
        assert lost.failed is (attempt == MOST_CRASHES)
    found = see(store, poison)
    assert (found.status, found.error_code) == ("failed", "E_WORKER_CRASHED")
    assert found.error == "It was given up after 3 attempts: its worker was ended by SIGSEGV."
    assert see(store, bystander).status == "starting"


def test_a_prediction_that_takes_the_whole_server_down_is_given_up_too(store, opened):
    prediction = accept(store)
    for start in range(100):
        again = opened(boot_id=f"start {start}")
        again.queue.requeue_lost()
        if see(again, prediction).ended:
            break
        again.queue.claim("w")
    assert (see(store, prediction).error_code, start) == ("E_WORKER_CRASHED", 12)


def test_a_worker_that_stops_on_purpose_costs_its_predictions_nothing(store):
    prediction = accept(store)
    for _ in range(30):
        store.queue.release(store.queue.claim("w").lease)
    for _ in range(30):
        store.queue.claim("w")
        assert store.queue.release_worker("w") == [prediction.id]
    found = see(store, prediction)
    assert (found.status, found.attempts, found.crashes) == ("starting", 0, 0)
    assert kinds(store, prediction) == ["start"]


def test_only_what_the_dead_worker_had_is_put_back(store):
    for _ in range(3):
        accept(store)
    leases = [store.queue.claim(name).lease for name in ("w1", "w2", "w1")]
    assert {lost.prediction for lost in store.queue.worker_died("w1", "it died")} == {
        leases[0].prediction,
        leases[2].prediction,
    }
    store.queue.heartbeat(leases[1])


# Ends


def test_cancelling_ends_it_at_once_in_any_state_and_only_once(store):
    running, waiting = accept(store), accept(store)
    store.queue.claim("w")
    done = store.cancel(waiting.id, owner="ann")
    assert (done.status, done.error, done.error_code) == ("canceled", "It was cancelled.", "E_CANCELED")
    again = store.cancel(waiting.id, owner="ann")
    assert again == done
    assert store.cancel(running.id, owner="ann").status == "canceled"
    assert (kinds(store, waiting), kinds(store, running)) == (["completed"], ["start", "completed"])


def test_a_cancelled_prediction_has_no_outputs(store):
    prediction = accept(store)
    lease = store.queue.claim("w").lease
    publish(store, lease)
    publish(store, lease, 0, role="manifest", name="manifest.json")
    assert store.cancel(prediction.id, owner="ann").outputs == ()
    assert store.find_output(prediction.id, "frame_00000.png") is store.find_output(prediction.id, "manifest.json")
    assert see(store, prediction).manifest is None


def test_a_failed_prediction_keeps_what_was_finished(store):
    prediction = accept(store)
    lease = store.queue.claim("w").lease
    publish(store, lease)
    store.queue.finish(lease, Outcome("failed", "The disk is full.", "E_DISK_FULL"))
    assert len(see(store, prediction).outputs) == 1


def test_success_stays_success(store):
    done = succeed(store)
    assert store.cancel(done.id, owner="ann") == done
    assert kinds(store, done) == ["start", "output", "completed"]


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("UPDATE predictions SET status = 'failed', error_code = 'E_OOM' WHERE id = ?", "a final state never changes"),
        ("UPDATE predictions SET status = 'starting', completed_at = NULL WHERE id = ?", "a final state never changes"),
        ("INSERT INTO events (prediction, kind, data, created_at) VALUES (?, 'completed', '{}', 0)", "UNIQUE"),
        ("INSERT INTO events (prediction, kind, data, created_at) VALUES (?, 'start', '{}', 0)", "UNIQUE"),
        ("UPDATE events SET data = '{}' WHERE prediction = ?", "events are never changed"),
    ],
)
def test_not_even_a_faulty_program_can_end_a_prediction_twice(store, statement, why):
    done = succeed(store)
    db = raw(store)
    try:
        with pytest.raises(sqlite3.IntegrityError, match=why):
            db.execute(statement, (done.id,))
    finally:
        db.close()
    assert see(store, done) == done


def test_cancel_and_success_at_the_same_moment_leave_one_end(store, opened):
    for _ in range(20):
        prediction = accept(store)
        lease = store.queue.claim("w").lease
        publish(store, lease)
        start = threading.Barrier(2)
        other = opened()

        def finish(lease=lease, start=start):
            start.wait()
            try:
                store.queue.finish(lease, Outcome("succeeded"), outputs=1)
            except LeaseLost:
                return "refused"
            return "succeeded"

        def cancel(prediction=prediction, start=start, other=other):
            start.wait()
            return other.cancel(prediction.id, owner="ann").status

        with ThreadPoolExecutor(2) as pool:
            finished, cancelled = pool.submit(finish), pool.submit(cancel)
        assert (finished.result(), cancelled.result()) in {("succeeded", "succeeded"), ("refused", "canceled")}
        assert see(store, prediction).status == cancelled.result()
        assert kinds(store, prediction) == ["start", "output", "completed"]


# Deadlines


def test_a_deadline_that_passes_in_the_queue_aborts(store, hands):
    late, in_time = accept(store, replace(ANY, cancel_after_s=10)), accept(store)
    hands.go(11)
    assert store.queue.claim("w").lease.prediction == in_time.id
    assert (see(store, late).status, see(store, late).error_code) == ("aborted", "E_DEADLINE")
    assert see(store, late).error == "Its deadline passed before its turn came."


def test_a_deadline_that_passes_while_it_waits_for_its_next_attempt_cancels(store, hands):
    prediction = accept(store, replace(ANY, cancel_after_s=10))
    store.queue.release(store.queue.claim("w").lease)
    hands.go(11)
    assert store.queue.claim("w") is None
    assert (see(store, prediction).status, see(store, prediction).error_code) == ("canceled", "E_DEADLINE")


def test_a_deadline_that_passes_while_it_runs_cancels(store, hands):
    prediction = accept(store, replace(ANY, cancel_after_s=10))
    lease = store.queue.claim("w").lease
    publish(store, lease)
    hands.go(9)
    assert store.queue.expire() == []
    hands.go(1)
    assert store.queue.expire() == [prediction.id]
    assert store.queue.expire() == []
    found = see(store, prediction)
    assert (found.status, found.error_code, found.outputs) == ("canceled", "E_DEADLINE", ())
    with pytest.raises(LeaseLost):
        store.queue.heartbeat(lease)


def test_after_a_restart_of_the_machine_deadlines_go_by_the_wall_clock(store, opened, hands):
    prediction = accept(store, replace(ANY, cancel_after_s=100))
    hands.monotonic = 3.0
    rebooted = opened(machine="another boot", boot_id="second")
    assert rebooted.queue.expire() == []
    hands.wall += 100
    assert rebooted.queue.expire() == [prediction.id]


def test_a_run_has_a_longest_time_and_each_attempt_its_own(store, hands):
    prediction = accept(store)
    lease = store.queue.claim("w").lease
    hands.go(50)
    store.queue.release(lease)
    store.queue.claim("w", lease_s=1_000)
    hands.go(59)
    assert store.queue.expire(most_run_s=60) == []
    hands.go(2)
    assert store.queue.expire(most_run_s=60) == [prediction.id]
    assert (see(store, prediction).status, see(store, prediction).error_code) == ("failed", "E_TIMEOUT")
