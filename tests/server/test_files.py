"""Files in and out: uploads in every shape that clients send and none that they should not, and signed addresses."""

import json
import socket
import struct
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from masklet.server.places import Places
from masklet.server.problems import Refusal
from masklet.server.signing import Signer
from server.serving import CLICK, FRAMES, HOSTED, serving, wait_until


@pytest.fixture(scope="module")
def finished(served, video):
    """Return a prediction that has succeeded."""
    body = {"version": HOSTED, "input": {"input_video": video, **CLICK, "output_format": "png"}}
    with served.client() as client:
        return client.post("/v1/predictions", json=body, headers={"Prefer": "wait"}).json()


def multipart(*parts, end=True, boundary="frontier"):
    """Write a multipart body of (headers, content) by hand."""
    lines = [b"--%s\r\n%s\r\n\r\n%s\r\n" % (boundary.encode(), head.encode(), content) for head, content in parts]
    return b"".join(lines) + (b"--%s--\r\n" % boundary.encode() if end else b"")


def form(name, more=""):
    return f'Content-Disposition: form-data; name="{name}"{more}'


def reset(plug):
    """Let the connection end by RST, as when a machine or a program dies."""
    plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def send(http, body, boundary="frontier"):
    return http.post("/v1/files", content=body, headers={"Content-Type": f"multipart/form-data; boundary={boundary}"})


def uploads_on_disk(served):
    return {path.name for path in (served.data_dir / "uploads").iterdir()}


def test_an_upload_is_kept_with_what_was_said_of_it(http, clip):
    said = {"metadata": (None, json.dumps({"take": 2}), "application/json")}
    answer = http.post("/v1/files", files={"content": ("square.mp4", clip.read_bytes(), "video/mp4"), **said})
    assert answer.status_code == 201
    file = answer.json()
    assert ("square.mp4", "video/mp4", len(clip.read_bytes())) == (file["name"], file["content_type"], file["size"])
    assert file["metadata"] == {"take": 2}
    assert file["checksums"]["sha256"] == file["etag"]
    assert file["created_at"] < file["expires_at"]
    assert file == http.get(file["urls"]["get"]).json()
    assert file["id"] in [each["id"] for each in http.get("/v1/files").json()["results"]]


def test_a_part_without_a_name_or_type_is_taken(http):
    file = send(http, multipart((form("content"), b"frames"))).json()
    assert (file["name"], file["content_type"], file["size"]) == ("file", "application/octet-stream", 6)


def test_names_and_types_may_be_fields_as_the_python_client_2_sends_them(http):
    parts = [(form("filename"), b"a.mp4"), (form("type"), b"video/mp4"), (form("metadata[take]"), b"2")]
    file = send(http, multipart((form("content", '; filename="upload"'), b"frames"), *parts)).json()
    assert (file["name"], file["content_type"], file["metadata"]) == ("a.mp4", "video/mp4", {"take": "2"})


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "a\0b", "C:\\x", "x" * 300, "a\u202eb.mp4", "\r\nX: y"])
def test_a_name_is_only_shown(http, served, name):
    before = uploads_on_disk(served)
    head = form("content", f'; filename="{name}"').encode("utf-8", "replace").decode("latin-1")
    answer = send(http, multipart((head.replace("\r\n", " "), b"frames")))
    if answer.status_code == 201:
        [new] = uploads_on_disk(served) - before
        assert answer.json()["id"] == new
        assert len(answer.json()["name"]) <= 255
        assert answer.json()["name"].isprintable()
    else:
        assert answer.status_code == 400


def test_a_downloaded_upload_is_whole_and_nothing_that_a_browser_would_open(http):
    evil = b"<html><script>alert(1)</script>"
    file = http.post("/v1/files", files={"content": ("x.html", evil, "text/html")}).json()
    answer = http.get(file["urls"]["download"])
    assert evil == answer.content
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"].startswith("attachment; filename*=UTF-8''x.html")
    assert "sandbox" in answer.headers["content-security-policy"]


def test_how_long_an_upload_is_can_be_asked_without_downloading_it(http):
    url = send(http, multipart((form("content"), b"frames"))).json()["urls"]["download"]
    answer = httpx.head(url)
    assert (answer.status_code, answer.headers["content-length"], answer.content) == (200, "6", b"")


def test_a_deleted_upload_is_gone(http):
    file = send(http, multipart((form("content"), b"frames"))).json()
    deleted = http.delete(f"/v1/files/{file['id']}")
    assert (deleted.status_code, deleted.content) == (204, b"")
    for url in (file["urls"]["get"], file["urls"]["download"]):
        assert http.get(url).status_code == 404
    assert http.delete(f"/v1/files/{file['id']}").status_code == 404


