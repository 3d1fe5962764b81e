"""Places for uploads under way: so many in all, and half of them for one owner, however slowly they send."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from masklet.server.problems import throttled

RETRY_S = 5


class Places:
    """Counts who holds how many; for one event loop."""

    def __init__(self, count: int) -> None:
        self._most, self._most_of_one = count, (count + 1) // 2
        self._held: Counter[str] = Counter()

    @contextmanager
    def taken(self, owner: str) -> Iterator[None]:
        """Hold a place; raises `Refusal` where all are held, or all that this owner may."""
        if self._held.total() >= self._most:
            raise throttled(RETRY_S, "Too many uploads are under way.")
        if self._held[owner] >= self._most_of_one:
            raise throttled(RETRY_S, f"{self._most_of_one} uploads of yours are under way, which is the most.")
        self._held[owner] += 1
        try:
            yield
        finally:
            self._held[owner] -= 1
            self._held += Counter()  # forgets who holds none
