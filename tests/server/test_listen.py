"""Clients that ask, and do not read the answer."""

import asyncio
import socket
from contextlib import contextmanager
from threading import Thread
from unittest.mock import Mock

import pytest
import uvicorn
from uvicorn.server import ServerState

from masklet.server import listen
from masklet.server.listen import LEAST_READ_BYTES, UNREAD_S, PatientProtocol, listening_socket, make_server
from masklet.server.settings import Settings
from server.serving import wait_until

ASK = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
PIECE = bytes(60_000)
"""Less than what asyncio keeps for a client before it asks for patience."""
SETTINGS = Settings(port=0)


def answering(pieces):
    """Return an application that answers so much."""

    async def answer(scope, receive, send):
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(pieces):
                await send({"type": "http.response.body", "body": PIECE, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

    return answer


@contextmanager
def listening(app):
    """Run a server in a thread; gives its address, and the connections that it holds."""
    with listening_socket(SETTINGS) as listener:
        # What the system keeps for a client is no part of this; connections get it from their listener.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
        server = make_server(app, SETTINGS, on_stop=lambda: None, on_hurry=lambda: None)
        thread = Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
        thread.start()
        try:
            yield listener.getsockname(), server.server_state.connections
        finally:
            server.force_exit = True
            server.stop()
            thread.join()


def ask(address):
    plug = socket.socket()
    plug.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1_024)
    plug.connect(address)
    plug.sendall(ASK)
    assert plug.recv(12) == b"HTTP/1.1 200"
    return plug


@pytest.mark.parametrize("pieces", [1, 100], ids=["the end of an answer", "a long answer"])
def test_a_client_that_does_not_read_its_answer_is_cut_off(monkeypatch, pieces):
    monkeypatch.setattr(listen, "UNREAD_S", 0.2)
    with listening(answering(pieces)) as (address, connections), ask(address):
        wait_until(lambda: not connections)


def test_a_client_that_reads_has_the_whole_answer():
    with listening(answering(100)) as (address, connections), ask(address) as plug:
        size = 0
        while more := plug.recv(65_536):
            size += len(more)
        assert size > 100 * len(PIECE)
        wait_until(lambda: not connections)


class Line:
    """A connection by a clock in the test's hands: its transport, and a loop of which only timers are asked."""

    def __init__(self):
        self.waiting, self.timers = 0, []
        self.transport = Mock(get_write_buffer_size=lambda: self.waiting, get_extra_info=lambda name: None)
        config = uvicorn.Config(answering(0), log_config=None)
        config.load()
        self.protocol = PatientProtocol(config, ServerState(), {}, header_s=10.0, _loop=self)
        self.protocol.connection_made(self.transport)

    def call_later(self, seconds, call, *given):
        timer = Mock(seconds=seconds, run=lambda: call(*given))
        timer.cancel = lambda: self.timers.remove(timer)
        self.timers.append(timer)
        return timer

    @property
    def watching(self):
        """Return the timers of who does not read."""
        return [timer for timer in self.timers if timer.seconds == UNREAD_S]

    def goes_on(self):
        """Let the time go by; say whether the connection is still there."""
        [timer] = self.watching
        self.timers.remove(timer)
        timer.run()
        return not self.transport.abort.called


def test_who_takes_a_long_answer_slowly_keeps_the_connection():
    line = Line()
    line.waiting = 20 * LEAST_READ_BYTES
    line.protocol.pause_writing()
    while line.waiting > 2 * LEAST_READ_BYTES:
        line.waiting -= LEAST_READ_BYTES
        assert line.goes_on()
    line.waiting -= LEAST_READ_BYTES - 1
    assert not line.goes_on()


def test_who_took_all_is_not_watched_any_more():
    line = Line()
    line.protocol.pause_writing()
    assert line.watching
    line.protocol.resume_writing()
    assert line.watching == []


def test_a_connection_that_is_lost_is_not_watched_any_more():
    line = Line()
    line.protocol.pause_writing()
    assert line.watching
    line.protocol.connection_lost(None)
    assert line.watching == []
