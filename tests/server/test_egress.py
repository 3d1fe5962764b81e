"""The one door outward: no spelling, name or redirect leads to a private address, and no source holds it open."""

import ast
import re
import socket
import ssl
import time
from pathlib import Path

import pytest

import masklet.server
from masklet.server import egress
from masklet.server.addresses import why_refused
from masklet.server.egress import Egress
from masklet.server.failures import JobFailure
from server.fetching import begins, drips, endless, raw, replies, resets, says, says_nothing
from server.serving import CERT

PUBLIC = "127.0.0.2"
"""Taken for a public address by the tests that need one: where the first request goes, or should."""

SPELLINGS = {
    # as anybody writes it
    **{text: text for text in ("127.0.0.1", "127.0.0.3", "127.255.255.254", "0.0.0.0", "0.1.2.3")},
    # as old C libraries read it
    **dict.fromkeys(
        ("127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "017700000001"), "127.0.0.1"
    ),
    **dict.fromkeys(("0x7F.0x0.0x0.0x1", "0177.0x0.0.1", "127.0x1", "00000177.0.0.01", "0"), "127.0.0.1"),
    **dict.fromkeys(
        ("127.0.0.1.", "localhost", "LOCALHOST", "localhost.", "localtest.me", "1.0.0.127.nip.test"), "127.0.0.1"
    ),
    # private networks, by their ends
    **{text: text for text in ("10.0.0.0", "10.255.255.255", "172.16.0.1", "172.31.255.255", "192.168.0.1")},
    **{text: text for text in ("192.168.255.255", "100.64.0.1", "100.127.255.255", "100.100.100.200")},
    "0xa9fea9fe": "169.254.169.254",
    "2852039166": "169.254.169.254",
    "0251.0376.0251.0376": "169.254.169.254",
    "169.254.43518": "169.254.169.254",
    "metadata.google.internal": "169.254.169.254",
    # the machine's cloud, link-local, and what is nobody's
    **{text: text for text in ("169.254.169.254", "169.254.170.2", "169.254.0.1", "168.63.129.16", "192.0.0.8")},
    **{text: text for text in ("192.0.0.1", "192.0.0.192", "192.0.2.1", "198.51.100.1", "203.0.113.1", "198.18.0.1")},
    **{text: text for text in ("198.19.255.255", "192.88.99.1", "224.0.0.1", "239.255.255.255", "240.0.0.1")},
    **{text: text for text in ("255.255.255.255", "233.252.0.1")},
    # IPv6
    **{
        f"[{text}]": text
        for text in (
            "::1",
            "::",
            "0:0:0:0:0:0:0:1",
            "0000:0000:0000:0000:0000:0000:0000:0001",
            "::ffff:127.0.0.1",
            "::ffff:7f00:1",
            "0:0:0:0:0:ffff:7f00:1",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:100.64.0.1",
            "::ffff:0:127.0.0.1",
            "::127.0.0.1",
            "::7f00:1",
            "::a9fe:a9fe",
            "64:ff9b::127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b::a00:1",
            "64:ff9b:1::7f00:1",
            "64:ff9b:1:ffff:0:0:808:808",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::",
            "2002:c0a8:101::1",
            "2001::7f00:1",
            "2001:0:7f00:1::",
            "2001:0:808:808:0:0:80ff:fffe",
            "2001:10::1",
            "2001:20::1",
            "2001:db8::1",
            "3fff::1",
            "5f00::1",
            "100::1",
            "fe80::1",
            "fe80::5efe:7f00:1",
            "2620:0:2d0:200:0:5efe:7f00:1",
            "2620:0:2d0:200:200:5efe:c0a8:101",
            "fec0::1",
            "fc00::1",
            "fd00::1",
            "fd00:ec2::254",
            "fd12:3456:789a::1",
            "ff02::1",
            "ff0e::1",
            "ffff::1",
        )
    },
}
"""How a host may be written in an address, and the address that it means."""
EVERY_SPELLING = pytest.mark.parametrize(("spelling", "meant"), SPELLINGS.items(), ids=SPELLINGS)


@pytest.fixture(scope="module")
def canary():
    """Listen where nothing may come."""
    with raw(says(replies(200, b"a secret"))) as server:
        yield server


@pytest.fixture(autouse=True)
def nobody_came(canary):
    canary.heads.clear()
    yield
    assert canary.heads == []


@pytest.fixture
def one_public(monkeypatch):
    monkeypatch.setattr(
        egress, "why_refused", lambda address, private: None if address == PUBLIC else why_refused(address)
    )


def names(**known):
    """Return a resolver that knows some names, and reads numbers as C does."""

    def resolve(host):
        if host in known:
            return known[host] if isinstance(known[host], list) else [known[host]]
        try:
            return [socket.inet_ntoa(socket.inet_aton(host))]
        except OSError:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known") from None

    return resolve


def meaning(spelling, meant):
    return names(**{spelling.lower(): meant, "name.test": meant, "public.test": PUBLIC})


def refused(door, url, folder, code="E_URL_FORBIDDEN", **more):
    """Check that an address is refused with a code, and leaves nothing behind."""
    with pytest.raises(JobFailure) as failure:
        door.fetch(url, folder / "input", **({"most_bytes": 1_000, "within_s": 10} | more))
    assert failure.value.code == code, failure.value
    assert list(folder.iterdir()) == []
    return str(failure.value)


def fetched(door, url, folder, **more):
    door.fetch(url, folder / "input", **({"most_bytes": 100_000, "within_s": 10} | more))
    return (folder / "input").read_bytes()


def test_there_are_enough_spellings():
    assert len(SPELLINGS) >= 80


@EVERY_SPELLING
def test_no_spelling_of_a_private_address_is_asked(canary, tmp_path, spelling, meant):
    refused(Egress(resolve=meaning(spelling, meant)), f"http://{spelling}:{canary.port}/", tmp_path)


@EVERY_SPELLING
def test_no_name_of_a_private_address_is_asked(canary, tmp_path, spelling, meant):
    refused(Egress(resolve=meaning(spelling, meant)), f"http://name.test:{canary.port}/", tmp_path)


@EVERY_SPELLING
def test_no_redirect_to_a_private_address_is_followed(canary, tmp_path, one_public, spelling, meant):
    there = f"http://{spelling}:{canary.port}/"
    with raw(says(replies(302, location=there)), host=PUBLIC) as server:
        refused(Egress(resolve=meaning(spelling, meant)), f"http://public.test:{server.port}/", tmp_path)
        assert len(server.heads) == 1


@EVERY_SPELLING
def test_no_webhook_goes_to_a_private_address(canary, spelling, meant):
    door = Egress(resolve=meaning(spelling, meant))
    with pytest.raises(JobFailure) as failure:
        door.post(f"http://{spelling}:{canary.port}/", {}, b"{}", within_s=10)
    assert failure.value.code == "E_URL_FORBIDDEN"


@pytest.mark.parametrize(
    "address",
    [
        "1.0.0.1",
        "8.8.8.8",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "126.255.255.255",
        "128.0.0.0",
        "169.253.255.255",
        "169.255.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "192.167.255.255",
        "192.169.0.0",
        "192.0.1.1",
        "198.17.255.255",
        "198.20.0.0",
        "223.255.255.255",
        "168.63.129.15",
        "::ffff:8.8.8.8",
        "64:ff9b::808:808",
        "2001:200::1",
        "2003::1",
        "2606:4700::1111",
        "2a00::1",
    ],
)
def test_the_neighbours_of_what_is_forbidden_are_public(address):
    assert why_refused(address) is None


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.1.2.3", "192.168.1.1", "100.64.0.1", "::1", "fd00::1", "::ffff:10.0.0.1"]
)
def test_an_own_network_may_be_allowed(address):
    assert why_refused(address, private=True) is None


