"""Hold the lease, which lets one driver at a time write to an output (docs/guarantees.md, guarantee 2).

``lease/<epoch>.json`` objects are created exclusively and never deleted; the highest epoch holds the lease. The holder
renews it by creating the next epoch, so no host depends on the clock of another one: an observer waits until no new
epoch has appeared for `LEASE_SECONDS` by its own clock. If the holder's process on the same host has ended, the next
run takes the lease at once.

A write starts at most `LEASE_SECONDS` / 3, or one renewal, after the latest renewal started. A renewal and a write
each end, or are abandoned, within `WRITE_SECONDS` of `pipeline/store/storage.py`, which is less than half of
`LEASE_SECONDS`. So a write ends before another host may take the lease.
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
from pathlib import Path, PurePosixPath
from typing import Any, Self

from pipeline.errors import DamagedObjectError, OutageError, OutputLockedError, StorageUnavailableError
from pipeline.printable import printable
from pipeline.store.json_record import read_record
from pipeline.store.storage import WRITE_SECONDS, Storage

LEASE_SECONDS = 60.0
_KEYS = {"run_id": str, "host": str, "pid": int, "started": str | None, "nonce": str, "released": bool}


def boot_time() -> float:
    """Return the seconds since the machine was started, those in which it was suspended included where they are known.

    The usual monotonic clock stands still in a suspended virtual machine, which would then not notice that its lease
    has expired.
    """
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


@dataclass(frozen=True)
class Holder:
    """The latest holder of an output's lease, for display only: no decision may depend on it.

    Attributes:
        run_id: The run, or the care command.
        host: Name of its host.
        released: Whether it released the lease.
        seconds: Seconds since it last renewed the lease, by the store's clock.
        is_alive: Whether its process runs; for another host, whether it renewed the lease within `LEASE_SECONDS`.
    """

    run_id: str
    host: str
    released: bool
    seconds: float
    is_alive: bool

    @classmethod
    def of(cls, storage: Storage) -> Holder | None:
        """Return the latest holder; None if no run has taken the lease yet."""
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
    """The right to commit to one output, held by one driver process until the end of its `with` block."""

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
        clock: Callable[[], float] = boot_time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> Lease:
        """Take the lease. If a holder on another host has not released it, first wait `LEASE_SECONDS` for a renewal.

        Args:
            storage: The output.
            run_id: The run, or the care command.
            clock: Monotonic clock in seconds, which also runs while the machine is suspended.
            sleep: Waits for a number of seconds.

        Raises:
            OutputLockedError: the holder is alive, or another process took the lease at the same time.
            StorageUnavailableError: a listing of the store lacks the lease that was just written.
        """
        epoch, holder = _highest(storage)
        if holder is not None and not holder["released"]:
            if holder["host"] == _host():
                is_alive = _is_running(holder["pid"], holder["started"])
                where = f"(process {printable(holder['pid'])} on this host)"
            else:
                sleep(LEASE_SECONDS)
                is_alive, where = _highest(storage)[0] != epoch, f"on host {printable(holder['host'])}"
            if is_alive:
                raise OutputLockedError(
                    f"run {printable(holder['run_id'])} {where} is writing to {storage.url}; wait for it or stop it"
                )
        lease = cls(storage, run_id, epoch, clock)
        lease._advance(released=False)
        # A proxy or a store in trouble may answer a listing with an empty page, which would look like a new output.
        if _name(lease.epoch) not in storage.names("lease"):
            raise StorageUnavailableError("its listing lacks an object that was just written", storage.url)
        return lease

    def check(self) -> None:
        """Confirm before a commit that this process still holds the lease, and renew it if it is due.

        Raises:
            OutputLockedError: another run took the lease; this process may commit nothing more.
        """
        # After a renewal without a reply, the next epoch may be our own; the renewal in `keep_alive` finds out.
        if self._advancing_since is None and self._storage.exists(_name(self.epoch + 1)):
            raise OutputLockedError(f"another run took over {self._storage.url}; this one stops")
        self.keep_alive()

    def keep_alive(self) -> None:
        """Renew the lease once `LEASE_SECONDS` / 3 have passed; before that, send no request.

        Raises:
            OutputLockedError: another run took the lease.
        """
        if self._clock() - self._renewed_at > LEASE_SECONDS / 3:
            interrupted = self._advancing_since is not None
            self._advance(released=False)
            if interrupted:
                self._advance(released=False)  # others may have seen the first try of the interrupted epoch long ago

    def check_deadline(self) -> None:
        """Confirm, right before a write, that the write ends before another host may take the lease; send no request.

        A process can be stopped, or its machine suspended, between `keep_alive` and its write.

        Raises:
            StorageUnavailableError: too much time has passed since the last renewal; the commit is repeated after the
                next one.
        """
        seconds = self._clock() - self._renewed_at
        if seconds > LEASE_SECONDS - WRITE_SECONDS:
            raise StorageUnavailableError(
                f"the lease was renewed {seconds:.0f} s ago, too long for another write", self._storage.url
            )

    def release(self) -> None:
        """Release the lease, so that the next run starts at once. Do nothing if another run has taken it.

        If the store does not answer, the lease stays, and the next run waits as it does for a holder that died.
        """
        with suppress(OutputLockedError, OutageError):
            self._advance(released=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _advance(self, *, released: bool) -> None:
        record = {
            "run_id": self.run_id,
            "host": _host(),
            "pid": os.getpid(),
            "started": _started(os.getpid()),
            "nonce": self._nonce,
            "released": released,
        }
        # Take the time before the first try: others may see the epoch, and start to wait, before its reply arrives.
        if self._advancing_since is None:
            self._advancing_since = self._clock()
        if not self._storage.create(_name(self.epoch + 1), json.dumps(record).encode()):
            raise OutputLockedError(f"another run took over {self._storage.url}; this one stops")
        self.epoch += 1
        self._renewed_at, self._advancing_since = self._advancing_since, None


def _name(epoch: int) -> str:
    return f"lease/{epoch:08d}.json"


def _highest(storage: Storage) -> tuple[int, Mapping[str, Any] | None]:
    # Other programs may leave files in any folder.
    epochs = [int(stem) for name in storage.names("lease") if (stem := PurePosixPath(name).stem).isdecimal()]
    if not epochs:
        return 0, None
    highest = max(epochs)
    try:
        return highest, read_lease(storage, _name(highest))
    except DamagedObjectError:
        # Whoever holds it renews it with a sound record: it is waited for as for a holder on another host.
        return highest, {"run_id": "(its lease is damaged)", "host": "unknown", "released": False}


def read_lease(storage: Storage, name: str) -> dict[str, Any]:
    """Return the record of an epoch by the name of its object.

    Raises:
        DamagedObjectError: it can't be read.
    """
    return read_record(storage, name, _KEYS)


def _host() -> str:
    # A process id is unique only since the last boot and inside one namespace: containers may share a host name and
    # the kernel's boot id.
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        boot, namespace = "unknown", "unknown"
    return f"{socket.gethostname()}/{boot}/{namespace}"


def _started(pid: int) -> str | None:
    """Return the start time of a running process in kernel ticks; None if it does not run.

    The start time distinguishes a process from a later one with the same id.
    """
    try:
        # Fields 3 and 22 of proc(5). The name in field 2 may contain spaces, so count from its closing parenthesis.
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def _is_running(pid: int, started: str | None) -> bool:
    return process_exists(pid) and _started(pid) == started


def process_exists(pid: int) -> bool:
    """Return whether this host has a process of this id; on Linux, one that has ended counts until it is collected."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # a running process of another user
    return True
