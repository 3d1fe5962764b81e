"""What both doors do: how waiting is paid for, where webhooks say that things are, and who answers when all fails."""

import asyncio
import time
from dataclasses import replace
from threading import current_thread

import httpx
import pytest
from starlette.responses import JSONResponse

from masklet.jobs import NewPrediction, Outcome, QueueFull
from masklet.server.app import create_app
from masklet.server.ops import REQUEST_ID
from masklet.server.serve import message_of
from masklet.server.service import Service
from masklet.server.settings import Settings
from server.serving import HOSTED

BODY = {
    "version": HOSTED,
    "input": {"input_video": "https://h.example/v.mp4", "click_coordinates": "[1,1]"},
    "webhook": "https://receiver.example/hook",
}
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


def test_what_may_be_long_is_written_beside_the_event_loop(application, monkeypatch):
    threads, render = [], JSONResponse.render

    def noted(answer, content):
        threads.append(current_thread())
        return render(answer, content)

    monkeypatch.setattr(JSONResponse, "render", noted)
    id = application("POST", "/v1/predictions", json=BODY).json()["id"]
    for path in ("/v1/predictions", f"/v1/predictions/{id}"):
        assert application("GET", path).status_code == 200
    assert len(threads) == 3
    assert current_thread() not in threads, "where the event loop runs"


# Creates that a client repeats


@pytest.fixture
def create(application):
    """Return what posts one and the same create, as the Python client 2 does at its first or a later try."""

    def post(*, retry):
        return application("POST", "/v1/predictions", json=BODY, headers={"x-stainless-retry-count": str(retry)})

    return post


def refuse(new):
    raise QueueFull("1 predictions wait, and the limit is 1")


def test_a_create_that_is_repeated_since_its_first_try_was_refused_is_not_given_what_an_older_one_made(
    create, store, monkeypatch
):
    old = create(retry=0).json()["id"]
    with monkeypatch.context() as full:
        full.setattr(store, "create", refuse)
        assert create(retry=0).status_code == 429
    again = create(retry=1).json()["id"]
    assert again != old
    assert create(retry=2).json()["id"] == again


def cancel(store, id):
    store.cancel(id, owner="ann")


def fail(store, id):
    store.queue.finish(store.queue.claim("w").lease, Outcome("failed", "It broke.", "E_INTERNAL"), outputs=0)


def succeed(store, id):
    store.queue.finish(store.queue.claim("w").lease, Outcome("succeeded"), outputs=0)


@pytest.mark.parametrize(("end", "same"), [(cancel, False), (fail, False), (succeed, True)])
def test_a_repeated_create_is_given_what_its_first_try_made_unless_that_came_to_nothing(create, store, end, same):
    first = create(retry=0).json()["id"]
    end(store, first)
    assert (create(retry=1).json()["id"] == first) == same


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
    made = application("POST", "/v1/predictions", json=BODY)
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
