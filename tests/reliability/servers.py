"""What the nursery starts: a life of the store in which every crash point is passed, and what comes after it."""

import http.client
import json
import sys
import time
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

import structlog

from masklet.jobs import JobStore, NewPrediction, Retention, Surroundings
from masklet.server.crashpoints import crash_point
from masklet.server.duty import Patience
from masklet.server.postman import Answer
from masklet.server.supervisor import Plan, Supervisor
from reliability.acks import Acks, created, saw

HURRY = Patience(lease_s=0.4)
NOBODY = "http://127.0.0.1:9/nobody"
"""Where no webhook is ever taken, so that each is given up at once."""
KEEP = Retention(data_s=1e9, rows_s=1e9, unfinished_s=1e9)


def send(delivery):
    """Send a webhook to the test's receiver, as it is: the signed and guarded way is tested elsewhere."""
    where, about = urlsplit(delivery.url), delivery.prediction
    body = json.dumps({"id": about.id, "kind": delivery.kind, "status": about.status})
    connection = http.client.HTTPConnection(where.hostname, where.port, timeout=5)
    try:
        connection.request("POST", where.path, body, {"webhook-id": delivery.id})
        status = connection.getresponse().status
    except OSError as error:
        return Answer(False, str(error), final=delivery.url == NOBODY)
    finally:
        connection.close()
    return Answer(status == 200, f"HTTP {status}")


def life(data, acks, short, long, hook, name):
    """Do everything that has a crash point, in a server with one worker; what is acknowledged is noted.

    `name` tells this life's predictions from those of other lives of the same data.
    """
    _Life(Path(data), Acks(acks), Path(short), Path(long), hook).live(name)


def afterlife(data, acks, short, long, hook, *names):
    """Ask for everything of earlier lives again, as their clients would, and wait until all has ended and was told."""
    _Life(Path(data), Acks(acks), Path(short), Path(long), hook).end(names)


class _Life:
    ASKED: ClassVar = {
        "left": {},
        "late": {"cancel_after_s": 0.01},
        "slow": {"click_object_ids": "fault-slow-0"},
        "plain": {},
        "cancelled": {},
        "wrong": {"click_frames": "900"},
        "unheard": {"hook": NOBODY, "webhook_events": ("completed",)},
        "last": {"click_object_ids": "fault-slow-0", "long": True},
    }

    def __init__(self, data, acks, short, long, hook):
        structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
        self.data, self.acks, self.short, self.long, self.hook = data, acks, short, long, hook
        self.name = ""
        self.reach = crash_point()
        self.store = JobStore(data, server=True, surroundings=Surroundings(reach=self.reach))

    def supervisor(self):
        supervisor = Supervisor(
            self.store, Plan(engine="stub", patience=HURRY, stop_s=10.0), send=send, reach=self.reach
        )
        supervisor.start()
        return supervisor

    def live(self, name):
        self.name = name
        with self.store:
            self.store.secret(name)
            self.before_the_workers()
            supervisor = self.supervisor()
            asked = [self.ask(key) for key in ("slow", "plain", "cancelled")]
            self.store.cancel(asked[-1], owner="ann")
            self.store.uploads.delete(self.upload().id, owner="ann")
            for id in (*asked, self.ask("wrong")):
                self.see_end(id)
            self.send_again()
            self.store.sweep(KEEP)
            last = self.ask("last")
            while self.store.get(last, owner="ann").status == "starting":
                time.sleep(0.005)
            supervisor.stop()  # while something runs that takes too long to be waited for

    def end(self, names):
        with self.store:
            supervisor = self.supervisor()
            asked = []
            for self.name in names:
                asked += [(key, self.ask(key)) for key in self.ASKED]
            for key, id in asked:
                if key in ("cancelled", "last"):
                    self.store.cancel(id, owner="ann")
            for _, id in asked:
                self.see_end(id)
            while self.store.counts().webhooks_pending:
                time.sleep(0.005)
            supervisor.stop()
            self.store.sweep(KEEP, unfinished_before=time.time())

    def before_the_workers(self):
        """Leave a lease of an earlier start, and a deadline that has passed."""
        self.ask("left")
        with JobStore(self.data, boot_id="an earlier start") as earlier:
            earlier.queue.claim("ghost")
        late = self.ask("late")
        time.sleep(0.02)
        self.store.queue.expire()
        self.see_end(late)

    def send_again(self):
        """Have a webhook given up, and sent again."""
        unheard = self.ask("unheard")
        self.see_end(unheard)
        while not self.store.outbox.resend(unheard):
            time.sleep(0.005)

    def upload(self, *, long=False):
        path = self.store.uploads.temporary()
        path.write_bytes((self.long if long else self.short).read_bytes())
        return self.store.uploads.add("ann", path, name="film", content_type="video/mp4", keep_s=3_600.0)

    def ask(self, key):
        said = dict(self.ASKED[key])
        about = {name: said.pop(name) for name in ("cancel_after_s", "webhook_events") if name in said}
        long, hook = said.pop("long", False), said.pop("hook", self.hook)
        # The client keeps the upload's id under the key: a second try must say the same.
        place = self.data.parent / f"upload of {key} in {self.name}"
        if not place.exists():
            place.write_text(self.upload(long=long).id)
        given = {"input_video": "http://127.0.0.1/", "click_coordinates": "[14,14]", "output_format": "png"} | said
        new = NewPrediction(
            owner="ann",
            model="m/n",
            version="v",
            weights="nano",
            input=given,
            files={"input_video": place.read_text()},
            webhook=hook,
            key=f"{key} in {self.name}",
            **({"webhook_events": ("start", "completed")} | about),
        )
        prediction = self.store.create(new).prediction
        created(self.acks, {"id": prediction.id}, key=new.key)
        return prediction.id

    def see_end(self, id):
        while not (found := self.store.get(id, owner="ann")).ended:
            time.sleep(0.005)
        saw(self.acks, {"id": id, "status": found.status, "outputs": [output.name for output in found.outputs]})
