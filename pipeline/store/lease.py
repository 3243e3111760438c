"""The lease: one driver writes to an output at a time (DESIGN, guarantee 2).

``lease/<epoch>.json`` files are created exclusively and never deleted; the highest epoch holds the lease. Renewing it
is creating the next epoch, so no clock of another machine is ever trusted: an observer waits until no new epoch has
appeared for `LEASE_SECONDS` by its own clock. A holder on this host whose process is gone is succeeded at once.

A write begins at most a third of the lease's life, or one renewal, after its last epoch was begun, and each of the two
ends or is given up within `storage.WRITE_SECONDS`, below half of it: before anybody may take over.
"""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.errors import OutputLockedError, StorageUnavailableError
from pipeline.store.storage import Storage

LEASE_SECONDS = 60.0


@dataclass(frozen=True)
class Holder:
    """Who took an output's lease last, for a person to read: nothing may be decided by it.

    Attributes:
        run_id: The run, or the care command.
        host: Where.
        released: It is over, and said so.
        seconds: Since it last renewed the lease, by the store's clock.
        is_alive: Whether its process runs; for another host, whether it renewed the lease within its life.
    """

    run_id: str
    host: str
    released: bool
    seconds: float
    is_alive: bool

    @classmethod
    def of(cls, storage: Storage) -> Holder | None:
        """The last holder; None if there never was one."""
        epoch, record = _highest(storage)
        if record is None:
            return None
        seconds = (datetime.now(UTC) - storage.written(_name(epoch))).total_seconds()
        if record["released"]:
            alive = False
        elif record["host"] == _host():
            alive = _is_running(record["pid"], record["started"])
        else:
            alive = seconds < LEASE_SECONDS
        return cls(record["run_id"], record["host"].split("/", 1)[0], record["released"], seconds, alive)


class Lease:
    """The right to commit to one output, held by one driver process."""

    def __init__(self, storage: Storage, run_id: str, epoch: int, clock: Callable[[], float]) -> None:
        self._storage = storage
        self._clock = clock
        self._nonce = uuid.uuid4().hex
        self.run_id = run_id
        self.epoch = epoch
        self._renewed_at = clock()
        self._advancing_since: float | None = None

    @classmethod
    def acquire(
        cls,
        storage: Storage,
        run_id: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> Lease:
        """Take the lease, waiting out a holder elsewhere that may be dead.

        Raises:
            OutputLockedError: the holder is alive, or somebody else took the lease at this moment.
        """
        epoch, holder = _highest(storage)
        if holder is not None and not holder["released"]:
            if holder["host"] == _host():
                is_alive = _is_running(holder["pid"], holder["started"])
                where = f"(process {holder['pid']} on this host)"
            else:
                sleep(LEASE_SECONDS)
                is_alive, where = _highest(storage)[0] != epoch, f"on host {holder['host']}"
            if is_alive:
                raise OutputLockedError(
                    f"run {holder['run_id']} {where} is writing to {storage.url}; wait for it or stop it"
                )
        lease = cls(storage, run_id, epoch, clock)
        lease._advance(released=False)
        return lease

    def check(self) -> None:
        """Confirm before a commit that the lease is still held, and keep it alive.

        Raises:
            OutputLockedError: another run has taken over; nothing more may be committed.
        """
        # An epoch of ours whose reply was lost may stand there; renewing finds out whose it is.
        if self._advancing_since is None and self._storage.exists(_name(self.epoch + 1)):
            raise OutputLockedError(f"another run took over {self._storage.url}; this one stops")
        self.keep_alive()

    def keep_alive(self) -> None:
        """Renew the lease when a third of its life is over; costs nothing before.

        Raises:
            OutputLockedError: another run has taken over.
        """
        if self._clock() - self._renewed_at > LEASE_SECONDS / 3:
            interrupted = self._advancing_since is not None
            self._advance(released=False)
            if interrupted:
                self._advance(released=False)  # that one was old: its first try may have been seen long ago

    def release(self) -> None:
        """Let the next run start at once; a lease that was lost is not ours to release.

        Where storage is away, the next run waits as it would for a holder that died.
        """
        with suppress(OutputLockedError, StorageUnavailableError):
            self._advance(released=True)

    def _advance(self, *, released: bool) -> None:
        record = {
            "run_id": self.run_id,
            "host": _host(),
            "pid": os.getpid(),
            "started": _started(os.getpid()),
            "nonce": self._nonce,
            "released": released,
        }
        # The time before the first try: others may have seen the epoch, and begun to wait, before a reply reached us.
        if self._advancing_since is None:
            self._advancing_since = self._clock()
        if not self._storage.create(_name(self.epoch + 1), json.dumps(record).encode()):
            raise OutputLockedError(f"another run took over {self._storage.url}; this one stops")
        self.epoch += 1
        self._renewed_at, self._advancing_since = self._advancing_since, None


def _name(epoch: int) -> str:
    return f"lease/{epoch:08d}.json"


def _highest(storage: Storage) -> tuple[int, Mapping[str, Any] | None]:
    names = storage.names("lease")
    if not names:
        return 0, None
    return int(Path(names[-1]).stem), json.loads(storage.read(names[-1]))


def _host() -> str:
    # Process numbers mean something only since the last boot and inside one namespace: containers may share a host
    # name and the kernel's boot id.
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        boot, namespace = "unknown", "unknown"
    return f"{socket.gethostname()}/{boot}/{namespace}"


def _started(pid: int) -> str | None:
    """When a living process started, in the kernel's ticks: tells it from a later one with the same number."""
    try:
        # Fields 3 and 22; the name in field 2 may hold spaces, so count from its closing parenthesis.
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def _is_running(pid: int, started: str | None) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's process, alive
    return _started(pid) == started
