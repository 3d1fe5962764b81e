"""The checker over HTTP: it finds nothing in order, each damage to what a server serves, and each lie of an answer."""

import json
import shutil
import sqlite3
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler

import pytest
from server.serving import serving

from reliability.receiver import answering
from reliability.rounds import check
from reliability.service import TOKENS

FLAGS = ("--workers", "0", *(flag for owner, token in TOKENS.items() for flag in ("--token", f"{owner}:{token}")))


@pytest.fixture(scope="module")
def served(healthy, tmp_path_factory):
    """Serve a copy of the healthy data."""
    root, ids = healthy
    copy = tmp_path_factory.mktemp("served") / "copy"
    shutil.copytree(root, copy)
    with serving(copy / "data", *FLAGS, ready=False) as server:
        yield server, copy, ids


def found(root, url):
    violations, _ = check(root / "data", root / "acks", url=url, tokens=TOKENS)
    return violations


def test_what_is_in_order_is_found_in_order(served):
    server, root, _ = served
    assert found(root, server.url) == []


def test_each_damage_to_what_is_served_is_found(healthy, tmp_path):
    """Only what the answers show: that the database and the files are damaged, the checker sees without them."""
    shutil.copytree(healthy[0], tmp_path / "copy")
    root, ids = tmp_path / "copy", healthy[1]
    with serving(root / "data", *FLAGS, ready=False) as server:
        [claim] = (root / "data" / "outputs" / ids["succeeded"]).iterdir()
        (claim / "frame_00000.png").write_bytes((claim / "frame_00000.png").read_bytes()[:-1])
        (claim / "frame_00001.png").unlink()
        (claim / "manifest.json").write_text("{}")
        database = sqlite3.connect(root / "data" / "masklet.db", isolation_level=None)
        for statement, which in (
            ("DELETE FROM predictions WHERE id = ?", "bobs"),
            ("UPDATE predictions SET owner = 'bob' WHERE id = ?", "failed"),
            ("INSERT INTO outputs VALUES (?, 'output', 0, 'frame_00000.png', 1, '', 0, 'image/png')", "canceled"),
        ):
            assert database.execute(statement, (ids[which],)).rowcount == 1
        database.close()
        lines = found(root, server.url)
    assert {
        f"I1 {ids['bobs']} was accepted, and GET answers 404",
        f"I1 {ids['failed']} was accepted, and GET answers 404",
        f"I3 {ids['succeeded']} frame_00000.png downloads otherwise than it was published",
        f"I3 {ids['succeeded']} frame_00001.png downloads with 404",
        f"I3 {ids['succeeded']} manifest.json downloads otherwise than it was published",
        f"I5 {ids['canceled']} is canceled and is answered with 1 outputs",
        f"I9 {ids['failed']} of ann is answered to bob with 200",
    } <= set(lines)


def lying(url, lie):
    """Stand between the checker and a server, and change answers: `lie` is given path, status and body."""

    class Liar(BaseHTTPRequestHandler):
        def do_GET(self):
            token = self.headers.get("Authorization")
            request = urllib.request.Request(url + self.path, headers={"Authorization": token} if token else {})
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    status, body = answer.status, answer.read()
            except urllib.error.HTTPError as error:
                with error:
                    status, body = error.code, error.read()
            status, body = lie(self.path, token, status, body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *parts):
            """Say nothing."""

    return answering(Liar)


def change(**fields):
    """Return a lie that changes fields of a prediction's JSON."""
    return lambda status, body: (status, json.dumps(json.loads(body) | fields).encode())


OTHER = "x" * 26
PREDICTION, OUTPUT, LIST = "/v1/predictions/{}", "/v1/outputs/{}/", "/v1/predictions"
LIES = {
    "it is gone": ("succeeded", "ann", PREDICTION, lambda status, body: (404, b"{}"), "I1"),
    "the server fails": ("succeeded", "ann", PREDICTION, lambda status, body: (500, b"oops"), "I1"),
    "it is another": ("succeeded", "ann", PREDICTION, change(id=OTHER), "I1"),
    "it runs": ("succeeded", "ann", PREDICTION, change(status="processing"), "I2"),
    "it failed": ("succeeded", "ann", PREDICTION, change(status="failed"), "I2"),
    "it has no outputs": ("succeeded", "ann", PREDICTION, change(output=None), "I3"),
    "it has no manifest": ("succeeded", "ann", PREDICTION, change(urls={}), "I3"),
    "an output is cut short": ("succeeded", None, OUTPUT, lambda status, body: (status, body[:-1]), "I3"),
    "an output is not given": ("succeeded", None, OUTPUT, lambda status, body: (403, b"{}"), "I3"),
    "no reason is given": ("failed", "ann", PREDICTION, change(error=None), "I4"),
    "another code is given": ("failed", "ann", PREDICTION, change(error_code="E_INTERNAL"), "I4"),
    "outputs are given of something cancelled": ("canceled", "ann", PREDICTION, change(output=["/x"]), "I5"),
    "outputs of something cancelled still open": ("canceled", None, OUTPUT, lambda status, body: (200, b"."), "I5"),
    "it is shown to another": ("bobs", "ann", PREDICTION, lambda status, body: (200, b"{}"), "I9"),
    "its output opens for another": ("bobs", "ann", OUTPUT, lambda status, body: (200, b"."), "I9"),
    "its output opens for anybody": ("bobs", None, OUTPUT + "frame_00000.png", lambda status, body: (200, b"."), "I9"),
    "what it sent is listed for another": ("ann-canary", "bob", LIST, change(next=None, more="ann-canary"), "I9"),
}


@pytest.mark.parametrize("what", LIES)
def test_each_lie_is_found(served, what):
    server, root, ids = served
    which, owner, path, told, invariant = LIES[what]
    id = ids.get(which, which)
    path, token = path.format(id), None if owner is None else f"Bearer {TOKENS[owner]}"

    def lie(asked, asking, status, body):
        meant = asked == path or (path.endswith("/") and asked.startswith(path))
        return told(status, body) if meant and asking == token else (status, body)

    with lying(server.url, lie) as url:
        lines = found(root, url)
    assert lines
    assert {tuple(line.split()[:2]) for line in lines} == {(invariant, id)}, lines


def test_somebody_elses_in_a_list_is_found(served):
    server, root, ids = served

    def lie(asked, asking, status, body):
        if asked == LIST and asking == f"Bearer {TOKENS['ann']}":
            body = body.replace(ids["failed"].encode(), ids["bobs"].encode())
        return status, body

    with lying(server.url, lie) as url:
        assert found(root, url) == [f"I9 {ids['bobs']} of bob is listed for ann"]


def test_a_server_that_is_not_there_is_no_server_in_order(served):
    _, root, _ = served
    with pytest.raises(AssertionError, match="refused"):
        found(root, "http://127.0.0.1:9")
