"""Bodies that come slowly, by a clock in the test's hands."""

import asyncio

import pytest

from masklet.server import bodies
from masklet.server.bodies import LEAST_RATE, Bodies
from masklet.server.problems import Refusal

IDLE_S = 20.0
UPLOAD = {"type": "http", "path": bodies.UPLOAD_PATH, "headers": []}


class Client:
    """Sends a piece of a body every so many seconds, of which none passes."""

    def __init__(self, piece, every_s):
        self.piece, self.every_s, self.now = piece, every_s, 0.0

    async def receive(self):
        self.now += self.every_s
        return {"type": "http.request", "body": self.piece, "more_body": True}


@pytest.fixture
def read(monkeypatch):
    """Return what reads a client's body, and takes some time over each piece."""

    def run(client, pieces, busy_s=0.0):
        monkeypatch.setattr(bodies, "monotonic", lambda: client.now)

        async def app(scope, receive, send):
            for _ in range(pieces):
                await receive()
                client.now += busy_s

        watched = Bodies(app, json_bytes=10**9, upload_bytes=10**9, idle_s=IDLE_S)
        asyncio.run(watched(UPLOAD, client.receive, None))

    return run


def test_a_body_of_a_byte_now_and_then_is_given_up(read):
    client = Client(b"x", every_s=10.0)
    with pytest.raises(Refusal, match="brought 3 bytes in 30 seconds, and the least is 1000 bytes a second") as refused:
        read(client, pieces=10_000)
    assert (refused.value.status_code, refused.value.headers) == (408, {"Connection": "close"})


def test_a_body_over_a_slow_line_is_read_however_long_it_takes(read):
    read(Client(bytes(LEAST_RATE * 10), every_s=10.0), pieces=1_000)


def test_a_body_may_begin_slowly(read):
    read(Client(b"x", every_s=IDLE_S / 2), pieces=2)


def test_a_client_does_not_answer_for_a_server_that_is_busy(read):
    read(Client(b"x", every_s=0.001), pieces=1_000, busy_s=60.0)