@pytest.mark.parametrize(
    "address", ["169.254.169.254", "fd00:ec2::254", "fe80::1", "0.0.0.0", "::", "224.0.0.1", "2002:7f00:1::"]
)
def test_what_tells_secrets_or_hides_something_is_never_allowed(address):
    assert why_refused(address, private=True) is not None


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "gopher://public.test/",
        "ftp://public.test/film.mp4",
        "data:video/mp4;base64,AAAA",
        "javascript:1",
        "//public.test/",
        "public.test/film.mp4",
        "",
        "http://",
        "http:///film.mp4",
        "http://user@public.test/",
        "http://user:word@public.test/",
        "http://public.test@127.0.0.1/",
        "http://127.0.0.1\\@public.test/",
        "http://public.test\t/",
        "http://public.test /",
        "http://public.test/\r\nHost: x",
        "http://%31%32%37.0.0.1/",
        "http://①②⑦.0.0.1/",
        "http://[::1%25lo]/",
        "http://[::1/",
        "http://public.test:22/",
        "http://public.test:25/",
        "http://public.test:1023/",
        "http://public.test:0/",
        "http://public.test:99999/",
        "http://public.test:-1/",
        "http://public.test:http/",
        "http://a b/",
        "http://" + "a" * 300 + ".test/",
        "http://public.test,127.0.0.1/",
        "http://\x00/",
    ],
)
def test_what_is_no_plain_address_of_the_web_is_refused_unasked(tmp_path, url):
    def never(host):
        raise AssertionError(f"{host} was looked up")

    refused(Egress(resolve=never), url, tmp_path)


