"""The official Python clients, 1.0.7 and 2.0.0b4, drive the server over TLS as their users do."""

import hashlib
import socket
from contextlib import contextmanager
from threading import Thread
from urllib.parse import urlsplit

import pytest

from server.clients.expected import INPUT, NAMES, SeenByEveryClient, digests, hear, https_server, upload
from server.clients.talk import talk
from server.serving import FRAMES, MODEL, TOKEN, serving


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with https_server(tmp_path_factory.mktemp("data")) as server:
        yield server


@pytest.fixture(scope="module")
def expected_frames(server, clip):
    return digests(server, clip)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Run a server without TLS that gives outputs as data: URIs."""
    with serving(tmp_path_factory.mktemp("data"), "--outputs", "data") as server:
        yield server


class TestPython1(SeenByEveryClient):
    @pytest.fixture(scope="class")
    @classmethod
    def seen(cls, server, clip):
        return hear("python1", server, clip, "stream", "webhook", "find_by_environment")

    def test_the_output_of_a_versioned_model_is_an_iterator(self, seen):
        assert seen["run_polling"]["generator"]

    def test_trap_9_the_environment_tells_it_the_server_without_v1(self, seen):
        assert seen["find_by_environment"]["account"] == "alice"

    def test_a_stream_gives_every_output_and_the_logs_and_ends(self, seen):
        stream = seen["stream"]
        assert stream["kinds"][-1] == "done"
        assert [urlsplit(url).path.rpartition("/")[2] for url in stream["outputs"]] == NAMES
        assert f"{FRAMES}/{FRAMES}" in stream["logs"]

    def test_a_webhook_is_validated_and_a_changed_one_is_not(self, seen):
        assert seen["webhook"].value == {"good": True, "tampered": False}


class TestPython2(SeenByEveryClient):
    take = "2"

    @pytest.fixture(scope="class")
    @classmethod
    def seen(cls, server, clip):
        return hear("python2", server, clip, "use", "find_by_environment")

    def test_a_model_may_be_used_as_a_function(self, seen, expected_frames):
        assert seen["use"]["names"] == NAMES
        assert expected_frames == seen["use"]["sha256"]

    def test_trap_9_the_environment_tells_it_the_server_with_v1(self, seen):
        assert seen["find_by_environment"]["account"] == "alice"

    def test_an_upload_can_be_downloaded_by_its_signed_address(self, seen, clip):
        assert hashlib.sha256(clip.read_bytes()).hexdigest() == seen["files"]["downloaded"]

    def test_it_finds_readmes_examples_and_models(self, seen):
        catalogue = seen["catalogue"]
        assert "meta/sam-2-video" in catalogue["readme"]
        assert catalogue["examples"] == []
        assert catalogue["searched"] == ["sam-2-video", "nano", "nano-fine"]


@pytest.mark.parametrize("client", ["python1", "python2"])
def test_trap_1_without_tls_outputs_as_data_are_file_objects_too(plain, clip, client):
    seen = talk(client, ["run_version"], url=plain.url, token=TOKEN, video=str(clip), version=MODEL, input=INPUT)
    assert seen["run_version"]["files"]
    assert len(seen["run_version"]["sha256"]) == FRAMES


def test_trap_10_a_create_that_python_2_repeats_because_the_answer_was_lost_is_one_prediction(plain, clip):
    with plain.client() as http:
        marked = {"input_video": upload(http, clip), "output_quality": 17}
        with losing_the_first_answer(plain) as lossy:
            seen = talk(
                "python2",
                ["repeat_a_create_whose_answer_was_lost"],
                url=plain.url,
                lossy=lossy,
                token=TOKEN,
                version=MODEL,
                input=INPUT,
                marked=marked,
            )
        made = [
            each for each in http.get("/v1/predictions").json()["results"] if each["input"].get("output_quality") == 17
        ]
    assert [seen["repeat_a_create_whose_answer_was_lost"]["id"]] == [each["id"] for each in made]


@contextmanager
def losing_the_first_answer(server):
    """Stand between client and server, and end the first connection when its answer comes."""
    listener = socket.create_server(("127.0.0.1", 0))
    lost = []

    def relay():
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client, socket.create_connection(("127.0.0.1", urlsplit(server.url).port)) as upstream:
                _pump(client, upstream, lost)

    thread = Thread(target=relay, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
    assert lost == [True]


def _pump(client, upstream, lost):
    """Carry requests and answers of one connection, one after the other."""
    client.settimeout(10)
    while True:
        request = client.recv(65_536)
        if not request:
            return
        while not _whole(request):
            request += client.recv(65_536)
        upstream.sendall(request)
        answer = upstream.recv(65_536)
        if not lost:
            lost.append(True)
            return
        while not _whole(answer):
            answer += upstream.recv(65_536)
        client.sendall(answer)


def _whole(message):
    head, _, body = message.partition(b"\r\n\r\n")
    lengths = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return b"\r\n\r\n" in message and len(body) >= int(lengths[0] if lengths else 0)
