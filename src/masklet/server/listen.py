"""The listening socket and the server upon it: TLS, patience with slow clients, a stop that lets go of all."""

import asyncio
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from threading import current_thread, main_thread
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from masklet.server.auth import BadSetup
from masklet.server.settings import Settings

BACKLOG = 1_024
UNREAD_S = 60.0
LEAST_READ_BYTES = 60_000
"""Of an answer that waits for its reader, so much must go in that time: 1 kB/s, as is asked of who sends."""
STOP_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class PatientProtocol(H11Protocol):
    """Uvicorn's HTTP/1.1 with limits to how long a client may take to say what it wants, and to hear the answer.

    Uvicorn limits only the silence between two requests, and every byte ends that (slow loris).
    """

    def __init__(self, *args: Any, header_s: float, **more: Any) -> None:
        super().__init__(*args, **more)
        self._header_s = header_s
        self._deadline: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock of the first request."""
        super().connection_made(transport)
        # Anything that is not taken pauses writing: even an end that nobody reads would hold a closed connection.
        transport.set_write_buffer_limits(high=1, low=0)
        self._start()

    def data_received(self, data: bytes) -> None:
        """Stop the clock when the head of a request is whole; start it with the first byte of the next."""
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self._stop()
        elif self.cycle is None or self.cycle.response_complete:
            self._start()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the clocks."""
        self._stop()
        self._stop_watching()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Watch whether the client takes what waits for it."""
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        """Stop watching: it has taken all."""
        self._stop_watching()
        super().resume_writing()

    def _watch(self) -> None:
        self._unread = self.loop.call_later(UNREAD_S, self._look, self.transport.get_write_buffer_size())

    def _look(self, before: int) -> None:
        if before - self.transport.get_write_buffer_size() < LEAST_READ_BYTES:
            self.transport.abort()
        else:
            self._watch()

    def _stop_watching(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _start(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self._header_s, self._give_up)

    def _stop(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._deadline = None
        if not self.transport.is_closing():
            self.transport.abort()


class Server(uvicorn.Server):
    """Uvicorn's server; a first signal stops it gently and calls `on_stop`, a second at once and calls `on_hurry`."""

    def __init__(self, config: uvicorn.Config, on_stop: Callable[[], None], on_hurry: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_stop, self._on_hurry = on_stop, on_hurry

    def stop(self) -> None:
        """Stop as a first signal does."""
        if not self.should_exit:
            self.should_exit = True
            self._on_stop()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take the signals that stop a server while it serves (a terminal that goes away sends SIGHUP)."""
        if current_thread() is not main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal. None is raised again at the end, as Uvicorn would: a stop that was asked for is no failure."""
        if self.should_exit:
            self.force_exit = True
            self._on_hurry()
        else:
            self.stop()


def listening_socket(settings: Settings) -> socket.socket:
    """Bind the address; raises `BadSetup` if it is taken, or not this machine's."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # Named outright, or asyncio leaves Nagle's algorithm on, and every answer waits 40 ms for an acknowledgement.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host.strip("[]"), settings.port))
    except OSError as error:
        listener.close()
        raise BadSetup(
            f"cannot listen on {settings.host}:{settings.port} ({error.strerror or error}): choose another --port, or "
            "--port 0 for any free one"
        ) from error
    listener.listen(BACKLOG)
    listener.set_inheritable(False)
    return listener


def make_server(
    app: ASGIApp, settings: Settings, *, on_stop: Callable[[], None], on_hurry: Callable[[], None]
) -> Server:
    """Return a server that is ready to serve on a socket."""
    config = uvicorn.Config(
        app,
        http=partial(PatientProtocol, header_s=settings.header_s),  # type: ignore[arg-type]
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        # Nobody else may say who the client is or how it came: --public-url says how callers reach this server.
        proxy_headers=False,
        limit_concurrency=settings.connections,
        timeout_graceful_shutdown=max(1, int(settings.stop_s)),
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
    )
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise BadSetup(f"the certificate or its key cannot be used ({error}): give PEM files that fit") from error
    if config.ssl is not None:
        config.ssl.minimum_version = ssl.TLSVersion.TLSv1_2
    return Server(config, on_stop, on_hurry)
