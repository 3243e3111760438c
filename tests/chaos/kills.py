"""When a chaos run kills what: a schedule drawn from a seed, and the one who carries it out."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import psutil

from tests.support.fault_proxy import Seen

Victim = Literal["driver", "decode", "encode", "answer", "node"]


@dataclass(frozen=True)
class Kill:
    """One SIGKILL.

    Attributes:
        victim: Whose process.
        folder: Of the object whose PUT gives the moment, and whose sender it hits; None: as soon as it is due.
        moment: Before that PUT reaches the store, or after, when its reply is lost with the process.
        clock: Whether `due` counts clips with committed tokens or clips with committed answers.
        due: From how many on.
    """

    victim: Victim
    folder: str | None
    moment: Literal["before", "after", "any"]
    clock: Literal["tokens", "answers"]
    due: int

    def __str__(self) -> str:
        where = "at" if self.folder is None else f"{self.moment} PUT {self.folder}/ at"
        return f"{self.victim:7} {where} {self.due} clips with {self.clock}"


# Every crash point of docs/guarantees.md; the first ones are in the smallest schedule, too.
_DRIVER: tuple[tuple[str | None, Literal["before", "after", "any"]], ...] = (
    ("answers", "after"), ("answers", "before"), ("lease", "before"), ("lease", "after"), (None, "any"),
    ("answers", "after"),
)  # fmt: skip
_FIRST: tuple[tuple[str, Literal["before", "after", "any"]], ...] = (("probes", "after"), ("failures", "before"))
_WORKERS: tuple[tuple[Victim, str | None, Literal["before", "after", "any"]], ...] = (
    ("encode", "tokens", "after"), ("decode", None, "any"), ("encode", "tokens", "before"), ("node", None, "any"),
)  # fmt: skip


def schedule(num_kills: int, num_clips: int, seed: int) -> tuple[list[Kill], list[Kill]]:
    """Draw when to kill what.

    A quarter of the kills hit the driver, at most 8: the first two before any clip is done.

    Returns:
        Kills that go by the number of clips with tokens, and those that go by the number with answers, in order.
    """
    chance = random.Random(seed)  # noqa: S311 - when to kill, not a secret
    drivers = max(3, min(8, num_kills // 4))
    by_tokens = (num_kills - drivers) * 3 // 5
    by_answers = num_kills - drivers - by_tokens
    at_start = [Kill("driver", folder, moment, "tokens", 0) for folder, moment in _FIRST[: drivers - 2]]
    kinds = [_WORKERS[index % len(_WORKERS)] for index in range(by_tokens)]
    # Work must be left when the last is due: kills are carried out one after the other, and repeat some.
    first = [Kill(*kind, "tokens", due) for kind, due in zip(kinds, _spread(chance, by_tokens, num_clips), strict=True)]
    others: list[tuple[Victim, str | None, Literal["before", "after", "any"]]] = [
        *(("driver", *point) for point in _DRIVER[: drivers - len(at_start)]),
        *((("answer", None, "any"), ("answer", None, "any"), ("node", None, "any"))[n % 3] for n in range(by_answers)),
    ]
    chance.shuffle(others)
    then = [
        Kill(*kind, "answers", due) for kind, due in zip(others, _spread(chance, len(others), num_clips), strict=True)
    ]
    return [*at_start, *first], then


def _spread(chance: random.Random, count: int, num_clips: int) -> list[int]:
    return sorted(chance.randint(1, num_clips * 3 // 4) for _ in range(count))


class Killer:
    """Carries out a schedule, each list in its order.

    Args:
        plans: Lists of kills; of each, one is waited for at a time.
        kill_node: Kills a worker node and starts another.

    Attributes:
        port: Of the proxy, whose clients are the victims.
        driver: The one that runs now.
        carried_out: What has happened.
    """

    def __init__(self, plans: tuple[list[Kill], ...], kill_node: Callable[[], None]) -> None:
        self._plans = [list(plan) for plan in plans]
        self._kill_node = kill_node
        self._lock = threading.Lock()
        self._done: dict[str, set[str]] = {"tokens": set(), "answers": set()}
        self.port = 0
        self.driver: psutil.Process | None = None
        self.carried_out: list[Kill] = []

    @property
    def left(self) -> list[Kill]:
        """What has not happened."""
        return [kill for plan in self._plans for kill in plan]

    def on_request(self, seen: Seen) -> bool:
        """See `FaultProxy`: count what is committed, and kill the sender if its time has come."""
        if seen.method != "PUT":
            return False
        with self._lock:
            for clock, done in self._done.items():
                # A part of answers holds one clip's: `commit.rows` is 1.
                if f"/{clock}/" in seen.path and seen.moment == "after":
                    done.add(seen.path)
            for plan in self._plans:
                if plan and self._is_meant(plan[0], seen) and self._kill_sender(seen, plan[0]):
                    self.carried_out.append(plan.pop(0))
                    return True
        return False

    def tick(self) -> None:
        """Kill what is due and waits for no request; called again and again."""
        with self._lock:
            for plan in self._plans:
                if plan and plan[0].folder is None and self._is_due(plan[0]) and self._kill_now(plan[0]):
                    self.carried_out.append(plan.pop(0))

    def _is_meant(self, kill: Kill, seen: Seen) -> bool:
        its_put = kill.folder is not None and f"/{kill.folder}/" in seen.path and kill.moment == seen.moment
        return its_put and self._is_due(kill)

    def _is_due(self, kill: Kill) -> bool:
        return len(self._done[kill.clock]) >= kill.due

    def _kill_sender(self, seen: Seen, kill: Kill) -> bool:
        pid = sender(seen.client_port, self.port)
        if pid is None or (kill.victim == "driver") != (self.driver is not None and pid == self.driver.pid):
            return False
        psutil.Process(pid).kill()
        return True

    def _kill_now(self, kill: Kill) -> bool:
        if kill.victim == "node":
            self._kill_node()
            return True
        if kill.victim == "driver":
            if self.driver is None or not self.driver.is_running():
                return False
            self.driver.kill()
            return True
        for process in _actors(kill.victim):
            process.kill()
            return True
        return False


def sender(client_port: int, server_port: int) -> int | None:
    """The process on this machine that holds the client's end of a connection."""
    for connection in psutil.net_connections("tcp"):
        if connection.laddr.port == client_port and connection.raddr and connection.raddr.port == server_port:
            return connection.pid
    return None


def _actors(stage: str) -> Iterator[psutil.Process]:
    """Ray's processes of a stage below this one; their titles name its class."""
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if f"{stage.capitalize()}Stage" in " ".join(process.cmdline()):
                yield process
