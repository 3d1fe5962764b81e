"""News of predictions: who waits for one is woken by a change in the database, whichever process made it.

Streams are server-sent events in Replicate's words (`output`, `logs`, `error`, `done`; any other makes the Python
client fail). An event's id is its number in the store, so that a reader who was cut off goes on after `Last-Event-ID`.
"""

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager

from starlette.concurrency import run_in_threadpool

from masklet.jobs.records import ENDINGS, Event, Status

POLL_S = 0.02
"""Between two looks at the database's version: a number in shared memory, read in microseconds."""
KEEP_ALIVE_S = 15.0
"""A silent stream says something, so that no proxy between takes it for dead."""
RETRY_MS = 1_000


class Feed:
    """Wakes those who wait for predictions. `version` changes with every commit; `changed` says which ones did.

    Nothing is asked while nobody waits.
    """

    def __init__(
        self,
        version: Callable[[], int],
        changed: Callable[[int], tuple[int, frozenset[str]]],
        *,
        poll_s: float = POLL_S,
    ) -> None:
        self._version = version
        self._changed = changed
        self._poll_s = poll_s
        self._listeners: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    @contextmanager
    def listen(self, prediction: str) -> Iterator["News"]:
        """Hear of a prediction's changes from now on; read its state after this, not before."""
        event = asyncio.Event()
        self._listeners[prediction].add(event)
        if self._task is None and not self._closed:
            self._task = asyncio.create_task(self._watch())
        try:
            yield News(event, lambda: self._closed)
        finally:
            self._listeners[prediction].discard(event)
            if not self._listeners[prediction]:
                del self._listeners[prediction]

    def close(self) -> None:
        """Let everybody go who waits: the server stops."""
        self._closed = True
        for events in list(self._listeners.values()):
            for event in events:
                event.set()

    async def _watch(self) -> None:
        version, seq = -1, -1
        try:
            while self._listeners and not self._closed:
                found = self._version()
                if found != version:
                    version, first = found, seq < 0
                    seq, predictions = await run_in_threadpool(self._changed, seq)
                    # What happened while the first number was read belongs to nobody: let everybody look.
                    self._wake(list(self._listeners) if first else predictions)
                await asyncio.sleep(self._poll_s)
        finally:
            self._task = None

    def _wake(self, predictions: Iterable[str]) -> None:
        for prediction in predictions:
            for event in self._listeners.get(prediction, ()):
                event.set()


class News:
    """One listener's ear."""

    def __init__(self, event: asyncio.Event, closed: Callable[[], bool]) -> None:
        self._event = event
        self._closed = closed

    @property
    def over(self) -> bool:
        """Whether the server stops, so that nothing more will be heard."""
        return self._closed()

    async def wait(self, seconds: float) -> bool:
        """Wait for a change; returns whether there was one (or the server stops)."""
        try:
            await asyncio.wait_for(self._event.wait(), max(0.0, seconds))
        except TimeoutError:
            return False
        self._event.clear()
        return True


async def stream(
    news: News,
    after: int,
    read: Callable[[int], tuple[Status | None, tuple[Event, ...]]],
    url: Callable[[str], str],
) -> AsyncIterator[str]:
    """Yield a prediction's events after a number, as they happen, until it ends or the server stops.

    `read` gives its status and its events after a number; `url` gives the address of an output by its name.
    """
    yield f"retry: {RETRY_MS}\n\n"
    while True:
        over = news.over  # asked first: what happened before a stop is still told
        status, events = await run_in_threadpool(read, after)
        for text in await run_in_threadpool(_all_as_sse, events, url):
            yield text
        after = events[-1].seq if events else after
        if status is None or any(event.kind == "completed" for event in events):
            return
        if status in ENDINGS and not events:
            # Its events were kept as long as promised, or the reader has had the last one.
            yield _sse("done", after, "{}")
            return
        if over:
            return
        if not events and not await news.wait(KEEP_ALIVE_S):
            yield ": still at work\n\n"


def _all_as_sse(events: Iterable[Event], url: Callable[[str], str]) -> list[str]:
    return [text for event in events for text in _as_sse(event, url)]


def _as_sse(event: Event, url: Callable[[str], str]) -> list[str]:
    if event.kind == "output":
        return [_sse("output", event.seq, url(event.data["name"]))]
    if event.kind == "logs":
        return [_sse("logs", event.seq, event.data["text"])]
    if event.kind != "completed":
        return []
    if event.data["status"] == "succeeded":
        return [_sse("done", event.seq, "{}")]
    if event.data["status"] == "failed":
        detail = {"detail": event.data["error"], "code": event.data["error_code"]}
        return [
            _sse("error", event.seq, json.dumps(detail)),
            _sse("done", event.seq, json.dumps({"reason": "error"})),
        ]
    return [_sse("done", event.seq, json.dumps({"reason": "canceled"}))]


def _sse(kind: str, seq: int, data: str) -> str:
    # splitlines, because the Python client cuts lines at everything that Unicode counts as one.
    lines = data.splitlines() or [""]
    if data.endswith(("\n", "\r")):
        lines.append("")
    return "".join(["event: ", kind, "\nid: ", str(seq), "\n", *(f"data: {line}\n" for line in lines), "\n"])