def test_one_private_address_among_public_ones_refuses_the_name(canary, tmp_path, one_public):
    with raw(says(replies(200, b"film")), host=PUBLIC) as server:
        for addresses in ([PUBLIC, "127.0.0.1"], ["127.0.0.1", PUBLIC], [PUBLIC] * 3 + ["::1"]):
            refused(Egress(resolve=names(both=addresses)), f"http://both:{server.port}/", tmp_path)
        assert server.heads == []


def test_a_name_that_means_something_else_the_next_time_gains_nothing(canary, tmp_path, one_public):
    """DNS rebinding: what is checked is what is connected to, and a name is looked up once."""
    asked = []

    def rebinding(host):
        asked.append(host)
        return [PUBLIC if len(asked) % 2 else "127.0.0.1"]

    with raw(says(replies(200, b"film")), host=PUBLIC) as server:
        # The canary's port, so that a second look-up would find it.
        server_there = socket.create_server((PUBLIC, canary.port))
        with server_there:
            for round in range(100):
                url = f"http://rebinding.test:{server.port if round % 4 < 2 else canary.port}/"
                before = len(asked)
                path = tmp_path / str(round)
                try:
                    Egress(resolve=rebinding).fetch(url, path, most_bytes=100, within_s=0.1)
                except JobFailure as failure:
                    assert failure.code in ("E_URL_FORBIDDEN", "E_URL_TIMEOUT")
                assert len(asked) == before + 1
    assert canary.heads == []


