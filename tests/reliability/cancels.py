"""Cancels predictions at each moment of their lives while others' run beside them, then has the checker look.

    PYTHONPATH=tests python -m reliability.cancels --each 100

Each is cancelled three times at once, and once by somebody whose it is not. Which moment a cancel really met, the
figures say: a prediction may end while the cancel is on its way, and has then succeeded.
"""

import argparse
import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import httpx
from server.fetching import Raw, begins, drips
from server.patches import ON_RED, write_film
from server.serving import HOSTED

from reliability.acks import Acks, created, knows, saw
from reliability.checker import FINAL
from reliability.clients import Client, Setting, as_data, names_of
from reliability.service import LONGEST_S, TOKENS, Served, report

FRAMES = 12
"""Three seconds of work for what is slow, so that a cancel finds it at work on a busy machine too."""
SLOW = {"click_object_ids": "fault-slow"}


def has_frames(about):
    return bool(about["output"])


def is_under_way(about):
    return about["status"] != "starting"


MOMENTS = {
    "queued": ({}, lambda about: True),
    "downloading": ({"input_video": "URL"}, is_under_way),
    "decoding": ({}, is_under_way),
    "segmenting": (SLOW, has_frames),
    "encoding": (SLOW | {"output_video": True}, lambda about: f"2/{FRAMES}" in about["logs"]),
    "publishing": ({}, has_frames),
    "done": ({}, lambda about: about["status"] in FINAL),
}
"""What is asked for, and when the cancel comes."""


@dataclass
class Result:
    """What came of it."""

    served: Served
    ends: dict = field(default_factory=dict)
    """For each moment, how the predictions ended."""
    answers_s: list = field(default_factory=list)
    stops_s: list = field(default_factory=list)
    """From the first answer to a cancel until no worker had the prediction."""
    others: dict = field(default_factory=dict)

    def lines(self):
        """Write it down."""
        for moment, ends in self.ends.items():
            yield f"{moment:<12} {dict(ends)}"
        yield f"slowest answer to a cancel: {max(self.answers_s):.3f} s; no work after {max(self.stops_s):.2f} s"
        yield f"others' beside them: {self.others}"


class Storm:
    """Ann's predictions, each cancelled by ann in the middle of something and by bob in vain."""

    def __init__(self, result, acks, film, source, seed):
        self._result, self._acks, self._film, self._source = result, acks, film, source
        self._dice = random.Random(seed)
        self._pool = ThreadPoolExecutor(4)
        headers = {owner: {"Authorization": f"Bearer {token}"} for owner, token in TOKENS.items()}
        url = result.served.url
        self._http = {
            owner: httpx.Client(base_url=url, headers=headers[owner], verify=False, timeout=60) for owner in TOKENS
        }

    def close(self):
        self._pool.shutdown()
        for http in self._http.values():
            http.close()

    def cancel_one(self, moment):
        said, when = MOMENTS[moment]
        id = self._create(said)
        self._wait(id, when)
        time.sleep(self._dice.uniform(0, 0.1))
        began = time.monotonic()
        askers = ("ann", "ann", "ann", "bob")
        answers = list(self._pool.map(lambda who: self._http[who].post(f"/v1/predictions/{id}/cancel"), askers))
        self._result.answers_s.append(time.monotonic() - began)
        assert [answer.status_code for answer in answers] == [200, 200, 200, 404]
        [status] = {answer.json()["status"] for answer in answers[:3]}
        about = answers[0].json()
        saw(self._acks, {"id": id, "status": status, "outputs": names_of(about)})
        self._wait_until_nobody_works_on(id)
        self._result.stops_s.append(time.monotonic() - began)
        self._result.ends.setdefault(moment, Counter())[status] += 1

    def _create(self, said):
        given = {"input_video": as_data(self._film), "click_coordinates": ON_RED} | said
        if given["input_video"] == "URL":
            given["input_video"] = f"http://127.0.0.1:{self._source.port}/film.mp4"
        answer = self._http["ann"].post("/v1/predictions", json={"version": HOSTED, "input": given})
        assert answer.status_code == 201, answer.text
        created(self._acks, answer.json(), frames=1 if "output_video" in said else FRAMES)
        return answer.json()["id"]

    def _wait(self, id, when):
        end = time.monotonic() + LONGEST_S
        while not when(about := self._http["ann"].get(f"/v1/predictions/{id}").json()):
            assert time.monotonic() < end
            time.sleep(0.01)
        for url in about["output"] or []:
            knows(self._acks, id, url)

    def _wait_until_nobody_works_on(self, id):
        end = time.monotonic() + LONGEST_S
        while any(worker["prediction"] == id for worker in self._result.served.ask("/health")["workers"]):
            assert time.monotonic() < end
            time.sleep(0.01)


def run(root, *, each, seed=40, workers=2):
    """Cancel so many at each moment, in any order; others' run all the while."""
    (root / "acks").mkdir()
    served = Served(root, workers=workers)
    result = Result(served)
    film = write_film(root / "film.mp4", frames=FRAMES).read_bytes()
    source = Raw(begins(b"HTTP/1.1 200 OK\r\n\r\n", drips()))
    setting = Setting(served.url, TOKENS, film, FRAMES, None, seed)
    others = [Client(number, setting, Acks(root / "acks" / f"client-{number}.log")) for number in (1, 2)]
    acks = Acks(root / "acks" / "storm.log")
    storm = Storm(result, acks, film, source, seed)
    served.start()
    try:
        with ThreadPoolExecutor(len(others)) as pool:
            served.wait_until_live()
            at_work = [pool.submit(other.work, cancelling=False) for other in others]
            moments = [moment for moment in MOMENTS for _ in range(each)]
            random.Random(seed).shuffle(moments)
            try:
                for moment in moments:
                    storm.cancel_one(moment)
            finally:
                setting.enough.set()
            for work in at_work:
                work.result()
            served.wait_until_quiet()
            result.others = dict(sum((other.see_all() for other in others), Counter()))
            left = served.examine(root / "acks")
            served.stop()
    finally:
        setting.over.set()
        served.close()
        storm.close()
        source.close()
        acks.close()
        for other in others:
            other.close()
    return result, left


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=100)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=40)
    report(run, **vars(parser.parse_args()))


if __name__ == "__main__":
    main()
