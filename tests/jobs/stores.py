"""What tests of the store share: two clocks that they move, and the life of a prediction in short words."""

import sqlite3
import subprocess
import sys
import textwrap
from dataclasses import replace

from masklet.jobs import (
    Clock,
    NewPrediction,
    Outcome,
    Retention,
    make_durable,
)

ANY = NewPrediction(owner="ann", model="meta/sam-2-video", version="v1", weights="nano", input={"click_frames": "0"})
HOOKED = replace(ANY, webhook="http://127.0.0.1:9/hook")
NOTHING_IS_KEPT = Retention(data_s=0, rows_s=0, unfinished_s=-1)
EVERYTHING_IS_KEPT = Retention(data_s=1e9, rows_s=1e9)


class Hands:
    """Two clocks that tests move: the wall's, which people set, and the monotonic one, which they cannot."""

    def __init__(self):
        self.wall, self.monotonic = 1_800_000_000.0, 5_000.0

    def go(self, seconds):
        self.wall += seconds
        self.monotonic += seconds

    def clock(self):
        return Clock(lambda: self.wall, lambda: self.monotonic)


def accept(store, new=ANY):
    return store.create(new).prediction


def see(store, prediction):
    return store.get(prediction.id, owner=None)


def publish(store, lease, position=0, content=b"picture", *, role="output", name=None):
    path = store.folder.outputs_of(lease) / (name or f"frame_{position:05d}.png")
    path.write_bytes(content)
    return store.queue.add_output(lease, make_durable(path), position=position, content_type="image/png", role=role)


def succeed(store, prediction=None, outputs=1):
    """Run the next prediction, or accept one and run it."""
    prediction = prediction or accept(store)
    lease = store.queue.claim("worker").lease
    assert prediction.id == lease.prediction
    for position in range(outputs):
        publish(store, lease, position)
    store.queue.finish(lease, Outcome("succeeded"), outputs=outputs)
    return see(store, prediction)


def upload(store, owner="ann", content=b"film", keep_s=1_000.0):
    path = store.uploads.temporary()
    path.write_bytes(content)
    return store.uploads.add(owner, path, name="a.mp4", content_type="video/mp4", keep_s=keep_s)


def kinds(store, prediction):
    return [event.kind for event in store.events.after(0, prediction=prediction.id)]


def raw(store):
    """Return a connection that knows none of the store's rules."""
    return sqlite3.connect(store.folder.database, isolation_level=None)


def in_a_process(code, *arguments):
    """Run code in a process of its own."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def sent(store, *, delivered=True):
    """Take what is due, once."""
    deliveries = store.outbox.due()
    for delivery in deliveries if delivered else ():
        store.outbox.mark_delivered(delivery.id)
    return deliveries


def files_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
