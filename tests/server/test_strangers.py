"""What strangers send, through the doors of a whole server: playlists as videos, paths as names, odd bodies."""

import base64
import gzip
import socket
from urllib.parse import urlsplit

import pytest

from server.fetching import raw, replies, says
from server.serving import CLICK, HOSTED, serving, wait_until, wait_until_ended
from server.test_decode import PLAYLISTS

HOSTILE_IDS = [
    "../../x",
    "/etc/passwd",
    "C:\\Windows",
    "..",
    "CON",
    "a" * 64,
    "cafe\u0301",
    "犬",
    "-rf",
    "%2e%2e",
]


def upload(http, name, content):
    return http.post("/v1/files", files={"content": (name, content, "video/mp4")}).json()["urls"]["get"]


def as_data_uri(http, name, content):
    return "data:video/mp4;base64," + base64.b64encode(content).decode()


def predict(http, video, **more):
    given = {"input_video": video, **CLICK, "output_format": "png", **more}
    return http.post("/v1/predictions", json={"version": HOSTED, "input": given})


@pytest.mark.parametrize("come_in", [upload, as_data_uri])
def test_a_playlist_that_comes_in_as_a_video_reaches_nothing(http, tmp_path, come_in):
    (tmp_path / "sibling.ts").write_bytes(b"a secret")
    with raw(says(replies(200, b"a secret"))) as canary:
        ids = []
        for text in PLAYLISTS.values():
            content = text.replace("{port}", str(canary.port)).replace("{folder}", str(tmp_path)).encode()
            made = predict(http, come_in(http, "film.m3u8", content))
            assert made.status_code == 201, made.text
            ids.append(made.json()["id"])
        ends = [wait_until_ended(http, id) for id in ids]
        assert canary.heads == []
    assert {(end["status"], end["error_code"], end["output"]) for end in ends} == {
        ("failed", "E_UNSUPPORTED_MEDIA", None)
    }


@pytest.mark.parametrize("name", HOSTILE_IDS)
def test_an_objects_name_is_in_the_manifest_and_never_in_a_path(http, served, video, name):
    made = predict(http, video, click_object_ids=name)
    assert made.status_code == 201, made.text
    done = wait_until_ended(http, made.json()["id"])
    assert done["status"] == "succeeded", done["error"]
    manifest = http.get(done["urls"]["manifest"]).json()
    assert {each["object"] for frame in manifest["frames"] for each in frame["objects"]} == {name}
    files = [path for path in (served.data_dir / "outputs" / done["id"]).rglob("*") if path.is_file()]
    expected = {*(f"frame_{number:05d}.png" for number in range(len(done["output"]))), "manifest.json"}
    assert {path.name for path in files} == expected
    assert len({path.parent for path in files}) == 1


def test_a_server_without_bubblewrap_says_so_to_people_and_in_its_log(tmp_path):
    with serving(tmp_path / "data", PATH=str(tmp_path)) as server, server.client() as http:
        assert http.get("/health").json()["sandbox"] == "limits only"
        wait_until(lambda: any("under limits only" in entry["event"] for entry in server.log))


def test_a_body_in_chunks_that_are_none_is_refused_and_the_next_is_served(served, http, video):
    head = (
        b"POST /v1/predictions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
    )
    for garbage in (b"zz\r\n{}\r\n", b"-1\r\n{}\r\n", b"\0" * 99):
        with socket.create_connection(("127.0.0.1", urlsplit(served.url).port), timeout=60) as plug:
            plug.sendall(head + garbage + b"\r\n\r\n")
            answer = plug.recv(1_000)
        assert answer.startswith(b"HTTP/1.1 4"), (garbage, answer)
    assert predict(http, video).status_code == 201


def test_a_body_that_is_compressed_is_not_unpacked(http):
    bomb = gzip.compress(b'{"input": "' + bytes(50_000_000) + b'"}')
    assert len(bomb) < 100_000
    for path in ("/v1/predictions", "/predictions"):
        answer = http.post(path, content=bomb, headers={"Content-Encoding": "gzip", "Content-Type": "application/json"})
        assert answer.status_code in (400, 415, 422), (path, answer.text)
