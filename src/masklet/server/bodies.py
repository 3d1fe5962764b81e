"""Request bodies from strangers: counted while they arrive, in time, and JSON only in the strict sense.

Python's own reader takes NaN, numbers beyond a double, UTF-16 and names given twice, and gives up on deep nesting with
an error that nobody expects. Here each of these is the caller's mistake, said with 400.
"""

import asyncio
import json
import math
from collections.abc import Callable, Coroutine, Iterable
from time import monotonic
from typing import Any, NoReturn

from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from masklet.server.problems import Refusal, too_large

UPLOAD_PATH = "/v1/files"
"""Has a limit of its own, counted there part by part."""
DEEPEST = 100
"""Levels of nesting; a prediction needs four."""
LONG_BYTES = 64_000
LEAST_RATE = 1_000
"""Bytes a second on average, once a body has been waited for as long as it may stop: a byte now and then is no body."""
LONGEST_INTEGER = 1_000
"""Digits; beyond four thousand Python itself refuses, since reading takes their square."""


class Bodies:
    """ASGI middleware: no body is longer than its limit, and none may stop or trickle on its way."""

    def __init__(self, app: ASGIApp, *, json_bytes: int, upload_bytes: int, idle_s: float) -> None:
        self._app = app
        self._json_bytes = json_bytes
        self._upload_bytes = upload_bytes
        self._idle_s = idle_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through with a body that is watched."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._upload_bytes if scope["path"] == UPLOAD_PATH else self._json_bytes
        watched = _Watched(receive, limit, self._idle_s)
        try:
            watched.check_length(Headers(scope=scope).get("content-length"))
        except Refusal as refusal:
            await refusal.response()(scope, receive, send)
            return
        await self._app(scope, watched, send)


class _Watched:
    """A `receive` that counts."""

    def __init__(self, receive: Receive, limit: int, idle_s: float) -> None:
        self._receive = receive
        self._limit = limit
        self._idle_s = idle_s
        self._count = 0
        self._waited_s = 0.0
        """For the client alone: time in which the server was busy is not its fault."""
        self._complete = False

    def check_length(self, stated: str | None) -> None:
        """Refuse what says of itself that it is too long, before any of it is read."""
        if stated is not None and stated.isascii() and stated.isdigit() and int(stated[:20]) > self._limit:
            raise self._too_large()

    async def __call__(self) -> Message:
        """Return the next message; once the body is whole, wait for a disconnect as long as it takes."""
        if self._complete:
            return await self._receive()
        before = monotonic()
        try:
            message = await asyncio.wait_for(self._receive(), self._idle_s)
        except TimeoutError:
            raise _too_slow(f"stopped for {self._idle_s:g} seconds") from None
        self._waited_s += monotonic() - before
        self._count += len(message.get("body", b""))
        if self._count > self._limit:
            raise self._too_large()
        self._complete = not message.get("more_body", False)
        if not self._complete and self._count < LEAST_RATE * (self._waited_s - self._idle_s):
            spent = f"brought {self._count} bytes in {self._waited_s:.0f} seconds"
            raise _too_slow(f"{spent}, and the least is {LEAST_RATE} bytes a second")
        return message

    def _too_large(self) -> Refusal:
        return too_large("The request", self._limit, "Upload the video to /v1/files, or give its URL.")


def _too_slow(how: str) -> Refusal:
    detail = f"The body {how}. Send it again over a faster connection."
    return Refusal(408, detail, headers={"Connection": "close"})


def read_json(body: bytes) -> Any:
    """Read JSON in UTF-8; raises `Refusal` for anything that is not, or that could not be written again."""
    try:
        text = body.decode("utf-8")
        value = json.loads(
            text, parse_constant=_no_constant, parse_float=_finite, parse_int=_short_int, object_pairs_hook=_once
        )
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")  # half a surrogate pair is no character
        if text.count("[") + text.count("{") > DEEPEST:
            _check_depth(value)
    except RecursionError:
        raise _malformed(f"it is nested deeper than {DEEPEST} levels") from None
    except ValueError as error:
        raise _malformed(_plain(error)) from error
    return value


class StrictRoute(APIRoute):
    """A FastAPI route whose JSON body is read by `read_json`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap the handler so that the request it sees is strict."""
        handler = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handler(_StrictRequest(request.scope, request.receive))

        return strict


class _StrictRequest(Request):
    async def json(self) -> Any:
        body = await self.body()
        # A long body takes tenths of a second, in which everybody else would wait.
        return read_json(body) if len(body) < LONG_BYTES else await run_in_threadpool(read_json, body)


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(DEEPEST):
        level = [inner for outer in level if isinstance(outer, dict | list) for inner in _inside(outer)]
        if not level:
            return
    raise ValueError(f"it is nested deeper than {DEEPEST} levels")


def _inside(outer: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return outer.values() if isinstance(outer, dict) else outer


def _malformed(why: str) -> Refusal:
    return Refusal(400, f"The body is not valid JSON: {why}.", title="Malformed JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    whole = dict(pairs)
    if len(whole) != len(pairs):
        raise ValueError("a name is given twice in one object")
    return whole


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number is too large")
    return value


def _short_int(text: str) -> int:
    if len(text) > LONGEST_INTEGER:
        raise ValueError("a number is too large")
    return int(text)


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number in JSON")


def _plain(error: ValueError) -> str:
    """Say what is wrong without repeating what was sent: it may hold a secret."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.pos}"
    if isinstance(error, UnicodeError):
        return "it is not UTF-8"
    return str(error)
