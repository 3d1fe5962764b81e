"""The one door for outgoing requests: videos fetched from addresses that strangers gave, and webhooks to theirs.

A name is resolved once, every address it has is judged, and the connection goes to one that was judged; the name stays
in the Host header and in TLS. So what a name means later, or to somebody else, does not matter. A redirect is a new
request. httpcore knows no proxies of the environment, follows nothing and unpacks nothing.
"""

import errno
import os
import select
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache, partial
from ipaddress import ip_address
from pathlib import Path
from threading import Thread
from typing import Any, NoReturn, TypeVar

import httpcore
import httpx

from masklet.files import refusals
from masklet.server.addresses import why_refused
from masklet.server.failures import JobFailure

STEP_S = 10.0
"""Longest silence: while a name is looked up, a connection made, an answer awaited."""
SLICE_S = 0.1
"""Between two looks at whether the work is to stop."""
MOST_REDIRECTS = 3
MOST_ADDRESSES = 4
"""So many addresses of one name are tried."""
ANSWER_BYTES = 4_096
"""So much is read of what a receiver of webhooks answers."""
PORTS = {"http": 80, "https": 443}
LOWEST_PORT = 1_024
"""Below it, only the web's own two: behind the others are mail, shells and file servers."""
REDIRECTS = {301, 302, 303, 307, 308}
AGENT = "masklet"

Resolve = Callable[[str], list[str]]
"""Returns every address of a name; raises `OSError`."""
Check = Callable[[], None]
"""Called several times a second; raises what stops the work."""
T = TypeVar("T")


def look_up(host: str) -> list[str]:
    """Ask the system for the addresses of a name."""
    return list(dict.fromkeys(str(found[4][0]) for found in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)))


@cache
def _public_trust() -> ssl.SSLContext:
    return httpx.create_ssl_context()


@dataclass(frozen=True)
class Egress:
    """Makes outgoing requests; every failure is a `JobFailure` with a code `E_URL_*`."""

    private: bool = False
    """Whether this machine and its network may be asked too."""
    resolve: Resolve = look_up
    trust: Callable[[], ssl.SSLContext] = field(default=_public_trust)

    def fetch(self, url: str, path: Path, *, most_bytes: int, within_s: float, check: Check = lambda: None) -> None:
        """Save what an address holds as a file, of which nothing is left after a failure."""
        patience, asked = _Patience(time.monotonic() + within_s, check), _checked(url)
        for _ in range(MOST_REDIRECTS + 1):
            with self._asked("GET", asked, {"Accept": "*/*"}, None, patience) as answer:
                if answer.status not in REDIRECTS:
                    _check_answer(answer, asked, most_bytes)
                    _save(answer, path, asked, most_bytes)
                    return
                asked = _next(answer, asked)
        raise JobFailure(
            "E_URL_FAILED", f"{asked.host} redirects more than {MOST_REDIRECTS} times: give its last address."
        )

    def post(self, url: str, headers: dict[str, str], body: bytes, *, within_s: float) -> int:
        """Send something and return the status of the answer; redirects are not followed."""
        asked, patience = _checked(url), _Patience(time.monotonic() + within_s, lambda: None)
        with self._asked("POST", asked, headers, body, patience) as answer:
            with suppress(JobFailure, httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError):
                read = 0
                for chunk in answer.iter_stream():
                    read += len(chunk)
                    if read >= ANSWER_BYTES:
                        break
            return answer.status

    @contextmanager
    def _asked(
        self, method: str, url: httpx.URL, headers: dict[str, str], body: bytes | None, patience: "_Patience"
    ) -> Iterator[httpcore.Response]:
        """Ask, and give the answer before its content is read."""
        sent = {"User-Agent": AGENT, "Accept-Encoding": "identity", "Connection": "close"} | headers
        with (
            _in_our_words(url.host),
            httpcore.ConnectionPool(ssl_context=self.trust(), network_backend=_Door(self, patience)) as pool,
            pool.stream(method, str(url.copy_with(fragment=None)), headers=[*sent.items()], content=body) as answer,
        ):
            yield answer


@dataclass(frozen=True)
class _Patience:
    """How long a request may take in all, and who may stop it."""

    until: float
    check: Check

    def do(self, step: Callable[[], T], wait_for: Callable[[float], object], late: type[Exception]) -> T:
        """Take a step that never blocks as soon as it can be taken; raises `late` after a silence."""
        silent_until = min(time.monotonic() + STEP_S, self.until)
        while True:
            self.check()
            left = silent_until - time.monotonic()
            if left <= 0:
                raise late
            try:
                return step()
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                wait_for(min(left, SLICE_S))


