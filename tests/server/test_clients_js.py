"""The official JavaScript client, 1.4.0, drives the server over TLS as its users do."""

from urllib.parse import urlsplit

import pytest

from server.clients.expected import INPUT, NAMES, SeenByEveryClient, digests, hear, https_server
from server.clients.talk import talk
from server.serving import FRAMES, MODEL, TOKEN, serving


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with https_server(tmp_path_factory.mktemp("data")) as server:
        yield server


@pytest.fixture(scope="module")
def expected_frames(server, clip):
    return digests(server, clip)


class TestJavaScript(SeenByEveryClient):
    @pytest.fixture(scope="class")
    @classmethod
    def seen(cls, server, clip):
        return hear("javascript", server, clip, "stream", "webhook", "send_itself")

    def test_a_stream_gives_every_output_as_a_file_object_and_the_logs_and_ends(self, seen):
        stream = seen["stream"]
        assert stream["kinds"][-1] == "done"
        assert stream["files"]
        assert [urlsplit(url).path.rpartition("/")[2] for url in stream["outputs"]] == NAMES
        assert f"{FRAMES}/{FRAMES}" in stream["logs"]

    def test_a_webhook_is_validated_and_a_changed_one_is_not(self, seen):
        assert seen["webhook"].value == {"good": True, "tampered": False}

    def test_trap_8_a_client_that_sends_itself_leaves_its_token_nowhere(self, seen, server):
        assert "input_video is required" in seen["send_itself"].raised
        assert TOKEN not in str(server.log)
        for file in server.data_dir.rglob("*"):
            assert not file.is_file() or TOKEN.encode() not in file.read_bytes(), file


def test_trap_1_without_tls_outputs_as_data_are_file_objects_too(tmp_path, clip):
    with serving(tmp_path, "--outputs", "data") as plain:
        seen = talk(
            "javascript", ["run_polling"], url=plain.url, token=TOKEN, video=str(clip), version=MODEL, input=INPUT
        )
    assert seen["run_polling"]["files"]
    assert len(seen["run_polling"]["sha256"]) == FRAMES
