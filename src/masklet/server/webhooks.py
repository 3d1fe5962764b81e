"""Signatures of outgoing webhooks, after the Standard Webhooks specification, as Replicate signs them.

Keys are derived from one secret of the server, so nothing about an owner needs storing. Delivery is the outbox's work.
"""

import base64
from datetime import UTC, datetime

from standardwebhooks import Webhook

from masklet.server.signing import derive


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
