"""One place for a worker: the process that fills it now, what that says of itself, and when a new one is due."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from threading import Thread
from typing import Literal

from masklet.jobs import Lease
from masklet.server.duty import SETUP_FAILED, Duty

State = Literal["loading", "ready", "busy", "failed", "gone"]
PAUSES_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
"""Before the next try to load a model that cannot be loaded; a worker that was ready is replaced at once."""
ONCE_ONLY = ("MASKLET_CRASHPOINT",)
"""Variables for the first process of a place: a test wants one crash, not one after another."""


@dataclass(frozen=True)
class Report:
    """What a worker last said of itself."""

    state: State
    since: float
    """By the monotonic clock."""
    device: str = ""
    reason: str = ""
    lease: Lease | None = None
    """What it works on."""


class Place:
    """Starts and ends the processes of one place; every method is called from one thread."""

    def __init__(self, number: int, duty: Duty, wake: Callable[[], None]) -> None:
        self.number = number
        self._duty, self._wake = duty, wake
        self._process: subprocess.Popen[bytes] | None = None
        self._listener: Thread | None = None
        self._generation = 0
        self._failures = 0
        self._due = time.monotonic()
        self.report = Report("gone", time.monotonic())
        self.name = ""
        self.ended_on_purpose = False
        self._given_up_for = ""

    @property
    def pid(self) -> int | None:
        """Return the process's id, None while there is none."""
        return None if self._process is None else self._process.pid

    @property
    def due(self) -> bool:
        """Whether a process should be started now."""
        return self._process is None and time.monotonic() >= self._due

    def start(self, environment: Mapping[str, str]) -> None:
        """Start a process. The thread that does so must live as long: Linux ends the worker with it."""
        self._generation += 1
        self.name = f"{self._duty.name}-{self.number}-{self._generation}"
        self.ended_on_purpose, self._given_up_for = False, ""
        if self._generation > 1:
            environment = {name: value for name, value in environment.items() if name not in ONCE_ONLY}
        listen, tell = os.pipe()
        try:
            duty = replace(self._duty, name=self.name, report_fd=tell)
            # A program of its own, never a fork: this process has threads, and torch must not inherit them.
            self._process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-m", "masklet.server.worker", duty.as_text(), str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=2,  # what libraries print belongs in the log
                pass_fds=(tell,),
                env=dict(environment),
                start_new_session=True,
            )
        except BaseException:
            os.close(listen)
            raise
        finally:
            os.close(tell)
        self.report = Report("loading", time.monotonic())
        self._listener = Thread(target=self._listen, args=(listen, self.name), name=f"listen {self.name}", daemon=True)
        self._listener.start()

    def _listen(self, pipe: int, name: str) -> None:
        """Hear what the worker says, until it ends."""
        with open(pipe, encoding="utf-8") as lines:
            for line in lines:
                said = json.loads(line)
                lease = Lease(said["prediction"], said["token"], name) if said["state"] == "busy" else None
                self.report = Report(said["state"], time.monotonic(), said["device"], said.get("reason", ""), lease)
                self._wake()
        self._wake()

    def reap(self) -> str | None:
        """If the process has ended, say how, and plan the next one; None: it runs, or there is none."""
        if self._process is None or (code := self._process.poll()) is None:
            return None
        self.kill()  # whatever it had started
        self._hear_out()
        # One that was given up may have become ready at that very moment.
        failed = bool(self._given_up_for) or self.report.state in ("loading", "failed")
        failed = failed and not self.ended_on_purpose
        reason = self._given_up_for or self.report.reason or _how(code)
        self._failures = self._failures + 1 if failed else 0
        pause = PAUSES_S[min(self._failures, len(PAUSES_S)) - 1] if failed else 0.0
        self._due = time.monotonic() + pause
        self.report = Report("failed" if failed else "gone", time.monotonic(), reason=reason)
        return f"its worker {_how(code)}"

    def _hear_out(self) -> None:
        process, listener = self._process, self._listener
        if process is not None and process.stdin is not None:
            process.stdin.close()
        if listener is not None:
            listener.join(1.0)  # a child of the worker may hold the pipe's other end for a moment
        self._process = self._listener = None

    def ask_to_stop(self) -> None:
        """Ask the process to end when it can."""
        if self._process is not None:
            self.ended_on_purpose = True
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)

    def give_up(self, reason: str) -> None:
        """End the process for a reason of ours, which what it said meanwhile does not replace."""
        self._given_up_for = reason
        self.kill()

    def kill(self) -> None:
        """End the process and what it started."""
        if self._process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def wait(self, timeout_s: float) -> bool:
        """Wait for the process's end; returns whether it came."""
        if self._process is None:
            return True
        try:
            self._process.wait(max(0.0, timeout_s))
        except subprocess.TimeoutExpired:
            return False
        return True


def _how(code: int) -> str:
    if code == SETUP_FAILED:
        return "could not load the model"
    if code < 0:
        with suppress(ValueError):
            return f"was ended by {signal.Signals(-code).name}"
    return f"ended with code {code}"
