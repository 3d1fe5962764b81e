"""What every client must see, in the words of the scenes; what only one of them shows is in its own test file."""

import hashlib
import json
import time
from contextlib import contextmanager

import pytest

from masklet.server.webhooks import sign
from server.clients.talk import talk
from server.serving import CERT, CLICK, FRAMES, KEY, MODEL, TOKEN, serving, wait_until_ended

INPUT = {**CLICK, "output_format": "png"}
NAMES = [f"frame_{frame:05d}.png" for frame in range(FRAMES)]
SCENES = (
    "run_version",
    "run_model",
    "run_inline",
    "run_polling",
    "run_longer_than_the_wait",
    "run_film",
    "create_get_list_cancel",
    "wait_for_what_runs_out_of_time",
    "files",
    "catalogue",
    "bad_input",
    "bad_token",
    "nothing_there",
    "bad_version",
    "failed",
)


@contextmanager
def https_server(data_dir):
    """Run a server with TLS and a token, and two workers, since the scenes of a client may overlap."""
    flags = ["--tls-cert", str(CERT), "--tls-key", str(KEY), "--token", f"alice:{TOKEN}", "--workers", "2"]
    with serving(data_dir, *flags) as server:
        yield server


def hear(client, server, clip, *more):
    """Let a client act out all scenes, and return what it saw."""
    with server.client(TOKEN) as http:
        return talk(
            client,
            (*SCENES, *more),
            url=server.url,
            token=TOKEN,
            video=str(clip),
            version=MODEL,
            input=INPUT,
            expired=_expired(http, clip),
            webhook=_webhook(http),
        )


def digests(server, clip):
    """Return the SHA-256 of each frame as the HTTP API itself gives them."""
    with server.client(TOKEN) as http:
        body = {"version": MODEL, "input": {"input_video": upload(http, clip), **INPUT}}
        prediction = http.post("/v1/predictions", json=body, headers={"Prefer": "wait"}).json()
        return [hashlib.sha256(http.get(url).content).hexdigest() for url in prediction["output"]]


def upload(http, clip):
    """Upload the film and return its address."""
    return http.post("/v1/files", files={"content": clip.read_bytes()}).json()["urls"]["get"]


def _expired(http, clip):
    body = {"version": MODEL, "input": {"input_video": upload(http, clip), **INPUT, "click_object_ids": "fault-slow"}}
    made = http.post("/v1/predictions", json=body, headers={"Cancel-After": "1s"}).json()
    return wait_until_ended(http, made["id"])["id"]


def _webhook(http):
    key = http.get("/v1/webhooks/default/secret").json()["key"]
    body = json.dumps({"id": "x", "status": "succeeded"})
    return {"headers": sign(key, "msg_1", time.time(), body), "body": body}


RUNS = ("run_version", "run_model", "run_inline", "run_polling", "run_longer_than_the_wait")
ERRORS = [
    ("bad_input", "Must be less than or equal to 60"),
    ("bad_token", "You did not pass a valid authentication token"),
    ("nothing_there", "could not be found"),
    ("bad_version", "The specified version does not exist"),
    ("failed", "77"),
]


class SeenByEveryClient:
    """Tests of one client; a subclass has the fixture `seen`."""

    take: object = 2
    """How this client sends the number in the metadata."""

    @pytest.mark.parametrize("scene", RUNS)
    def test_a_run_gives_file_objects_with_the_frames_of_the_api(self, seen, expected_frames, scene):
        assert seen[scene]["files"]
        if scene != "run_longer_than_the_wait":
            assert expected_frames == seen[scene]["sha256"]
        assert seen[scene]["names"] == NAMES

    def test_a_film_is_one_file(self, seen):
        assert seen["run_film"]["names"] == ["output_video.mp4"]

    def test_a_prediction_can_be_created_found_listed_and_cancelled(self, seen):
        assert seen["create_get_list_cancel"].value == {
            "created": True,
            "listed": True,
            "cancelled": "canceled",
            "end": "canceled",
        }

    def test_trap_2_a_wait_that_is_over_too_early_still_gives_every_frame(self, seen):
        assert len(seen["run_longer_than_the_wait"]["sha256"]) == FRAMES

    def test_trap_3_what_ran_out_of_time_is_canceled_which_clients_know_to_be_an_end(self, seen):
        assert seen["wait_for_what_runs_out_of_time"]["end"] == "canceled"

    def test_trap_7_an_upload_becomes_the_input_by_its_address_and_keeps_what_was_said_of_it(self, seen, clip):
        files = seen["files"]
        assert ("square.mp4", len(clip.read_bytes())) == (files["name"], files["size"])
        assert hashlib.sha256(clip.read_bytes()).hexdigest() == files["sha256"]
        assert files["metadata"] == {"take": self.take}
        assert files["listed"]
        assert files["gone"]

    def test_models_versions_and_the_account_are_there(self, seen):
        catalogue = seen["catalogue"]
        assert {"meta/sam-2-video", "masklet/nano"} <= set(catalogue["models"])
        assert catalogue["found"] == ["sam-2-video", "nano", "nano-fine"]
        assert MODEL.endswith(catalogue["version"])
        assert catalogue["inputs"][0] == "input_video"
        assert (
            catalogue["account"],
            catalogue["hardware"],
            catalogue["collections"],
        ) == ("alice", ["auto"], ["video-segmentation"])

    @pytest.mark.parametrize(("scene", "words"), ERRORS)
    def test_errors_reach_the_user_in_words(self, seen, scene, words):
        assert words in seen[scene].raised
