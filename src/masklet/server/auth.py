"""Who is asking, and whether a browser was tricked into asking. Tokens are kept and compared as SHA-256 digests.

Everything not named in `OPEN` needs a token as soon as there is one. Without tokens there is one owner, and only this
machine is listened to. Against a page on another site (CSRF, DNS rebinding) Host, Origin and Sec-Fetch-Site are
checked: a page cannot forge them, and other clients send no Origin.
"""

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from masklet.errors import Problem
from masklet.server.problems import Refusal, unauthenticated

LOCAL_OWNER = "local"
"""Owner of everything on a server without tokens."""
SHORTEST_TOKEN = 16
SCHEMES = ("bearer", "token")
OPEN = ("/", "/healthz", "/readyz", "/health", "/health-check", "/docs", "/openapi.json")
"""Answer without a token: they tell nothing about anybody's work."""
SIGNED = ("/v1/outputs/", "/v1/files/")
"""Below these, a valid signature in the address stands for a token; the route checks it."""
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
HOST = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


class BadSetup(Problem):
    """A server that would be open to strangers, or cannot start as asked."""

    exit_code = 2


@dataclass(frozen=True)
class Token:
    """A secret's digest and whose it is."""

    owner: str
    digest: bytes


def read_tokens(lines: Iterable[str]) -> tuple[Token, ...]:
    """Read tokens, each `SECRET` or `OWNER:SECRET`."""
    tokens = []
    for line in lines:
        owner, colon, secret = line.strip().rpartition(":")
        if colon and not owner.isidentifier():
            raise BadSetup(f"token owner {owner!r} is not a name: use letters, digits and _, as in alice:SECRET")
        if len(secret) < SHORTEST_TOKEN:
            raise BadSetup(
                f"a token has {len(secret)} characters, at least {SHORTEST_TOKEN} are needed: make one with "
                "'openssl rand -hex 32'"
            )
        tokens.append(Token(owner or "default", _digest(secret.encode("utf-8", "surrogateescape"))))
    return tuple(tokens)


def check_exposure(host: str, tokens: Sequence[Token]) -> None:
    """Refuse to be reachable from other machines without a token."""
    if not is_loopback(host) and not tokens:
        raise BadSetup(
            f"--host {host} would let every machine that can reach this one run jobs: give a --token "
            "(make one with 'openssl rand -hex 32'), or listen on 127.0.0.1"
        )


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach an address; names other than localhost could be anything."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Gate:
    """What is let in."""

    tokens: tuple[Token, ...] = ()
    hosts: tuple[str, ...] | None = LOOPBACK_NAMES
    """Names this server goes by, without ports; None: any, which only tokens make safe."""
    origins: tuple[str, ...] = ()
    """Pages elsewhere that may call, such as `https://app.example`; none by default."""

    def owner(self, authorization: str | None) -> str | None:
        """Return whose token a header holds."""
        if not self.tokens:
            return LOCAL_OWNER
        scheme, _, secret = (authorization or "").partition(" ")
        if scheme.lower() not in SCHEMES:
            return None
        digest = _digest(secret.strip().encode("latin-1"))  # as it came over the wire
        # Every token is compared, and all of each: time tells nothing about a near miss.
        matches = [token.owner for token in self.tokens if hmac.compare_digest(token.digest, digest)]
        return matches[0] if matches else None

    def check_browser(self, method: str, headers: Headers) -> None:
        """Raise `Refusal` for what a page on another site may have sent."""
        host = headers.get("host", "")
        if self.hosts is not None and _name(host) not in self.hosts:
            raise _forbidden(f"This server does not go by the name {host[:100]!r}. Allow it with --allow-host.")
        origin = headers.get("origin")
        if origin is not None and (origin in self.origins or _same(origin, host)):
            return
        if method in SAFE_METHODS:
            return
        if origin is not None or headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
            raise _forbidden("A page on another site may not do this. Allow its origin with --allow-origin.")


class Guard:
    """ASGI middleware: `Gate` before anything else hears of a request; the owner goes into `scope['state']`."""

    def __init__(self, app: ASGIApp, gate: Gate, *, metrics_open: bool = False) -> None:
        self._app = app
        self._gate = gate
        self._open = (*OPEN, "/metrics") if metrics_open else OPEN

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            self._gate.check_browser(scope["method"], headers)
            owner = self._gate.owner(headers.get("authorization"))
            if owner is None and not self._is_open(scope["method"], scope["path"], scope["query_string"]):
                raise unauthenticated()
        except Refusal as refusal:
            await refusal.response()(scope, receive, send)
            return
        scope.setdefault("state", {})["owner"] = owner
        await self._app(scope, receive, send)

    def _is_open(self, method: str, path: str, query: bytes) -> bool:
        if method not in ("GET", "HEAD"):
            return False
        return path in self._open or (path.startswith(SIGNED) and b"signature=" in query)


def _digest(secret: bytes) -> bytes:
    # compare_digest takes text only if it is ASCII, and raises otherwise: bytes never raise.
    return hashlib.sha256(secret).digest()


def _name(host: str) -> str:
    """Return the name in a Host header, without its port; nothing for what is no name."""
    found = HOST.fullmatch(host)
    return found[1].strip("[]").lower().rstrip(".") if found else ""


def _same(origin: str, host: str) -> bool:
    """Tell whether a page's origin is this server; behind a proxy the scheme may differ, the name and port do not."""
    scheme, _, rest = origin.lower().partition("://")
    return scheme in ("http", "https") and bool(rest) and rest == host.lower()


def _forbidden(detail: str) -> Refusal:
    return Refusal(403, detail, title="Forbidden")
