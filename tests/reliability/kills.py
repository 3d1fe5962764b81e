"""Kills `masklet serve` again and again while clients write to it, then has the checker look at what is left.

    PYTHONPATH=tests python -m reliability.kills --rounds 40
    PYTHONPATH=tests python -m reliability.kills --rounds 1 --clients 100 --each 10
    PYTHONPATH=tests python -m reliability.kills --rounds 0 --points 4
    PYTHONPATH=tests python -m reliability.kills --rounds 0 --worker-kills 40

Each round the server lives for a random time and is ended by SIGKILL: alone, so that its workers and decoders must end
by themselves, or all of them in a random order; now and then it is killed while it starts, too. With `--points` the
server or its worker ends itself so often at each named crash point that clients can bring it to; with `--worker-kills`
a worker is ended in the middle of a prediction, and how soon the server knows is measured. Clients note on their
own disk whatever they were told, and ask again under the same key for what they were not. When all has ended the
checker compares their notes with the database, the files and the answers of the last server.
"""

import argparse
import os
import random
import signal
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from server.patches import write_film

from masklet.server.crashpoints import POINTS
from reliability.acks import Acks
from reliability.clients import Client, Setting
from reliability.receiver import receiving
from reliability.service import TOKENS, Served, report

FRAMES = 2
KILLED_AT_START = 0.2
"""In how many rounds the server is also killed before it may have begun to answer."""
START_S = 1.5
HASTY = ("--lease-s", "1", "--sweep-s", "1")
"""Settings under which heartbeats and sweeps come often."""


@dataclass
class Result:
    """What came of it."""

    served: Served
    lives_s: list = field(default_factory=list)
    """From each start after a kill to the first answer."""
    at_kill: list = field(default_factory=list)
    """How many creates had been acknowledged at each kill."""
    hits: dict = field(default_factory=dict)
    """How often each crash point was hit."""
    noticed_s: list = field(default_factory=list)
    """From each death of a worker until the server said that it is gone."""

    def lines(self):
        """Write it down."""
        served = self.served
        yield f"{served.kills} ends by SIGKILL, {served.together} of them of the whole process tree"
        if self.at_kill:
            yield f"creates acknowledged before each: {', '.join(map(str, self.at_kill))}"
            yield f"slowest answer of /healthz while it lived: {served.slowest_s:.3f} s"
        if self.hits:
            yield f"{sum(self.hits.values())} hits of {sum(map(bool, self.hits.values()))} crash points"
            yield f"not hit: {', '.join(point for point, hits in self.hits.items() if not hits) or 'none'}"
        if self.noticed_s:
            times = f"{statistics.median(self.noticed_s):.3f} s (median), {max(self.noticed_s):.3f} s (largest)"
            yield f"{len(self.noticed_s)} workers killed at work, each noticed after {times}"
        if self.lives_s:
            times = f"{statistics.median(self.lives_s):.2f} s (median), {max(self.lives_s):.2f} s (largest)"
            yield f"live again after {times}"


def run(
    root, *, rounds, clients, each=None, points=(), hit_within_s=8.0, worker_kills=0, seed=20, longest_s=4.0, workers=1
):
    """Kill a server so often while clients write, then have it end itself at each of some crash points.

    `each`: so many creates a client, none of them cancelled; otherwise as many as it can. A point that nothing comes to
    within `hit_within_s` of a start counts as not hit.
    """
    dice = random.Random(seed)
    (root / "acks").mkdir()
    served, keys = Served(root, *(HASTY if points else ()), workers=workers), {}
    result = Result(served)
    film = write_film(root / "film.mp4", frames=FRAMES).read_bytes()
    with receiving(root / "acks" / "receiver.log", keys) as hook, ThreadPoolExecutor(clients) as pool:
        setting = Setting(served.url, TOKENS, film, FRAMES, hook, seed, varied=bool(points))
        people = [Client(number, setting, Acks(root / "acks" / f"client-{number}.log")) for number in range(clients)]
        try:
            served.start()
            served.wait_until_live()
            keys |= {owner: served.ask("/v1/webhooks/default/secret", owner)["key"] for owner in TOKENS}
            at_work = [
                pool.submit(person.work) if each is None else pool.submit(person.queue, each) for person in people
            ]
            for _ in range(rounds):
                served.live_until(moment(dice, longest_s, people, each))
                result.at_kill.append(made(people))
                kill_and_start(served, dice)
                result.lives_s.append(served.wait_until_live())
            kill_workers(result, worker_kills)
            if points:
                hit_points(result, dice, points, hit_within_s)
            setting.enough.set()
            for work in at_work:
                work.result()
            served.wait_until_quiet()
            list(pool.map(Client.see_all, people))
            # A start removes what was left, uploads that were deleted too; a stop waits until that is done.
            for _ in range(2):
                served.stop()
                served.start()
                served.wait_until_live()
            left = served.examine(root / "acks")
            served.stop()
        finally:
            setting.enough.set()
            setting.over.set()
            served.close()
            for person in people:
                person.close()
    return result, left


def moment(dice, longest_s, people, each):
    """Choose when to kill: after some time, or when some of what is to be queued has been."""
    if each is None:
        end = time.monotonic() + dice.uniform(0, longest_s)
        return lambda: time.monotonic() >= end
    number = dice.uniform(made(people), each * len(people) * 0.8)
    return lambda: made(people) >= number


def made(people):
    return sum(person.made for person in people)


def kill_and_start(served, dice):
    served.kill(dice)
    if dice.random() < KILLED_AT_START:
        served.start()
        time.sleep(dice.uniform(0, START_S))
        served.kill(dice)
    served.start()


def kill_workers(result, times):
    """End a worker so often in the middle of a prediction, each time another one."""
    served, met = result.served, set()
    while len(result.noticed_s) < times:
        busy = [worker for worker in served.ask("/health")["workers"] if worker["prediction"] not in (None, *met)]
        if not busy:
            time.sleep(0.01)
            continue
        os.kill(busy[0]["pid"], signal.SIGKILL)
        killed = time.monotonic()
        while busy[0]["pid"] in [worker["pid"] for worker in served.ask("/health")["workers"]]:
            time.sleep(0.005)
        result.noticed_s.append(time.monotonic() - killed)
        met.add(busy[0]["prediction"])
        served.kills += 1


def hit_points(result, dice, points, within_s):
    """Start the server again and again, so that it ends itself at one point after another."""
    served, result.hits = result.served, dict.fromkeys(points, 0)
    served.kill(dice)
    for point in points:
        served.start(MASKLET_TESTING="1", MASKLET_CRASHPOINT=f"{point}:{dice.randint(1, 2)}")
        end = time.monotonic() + within_s
        while not (hit := served.was_hit()) and time.monotonic() < end:
            time.sleep(0.02)
        result.hits[point] += hit
        served.kills += hit
        served.kill(dice)
    served.start()
    result.lives_s.append(served.wait_until_live())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--each", type=int, help="creates of each client, none of them cancelled; else without end")
    parser.add_argument(
        "--points", type=int, default=0, help="so many lives for each named crash point, after the rounds"
    )
    parser.add_argument("--worker-kills", type=int, default=0)
    parser.add_argument("--longest-s", type=float, default=4.0, help="longest life between two kills")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=20)
    given = vars(parser.parse_args())
    points = POINTS * given.pop("points")
    report(run, points=random.Random(given["seed"]).sample(points, len(points)), **given)


if __name__ == "__main__":
    main()
