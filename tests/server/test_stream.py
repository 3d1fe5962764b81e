"""Streams of a prediction: in Replicate's words, complete, in order, and taken up again where they broke off."""

import asyncio
import json
import time
from urllib.parse import urlsplit

import httpx
import pytest

from masklet.jobs import Event
from masklet.server.stream import Feed, News, stream
from server.serving import CLICK, FRAMES, HOSTED, wait_until_ended


@pytest.fixture
def start(http, video):
    """Return what starts a prediction."""

    def post(**more):
        body = {"version": HOSTED, "input": {"input_video": video, **CLICK, "output_format": "png", **more}}
        return http.post("/v1/predictions", json=body).json()

    return post


def listen(url, last=None, most=None):
    """Return a stream's events as (kind, id, data)."""
    headers = {"Accept": "text/event-stream"} | ({} if last is None else {"Last-Event-ID": str(last)})
    events = []
    with httpx.stream("GET", url, headers=headers, timeout=60) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        for text in _events(answer):
            events.append(text)
            if len(events) == most:
                break
    return events


def _events(answer):
    kind, id, data = None, None, []
    for line in answer.iter_lines():
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            kind = value
        elif name == "id":
            id = int(value)
        elif name == "data":
            data.append(value)
        elif not line and kind is not None:
            yield kind, id, "\n".join(data)
            kind, data = None, []


def kinds(events):
    return [kind for kind, _, _ in events]


def test_a_stream_needs_no_header_and_is_among_the_files_as_the_javascript_client_wants_it(start):
    url = start()["urls"]["stream"]
    assert urlsplit(url).path.startswith("/v1/files/")
    assert listen(url)


def test_it_tells_every_output_in_order_the_logs_and_the_end(start, http):
    made = start()
    events = listen(made["urls"]["stream"])
    outputs = [data for kind, _, data in events if kind == "output"]
    ended = wait_until_ended(http, made["id"])
    assert len(outputs) == FRAMES
    assert ended["output"] == outputs
    assert ended["logs"].splitlines() == "".join(data for kind, _, data in events if kind == "logs").splitlines()
    assert (events[-1][0], events[-1][2]) == ("done", "{}")


def test_it_has_only_words_that_the_python_client_knows_and_always_an_id(start):
    events = listen(start()["urls"]["stream"])
    assert set(kinds(events)) <= {"output", "logs", "error", "done"}
    ids = [id for _, id, _ in events]
    assert None not in ids
    assert sorted(ids) == ids


def test_a_failure_is_an_error_and_then_the_end(start):
    events = listen(start(click_frames="77")["urls"]["stream"])
    assert kinds(events)[-2:] == ["error", "done"]
    assert json.loads(events[-2][2])["code"] == "E_FRAME_RANGE"


def test_a_cancelled_one_ends(start, http):
    made = start(click_object_ids="fault-slow")
    url = made["urls"]["stream"]
    listen(url, most=1)
    http.post(f"/v1/predictions/{made['id']}/cancel")
    events = listen(url)
    assert (events[-1][0], json.loads(events[-1][2])) == ("done", {"reason": "canceled"})


def test_outputs_come_while_it_runs(start, http):
    made = start(click_object_ids="fault-slow")
    assert "output" in kinds(listen(made["urls"]["stream"], most=2))
    assert http.get(f"/v1/predictions/{made['id']}").json()["status"] == "processing"
    http.post(f"/v1/predictions/{made['id']}/cancel")


def test_a_reader_that_was_cut_off_misses_nothing_and_hears_nothing_twice(start):
    made = start(click_object_ids="fault-slow")
    whole = []
    while kinds(whole)[-1:] != ["done"]:
        whole += listen(made["urls"]["stream"], last=whole[-1][1] if whole else None, most=2)
    assert listen(made["urls"]["stream"]) == whole


@pytest.mark.parametrize("last", ["", "x", "-1", "9" * 30, "1.5", "0"])
def test_a_last_event_that_never_was_begins_at_the_beginning(start, last):
    made = start()
    assert listen(made["urls"]["stream"]) == listen(made["urls"]["stream"], last=last)


def test_whoever_has_heard_the_end_hears_it_again(start):
    made = start()
    whole = listen(made["urls"]["stream"])
    assert kinds(listen(made["urls"]["stream"], last=whole[-1][1])) == ["done"]


def test_listeners_that_go_away_leave_nothing_behind(start, served, http):
    made = start(click_object_ids="fault-slow")
    for _ in range(20):
        listen(made["urls"]["stream"], most=1)
    http.post(f"/v1/predictions/{made['id']}/cancel")

    def open_files():
        import psutil

        return len(psutil.Process(served.process.pid).net_connections())

    end = time.monotonic() + 20
    while open_files() > 3 and time.monotonic() < end:
        time.sleep(0.1)
    assert open_files() <= 3


def test_lines_of_a_log_stay_lines_whatever_ends_them():
    text = "a\r b\n\nc\u2028d\x0be\n"

    async def hear():
        event = Event(7, "p", "logs", {"text": text}, 0.0)
        news = News(asyncio.Event(), lambda: False)
        calls = iter([(None, (event,))])
        return "".join([part async for part in stream(news, 0, lambda after: next(calls), str)])

    lines = [line for line in asyncio.run(hear()).split("\n") if line.startswith("data: ")]
    assert lines == ["data: a", "data:  b", "data: ", "data: c", "data: d", "data: e", "data: "]


def test_the_feed_wakes_those_who_wait_for_what_changed_and_asks_nothing_when_nobody_waits():
    version, changes, asked = 0, {}, []

    def changed(seq):
        asked.append(seq)
        return version, frozenset(changes.get(version, ()))

    async def play():
        nonlocal version
        feed = Feed(lambda: version, changed, poll_s=0.001)
        await asyncio.sleep(0.02)
        assert asked == []
        with feed.listen("a") as mine, feed.listen("b") as other:
            assert await mine.wait(5)
            assert await other.wait(5)
            version, changes[1] = 1, {"a"}
            assert await mine.wait(5)
            assert not await other.wait(0.02)
            feed.close()
            assert await other.wait(5)
            assert other.over
        count = len(asked)
        await asyncio.sleep(0.02)
        assert len(asked) == count

    asyncio.run(play())
