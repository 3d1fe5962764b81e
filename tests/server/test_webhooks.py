"""Webhooks on their way to a real receiver: signed, in order, as they were asked for, and to nobody inside."""

import json
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from masklet.server.cog_schema import STATUSES
from masklet.server.webhooks import sign, signing_secret
from server.serving import CLICK, FRAMES, HOSTED, serving, wait_until, wait_until_ended


class Receiver:
    """Takes webhooks on this machine and keeps them; `status` is what it answers."""

    def __init__(self):
        self.status, self.heard = 200, []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                receiver.heard.append((dict(self.headers), body, self.path))
                self.send_response(receiver.status)
                if receiver.status == 302:
                    self.send_header("Location", "/elsewhere")
                self.end_headers()

            do_GET = do_POST

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"

    def of(self, id):
        """Return what it heard of a prediction."""
        return [json.loads(body) for _, body, _ in self.heard if json.loads(body)["id"] == id]


@contextmanager
def receiving():
    receiver = Receiver()
    thread = Thread(target=receiver.server.serve_forever, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.server.shutdown()
        receiver.server.server_close()
        thread.join()


@pytest.fixture
def receiver():
    with receiving() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def open_server(tmp_path_factory):
    """Run a server that may call this machine."""
    with serving(tmp_path_factory.mktemp("data"), "--allow-private-urls") as server:
        yield server


@pytest.fixture
def http(open_server):
    with open_server.client() as client:
        yield client


@pytest.fixture(scope="module")
def film(open_server, clip):
    with open_server.client() as http:
        return http.post("/v1/files", files={"content": clip.read_bytes()}).json()["urls"]["get"]


@pytest.fixture
def start(http, film):
    def post(webhook, *, events=None, **more):
        body = {"version": HOSTED, "input": {"input_video": film, **CLICK, **more}, "webhook": webhook}
        answer = http.post("/v1/predictions", json=body | ({"webhook_events_filter": events} if events else {}))
        assert answer.status_code == 201, answer.text
        return answer.json()["id"]

    return post


def test_the_signature_is_the_one_that_both_clients_were_seen_to_take():
    headers = sign(
        "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3", "msg_1", 1_700_000_000, '{"id": "x", "status": "succeeded"}'
    )
    assert headers["webhook-signature"] == "v1,0f1E718I0Xz4YC7HQrt9r9t65N4L0JZqrvSSDYzGwHM="
    assert headers["webhook-timestamp"] == "1700000000"


def test_a_secret_has_one_underscore_because_the_python_client_splits_there():
    secrets = {signing_secret(bytes([n]) * 32, f"owner_{n}") for n in range(100)}
    assert len(secrets) == 100
    assert {secret.count("_") for secret in secrets} == {1}


def test_from_start_to_end_a_receiver_hears_of_everything_in_order(start, http, receiver):
    id = start(receiver.url)
    ended = wait_until_ended(http, id)
    wait_until(lambda: receiver.of(id) and receiver.of(id)[-1]["status"] == "succeeded")
    heard = receiver.of(id)
    assert ended == heard[-1]
    assert heard[0]["status"] == "processing"
    order = [STATUSES.index(each["status"]) for each in heard]
    assert sorted(order) == order
    assert order.count(STATUSES.index("succeeded")) == 1
    counts = [len(each["output"] or []) for each in heard]
    assert sorted(counts) == counts
    assert counts[-1] == FRAMES


def test_every_delivery_is_signed_with_the_secret_that_the_api_tells(start, http, receiver):
    id = start(receiver.url)
    wait_until(lambda: receiver.of(id) and receiver.of(id)[-1]["status"] == "succeeded")
    key = http.get("/v1/webhooks/default/secret").json()["key"]
    for headers, body, _ in receiver.heard:
        small = {name.lower(): value for name, value in headers.items()}
        assert json.loads(body) == Webhook(key).verify(body, small)
        with pytest.raises(WebhookVerificationError):
            Webhook(key).verify(body.replace("succeeded", "failed").replace("processing", "x"), small)
        assert abs(int(small["webhook-timestamp"]) - time.time()) < 60
        assert small["content-type"] == "application/json"
    assert len({headers["webhook-id"] for headers, _, _ in receiver.heard}) == len(receiver.heard)


@pytest.mark.parametrize("events", [["completed"], ["start", "completed"], ["start"]])
def test_only_the_events_that_were_asked_for_are_sent(start, http, receiver, events):
    id = start(receiver.url, events=events)
    wait_until_ended(http, id)
    wait_until(lambda: len(receiver.of(id)) == len(events))
    statuses = {"start": "processing", "completed": "succeeded"}
    assert [statuses[event] for event in events] == [each["status"] for each in receiver.of(id)]


def test_the_old_field_for_the_end_only_is_understood(http, film, receiver):
    body = {"version": HOSTED, "input": {"input_video": film, **CLICK}, "webhook_completed": receiver.url}
    id = http.post("/v1/predictions", json=body).json()["id"]
    wait_until(lambda: receiver.of(id))
    assert [each["status"] for each in receiver.of(id)] == ["succeeded"]


def test_outputs_and_logs_are_not_sent_more_often_than_twice_a_second(start, http, receiver):
    id = start(receiver.url, click_object_ids="fault-slow", events=["output"])
    wait_until_ended(http, id)
    wait_until(lambda: len(receiver.of(id)[-1:]) and len(receiver.of(id)[-1]["output"] or []) == FRAMES)
    assert len(receiver.of(id)) < FRAMES


def test_a_redirect_is_not_followed(start, http, receiver):
    receiver.status = 302
    id = start(receiver.url, events=["start"])
    wait_until_ended(http, id)
    wait_until(lambda: receiver.of(id))
    time.sleep(0.3)
    assert {"/hook"} == {path for _, _, path in receiver.heard}


def test_a_receiver_that_refuses_is_tried_again_under_the_same_id_and_the_prediction_does_not_care(
    start, http, receiver, open_server
):
    receiver.status = 500
    id = start(receiver.url, events=["completed"])
    assert wait_until_ended(http, id)["status"] == "succeeded"
    wait_until(lambda: len(receiver.of(id)) == 1)
    assert http.get("/health").json()["webhooks"]["pending"] >= 1
    receiver.status = 200
    wait_until(lambda: len(receiver.of(id)) == 2)
    assert len({headers["webhook-id"] for headers, body, _ in receiver.heard if id in body}) == 1


def test_a_receiver_that_wants_no_more_is_left_alone(start, http, receiver):
    receiver.status = 410
    before = http.get("/health").json()["webhooks"]["undelivered"]
    id = start(receiver.url, events=["completed"])
    wait_until(lambda: http.get("/health").json()["webhooks"]["undelivered"] == before + 1)
    assert len(receiver.of(id)) == 1


def test_a_webhook_of_cogs_door_has_cogs_shape(http, film, receiver):
    body = {"input": {"input_video": film, **CLICK}, "webhook": receiver.url, "webhook_events_filter": ["completed"]}
    answer = http.post("/predictions", json=body).json()
    wait_until(lambda: receiver.of(answer["id"]))
    assert answer == receiver.of(answer["id"])[0]
    assert answer["output"][0].startswith("data:image/webp;base64,")


def test_this_machine_is_not_called_unless_that_is_allowed(served, clip, receiver):
    with served.client() as http:
        film = http.post("/v1/files", files={"content": clip.read_bytes()}).json()["urls"]["get"]
        body = {"version": HOSTED, "input": {"input_video": film, **CLICK}, "webhook": receiver.url}
        id = http.post("/v1/predictions", json=body).json()["id"]
        assert wait_until_ended(http, id)["status"] == "succeeded"
        wait_until(lambda: http.get("/health").json()["webhooks"]["pending"] == 0)
        assert http.get("/health").json()["webhooks"]["undelivered"] >= 2
    assert receiver.heard == []