def test_proxies_of_the_environment_are_not_asked(canary, tmp_path, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{canary.port}")
    with raw(says(replies(200, b"film"))) as server:
        assert fetched(Egress(private=True), f"http://127.0.0.1:{server.port}/f.mp4", tmp_path) == b"film"


# What is fetched


@pytest.fixture
def door():
    """Return a door to this machine, with this machine's names."""
    return Egress(private=True, resolve=names(localhost="127.0.0.1", public="127.0.0.1"), trust=_trust)


def _trust():
    return ssl.create_default_context(cafile=CERT)


def test_the_host_stays_named_to_the_server(door, tmp_path):
    with raw(says(replies(200, b"film"))) as server:
        assert fetched(door, f"http://public:{server.port}/a/film.mp4?key=1#part", tmp_path) == b"film"
    [head] = server.heads
    assert head.startswith("GET /a/film.mp4?key=1 HTTP/1.1\r\n")
    lines = head.lower().split("\r\n")
    assert f"host: public:{server.port}" in lines
    assert "accept-encoding: identity" in lines


def test_over_tls_the_name_is_shown_and_checked(door, tmp_path):
    with raw(says(replies(200, b"film")), tls=True) as server:
        assert fetched(door, f"https://localhost:{server.port}/", tmp_path) == b"film"
        assert server.names == ["localhost"]
        (tmp_path / "input").unlink()
        text = refused(door, f"https://public:{server.port}/", tmp_path, "E_URL_FAILED")
        assert "TLS failed" in text


def test_a_certificate_that_nobody_vouches_for_is_refused(tmp_path):
    with raw(says(replies(200, b"film")), tls=True) as server:
        refused(Egress(private=True), f"https://127.0.0.1:{server.port}/", tmp_path, "E_URL_FAILED")


def test_three_redirects_are_followed_and_not_a_fourth(door, tmp_path):
    def hop(server, plug):
        left = int(server.heads[-1].split()[1].strip("/"))
        plug.sendall(replies(302, location=f"/{left - 1}") if left else replies(200, b"film"))

    with raw(hop) as server:
        assert fetched(door, f"http://public:{server.port}/3", tmp_path) == b"film"
        (tmp_path / "input").unlink()
        assert "redirects more than 3 times" in refused(
            door, f"http://public:{server.port}/4", tmp_path, "E_URL_FAILED"
        )
        assert len(server.heads) == 8


def test_a_redirect_may_not_leave_tls(door, tmp_path):
    with (
        raw(says(replies(200, b"film"))) as plain,
        raw(says(replies(301, location=f"http://public:{plain.port}/")), tls=True) as secure,
    ):
        refused(door, f"https://localhost:{secure.port}/", tmp_path)
        assert plain.heads == []


@pytest.mark.parametrize(
    "where", ["file:///etc/passwd", "gopher://public/", "http://u:p@public/", "http://public:22/", "ftp://public/x"]
)
def test_a_redirect_is_judged_like_an_address(door, tmp_path, where):
    with raw(says(replies(307, location=where))) as server:
        refused(door, f"http://public:{server.port}/", tmp_path)


HEAD = b"HTTP/1.1 200 OK\r\n"
FAULTS = {
    "says nothing": (says_nothing, "E_URL_TIMEOUT"),
    "drips its head": (drips(b"X"), "E_URL_TIMEOUT"),
    "drips its headers": (begins(HEAD, drips(b"a: b\r\n")), "E_URL_TIMEOUT"),
    "drips its body": (begins(HEAD + b"content-length: 900\r\n\r\n", drips()), "E_URL_TIMEOUT"),
    "stops in its body": (begins(replies(200, b"some", content_length=900), says_nothing), "E_URL_TIMEOUT"),
    "never ends": (begins(HEAD + b"\r\n", endless), "E_TOO_LARGE"),
    "states too much": (begins(replies(200, content_length=10**10), says_nothing), "E_TOO_LARGE"),
    "sends more than it states": (begins(replies(200, content_length=10**10), endless), "E_TOO_LARGE"),
    "sends less than it states": (says(replies(200, b"some", content_length=900)), "E_URL_FAILED"),
    "states nonsense": (says(replies(200, b"some", content_length="many")), "E_URL_FAILED"),
    "states two lengths": (says(HEAD + b"content-length: 1\r\ncontent-length: 2\r\n\r\nab"), "E_URL_FAILED"),
    "breaks a chunk": (says(HEAD + b"transfer-encoding: chunked\r\n\r\nffff\r\nab"), "E_URL_FAILED"),
    "chunks nonsense": (says(HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\nab\r\n"), "E_URL_FAILED"),
    "has a huge header": (begins(HEAD + b"a: ", endless), "E_URL_FAILED"),
    "has many headers": (begins(HEAD, lambda server, plug: plug.sendall(b"a: b\r\n" * 100_000)), "E_URL_FAILED"),
    "redirects in a circle": (says(replies(302, location="/")), "E_URL_FAILED"),
    "redirects nowhere": (says(replies(302)), "E_URL_FAILED"),
    "has no such file": (says(replies(404, b"none")), "E_URL_FAILED"),
    "wants a password": (says(replies(401)), "E_URL_FAILED"),
    "fails": (says(replies(500)), "E_URL_FAILED"),
    "sends a part": (says(replies(206, b"some")), "E_URL_FAILED"),
    "sends it packed": (says(replies(200, b"some", content_encoding="gzip")), "E_URL_FAILED"),
    "speaks something else": (says(b"SSH-2.0-x\r\n"), "E_URL_FAILED"),
    "hangs up": (lambda server, plug: None, "E_URL_FAILED"),
    "resets": (resets, "E_URL_FAILED"),
}


@pytest.mark.parametrize(("fault", "code"), FAULTS.values(), ids=FAULTS)
def test_a_source_that_misbehaves_ends_with_a_code_in_time_and_leaves_no_file(door, tmp_path, monkeypatch, fault, code):
    monkeypatch.setattr(egress, "STEP_S", 0.4)
    with raw(fault) as server:
        began = time.monotonic()
        text = refused(door, f"http://public:{server.port}/film.mp4?token=secret", tmp_path, code, within_s=1.0)
        assert time.monotonic() - began < 3
    assert "secret" not in text
    assert "/" not in text


def test_a_source_that_is_not_there_is_said_to_be_so(door, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    refused(door, f"http://public:{port}/", tmp_path, "E_URL_FAILED")
    refused(door, "http://unknown.test/", tmp_path, "E_URL_FAILED")


def test_a_name_server_that_does_not_answer_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(egress, "STEP_S", 0.2)

    def slow(host):
        time.sleep(1)
        return ["127.0.0.1"]

    began = time.monotonic()
    refused(Egress(private=True, resolve=slow), "http://public/", tmp_path, "E_URL_TIMEOUT")
    assert time.monotonic() - began < 0.9


class Enough(Exception):
    pass


@pytest.mark.parametrize("fault", [says_nothing, drips(), begins(HEAD + b"\r\n", says_nothing)])
def test_whoever_waits_can_stop_at_any_time(door, tmp_path, fault):
    until = time.monotonic() + 0.3

    def check():
        if time.monotonic() > until:
            raise Enough

    with raw(fault) as server:
        with pytest.raises(Enough):
            door.fetch(f"http://public:{server.port}/", tmp_path / "input", most_bytes=100, within_s=30, check=check)
        assert time.monotonic() < until + 0.5
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_already_is_not_written_over(door, tmp_path):
    (tmp_path / "input").write_bytes(b"mine")
    with raw(says(replies(200, b"film"))) as server, pytest.raises(Exception, match="Cannot write"):
        fetched(door, f"http://public:{server.port}/", tmp_path)
    assert (tmp_path / "input").read_bytes() == b"mine"


# Webhooks


@pytest.mark.parametrize("status", [200, 204, 301, 302, 404, 410, 500])
def test_a_webhook_is_sent_once_and_its_answer_not_followed(door, status):
    with raw(says(replies(status, location="http://public:1234/"))) as server:
        answer = door.post(f"http://public:{server.port}/hook", {"webhook-id": "1"}, b'{"a":1}', within_s=5)
    [head] = server.heads
    assert answer == status
    assert head.startswith("POST /hook HTTP/1.1\r\n")
    assert "webhook-id: 1\r\n" in head


@pytest.mark.parametrize("fault", [endless, drips(), says_nothing], ids=lambda fault: fault.__name__)
def test_a_receiver_that_answers_without_end_is_not_listened_to(door, fault):
    with raw(begins(HEAD + b"\r\n", fault)) as server:
        began = time.monotonic()
        assert door.post(f"http://public:{server.port}/", {}, b"{}", within_s=1) == 200
        assert time.monotonic() - began < 2


def test_a_receiver_that_says_nothing_is_not_waited_for(door):
    with raw(says_nothing) as server:
        with pytest.raises(JobFailure) as failure:
            door.post(f"http://public:{server.port}/", {}, b"{}", within_s=0.5)
        assert failure.value.code == "E_URL_TIMEOUT"


# No other way out

SPEAKERS = {"httpx", "httpcore", "requests", "aiohttp", "urllib3", "http.client", "urllib.request", "socket", "ftplib"}
LISTENERS = {"listen.py"}
"""Make the socket that clients come to."""


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))


def test_nothing_else_in_the_server_opens_connections():
    folders = [Path(masklet.server.__file__).parent, Path(masklet.server.__file__).parents[1] / "jobs"]
    found = {path.name for folder in folders for path in folder.rglob("*.py") if SPEAKERS & set(imported(path))}
    assert found - LISTENERS == {"egress.py"}
    text = (folders[0] / "listen.py").read_text()
    assert re.findall(r"create_connection|\.connect(?:_ex)?\(", text) == []
