"""What both doors do: accept a prediction, wait for one, say where things are. Knows HTTP only as far as addresses."""

import time
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from masklet.errors import NoSpace
from masklet.files import refusals
from masklet.jobs import (
    ENDINGS,
    Created,
    Event,
    JobStore,
    KeyReused,
    NewPrediction,
    Prediction,
    QueueFull,
    Status,
    StoreBusy,
    UnknownFile,
)
from masklet.server.catalog import Catalogue
from masklet.server.places import Places
from masklet.server.problems import InvalidField, Refusal, invalid_input, not_found, throttled
from masklet.server.schemas import Addresses, describe
from masklet.server.settings import Settings
from masklet.server.signing import Signer, derive
from masklet.server.sources import as_data_uri, is_data, own_upload, read_data_uri
from masklet.server.stream import Feed
from masklet.server.webhooks import signing_secret

SECRET = "service"  # noqa: S105 - a name, not a secret
FULL_RETRY_S = 5
RETRIES_REMEMBERED = 10_000
RETRY_WINDOW_S = 300.0
Asked = tuple[str, str]
"""Who asked, and the digest of what."""


@dataclass
class Retries:
    """Creates of the last minutes, to know one that a client repeats because it did not hear the answer.

    The Python client 2 repeats a POST after a time-out without an idempotency key; but it says so in a header, so the
    prediction that its first try made can be given instead of a second one.
    """

    window_s: float = RETRY_WINDOW_S
    _made: "OrderedDict[Asked, tuple[float, str]]" = field(default_factory=OrderedDict)

    def known(self, asked: Asked) -> str | None:
        """Return the id of the prediction that an equal request made shortly before."""
        made_at, id = self._made.get(asked, (0.0, ""))
        return id if id and time.monotonic() - made_at < self.window_s else None

    def remember(self, asked: Asked, id: str) -> None:
        """Note what a request made."""
        self._made[asked] = (time.monotonic(), id)
        while len(self._made) > RETRIES_REMEMBERED:
            self._made.popitem(last=False)

    def forget(self, asked: Asked) -> None:
        """Forget what an equal request made: another one begins, and a repetition would be of that one."""
        self._made.pop(asked, None)


