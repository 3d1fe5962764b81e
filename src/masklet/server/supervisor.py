"""Watches over the workers and the store: nobody has to look in for the service to get well again.

A dead worker is noticed at once and what it had goes back to the queue; one that will not stop is ended; what is past
its time is ended; what is past its date is removed; webhooks go out. One thread watches, one sweeps.
"""

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from threading import Event, Lock, Thread

import structlog

from masklet.errors import Problem
from masklet.jobs import JobStore, Lease, LeaseLost, Retention
from masklet.server.duty import Duty, Intake, Patience
from masklet.server.postman import Postman, Send
from masklet.server.staff import Place, State

TICK_S = 0.2
"""A death wakes the watch at once; this is for what nobody announces."""
LOOK_S = 0.5
"""Between two looks for lost leases and passed deadlines."""
FILE_TIMES_S = 0.05
STOP_MARGIN_S = 3.0
"""Of the time for a stop, what ending a worker takes, and again what putting its work back takes."""

log = structlog.get_logger()


@dataclass(frozen=True)
class Plan:
    """How the service is staffed, and how long it waits for what."""

    workers: int = 1
    engine: str = "real"
    weights: str = "nano"
    device: str = "auto"
    dtype: str = "auto"
    load_s: float = 300.0
    """Longest loading of a model."""
    run_s: float = 1_800.0
    """Longest run of a prediction."""
    cancel_s: float = 2.0
    """A worker that has lost its lease (cancelled, too late) and still works on is ended after so long."""
    stop_s: float = 25.0
    """Longest stop. Predictions that can end in time are waited for; the others go back to the queue at once."""
    sweep_every_s: float = 60.0
    retention: Retention = field(default_factory=Retention)
    patience: Patience = field(default_factory=Patience)
    intake: Intake = field(default_factory=Intake)
    stub_load_s: float = 0.0


@dataclass(frozen=True)
class WorkerHealth:
    """One worker, for people."""

    name: str
    pid: int | None
    state: State
    for_s: float
    device: str
    reason: str
    prediction: str | None