class _Door(httpcore.NetworkBackend):
    """Connects to addresses that were judged, and to nothing else."""

    def __init__(self, egress: Egress, patience: _Patience) -> None:
        self._egress, self._patience = egress, patience

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        addresses = self._addresses(host)
        for address in addresses:
            # One bad address among good ones is how a name is made to pass a check that looks at the first only.
            if (why := why_refused(address, private=self._egress.private)) is not None:
                raise JobFailure("E_URL_FORBIDDEN", f"{host} {why}: this server connects to public addresses only.")
        failed: OSError | None = None
        for address in addresses[:MOST_ADDRESSES]:
            try:
                return self._connected(address, port)
            except OSError as error:
                failed = error
        raise httpcore.ConnectError(_reason(failed)) from failed

    def _addresses(self, host: str) -> list[str]:
        """Resolve a name, in a thread, since the system's own time-out may be far longer than ours."""
        with suppress(ValueError):
            return [str(ip_address(host))]
        found: list[list[str] | OSError | UnicodeError] = []

        def ask() -> None:
            try:
                found.append(self._egress.resolve(host))
            except (OSError, UnicodeError) as error:
                found.append(error)

        asking = Thread(target=ask, name="look up", daemon=True)
        asking.start()

        def answer() -> list[str] | OSError | UnicodeError:
            if not found:
                raise BlockingIOError
            return found[0]

        resolved = self._patience.do(answer, asking.join, httpcore.ConnectTimeout)
        if not isinstance(resolved, list) or not resolved:
            raise httpcore.ConnectError("no such name")
        return resolved

    def _connected(self, address: str, port: int) -> "_Line":
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        plug = socket.socket(family, socket.SOCK_STREAM)
        try:
            plug.setblocking(False)

            def connect() -> None:
                code = plug.connect_ex((address, port))
                if code in (errno.EINPROGRESS, errno.EALREADY, errno.EWOULDBLOCK):
                    raise BlockingIOError
                if code not in (0, errno.EISCONN):
                    raise OSError(code, os.strerror(code))

            line = _Line(plug, self._patience)
            self._patience.do(connect, line.wait_to_write, httpcore.ConnectTimeout)
            plug.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except BaseException:
            plug.close()
            raise
        return line

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> NoReturn:
        raise httpcore.UnsupportedProtocol("sockets of this machine are not connected to")


class _Line(httpcore.NetworkStream):
    """A connection that never waits longer than it may."""

    def __init__(self, plug: socket.socket, patience: _Patience) -> None:
        self._plug, self._patience = plug, patience

    def wait_to_read(self, seconds: float) -> None:
        """Wait until there is something to read."""
        self._wait(select.POLLIN, seconds)

    def wait_to_write(self, seconds: float) -> None:
        """Wait until there is room to write."""
        self._wait(select.POLLOUT, seconds)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            return self._patience.do(lambda: self._plug.recv(max_bytes), self.wait_to_read, httpcore.ReadTimeout)
        except OSError as error:
            raise httpcore.ReadError(_reason(error)) from error

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        rest = memoryview(buffer)
        try:
            while rest:
                send = partial(self._plug.send, rest)
                rest = rest[self._patience.do(send, self.wait_to_write, httpcore.WriteTimeout) :]
        except OSError as error:
            raise httpcore.WriteError(_reason(error)) from error

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        try:
            plug = ssl_context.wrap_socket(self._plug, server_hostname=server_hostname, do_handshake_on_connect=False)
        except (OSError, ValueError) as error:
            raise httpcore.ConnectError(f"TLS failed: {_reason(error)}") from error
        line = _Line(plug, self._patience)
        try:
            self._patience.do(plug.do_handshake, line.wait_to_read, httpcore.ConnectTimeout)
        except OSError as error:
            plug.close()
            raise httpcore.ConnectError(f"TLS failed: {_reason(error)}") from error
        except BaseException:
            plug.close()
            raise
        return line

    def close(self) -> None:
        self._plug.close()

    def get_extra_info(self, info: str) -> Any:
        return self._plug if info == "ssl_object" and isinstance(self._plug, ssl.SSLSocket) else None

    def _wait(self, event: int, seconds: float) -> None:
        waiting = select.poll()
        waiting.register(self._plug, event)
        waiting.poll(seconds * 1_000)


