"""Where a test can have the process killed: `MASKLET_CRASHPOINT=create.after_commit:3` dies the third time there.

It counts only beside `MASKLET_TESTING=1`, so that no stray variable stops a server that people use.
"""

import os
import signal
from collections import Counter
from collections.abc import Callable, Mapping
from threading import Lock

from masklet.errors import Problem

STORE = tuple(
    f"{verb}.{moment}"
    for verb in (
        *("create", "cancel", "claim", "heartbeat", "output", "logs", "finish", "release", "requeue", "expire"),
        *("upload", "upload_delete", "delivered", "resend", "secret", "sweep"),
    )
    for moment in ("before_commit", "after_commit")
)
FILES = ("upload.before_rename", "upload.after_rename", "output.before_sync", "output.after_sync", "sweep.before_files")
ELSEWHERE = ("worker.ready", "worker.prepared", "worker.before_finish", "webhook.before_send", "webhook.after_send")
POINTS = (*STORE, *FILES, *ELSEWHERE)
"""Every point there is."""


class UnknownCrashPoint(Problem):
    """A crash point that does not exist: the test would prove nothing."""


def crash_point(environment: Mapping[str, str] = os.environ) -> Callable[[str], None]:
    """Return what the program calls at each point; it does nothing unless the environment asks for a crash."""
    wanted = environment.get("MASKLET_CRASHPOINT", "")
    if not wanted or environment.get("MASKLET_TESTING") != "1":
        return _pass
    point, _, count = wanted.partition(":")
    if point not in POINTS or not (count or "1").isdigit():
        raise UnknownCrashPoint(f"MASKLET_CRASHPOINT={wanted} is not NAME:COUNT with one of {', '.join(POINTS)}")
    passed: Counter[str] = Counter()
    lock = Lock()

    def reach(name: str) -> None:
        with lock:
            passed[name] += 1
            if name == point and passed[name] == int(count or "1"):
                os.kill(os.getpid(), signal.SIGKILL)

    return reach


def _pass(point: str) -> None:
    """Go on."""