def test_an_upload_that_is_deleted_can_be_no_input(http, clip):
    file = http.post("/v1/files", files={"content": clip.read_bytes()}).json()
    http.delete(f"/v1/files/{file['id']}")
    body = {"version": HOSTED, "input": {"input_video": file["urls"]["get"], **CLICK}}
    answer = http.post("/v1/predictions", json=body)
    assert answer.status_code == 422
    assert "upload it again" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (multipart((form("content"), b"frames"), end=False), 400),
        (multipart((form("content"), b"")), 422),
        (multipart((form("other"), b"frames")), 422),
        (multipart((form("content"), b"a"), (form("content"), b"b")), 400),
        (multipart((form("content"), b"a"), (form("metadata"), b"{")), 400),
        (multipart((form("content"), b"a"), (form("metadata"), b"[]")), 422),
        (multipart((form("content"), b"a"), (form("metadata"), b"x" * 70_000)), 413),
        (multipart((form("content"), b"a"), *[(form(f"f{i}"), b"") for i in range(1_001)]), 400),
        (multipart(("X: y\r\n" * 20 + form("content"), b"a")), 400),
        (multipart((form("content", "; x=" + "y" * 10_000), b"a")), 400),
        (b"garbage", 400),
        (b"--frontier" * 10_000, 422),
        (b"--frontier\r\n\r\n\r\n", 422),
    ],
    ids=["empty", "cut", "no bytes", "no content", "two", "json", "list", "long field", "1,001 parts", "headers",
         "long header", "garbage", "boundaries", "no header"],
)  # fmt: skip
def test_a_body_that_is_no_upload_is_refused_and_leaves_nothing(http, served, body, status):
    before = uploads_on_disk(served)
    assert status == send(http, body).status_code
    assert before == uploads_on_disk(served)


