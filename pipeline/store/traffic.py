"""What a storage has moved: counted from any thread, each of it once."""

from __future__ import annotations

import threading
from collections import Counter


class Traffic:
    """Counts of bytes and requests, until they are taken.

    A task of Ray's that is given a storage gets a copy with no counts: what was counted here is told from here.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def __reduce__(self) -> tuple[type[Traffic], tuple[()]]:
        return Traffic, ()

    def add(self, name: str, number: int = 1) -> None:
        """Count."""
        with self._lock:
            self._counts[name] += number

    def take(self) -> dict[str, int]:
        """Everything counted since this was last asked."""
        with self._lock:
            taken, self._counts = self._counts, Counter()
        return dict(taken)
