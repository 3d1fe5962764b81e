"""Keys and signed addresses: what, whose it is and until when, and a signature that stands for a token.

Clients fetch outputs and streams with no header, so what is in the address must suffice. All keys come from one secret
of the server.
"""

import base64
import hashlib
import hmac
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

from masklet.server.problems import Refusal

STEPS = 4
"""Within a quarter of its life the same address is given again, so that a poll does not change every output."""


def derive(secret: bytes, purpose: str) -> bytes:
    """Return a key of its own for a purpose."""
    return hmac.digest(secret, purpose.encode(), hashlib.sha256)


@dataclass(frozen=True)
class Signer:
    """Signs `OWNER WHAT EXPIRY`, as Replicate does for files, and checks it."""

    key: bytes
    life_s: int
    clock: Callable[[], float] = time.time

    def query(self, what: str, owner: str) -> str:
        """Return the query to append to an address."""
        step = max(1, self.life_s // STEPS)
        expiry = (int(self.clock()) // step + 1) * step + self.life_s
        return urlencode({"owner": owner, "expiry": expiry, "signature": self._sign(what, owner, str(expiry))})

    def owner(self, what: str, query: Mapping[str, str]) -> str:
        """Return whose a signed address is; raises `Refusal` for one that was changed or is over."""
        owner, expiry = query.get("owner", ""), query.get("expiry", "")
        signature = query.get("signature", "").encode("utf-8", "surrogatepass")
        if not hmac.compare_digest(signature, self._sign(what, owner, expiry).encode()):
            raise Refusal(403, "The signature does not fit the address. Take it whole from the prediction.")
        if int(expiry) < self.clock():
            raise Refusal(403, "The address has expired. Get the prediction again for a new one.")
        return owner

    def _sign(self, what: str, owner: str, expiry: str) -> str:
        text = f"{owner} {what} {expiry}".encode("utf-8", "surrogatepass")
        return base64.urlsafe_b64encode(hmac.digest(self.key, text, hashlib.sha256)).rstrip(b"=").decode()