class Supervisor:
    """Starts workers and keeps them, and the store, in order until `stop`."""

    def __init__(
        self,
        store: JobStore,
        plan: Plan,
        *,
        send: Send | None = None,
        reach: Callable[[str], None] = lambda point: None,
    ) -> None:
        self._store, self._plan = store, plan
        self._began = time.time()
        self._wake, self._end = Event(), Event()
        self._hurry, self._left_behind = Event(), Event()
        self._places = [Place(number, self._duty(), self._wake.set) for number in range(1, plan.workers + 1)]
        self._lost_since: dict[Lease, float] = {}
        self._unsettled: list[tuple[str, str, bool]] = []
        self._lock = Lock()
        self._watcher = Thread(target=self._watch, name="supervisor", daemon=True)
        self._sweeper = Thread(target=self._sweep, name="sweep", daemon=True)
        self._postman = None if send is None else Postman(store, send, reach)

    def _duty(self) -> Duty:
        plan = self._plan
        return Duty(
            data_dir=str(self._store.folder.root.resolve()),
            boot_id=self._store.boot_id,
            name=f"worker-{self._store.boot_id[:6]}",
            report_fd=-1,
            engine=plan.engine,
            weights=plan.weights,
            device=plan.device,
            dtype=plan.dtype,
            stop_s=max(0.0, plan.stop_s - 2 * STOP_MARGIN_S),
            patience=plan.patience,
            intake=plan.intake,
            stub_load_s=plan.stub_load_s,
        )

    def start(self) -> None:
        """Put back what an earlier start left claimed, and begin."""
        for lost in self._store.queue.requeue_lost():
            log.info("requeued after a restart", prediction=lost.prediction, failed=lost.failed)
        self._watcher.start()
        self._sweeper.start()
        if self._postman is not None:
            self._postman.start()

    def stop(self) -> None:
        """Stop taking work, let what is nearly done end, put the rest back: no row stays claimed. Idempotent."""
        with self._lock:
            if not self._end.is_set():
                log.info("stopping")
            self._end.set()
        self._wake.set()
        self._left_behind.set()
        if self._postman is not None:
            self._postman.stop()
        for thread in (self._watcher, self._sweeper):
            if thread.ident is not None:
                thread.join()

    def stop_now(self) -> None:
        """Cut a stop short: workers are ended at once, and what they had goes back. For a second signal."""
        self._hurry.set()
        self._end.set()
        self._wake.set()
        self._left_behind.set()

    @property
    def ready(self) -> bool:
        """Whether a worker has its model."""
        return any(place.report.state in ("ready", "busy") for place in self._places)

    def health(self) -> tuple[WorkerHealth, ...]:
        """Say how each worker is."""
        now = time.monotonic()
        return tuple(
            WorkerHealth(
                name=place.name,
                pid=place.pid,
                state=report.state,
                for_s=round(now - report.since, 3),
                device=report.device,
                reason=report.reason,
                prediction=None if report.lease is None else report.lease.prediction,
            )
            for place in self._places
            for report in [place.report]
        )

    def _watch(self) -> None:
        looked_at = 0.0
        while not self._end.is_set():
            self._guarded(self._mind_workers)
            if time.monotonic() - looked_at >= LOOK_S:
                self._guarded(self._mind_leases)
                looked_at = time.monotonic()
            self._wake.wait(TICK_S)
            self._wake.clear()
        self._end_workers()

    def _guarded(self, duty: Callable[[], None]) -> None:
        """Do something that a locked database or a full disk may forbid; the next tick tries again."""
        try:
            duty()
        except Problem as problem:
            log.warning("the store refuses", why=str(problem))
        except Exception:
            log.exception("supervision failed")

    def _mind_workers(self) -> None:
        for place in self._places:
            self._settle(place)
            self._end_if_stuck(place)
            if place.due:
                place.start(_environment(self._plan.workers))
        self._settle_rest()

    def _settle(self, place: Place) -> None:
        """Notice a worker's death."""
        name = place.name
        how = place.reap()
        if how is not None:
            if not place.ended_on_purpose:
                log.warning("worker gone", worker=name, how=how, reason=place.report.reason)
            self._unsettled.append((name, how, place.ended_on_purpose))

    def _settle_rest(self) -> None:
        """Put back what dead workers had; kept until the store takes it."""
        while self._unsettled:
            name, how, on_purpose = self._unsettled[0]
            if on_purpose:
                self._store.queue.release_worker(name)
            else:
                for lost in self._store.queue.worker_died(name, how):
                    log.warning("requeued", prediction=lost.prediction, failed=lost.failed)
            self._unsettled.pop(0)
            self._left_behind.set()  # not before: a sweep spares what belongs to a claim that counts as running

    def _end_if_stuck(self, place: Place) -> None:
        """End a worker that loads for too long, or goes on with what is no longer its own."""
        report, now = place.report, time.monotonic()
        if report.state == "loading" and place.pid is not None and now - report.since > self._plan.load_s:
            place.give_up(f"loading the model took longer than {self._plan.load_s:g} s")
        if report.lease is None:
            return
        try:
            self._store.queue.holds(report.lease)
            self._lost_since.pop(report.lease, None)
        except LeaseLost:
            since = self._lost_since.setdefault(report.lease, now)
            if now - since > self._plan.cancel_s:
                log.warning("worker does not stop", worker=place.name, prediction=report.lease.prediction)
                self._lost_since.pop(report.lease)
                place.kill()

    def _mind_leases(self) -> None:
        for lost in self._store.queue.requeue_lost():
            log.warning("lease expired", prediction=lost.prediction, worker=lost.worker, failed=lost.failed)
        for id in self._store.queue.expire(most_run_s=self._plan.run_s):
            log.info("out of time", prediction=id)
        held = {place.report.lease for place in self._places}
        self._lost_since = {lease: since for lease, since in self._lost_since.items() if lease in held}

    def _end_workers(self) -> None:
        """Ask, wait, end; then put back whatever is left."""
        for place in self._places:
            place.ask_to_stop()
        begun = time.monotonic()
        deadline = begun + max(0.0, self._plan.stop_s - STOP_MARGIN_S)
        for place in self._places:
            while not place.wait(0.05) and time.monotonic() < deadline and not self._hurry.is_set():
                pass
            place.kill()
            place.wait(5.0)
            self._settle(place)
        self._guarded(self._settle_rest)
        while self._unsettled and time.monotonic() < begun + self._plan.stop_s:
            time.sleep(0.1)
            self._guarded(self._settle_rest)

    def _sweep(self) -> None:
        """Sweep at the start, now and then, and soon after a worker died, which leaves files behind."""
        # Times of files are a few milliseconds behind the clock.
        self._guarded(lambda: self._sweep_once(unfinished_before=self._began - FILE_TIMES_S))
        while not self._end.is_set():
            self._left_behind.wait(self._plan.sweep_every_s)
            self._left_behind.clear()
            if not self._end.is_set():
                self._guarded(self._sweep_once)

    def _sweep_once(self, *, unfinished_before: float | None = None) -> None:
        swept = self._store.sweep(self._plan.retention, unfinished_before=unfinished_before)
        log.debug("swept", **asdict(swept))


def _environment(workers: int) -> dict[str, str]:
    """Return the workers' environment: no secrets of the server, and several share the processors."""
    own = {name: value for name, value in os.environ.items() if "TOKEN" not in name.upper()}
    share = str(max(1, (os.cpu_count() or 1) // workers))
    return {"OMP_NUM_THREADS": share} | own if workers > 1 else own