def _checked(url: str) -> httpx.URL:
    """Read an address and refuse what is not plainly one of the web."""
    try:
        if any(sign <= " " or sign in "\\\x7f" for sign in url):
            raise httpx.InvalidURL("it has blanks or backslashes")
        parts = httpx.URL(url)
        host = parts.raw_host.decode("ascii")
    except (httpx.InvalidURL, UnicodeError, ValueError) as error:
        raise _forbidden(f"The address cannot be read ({error})") from None
    if parts.scheme not in PORTS:
        raise _forbidden(f"The address begins with {parts.scheme[:20] or 'nothing'}:")
    if parts.userinfo:
        raise _forbidden("The address holds a user name or password")
    if not _is_name(host):
        raise _forbidden("The address names no host")
    port = PORTS[parts.scheme] if parts.port is None else parts.port
    if not LOWEST_PORT <= port < 2**16 and port not in PORTS.values():
        raise _forbidden(f"The address's port, {port}, is neither the web's nor from {LOWEST_PORT} up")
    return parts


def _is_name(host: str) -> bool:
    with suppress(ValueError):
        ip_address(host)
        return "%" not in host
    return 0 < len(host) <= 253 and all(sign.isalnum() or sign in "-._" for sign in host)


def _forbidden(what: str) -> JobFailure:
    return JobFailure("E_URL_FORBIDDEN", f"{what}: give one that begins with https:// and a public host.")


def _next(answer: httpcore.Response, asked: httpx.URL) -> httpx.URL:
    """Return where a redirect leads."""
    where = next((value for name, value in answer.headers if name.lower() == b"location"), b"").decode("latin-1")
    if not where:
        raise JobFailure("E_URL_FAILED", f"{asked.host} answered {answer.status} without saying where to go.")
    try:
        joined = str(asked.join(where))
    except (httpx.InvalidURL, ValueError):
        raise _forbidden(f"{asked.host} redirects to an address that cannot be read") from None
    target = _checked(joined)
    if asked.scheme == "https" and target.scheme == "http":
        raise JobFailure("E_URL_FORBIDDEN", f"{asked.host} redirects from https to http, which is not followed.")
    return target


def _check_answer(answer: httpcore.Response, asked: httpx.URL, most_bytes: int) -> None:
    headers = {name.lower(): value.strip().lower() for name, value in answer.headers}
    if answer.status != httpx.codes.OK:
        raise JobFailure("E_URL_FAILED", f"{asked.host} answered {answer.status}, not 200: check the address.")
    if headers.get(b"content-encoding", b"identity") != b"identity":
        raise JobFailure("E_URL_FAILED", f"{asked.host} sent the file compressed, which nobody asked for.")
    stated = headers.get(b"content-length", b"0")
    if stated.isdigit() and int(stated) > most_bytes:
        raise _too_large(asked, most_bytes)


def _save(answer: httpcore.Response, path: Path, asked: httpx.URL, most_bytes: int) -> None:
    size = 0
    with refusals(path):
        file = path.open("xb")
    try:
        with refusals(path), file:
            for chunk in answer.iter_stream():
                size += len(chunk)
                if size > most_bytes:
                    raise _too_large(asked, most_bytes)
                file.write(chunk)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _too_large(asked: httpx.URL, most_bytes: int) -> JobFailure:
    limit = f"the limit is {most_bytes:,} bytes"
    return JobFailure("E_TOO_LARGE", f"The file at {asked.host} is too large: {limit}; make it shorter or smaller.")


@contextmanager
def _in_our_words(host: str) -> Iterator[None]:
    try:
        yield
    except httpcore.TimeoutException as error:
        raise JobFailure("E_URL_TIMEOUT", f"{host} did not answer, or send all, in time: try again later.") from error
    except httpcore.NetworkError as error:
        raise JobFailure("E_URL_FAILED", f"{host} cannot be reached ({error}): check the address.") from error
    except (httpcore.ProtocolError, httpcore.UnsupportedProtocol) as error:
        raise JobFailure("E_URL_FAILED", f"{host} broke off, or does not speak HTTP: check the address.") from error


def _reason(error: Exception | None) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    text = getattr(error, "strerror", None) or getattr(error, "reason", None)
    return str(text or error or "no address")[:200]