@pytest.mark.parametrize("kind", ["application/json", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_a_body_of_another_kind_is_refused(http, kind):
    assert http.post("/v1/files", content=b"a=b&" * 1_000, headers={"Content-Type": kind}).status_code == 415


@given(
    body=st.binary(max_size=300)
    | st.lists(st.sampled_from([b"--", b"frontier", b"\r\n", b":", b'name="content"'])).map(b"".join)
)
def test_no_bytes_make_the_reader_fail(body):
    import asyncio
    import tempfile
    from pathlib import Path

    from masklet.server.multipart import receive_upload

    async def chunks():
        yield body[: len(body) // 2]
        yield body[len(body) // 2 :]

    with tempfile.TemporaryDirectory() as folder:
        reading = receive_upload(chunks(), "multipart/form-data; boundary=frontier", Path(folder) / "x", 1_000)
        with pytest.raises(Refusal) as refused:
            asyncio.run(reading)
        assert refused.value.status_code in (400, 413, 422)


def test_an_upload_over_the_limit_is_refused_while_it_is_read_and_leaves_nothing(tmp_path):
    flags = ["--upload-bytes", "100000", "--workers", "0"]
    with serving(tmp_path, *flags, ready=False) as server, server.client() as http:
        body = multipart((form("content"), b"x" * 100_000))
        assert send(http, body).status_code == 413
        assert send(http, (body[i : i + 5_000] for i in range(0, len(body), 5_000))).status_code == 413
        assert set() == uploads_on_disk(server)
        assert send(http, multipart((form("content"), b"x" * 90_000))).status_code == 201


def test_an_upload_that_is_cut_off_or_stalls_leaves_nothing(tmp_path):
    flags = ["--body-idle-s", "0.5", "--workers", "0"]
    with serving(tmp_path, *flags, ready=False) as server:
        address = ("127.0.0.1", urlsplit(server.url).port)
        head = (
            b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n"
            b"Content-Type: multipart/form-data; boundary=frontier\r\n\r\n"
        )
        begun = multipart((form("content"), b"frames"), end=False)
        for sent in (b"", begun[:10], begun):
            for end in (lambda plug: None, reset):
                with socket.create_connection(address) as cut:
                    cut.sendall(head + sent)
                    end(cut)
            with socket.create_connection(address) as stalled:
                stalled.sendall(head + sent)
                assert b" 408 " in stalled.recv(100)
        with server.client() as http:
            assert send(http, multipart((form("content"), b"frames"))).status_code == 201
        assert len(uploads_on_disk(server)) == 1


def test_downloads_that_are_broken_off_leave_no_connection_behind(served, http):
    url = send(http, multipart((form("content"), bytes(20_000_000)))).json()["urls"]["download"]
    parts = urlsplit(url)
    for end in (lambda plug: None, reset) * 10:
        with socket.create_connection((parts.hostname, parts.port)) as plug:
            plug.sendall(f"GET {parts.path}?{parts.query} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert plug.recv(100).startswith(b"HTTP/1.1 200")
            end(plug)
    wait_until(lambda: len(psutil.Process(served.process.pid).net_connections()) <= 3)
    assert httpx.get(url).status_code == 200


def test_trap_5_outputs_and_streams_need_no_header_and_no_redirect(finished):
    for url in [*finished["output"], finished["urls"]["manifest"], finished["urls"]["stream"]]:
        answer = httpx.get(url)
        assert answer.status_code == 200
        assert answer.history == []
    assert httpx.get(finished["output"][0]).headers["content-type"] == "image/png"
    assert len(finished["output"]) == len(set(finished["output"]))


def test_outputs_are_named_by_the_frame_and_are_attachments(finished):
    for frame, url in enumerate(finished["output"]):
        assert f"frame_{frame:05d}.png" == urlsplit(url).path.rpartition("/")[2]
        headers = httpx.head(url).headers
        assert headers["content-disposition"].startswith("attachment;")
        assert headers["x-content-type-options"] == "nosniff"


def changed(url, **query):
    """Return an address with parts of its query replaced; None removes one."""
    parts = urlsplit(url)
    values = {name: value for name, [value] in parse_qs(parts.query).items()} | query
    kept = {name: value for name, value in values.items() if value is not None}
    return parts._replace(query=urlencode(kept)).geturl()


@pytest.mark.parametrize("kind", ["output", "stream", "download"])
def test_a_changed_address_opens_nothing(finished, video, http, kind):
    urls = {"output": finished["output"][0], "stream": finished["urls"]["stream"]}
    url = urls[kind] if kind in urls else http.get(video).json()["urls"]["download"]
    expiry = parse_qs(urlsplit(url).query)["expiry"][0]
    for other in (
        {"signature": "x" * 43},
        {"signature": ""},
        {"signature": "é"},
        {"owner": "alice"},
        {"owner": ""},
        {"expiry": str(int(expiry) + 1)},
        {"expiry": "9" * 30},
        {"expiry": "soon"},
        {"expiry": ""},
    ):
        assert httpx.get(changed(url, **other)).status_code == 403, other


def test_a_signature_opens_only_what_it_was_made_for(finished):
    first, second = finished["output"][:2]
    swapped = urlsplit(first)._replace(query=urlsplit(second).query).geturl()
    assert httpx.get(swapped).status_code == 403
    assert (
        httpx.get(urlsplit(finished["urls"]["stream"])._replace(query=urlsplit(first).query).geturl()).status_code
        == 403
    )


@pytest.mark.parametrize(
    "name",
    [
        "..%2f..%2fmasklet.db",
        "%2e%2e/%2e%2e/masklet.db",
        "..%5cmasklet.db",
        "frame_00000.png%00",
        "%252e%252e%252fx",
        ".",
    ],
)
def test_no_path_leads_out_of_the_outputs(http, finished, name):
    answer = http.get(f"/v1/outputs/{finished['id']}/{name}")
    assert answer.status_code in (404, 422)
    assert b"SQLite" not in answer.content


def test_parts_of_an_output_can_be_asked_for(finished):
    url = finished["output"][0]
    whole = httpx.get(url).content
    part = httpx.get(url, headers={"Range": "bytes=2-5"})
    assert (206, whole[2:6]) == (part.status_code, part.content)
    assert f"bytes 2-5/{len(whole)}" == part.headers["content-range"]
    assert whole[-3:] == httpx.get(url, headers={"Range": "bytes=-3"}).content


@pytest.mark.parametrize(
    "range",
    ["bytes=999999-", "bytes=5-2", "bytes=x", "lines=1-2", "bytes=" + "0-0," * 2_000 + "0-0", "bytes=-0", "bytes=-"],
    ids=lambda text: text[:20],
)
def test_no_range_makes_more_of_a_file_than_there_is(finished, range):
    url = finished["output"][0]
    answer = httpx.get(url, headers={"Range": range})
    assert answer.status_code in (200, 206, 400, 416)
    assert len(answer.content) <= len(httpx.get(url).content) + 1_000


def test_an_output_that_the_sweep_took_is_gone_without_a_failure(http, finished, served):
    [file] = served.data_dir.glob(f"outputs/{finished['id']}/*/frame_00003.png")
    kept = file.read_bytes()
    file.unlink()
    assert httpx.get(finished["output"][3]).status_code == 404
    file.write_bytes(kept)


class Time:
    """A clock that tests set."""

    now = 1_700_000_000.0

    def __call__(self):
        return self.now


def test_an_address_lives_as_long_as_promised_and_not_much_longer():
    clock = Time()
    signer = Signer(b"k" * 32, life_s=3_600, clock=clock)
    query = {name: value for name, [value] in parse_qs(signer.query("x/y", "alice")).items()}
    clock.now += 3_600
    assert signer.owner("x/y", query) == "alice"
    clock.now += 3_600
    with pytest.raises(Refusal, match="expired"):
        signer.owner("x/y", query)


def test_the_same_address_is_given_again_so_that_a_poll_changes_nothing():
    clock = Time()
    signer = Signer(b"k" * 32, life_s=3_600, clock=clock)
    given_at = []
    for _ in range(3_600):
        given_at.append(signer.query("x", "alice"))
        clock.now += 1
    assert len(set(given_at)) <= 5


@given(st.text(), st.text(), st.text())
def test_no_query_makes_the_signer_fail(owner, expiry, signature):
    with pytest.raises(Refusal):
        Signer(b"k" * 32, life_s=60).owner("x", {"owner": owner, "expiry": expiry, "signature": signature})


def test_too_many_uploads_at_once_are_asked_to_wait(tmp_path):
    flags = ["--uploads-at-once", "1", "--workers", "0"]
    head = (
        b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n"
        b"Content-Type: multipart/form-data; boundary=frontier\r\n\r\n--frontier\r\n"
    )
    with serving(tmp_path, *flags, ready=False) as server, server.client() as http:
        busy = socket.create_connection(("127.0.0.1", urlsplit(server.url).port))
        busy.sendall(head)
        wait_until(lambda: uploads_on_disk(server))
        answer = send(http, multipart((form("content"), b"frames")))
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "5")
        busy.close()
        wait_until(lambda: send(http, multipart((form("content"), b"frames"))).status_code == 201)


def test_one_owner_holds_at_most_half_of_the_places_for_uploads():
    places = Places(3)
    with places.taken("alice"), places.taken("alice"):
        with pytest.raises(Refusal, match="2 uploads of yours are under way"), places.taken("alice"):
            pass
        with places.taken("bob"), pytest.raises(Refusal, match="Too many uploads"), places.taken("carol"):
            pass
    with places.taken("alice"):
        pass


@pytest.fixture
def elsewhere(clip):
    """Serve the film at an address of this machine that is none of the server's."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(clip.read_bytes())))
            self.end_headers()
            self.wfile.write(clip.read_bytes())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/square.mp4"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_video_may_be_named_by_its_address(tmp_path, elsewhere):
    with serving(tmp_path, "--allow-private-urls") as server, server.client() as http:
        body = {"version": HOSTED, "input": {"input_video": elsewhere, **CLICK}}
        made = http.post("/v1/predictions", json=body, headers={"Prefer": "wait"}).json()
        assert (made["status"], len(made["output"])) == ("succeeded", FRAMES), made["error"]
        assert made["input"]["input_video"] == elsewhere


def test_an_address_of_this_machine_is_not_fetched_unless_that_is_allowed(http, elsewhere):
    body = {"version": HOSTED, "input": {"input_video": elsewhere, **CLICK}}
    made = http.post("/v1/predictions", json=body, headers={"Prefer": "wait"}).json()
    assert (made["status"], made["error_code"]) == ("failed", "E_URL_FORBIDDEN")


@pytest.mark.parametrize("path", ["/v1/files/%61" + "a" * 25, f"/v1/predictions/{'a' * 26}", "/v1/files/../files/x"])
def test_other_addresses_of_this_server_are_no_way_around_that(http, served, path):
    body = {"version": HOSTED, "input": {"input_video": served.url + path, **CLICK}}
    answer = http.post("/v1/predictions", json=body, headers={"Prefer": "wait"})
    assert answer.status_code == 422 or answer.json()["error_code"] == "E_URL_FORBIDDEN"


def test_a_host_whose_port_is_none_makes_no_address_this_servers_own(http):
    body = {"version": HOSTED, "input": {"input_video": f"http://localhost:1/v1/files/{'a' * 26}", **CLICK}}
    answer = http.post("/v1/predictions", json=body, headers={"Host": "localhost:99999", "Prefer": "wait"})
    assert (answer.status_code, answer.json()["error_code"]) == (201, "E_URL_FORBIDDEN"), answer.text
