"""What the store refuses, as whoever asked should hear it. A full disk is `masklet.errors.NoSpace`."""

from typing import Literal

from masklet.errors import Problem


class StoreRefused(Problem):
    """The data folder cannot be used: damaged, newer than this masklet, read-only, in use, or part of it is missing."""


class StoreBusy(Problem):
    """The database stayed locked for as long as the store waits; the same call may work in a moment."""


class QueueFull(Problem):
    """As many predictions are waiting as may wait."""


class KeyReused(Problem):
    """An idempotency key, or an id chosen by the client, was given before with another request."""


class UnknownFile(Problem):
    """A prediction names an uploaded file that its owner does not have."""


class LeaseLost(Exception):
    """The prediction is no longer this worker's: stop, publish nothing. Not a `Problem`: no person is told."""

    def __init__(self, prediction: str, why: Literal["ended", "taken over"]) -> None:
        super().__init__(f"prediction {prediction} was {why}")
        self.prediction = prediction
        self.why = why
