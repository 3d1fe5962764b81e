"""What the store keeps, as values. Times are seconds since 1970 unless their name says monotonic."""

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

Status = Literal["starting", "processing", "succeeded", "failed", "canceled", "aborted"]
"""`starting` waits (for the first time or again), `processing` runs; `aborted`: its deadline passed before it ran."""
Ending = Literal["succeeded", "failed", "canceled", "aborted"]
ENDINGS: tuple[Ending, ...] = get_args(Ending)

EventKind = Literal["start", "output", "logs", "completed"]
EVENT_KINDS: tuple[EventKind, ...] = get_args(EventKind)

Role = Literal["output", "manifest"]

ErrorCode = Literal[
    "E_BAD_PROMPT",
    "E_FRAME_RANGE",
    "E_UNSUPPORTED_MEDIA",
    "E_NO_FRAMES",
    "E_TOO_LARGE",
    "E_GEOMETRY_CHANGED",
    "E_DECODER_CRASHED",
    "E_DECODER_TIMEOUT",
    "E_URL_FORBIDDEN",
    "E_URL_FAILED",
    "E_URL_TIMEOUT",
    "E_MODEL_SETUP",
    "E_MODEL_NONFINITE",
    "E_MODEL_STALLED",
    "E_OOM",
    "E_DISK_FULL",
    "E_WORKER_CRASHED",
    "E_TIMEOUT",
    "E_CANCELED",
    "E_DEADLINE",
    "E_INTERNAL",
]
"""Every code that a prediction which did not succeed can carry."""
ERROR_CODES: tuple[ErrorCode, ...] = get_args(ErrorCode)

_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"
ID_LENGTH = 26


def new_id() -> str:
    """Return 26 characters of [a-z0-9], 134 random bits."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(ID_LENGTH))


def as_json(value: object) -> str:
    """Write strict JSON, keys sorted, so that equal requests have equal texts."""
    return json.dumps(value, allow_nan=False, ensure_ascii=True, sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True)
class NewPrediction:
    """A request that was found good, to be accepted."""

    owner: str
    model: str
    """As clients name it, such as `meta/sam-2-video`."""
    version: str
    weights: str
    """The masklet model that runs it, such as `nano`."""
    input: Mapping[str, Any]
    """As the client sent it; it is echoed unchanged."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Input fields whose value is one of the owner's uploads, and that upload's id; it is kept until the end."""
    webhook: str | None = None
    webhook_events: tuple[EventKind, ...] = EVENT_KINDS
    cancel_after_s: float | None = None
    key: str | None = None
    """Idempotency key, unique for its owner."""
    id: str | None = None
    """Chosen by the client (Cog's PUT), otherwise made here."""
    source: str = "api"
    base: str | None = None
    """How its client reached the server, such as `https://masks.example`; no part of what it asked."""

    def digest(self) -> str:
        """Say what was asked in 64 characters: two requests with one key must agree in it."""
        asked = [self.model, self.version, dict(self.input), dict(self.files), self.webhook, list(self.webhook_events)]
        return hashlib.sha256(as_json([*asked, self.cancel_after_s]).encode()).hexdigest()


@dataclass(frozen=True)
class Output:
    """A published file of a prediction."""

    position: int
    """In the prediction's list of outputs, from 0."""
    name: str
    """Such as `frame_00010.webp`; unique in its prediction."""
    path: Path
    sha256: str
    size: int
    content_type: str


@dataclass(frozen=True)
class Prediction:
    """One job, as it was when it was read."""

    id: str
    number: int
    """Ascending in the order of creation, whatever the clock did."""
    owner: str
    model: str
    version: str
    weights: str
    input: Mapping[str, Any]
    files: Mapping[str, str]
    source: str
    base: str | None
    """How its client reached the server; None: it came before that was kept."""
    status: Status
    error: str | None
    error_code: ErrorCode | None
    logs: str
    outputs: tuple[Output, ...]
    manifest: Output | None
    metrics: Mapping[str, float]
    created_at: float
    started_at: float | None
    completed_at: float | None
    deadline: float | None
    webhook: str | None
    webhook_events: tuple[EventKind, ...]
    attempts: int
    """How often a worker took it."""
    crashes: int
    """How many workers died of it, or at least with it."""
    worker: str | None
    data_removed: bool
    """Its input, outputs and logs were kept as long as promised and are gone."""

    @property
    def ended(self) -> bool:
        """Whether its state is final."""
        return self.status in ENDINGS


@dataclass(frozen=True)
class Created:
    """The answer to a create."""

    prediction: Prediction
    fresh: bool
    """False: the same request was accepted before, and this is that prediction."""


@dataclass(frozen=True)
class Page:
    """Some predictions, newest first."""

    results: tuple[Prediction, ...]
    next: str | None
    """Cursor of the older ones after these."""
    previous: str | None


@dataclass(frozen=True)
class Lease:
    """A worker's right to one prediction. The token rises with every claim of any prediction: an old one is refused."""

    prediction: str
    token: int
    worker: str


@dataclass(frozen=True)
class Claim:
    """A prediction that a worker is to run."""

    lease: Lease
    prediction: Prediction
    uploads: Mapping[str, Path]
    """For each of the prediction's `files`, where the upload is."""


@dataclass(frozen=True)
class Outcome:
    """How a prediction ended."""

    status: Ending
    error: str | None = None
    """One plain sentence for its owner: no traceback, no path, no token."""
    error_code: ErrorCode | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Event:
    """Something that happened to a prediction; events are never changed.

    `data` of start: `status`, `attempt`; output: `position`, `name`; logs: `text`; completed: `status`, `error`,
    `error_code`.
    """

    seq: int
    """Ascending over all predictions; what `Last-Event-ID` holds."""
    prediction: str
    kind: EventKind
    data: Mapping[str, Any]
    created_at: float


@dataclass(frozen=True)
class Delivery:
    """A webhook to be sent."""

    id: str
    """The same for every try; the receiver tells repetitions by it."""
    kind: EventKind
    url: str
    prediction: Prediction
    """As it was when the event happened."""
    tries: int
    """Before this one."""


@dataclass(frozen=True)
class StoredFile:
    """An upload."""

    id: str
    owner: str
    name: str
    content_type: str
    size: int
    sha256: str
    metadata: Mapping[str, Any]
    created_at: float
    expires_at: float
    path: Path


@dataclass(frozen=True)
class Counts:
    """How much there is, for metrics and health."""

    by_status: Mapping[Status, int]
    oldest_waiting_s: float
    """Since the creation of the oldest prediction that waits; 0 when none does."""
    webhooks_pending: int
    webhooks_undelivered: int
