"""Run functions in threads that take turns at their storage requests, in an order that a test gives."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from pipeline.store.storage import Storage


class Turns:
    """Lets one of several actors do one request at a time.

    Args:
        order: Names of actors; each entry lets that actor do its next request. When the order is used up, or its next
            actor has ended, the actors that are left do theirs in the order of `actors`.
    """

    def __init__(self, order: Sequence[str]) -> None:
        self._order = list(order)
        self._changed = threading.Condition()
        self._left: list[str] = []
        self._waiting: set[str] = set()
        self._turn: str | None = None
        self.requests: list[str] = []

    def run(self, actors: dict[str, Callable[[], object]]) -> dict[str, Exception]:
        """Run the actors to their ends; return the errors of those that failed."""
        failed: dict[str, Exception] = {}
        self._left = list(actors)

        def act(name: str) -> None:
            try:
                actors[name]()
            except Exception as error:  # noqa: BLE001 - what the test is about
                failed[name] = error
            with self._changed:
                self._left.remove(name)
                self._turn = None
                self._give()

        threads = [threading.Thread(target=act, args=(name,), name=name, daemon=True) for name in actors]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=30)
            assert not thread.is_alive(), f"no end after {self.requests}"
        return failed

    def wait(self, request: str) -> None:
        """Wait for this thread's turn, and take it until its next request."""
        name = threading.current_thread().name
        with self._changed:
            if name not in self._left:
                return  # not an actor: the test itself
            if self._turn == name:
                self._turn = None
            self._waiting.add(name)
            self._give()
            self._changed.wait_for(lambda: self._turn == name)
            self._waiting.discard(name)
            self.requests.append(f"{name}: {request}")

    def _give(self) -> None:
        # An actor that computes holds the turn until it asks for its next request or ends.
        if self._turn is None and self._waiting == set(self._left):
            while self._order and self._order[0] not in self._left:
                self._order.pop(0)
            self._turn = self._order.pop(0) if self._order else next(iter(self._left), None)
        self._changed.notify_all()


class TakingTurns(Storage):
    """A storage whose every request waits for its turn."""

    def __init__(self, url: str, turns: Turns) -> None:
        super().__init__(url)
        self._turns = turns

    def _call(self, method: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        self._turns.wait(f"{method.__name__} {str(arguments[0]).removeprefix(self.root)}")
        return super()._call(method, *arguments, **options)

    def _create(self, name: str, *arguments: Any, **options: Any) -> bool:
        self._turns.wait(f"create {name}")
        return super()._create(name, *arguments, **options)
