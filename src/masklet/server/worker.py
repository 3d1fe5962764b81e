"""A worker: a process of its own that holds a model and runs one prediction after another.

The supervisor starts it (`python -m masklet.server.worker DUTY`), hears from it through a pipe and ends it by signal;
the database is all that they share. It dies with the server: at once when that is killed.
"""

import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Thread
from types import FrameType
from typing import Any

import structlog

from masklet.errors import Problem
from masklet.jobs import Claim, JobStore, StoreBusy, Surroundings
from masklet.server.attempt import Attempt
from masklet.server.crashpoints import crash_point
from masklet.server.decode import sandbox
from masklet.server.duty import SETUP_FAILED, Duty
from masklet.server.engine import Engine, RealEngine
from masklet.server.prepare import Prepare, preparing

POLL_S = 0.04
"""Between two looks at whether anything was committed; one takes microseconds."""
LOOK_ANYWAY_S = 2.0
_PR_SET_PDEATHSIG = 1
_FIRST_TO_GO = "500"
"""`oom_score_adj`: when memory runs out, the kernel should take the worker, not the server."""

log = structlog.get_logger()


class Worker:
    """Loads the model, then claims and runs predictions until it is told to stop."""

    def __init__(self, duty: Duty, store: JobStore, engine: Engine, reach: Callable[[str], None]) -> None:
        self._duty, self._store, self._engine, self._reach = duty, store, engine, reach
        self._prepare: Prepare = preparing(duty.intake)
        self._stop_at: float | None = None
        self._loading = True

    def run(self) -> int:
        """Work; returns the exit code."""
        signal.signal(signal.SIGTERM, self._on_stop)
        # Ctrl-C goes to every process of a terminal: the server decides what follows.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._tell("loading")
        try:
            self._engine.load(self._duty.weights)
        except Exception as error:
            log.exception("model not loaded", weights=self._duty.weights)
            reason = str(error) if isinstance(error, Problem) else f"{type(error).__name__}: {error}"
            self._tell("failed", reason=reason[:500])
            return SETUP_FAILED
        sandbox()  # found out now, since the first prediction would wait for it
        self._loading = False
        self._reach("worker.ready")
        self._tell("ready")
        while self._stop_at is None:
            claim = self._claim()
            if claim is not None and not self._work(claim):
                log.warning("worker replaced", worker=self._duty.name)
                return 0
        return 0

    def _claim(self) -> Claim | None:
        """Wait for a prediction; None: look around and come back."""
        seen = self._store.version()
        try:
            claim = self._store.queue.claim(self._duty.name, lease_s=self._duty.patience.lease_s)
        except StoreBusy:
            return None
        except Problem as problem:  # a full disk
            log.warning("no claim", why=str(problem))
            time.sleep(1)
            return None
        if claim is None:
            self._wait_for_change(seen)
        return claim

    def _wait_for_change(self, seen: int) -> None:
        until = time.monotonic() + LOOK_ANYWAY_S
        while self._stop_at is None and self._store.version() == seen and time.monotonic() < until:
            time.sleep(POLL_S)

    def _work(self, claim: Claim) -> bool:
        self._tell("busy", prediction=claim.lease.prediction, token=claim.lease.token)
        attempt = Attempt(
            claim, self._store, patience=self._duty.patience, time_left=self._time_left, reach=self._reach
        )
        in_order = attempt.run(self._engine, self._prepare)
        self._tell("ready")
        return in_order

    def _time_left(self) -> float | None:
        return None if self._stop_at is None else self._stop_at - time.monotonic()

    def _on_stop(self, number: int, frame: FrameType | None) -> None:
        if self._stop_at is None:
            self._stop_at = time.monotonic() + self._duty.stop_s
        if self._loading:
            raise SystemExit(0)

    def _tell(self, state: str, **more: Any) -> None:
        line = json.dumps({"state": state, "device": self._engine.device, **more}) + "\n"
        with suppress(BrokenPipeError):  # nobody listens any more: the end is near
            os.write(self._duty.report_fd, line.encode())


def _engine(duty: Duty) -> Engine:
    if duty.engine == "stub":
        from masklet.server.stub import StubEngine

        return StubEngine(duty.stub_load_s)
    return RealEngine(duty.device, duty.dtype)


def _die_with(parent: int) -> None:
    """End this process, and those it started, when the server ends, even if by SIGKILL."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text(_FIRST_TO_GO)
    if os.getppid() != parent:
        os._exit(0)

    def watch() -> None:
        # The server holds the other end and never writes. A buffered read would block the interpreter's end.
        with suppress(OSError):
            while os.read(0, 1):
                pass
        os.killpg(0, signal.SIGKILL)

    Thread(target=watch, name="parent", daemon=True).start()


def main() -> None:
    """Run a worker in this process, which leads a process group of its own."""
    duty, parent = Duty.read(sys.argv[1]), int(sys.argv[2])
    _die_with(parent)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    reach = crash_point()
    with JobStore(Path(duty.data_dir), boot_id=duty.boot_id, surroundings=Surroundings(reach=reach)) as store:
        code = Worker(duty, store, _engine(duty), reach).run()
    sys.exit(code)


if __name__ == "__main__":
    main()