@dataclass
class Service:
    """The parts that routes need."""

    settings: Settings
    store: JobStore
    catalogue: Catalogue
    feed: Feed
    signer: Signer
    secret: bytes
    upload_places: Places
    retries: Retries = field(default_factory=Retries)

    @classmethod
    def open(cls, settings: Settings, store: JobStore) -> "Service":
        """Put a service together upon a store."""
        secret = store.secret(SECRET)
        return cls(
            settings,
            store,
            Catalogue(settings.model),
            Feed(store.version, store.events.changed),
            Signer(derive(secret, "addresses"), settings.url_s),
            secret,
            Places(settings.uploads_at_once),
        )

    def base(self, request: Request | None = None) -> str:
        """Return how callers reach this server: as it is told, or as this one did."""
        if self.settings.public_url:
            return self.settings.public_url.rstrip("/")
        scheme = "https" if self.settings.tls_cert else "http"
        if request is not None and (host := request.headers.get("host")):
            return f"{scheme}://{host}"
        host = f"[{self.settings.host}]" if ":" in self.settings.host else self.settings.host
        return f"{scheme}://{host}:{self.settings.port}"

    def addresses(self, request: Request | None = None) -> Addresses:
        """Return where things are."""
        return Addresses(self.base(request), self.signer.query)

    def addresses_for(self, prediction: Prediction) -> Addresses:
        """Return where things are for who hears of a prediction by webhook: as its client reached this server."""
        base = None if self.settings.public_url else prediction.base
        return Addresses(base or self.base(), self.signer.query)

    def webhook_secret(self, owner: str) -> str:
        """Return what an owner's webhooks are signed with."""
        return signing_secret(self.secret, owner)

    def describe(self, prediction: Prediction, addresses: Addresses) -> dict[str, Any]:
        """Return a prediction as JSON; it may read files, so call it in a thread."""
        whole = [as_data_uri(output.content_type, output.path.read_bytes()) for output in self._embedded(prediction)]
        return describe(prediction, addresses, whole if self.settings.outputs == "data" else None)

    def _embedded(self, prediction: Prediction) -> tuple[Any, ...]:
        return prediction.outputs if self.settings.outputs == "data" else ()

    async def get(self, id: str, owner: str) -> Prediction:
        """Return a prediction of an owner; raises `Refusal` if there is none."""
        found = await run_in_threadpool(self.store.get, id, owner=owner)
        if found is None:
            raise not_found("prediction")
        return found

    async def accept(self, new: NewPrediction, request: Request, *, repeated: bool = False) -> Created:
        """Store a prediction, durably; raises `Refusal`. `repeated`: the client says that it asks again."""
        try:
            return await run_in_threadpool(self._accept, new, self.base(request), repeated)
        except QueueFull as full:
            raise throttled(FULL_RETRY_S, str(full).capitalize() + ".") from full
        except KeyReused as reused:
            raise Refusal(422, str(reused).capitalize() + ".", title="Idempotency key reused") from reused
        except UnknownFile as unknown:
            raise invalid_input([InvalidField("format", "input.input_video", str(unknown))]) from unknown

    def _accept(self, new: NewPrediction, base: str, repeated: bool) -> Created:
        asked = (new.owner, new.digest())
        known = self._made_by_first_try(asked) if repeated else None
        if known is not None:
            return Created(known, fresh=False)
        # Before anything can refuse this one: it is repeated then, too, and what an earlier request made is not its.
        self.retries.forget(asked)
        created = self.store.create(replace(self._with_files(new, base), base=base))
        self.retries.remember(asked, created.prediction.id)
        return created

    def _made_by_first_try(self, asked: Asked) -> Prediction | None:
        """Return what a client that asks again can use: not what was cancelled or failed since."""
        id, owner = self.retries.known(asked), asked[0]
        found = None if id is None else self.store.get(id, owner=owner)
        usable = found is not None and (not found.ended or found.status == "succeeded")
        return found if usable else None

    def _with_files(self, new: NewPrediction, base: str) -> NewPrediction:
        """Find the upload that an input means; what comes in a data: URI becomes one, and its address the input."""
        value = new.input["input_video"]
        if is_data(value):
            file = self._keep_data(new.owner, value)
            given = {**new.input, "input_video": f"{base}/v1/files/{file}"}
            return replace(new, input=given, files={"input_video": file})
        own = own_upload(value, base, self.settings.names() or (), self.settings.port)
        return new if own is None else replace(new, files={"input_video": own})

    def _keep_data(self, owner: str, uri: str) -> str:
        content_type, data = read_data_uri(uri, self.settings.data_uri_bytes)
        path = self.store.uploads.temporary()
        with refusals(path):
            path.write_bytes(data)
        kept = self.store.uploads.add_content(
            owner, path, content_type=content_type, keep_s=self.settings.upload_keep_s
        )
        return kept.id

    async def wait(self, prediction: Prediction, seconds: float, gone: Any = None) -> Prediction:
        """Return a prediction when it has ended, or as it is after so long (or when the server stops)."""
        end = time.monotonic() + seconds
        with self.feed.listen(prediction.id) as news:
            while True:
                # Only the status, for each of a thousand pictures wakes everybody who waits.
                status = await run_in_threadpool(self.store.status, prediction.id, owner=prediction.owner)
                if status is None or status in ENDINGS or news.over or time.monotonic() >= end:
                    break
                if gone is not None and await gone():
                    break
                # Whether the client is still there is looked at once a second, if that matters at all.
                await news.wait(min(end - time.monotonic(), 1.0 if gone is not None else seconds))
        return await run_in_threadpool(self.store.get, prediction.id, owner=prediction.owner) or prediction

    def read_events(self, id: str, owner: str, after: int) -> tuple[Status | None, tuple[Event, ...]]:
        """Return a prediction's status (None: there is none), and what happened to it after an event."""
        # Events first: one that ends in between is then seen as ended, with its last event still to be read.
        events = self.store.events.after(after, prediction=id)
        return self.store.status(id, owner=owner), events


def unavailable(problem: NoSpace | StoreBusy) -> Refusal:
    """Say that the server cannot write just now."""
    if isinstance(problem, StoreBusy):
        return Refusal(503, "The server is busy. Try again in a moment.", headers={"Retry-After": "1"})
    return Refusal(507, "The server has no room for more. Try again later.", headers={"Retry-After": "60"})
