"""Count the bytes and requests of a store."""

from __future__ import annotations

import threading
from collections import Counter


class Traffic:
    """Counts bytes and requests of all threads until `take` returns them.

    A pickled copy starts at zero, so that a Ray task that receives a storage reports only its own traffic.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def __reduce__(self) -> tuple[type[Traffic], tuple[()]]:
        return Traffic, ()

    def add(self, name: str, number: int = 1) -> None:
        """Add to a count."""
        with self._lock:
            self._counts[name] += number

    def take(self) -> dict[str, int]:
        """Return the counts since the last call, by name, and reset them."""
        with self._lock:
            taken, self._counts = self._counts, Counter()
        return dict(taken)
