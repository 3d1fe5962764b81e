"""Clients of a server that dies: they note what they are told, and ask again for what they were not."""

import base64
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from string import ascii_lowercase
from threading import Event
from urllib.parse import urlsplit

import httpx
from server.patches import ON_RED
from server.serving import HOSTED

from reliability.acks import created, knows, saw
from reliability.checker import FINAL

BUSY = (429, 503)
AGAIN_S = (0.1, 0.5)
"""Until a client tries again: a hundred that tried without a pause would keep the server from starting."""
LOOK_S = 0.1
VARIETIES = (*[{}] * 5, {"click_object_ids": "fault-slow"}, {"click_frames": "900"})
DEADLINES = (*[{}] * 5, {"Cancel-After": "1s"})


@dataclass
class Setting:
    """What all clients of a run share."""

    url: str
    tokens: dict
    film: bytes
    frames: int
    hook: str | None
    """Where each owner's webhooks go, by name."""
    seed: int
    varied: bool = False
    """Whether some predictions are slow, wrong or have a deadline, and uploads are deleted."""
    enough: Event = field(default_factory=Event)
    """No more work is to be begun."""
    over: Event = field(default_factory=Event)
    """The server will not come back."""


class Client:
    """One of them: it creates, repeats itself, cancels, looks, and waits for ends."""

    def __init__(self, number, setting, acks):
        self.made, self._setting, self._acks = 0, setting, acks
        self._name = f"client {number}"
        owners = sorted(setting.tokens)
        self._owner = owners[number % len(owners)]
        self._dice = random.Random(f"{setting.seed} {number}")
        self._hasty = number % 3 == 0
        """It cancels whatever it creates, and so writes as fast as it is answered."""
        headers = {"Authorization": f"Bearer {setting.tokens[self._owner]}"}
        self._http = httpx.Client(base_url=setting.url, headers=headers, verify=False, timeout=60)
        self._open, self._ends = {}, Counter()

    def close(self):
        self._http.close()
        self._acks.close()

    def queue(self, count):
        """Create so many, one after another, and wait for none."""
        for _ in range(count):
            self._create()

    def work(self, *, cancelling=True):
        """Create a few, cancel some of them, wait for their ends, and so on until it is enough."""
        while not self._setting.enough.is_set():
            ids = [self._create() for _ in range(self._dice.randint(1, 3))]
            for id in ids:
                if cancelling and (self._hasty or self._dice.random() < 0.5):
                    self._cancel(id)
            self._see(self._setting.enough)

    def see_all(self):
        """Wait for the end of everything that it created; returns how many ended how."""
        self._see(Event())
        return self._ends

    def _see(self, leave):
        """Look until all has ended; what has not when it is time to leave is looked at later."""
        while self._open and not leave.is_set():
            for id in list(self._open):
                self._look(id)
            time.sleep(LOOK_S if self._open else 0)

    def _look(self, id):
        about = self._ask("GET", f"/v1/predictions/{id}")
        urls = about["output"] or []
        if about["status"] in FINAL:
            self._end(about)
        elif len(urls) > self._open[id]:
            self._open[id] = len(urls)
            knows(self._acks, id, urls[-1])

    def _end(self, about):
        saw(self._acks, {"id": about["id"], "status": about["status"], "outputs": names_of(about)})
        self._ends[about["status"]] += self._open.pop(about["id"], None) is not None

    def _create(self):
        """Create one by either door, now and then twice; what comes of one key or id is one prediction."""
        video = self._upload() if self._dice.random() < 0.3 else as_data(self._setting.film)
        canary = f"{self._owner}'s own"
        body = {
            "input": {"input_video": video, "click_coordinates": ON_RED, "note": canary},
        }
        if self._setting.hook is not None:
            body |= {"webhook": f"{self._setting.hook}/{self._owner}", "webhook_events_filter": ["start", "completed"]}
        key = f"{self._name}: {self.made}"
        headers = {"Idempotency-Key": key}
        if self._setting.varied:
            body["input"] |= self._dice.choice(VARIETIES)
            headers |= self._dice.choice(DEADLINES)
        asking = ("POST", "/v1/predictions", {"version": HOSTED, **body}, headers)
        if self._dice.random() < 0.2:
            id = "".join(self._dice.choices(ascii_lowercase, k=26))
            asking = ("PUT", f"/predictions/{id}", body, {"Prefer": "respond-async"})
        for _ in range(2 if self._dice.random() < 0.1 else 1):
            method, path, said, headers = asking
            about = self._ask(method, path, json=said, headers=headers)
            created(self._acks, about, owner=self._owner, key=key, frames=self._setting.frames, canary=canary)
        self.made += 1
        self._open[about["id"]] = 0
        return about["id"]

    def _upload(self):
        files = {"content": ("film.mp4", self._setting.film, "video/mp4")}
        about = self._ask("POST", "/v1/files", files=files)
        if self._setting.varied:
            # Of two uploads one is not needed; who deletes it again did not hear that it is gone.
            spare = self._ask("POST", "/v1/files", files=files)
            self._ask("DELETE", f"/v1/files/{spare['id']}", gone=404)
        return about["urls"]["get"]

    def _cancel(self, id):
        time.sleep(0 if self._hasty else self._dice.uniform(0, 0.5))
        about = self._ask("POST", f"/v1/predictions/{id}/cancel")
        if about["status"] in FINAL:
            self._end(about)

    def _ask(self, method, path, gone=None, **more):
        """Ask until there is an answer; a server that is dead or dies meanwhile comes back."""
        while True:
            assert not self._setting.over.is_set(), "the server is gone for good"
            try:
                answer = self._http.request(method, path, **more)
            except httpx.TransportError:
                time.sleep(self._dice.uniform(*AGAIN_S))
                continue
            if answer.status_code not in BUSY:
                assert answer.is_success or answer.status_code == gone, (method, path, answer.status_code, answer.text)
                return answer.json() if answer.content else None
            time.sleep(self._dice.uniform(*AGAIN_S))


def as_data(film):
    return "data:video/mp4;base64," + base64.b64encode(film).decode()


def names_of(about):
    """Return the names of a prediction's outputs."""
    return [urlsplit(url).path.rpartition("/")[2] for url in about["output"] or []]
