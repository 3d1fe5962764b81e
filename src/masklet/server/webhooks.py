"""Outgoing webhooks: written, signed after the Standard Webhooks specification as Replicate signs them, and sent.

Keys are derived from one secret of the server, so nothing about an owner needs storing. When to send, and when to try
again, is the outbox's business.
"""

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from standardwebhooks import Webhook

from masklet.jobs import Delivery
from masklet.server.failures import JobFailure
from masklet.server.postman import Answer, Send
from masklet.server.signing import derive

GONE = 410


def signing_secret(secret: bytes, owner: str) -> str:
    """Return what an owner verifies webhooks with: `whsec_` and standard base64 (clients split at the only `_`)."""
    return "whsec_" + base64.b64encode(derive(secret, f"webhook {owner}")).decode()


def sign(key: str, delivery: str, sent_at_s: float, body: str) -> dict[str, str]:
    """Return the headers of one delivery; `delivery` stays the same over retries, the time does not."""
    return {
        "Content-Type": "application/json",
        "webhook-id": delivery,
        "webhook-timestamp": str(int(sent_at_s)),
        "webhook-signature": Webhook(key).sign(delivery, datetime.fromtimestamp(int(sent_at_s), UTC), body),
    }


@dataclass(frozen=True)
class Message:
    """What is sent for a delivery."""

    url: str
    headers: dict[str, str]
    body: bytes


def compose(delivery: Delivery, about: Mapping[str, Any], key: str, now_s: float) -> Message:
    """Write and sign one delivery; `about` is the prediction as its owner knows it, as it was then."""
    # Signed is what is sent, to the byte, so it is written once.
    body = json.dumps(about, ensure_ascii=True, allow_nan=False)
    return Message(delivery.url, sign(key, delivery.id, now_s, body), body.encode("ascii"))


Post = Callable[[Message], int]
"""Sends a message and returns the status of the answer; raises `JobFailure`."""


def sender(write: Callable[[Delivery], Message], post: Post) -> Send:
    """Return what the postman sends with."""

    def send(delivery: Delivery) -> Answer:
        try:
            status = post(write(delivery))
        except JobFailure as failure:
            return Answer(False, f"{failure.code}: {failure}", final=failure.code == "E_URL_FORBIDDEN")
        # 410 is how a receiver says that it wants no more (Standard Webhooks).
        return Answer(200 <= status < 300, f"HTTP {status}", final=status == GONE)

    return send
