"""Real workers in real processes, killed, stopped, hung and never loaded: the service gets well by itself."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from masklet.jobs import JobStore, LeaseLost, Retention
from masklet.server.duty import Patience
from masklet.server.supervisor import Plan, Supervisor
from server.patches import FRAMES, ask, ended, masks_of, see, wait_for, write_film

EVER = 3_600.0


@pytest.fixture
def store(tmp_path):
    with JobStore(tmp_path / "data", server=True) as store:
        yield store


@contextmanager
def watching(store, *, ready=True, **plan):
    """Run a supervisor and its workers while the block lasts."""
    supervisor = Supervisor(store, Plan(engine="stub", **plan))
    supervisor.start()
    try:
        if ready:
            wait_for(lambda: all(worker.state == "ready" for worker in supervisor.health()))
        yield supervisor
    finally:
        supervisor.stop_now()
        supervisor.stop()
        assert claimed(store) == []


def claimed(store):
    return [p.id for p in store.list(owner=None, limit=1_000).results if p.status == "processing"]


def worker_of(supervisor, prediction):
    """Wait until a worker has a prediction; returns it."""
    return wait_for(lambda: next((w for w in supervisor.health() if w.prediction == prediction.id), None))


def frames_seen(store, prediction, count):
    wait_for(lambda: len(see(store, prediction).outputs) >= count)


def is_alive(pid):
    """Whether a process runs; one that has ended and was not asked for yet does not."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def members_of(group):
    """Return the processes of a process group."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[2]) == group and fields[0] != "Z":
                found.append(int(folder.name))
    return found


# Work


def test_predictions_are_run_in_processes_of_their_own(store, film):
    with watching(store, workers=2) as supervisor:
        slow = [ask(store, film, click_object_ids="fault-slow-0") for _ in range(2)]
        workers = [worker_of(supervisor, prediction) for prediction in slow]
        assert len({worker.pid for worker in workers} | {os.getpid()}) == 3
        assert [ended(store, prediction).status for prediction in slow] == ["succeeded"] * 2
        assert masks_of(see(store, slow[0])) == masks_of(see(store, slow[1]))


def test_a_worker_knows_no_tokens(store, monkeypatch):
    monkeypatch.setenv("MASKLET_TOKEN", '["secret-of-the-server"]')
    monkeypatch.setenv("WEBHOOK_AUTH_TOKEN", "secret-of-the-server")
    with watching(store) as supervisor:
        [worker] = supervisor.health()
        for name in ("environ", "cmdline"):
            assert b"secret-of-the-server" not in Path(f"/proc/{worker.pid}/{name}").read_bytes()


# Deaths


def test_a_dead_worker_is_noticed_within_a_second_and_its_prediction_run_again(store, film):
    with watching(store) as supervisor:
        clean = ended(store, ask(store, film, click_object_ids="fault-slow-0"))
        prediction = ask(store, film, click_object_ids="fault-slow-0")
        frames_seen(store, prediction, 2)
        os.kill(worker_of(supervisor, prediction).pid, signal.SIGKILL)
        killed = time.monotonic()
        wait_for(lambda: see(store, prediction).crashes == 1)
        assert time.monotonic() - killed < 1
        done = ended(store, prediction)
        assert (done.status, done.attempts, done.crashes) == ("succeeded", 2, 1)
        assert masks_of(done) == masks_of(clean)
        kinds = [event.kind for event in store.events.after(0, prediction=prediction.id) if event.kind != "logs"]
        assert kinds == ["start", *["output"] * FRAMES, "completed"]
        wait_for(lambda: list(store.folder.work.iterdir()) == [])
        wait_for(lambda: len(list((store.folder.outputs / prediction.id).iterdir())) == 1)


def test_a_prediction_that_kills_every_worker_is_given_up_and_the_others_succeed(store, film):
    with watching(store):
        poison = ask(store, film, click_object_ids="fault-kill-1")
        others = [ask(store, film) for _ in range(3)]
        done = ended(store, poison)
        assert (done.status, done.error_code, done.attempts) == ("failed", "E_WORKER_CRASHED", 3)
        assert done.error == "It was given up after 3 attempts: its worker was ended by SIGKILL."
        assert [ended(store, other).status for other in others] == ["succeeded"] * 3


def test_a_worker_that_leaves_without_a_word_counts_as_dead(store, film):
    with watching(store):
        done = ended(store, ask(store, film, click_object_ids="fault-exit-1"))
        assert (done.error_code, done.crashes) == ("E_WORKER_CRASHED", 3)
        assert "ended with code 0" in done.error


def test_a_worker_that_may_be_in_disorder_is_replaced_and_nobody_is_blamed(store, film):
    with watching(store) as supervisor:
        [before] = supervisor.health()
        failed, after = ask(store, film, click_object_ids="fault-oom-1"), ask(store, film)
        assert (ended(store, failed).error_code, see(store, failed).attempts) == ("E_OOM", 1)
        assert ended(store, after).status == "succeeded"
        assert supervisor.health()[0].pid != before.pid


def test_what_a_dead_worker_had_started_ends_with_it(store, film):
    with watching(store) as supervisor:
        [worker] = supervisor.health()
        # A process in the worker's group, as its decoder is.
        child = subprocess.Popen(["sleep", "60"], process_group=0)
        child.kill()
        child.wait()
        started = subprocess.run(
            [sys.executable, "-c", f"import os; os.setpgid(0, {worker.pid})"], capture_output=True, check=False
        )
        assert started.returncode != 0, "a session keeps strangers out"
        os.kill(worker.pid, signal.SIGKILL)
        wait_for(lambda: members_of(worker.pid) == [])


def test_a_worker_that_comes_back_after_its_lease_was_given_on_publishes_nothing(store, film):
    with watching(store, workers=2, cancel_s=EVER, patience=Patience(lease_s=0.6)) as supervisor:
        prediction = ask(store, film, click_object_ids="fault-slow-0")
        frames_seen(store, prediction, 2)
        zombie = worker_of(supervisor, prediction)
        os.kill(zombie.pid, signal.SIGSTOP)
        try:
            done = ended(store, prediction)
        finally:
            os.kill(zombie.pid, signal.SIGCONT)
        assert (done.status, done.attempts, len(done.outputs)) == ("succeeded", 2, FRAMES)
        wait_for(lambda: all(worker.state == "ready" for worker in supervisor.health()))
        assert see(store, prediction) == done
        assert {output.path.parent.name for output in done.outputs} == {"2"}
        assert [worker.pid for worker in supervisor.health() if worker.name == zombie.name] == [zombie.pid]
        assert ended(store, ask(store, film)).status == "succeeded"


def test_the_workers_of_a_killed_server_end_with_it(tmp_path, film):
    server = subprocess.Popen(
        [
            sys.executable,
            "-c",
            textwrap.dedent(
                """
                import sys, time
                from pathlib import Path
                from masklet.jobs import JobStore
                from masklet.server.supervisor import Plan, Supervisor
                supervisor = Supervisor(JobStore(Path(sys.argv[1]), server=True), Plan(engine="stub", workers=2))
                supervisor.start()
                while not all(worker.state == "ready" for worker in supervisor.health()):
                    time.sleep(0.01)
                print('pids', *[worker.pid for worker in supervisor.health()], flush=True)
                time.sleep(60)
                """
            ),
            str(tmp_path / "data"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        line = next(line for line in server.stdout if line.startswith("pids"))
        pids = [int(pid) for pid in line.split()[1:]]
        assert len(pids) == 2
        assert all(map(is_alive, pids))
        os.kill(pids[0], signal.SIGSTOP)  # one that cannot even notice
    finally:
        server.kill()
        server.communicate()
    wait_for(lambda: not any(map(is_alive, pids)), 2)


# Work that does not end


def test_a_cancelled_prediction_whose_engine_hangs_is_ended_with_its_worker(store, film):
    with watching(store, cancel_s=0.5) as supervisor:
        prediction = ask(store, film, click_object_ids="fault-hang-2")
        frames_seen(store, prediction, 2)
        worker = worker_of(supervisor, prediction)
        assert store.cancel(prediction.id, owner="ann").status == "canceled"
        cancelled = time.monotonic()
        wait_for(lambda: not is_alive(worker.pid))
        assert time.monotonic() - cancelled < 2
        after = ended(store, ask(store, film))
        assert after.status == "succeeded"
        wait_for(lambda: [path.name for path in store.folder.outputs.iterdir()] == [after.id])


def test_an_engine_that_makes_no_progress_is_given_up(store, film):
    with watching(store, patience=Patience(stall_s=0.5)):
        done = ended(store, ask(store, film, click_object_ids="fault-hang-2"))
        assert (done.status, done.error_code, done.attempts) == ("failed", "E_MODEL_STALLED", 1)
        assert ended(store, ask(store, film)).status == "succeeded"


def test_a_run_that_takes_too_long_is_ended(store, film, tmp_path):
    long = write_film(tmp_path / "long.mp4", frames=40)
    with watching(store, run_s=3.0, cancel_s=0.3):
        done = ended(store, ask(store, long, click_object_ids="fault-slow-0"))
        assert (done.status, done.error_code) == ("failed", "E_TIMEOUT")
        assert 0 < len(done.outputs) < 40
        assert ended(store, ask(store, film)).status == "succeeded"


def test_deadlines_pass_although_no_worker_is_there(store, film):
    with watching(store, workers=0):
        done = ended(store, ask(store, film, cancel_after_s=0.2))
        assert (done.status, done.error_code) == ("aborted", "E_DEADLINE")


# Models that do not load


def test_a_model_that_cannot_be_loaded_is_said_and_predictions_wait(store, film):
    with watching(store, ready=False, stub_load_s=-1) as supervisor:
        prediction = ask(store, film)
        failed = wait_for(lambda: next((w for w in supervisor.health() if w.state == "failed"), None))
        assert failed.reason == "the stub was told not to load nano"
        names = set()
        until = time.monotonic() + 2.5
        while time.monotonic() < until:
            names |= {worker.name for worker in supervisor.health()}
            time.sleep(0.02)
        assert len(names) <= 3, "the next try comes later and later"
        assert not supervisor.ready
        assert see(store, prediction).status == "starting"


def test_a_model_that_takes_too_long_to_load_is_said_and_predictions_wait(store, film):
    with watching(store, ready=False, stub_load_s=EVER, load_s=0.5) as supervisor:
        prediction = ask(store, film)
        failed = wait_for(lambda: next((w for w in supervisor.health() if w.state == "failed"), None))
        assert failed.reason == "loading the model took longer than 0.5 s"
        assert not supervisor.ready
        assert see(store, prediction).status == "starting"


def test_predictions_that_waited_for_a_model_run_when_it_is_there(store, film):
    with watching(store, ready=False, stub_load_s=0.3) as supervisor:
        prediction = ask(store, film)
        assert not supervisor.ready
        assert ended(store, prediction).status == "succeeded"
        assert supervisor.ready


# Stops


@pytest.mark.parametrize("moment", ["idle", "loading", "at work", "hanging"])
def test_a_stop_leaves_no_claimed_row_and_no_process(store, film, moment):
    load_s = EVER if moment == "loading" else 0.0
    supervisor = Supervisor(store, Plan(engine="stub", workers=2, stop_s=7.0, stub_load_s=load_s))
    supervisor.start()
    prediction = None
    if moment in ("at work", "hanging"):
        prediction = ask(store, film, click_object_ids="fault-slow-0" if moment == "at work" else "fault-hang-1")
        frames_seen(store, prediction, 1)
    else:
        wait_for(lambda: [w.state for w in supervisor.health()] == ["loading" if load_s else "ready"] * 2)
    pids = [worker.pid for worker in supervisor.health()]
    began = time.monotonic()
    supervisor.stop()
    assert time.monotonic() - began < 7
    assert not any(map(is_alive, pids))
    assert claimed(store) == []
    if moment == "hanging":
        assert (see(store, prediction).status, see(store, prediction).crashes) == ("starting", 0)
    if moment == "at work":
        assert see(store, prediction).status in ("starting", "succeeded")


def test_a_stop_lets_what_is_nearly_done_end(store, film):
    with watching(store) as supervisor:
        prediction = ask(store, film, click_object_ids="fault-slow-0")
        frames_seen(store, prediction, 4)
        supervisor.stop()
        assert see(store, prediction).status == "succeeded"


def test_after_a_stop_nothing_more_is_begun(store, film):
    with watching(store) as supervisor:
        first = ask(store, film, click_object_ids="fault-slow-0")
        waiting = ask(store, film)
        frames_seen(store, first, 4)
        supervisor.stop()
        assert (see(store, first).status, see(store, waiting).status) == ("succeeded", "starting")


def test_a_second_signal_ends_at_once_what_the_first_waited_for(store, film):
    with watching(store, stop_s=60.0) as supervisor:
        prediction = ask(store, film, click_object_ids="fault-hang-1")
        frames_seen(store, prediction, 1)
        began = time.monotonic()
        supervisor.stop_now()
        supervisor.stop()
        assert time.monotonic() - began < 2
        assert (see(store, prediction).status, see(store, prediction).attempts) == ("starting", 0)


def test_a_supervisor_may_be_stopped_twice_and_without_having_begun(store):
    Supervisor(store, Plan(engine="stub")).stop()
    with watching(store) as supervisor:
        supervisor.stop()


# What an earlier start left


def test_a_new_start_runs_what_the_last_one_left_claimed(tmp_path, film):
    with JobStore(tmp_path / "data", server=True) as before:
        prediction = ask(before, film)
        old = before.queue.claim("old worker").lease
        (before.folder.work_of(old) / "input").write_bytes(b"film")
        before.uploads.temporary().write_bytes(b"half an upload")
    time.sleep(0.1)  # the times of files are not exact
    with JobStore(tmp_path / "data", server=True) as store, watching(store):
        done = ended(store, prediction)
        assert (done.status, done.attempts, done.crashes) == ("succeeded", 2, 0)
        with pytest.raises(LeaseLost):
            store.queue.heartbeat(old)
        wait_for(lambda: list(store.folder.work.iterdir()) == [])
        wait_for(lambda: not list(store.folder.uploads.glob(".*.part")))


def test_what_was_kept_long_enough_goes_by_itself(store, film):
    with watching(store, sweep_every_s=0.2, retention=Retention(data_s=0.5, rows_s=EVER)):
        prediction = ask(store, film)
        assert ended(store, prediction).status == "succeeded"
        wait_for(lambda: see(store, prediction).data_removed)
        wait_for(lambda: list(store.folder.outputs.iterdir()) == [])
