"""What both doors do: how waiting is paid for, where webhooks say that things are, and who answers when all fails."""

import asyncio
import time
from dataclasses import replace

import httpx
import pytest

from masklet.jobs import NewPrediction, Outcome
from masklet.server.app import create_app
from masklet.server.ops import REQUEST_ID
from masklet.server.serve import message_of
from masklet.server.service import Service
from masklet.server.settings import Settings
from server.serving import HOSTED

HOOKED = NewPrediction("ann", "m/n", "v", "nano", {}, webhook="http://receiver/hook", webhook_events=("completed",))


@pytest.fixture
def open_service(store):
    """Return what opens a service upon the store."""
    return lambda **settings: Service.open(Settings(data_dir=store.folder.root, **settings), store)


@pytest.fixture
def whole_reads(store, monkeypatch):
    """Return the ids of the predictions that were read with all their outputs and logs."""
    read, get = [], store.get

    def counted(id, *, owner):
        read.append(id)
        return get(id, owner=owner)

    monkeypatch.setattr(store, "get", counted)
    return read


def say_line_after_line(store, lease, lines=20):
    for line in range(lines):
        store.queue.add_logs(lease, f"{line}\n")
        time.sleep(0.03)
    store.queue.finish(lease, Outcome("succeeded"), outputs=0)


def test_who_waits_reads_the_whole_prediction_once_at_the_end(open_service, store, whole_reads):
    prediction = store.create(HOOKED).prediction
    lease = store.queue.claim("w").lease

    async def wait():
        service = open_service()
        work = asyncio.create_task(asyncio.to_thread(say_line_after_line, store, lease))
        found = await service.wait(prediction, 30.0)
        await work
        service.feed.close()
        return found

    assert asyncio.run(wait()) == store.get(prediction.id, owner="ann")
    assert whole_reads == [prediction.id] * 2, "once by who waited, once by this test"


def test_who_listens_never_reads_the_whole_prediction(open_service, store, whole_reads):
    prediction, service = store.create(HOOKED).prediction, open_service()
    assert service.read_events(prediction.id, "ann", 0) == ("starting", ())
    store.cancel(prediction.id, owner="ann")
    status, events = service.read_events(prediction.id, "ann", 0)
    assert (status, [event.kind for event in events]) == ("canceled", ["completed"])
    assert service.read_events(prediction.id, "bob", 10**6) == (None, ())
    assert whole_reads == []


# Addresses in webhooks


def address_in_webhook(service, new):
    prediction = service.store.create(new).prediction
    service.store.cancel(prediction.id, owner="ann")
    [delivery] = service.store.outbox.due()
    return message_of(service)(delivery).body.decode().partition('"get": "')[2].partition("/v1/")[0]


@pytest.mark.parametrize(
    ("base", "public_url", "expected"),
    [
        ("http://masks.local:8000", None, "http://masks.local:8000"),
        ("http://masks.local:8000", "https://masks.example", "https://masks.example"),
        (None, None, "http://0.0.0.0:8000"),
    ],
    ids=["as its client came", "as the server is told", "of before that was kept"],
)
def test_a_webhook_names_the_server(open_service, base, public_url, expected):
    service = open_service(host="0.0.0.0", public_url=public_url)
    assert address_in_webhook(service, replace(HOOKED, base=base)) == expected


@pytest.fixture
def application(open_service):
    """Return what a client of the application does, without a server."""
    service = open_service(host="0.0.0.0")
    app = create_app(service, service.settings.model_copy(update={"token": ["ann:0123456789abcdef"]}).gate(), None)

    async def ask(method, path, **more):
        transport = httpx.ASGITransport(app)
        headers = {"Authorization": "Bearer 0123456789abcdef"}
        async with httpx.AsyncClient(transport=transport, base_url="http://masks.local", headers=headers) as http:
            return await http.request(method, path, **more)

    return lambda method, path, **more: asyncio.run(ask(method, path, **more))


def test_it_is_kept_how_a_client_reached_the_server(application, store):
    asked = {"input_video": "https://h.example/v.mp4", "click_coordinates": "[1,1]"}
    body = {"version": HOSTED, "input": asked, "webhook": "https://receiver.example/hook"}
    made = application("POST", "/v1/predictions", json=body)
    assert made.status_code == 201, made.text
    assert store.get(made.json()["id"], owner="ann").base == "http://masks.local"


# What nobody foresaw


def test_what_nobody_foresaw_is_a_problem_with_the_id_that_the_log_has(application, store, monkeypatch):
    def broken(**asked):
        raise FileNotFoundError("/data/outputs/secret")

    monkeypatch.setattr(store, "list", broken)
    answer = application("GET", "/v1/predictions")
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers[REQUEST_ID] in answer.json()["detail"]
    assert "secret" not in answer.text
