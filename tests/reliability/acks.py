"""What clients were told, each word on the disk before they act on it: the checker holds the service to it."""

import json
import os
from threading import Lock


class Acks:
    """A client's own log."""

    def __init__(self, path):
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115
        self._lock = Lock()

    def note(self, did, **more):
        """Write a line and flush it to the disk."""
        line = json.dumps({"did": did, **more}, allow_nan=False).encode() + b"\n"
        with self._lock:
            self._file.write(line)
            os.fsync(self._file.fileno())

    def close(self):
        self._file.close()


def created(acks, prediction, *, owner="ann", key=None, frames=None, canary=None):
    """Note that a create was answered; `prediction` is its JSON or has its id."""
    acks.note("create", id=prediction["id"], owner=owner, key=key, frames=frames, canary=canary)


def saw(acks, prediction):
    """Note a final state that was read, with the outputs' names."""
    acks.note("saw", id=prediction["id"], status=prediction["status"], outputs=prediction["outputs"])


def heard(acks, hook, prediction, kind, status):
    """Note a webhook that was taken."""
    acks.note("hook", hook=hook, id=prediction, kind=kind, status=status)


def knows(acks, id, url):
    """Note the address of an output that was given while its prediction ran."""
    acks.note("url", id=id, url=url)
