"""Predictions that outlive crashes: a durable store on SQLite. Knows no HTTP, no torch and no model.

`store.py` opens it; `docs/reliability.md` says what it promises and how that is tested.
"""

from masklet.jobs.database import Clock
from masklet.jobs.folder import Durable, make_durable
from masklet.jobs.queue import LEASE_S, MOST_CRASHES, Lost
from masklet.jobs.records import (
    ENDINGS,
    ERROR_CODES,
    EVENT_KINDS,
    Claim,
    Counts,
    Created,
    Delivery,
    Ending,
    ErrorCode,
    Event,
    EventKind,
    Lease,
    NewPrediction,
    Outcome,
    Output,
    Page,
    Prediction,
    Role,
    Status,
    StoredFile,
    new_id,
)
from masklet.jobs.refusals import KeyReused, LeaseLost, QueueFull, StoreBusy, StoreRefused, UnknownFile
from masklet.jobs.store import JobStore, Limits, Surroundings
from masklet.jobs.sweep import Retention, Swept

__all__ = [
    "ENDINGS",
    "ERROR_CODES",
    "EVENT_KINDS",
    "LEASE_S",
    "MOST_CRASHES",
    "Claim",
    "Clock",
    "Counts",
    "Created",
    "Delivery",
    "Durable",
    "Ending",
    "ErrorCode",
    "Event",
    "EventKind",
    "JobStore",
    "KeyReused",
    "Lease",
    "LeaseLost",
    "Limits",
    "Lost",
    "NewPrediction",
    "Outcome",
    "Output",
    "Page",
    "Prediction",
    "QueueFull",
    "Retention",
    "Role",
    "Status",
    "StoreBusy",
    "StoreRefused",
    "StoredFile",
    "Surroundings",
    "Swept",
    "UnknownFile",
    "make_durable",
    "new_id",
]
