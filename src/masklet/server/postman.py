"""Sends the webhooks of the outbox: in order for each prediction, beside each other for different ones.

How one is sent (signed, through the egress guard) is not known here. A receiver that does not answer holds up only
what goes to the same host, and never a prediction.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from threading import Event, Lock, Thread
from urllib.parse import urlsplit

import structlog

from masklet.errors import Problem
from masklet.jobs import Delivery, JobStore

AT_ONCE = 16
AT_ONCE_PER_HOST = 4
POLL_S = 0.05
LOOK_ANYWAY_S = 1.0
"""Retries become due without any change of the database."""

log = structlog.get_logger()


@dataclass(frozen=True)
class Answer:
    """What came of a try."""

    delivered: bool
    text: str
    """Such as `HTTP 500`, for whoever looks for a lost webhook."""
    final: bool = False
    """No further try can succeed: the address is forbidden."""


Send = Callable[[Delivery], Answer]
"""Sends one webhook; blocks for at most its own time-out, and raises nothing."""


class Postman:
    """Goes through the outbox until `stop`."""

    def __init__(self, store: JobStore, send: Send, reach: Callable[[str], None] = lambda point: None) -> None:
        self._store, self._send, self._reach = store, send, reach
        self._under_way: dict[str, str] = {}
        self._lock, self._end = Lock(), Event()
        self._thread = Thread(target=self._run, name="postman", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Send nothing new. What is under way is not waited for: it may be sent again after a start."""
        self._end.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._end.is_set():
            seen = self._store.version()
            try:
                self._hand_out()
            except Problem as problem:
                log.warning("the store refuses", why=str(problem))
            waited = 0.0
            while waited < LOOK_ANYWAY_S and self._store.version() == seen and not self._end.wait(POLL_S):
                waited += POLL_S

    def _hand_out(self) -> None:
        with self._lock:
            busy, hosts = dict(self._under_way), Counter(self._under_way.values())
        if len(busy) >= AT_ONCE:
            return

        def has_place(url: str) -> bool:
            host = _host(url)
            free = hosts[host] < AT_ONCE_PER_HOST
            hosts[host] += free
            return free

        for delivery in self._store.outbox.due(busy=busy.keys(), limit=AT_ONCE - len(busy), wants=has_place):
            if self._end.is_set():
                return
            with self._lock:
                self._under_way[delivery.id] = _host(delivery.url)
            Thread(target=self._deliver, args=(delivery,), name=f"webhook {delivery.id}", daemon=True).start()

    def _deliver(self, delivery: Delivery) -> None:
        try:
            self._reach("webhook.before_send")
            answer = self._answer_to(delivery)
            self._reach("webhook.after_send")
            if answer.delivered:
                self._store.outbox.mark_delivered(delivery.id)
            elif not self._store.outbox.mark_failed(delivery.id, answer.text, final=answer.final):
                log.warning("webhook undelivered", id=delivery.id, kind=delivery.kind, why=answer.text)
        except Problem as problem:  # it is due as before
            log.warning("webhook not marked", id=delivery.id, why=str(problem))
        finally:
            with self._lock:
                self._under_way.pop(delivery.id, None)

    def _answer_to(self, delivery: Delivery) -> Answer:
        try:
            return self._send(delivery)
        except Exception:
            log.exception("webhook failed", id=delivery.id)
            return Answer(False, "the server failed to send it")


def _host(url: str) -> str:
    return urlsplit(url).netloc
