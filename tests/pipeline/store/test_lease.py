"""The lease: who may write, and how a dead writer is succeeded."""

from __future__ import annotations

import inspect
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import OutputLockedError, StorageUnavailableError
from pipeline.store.lease import LEASE_SECONDS, Lease, boot_time
from pipeline.store.storage import Storage

_HOLDER = """
import sys
from pipeline.store.lease import Lease
from pipeline.store.storage import Storage
lease = Lease.acquire(Storage(sys.argv[1]), "the-other-run")
print("held", flush=True)
sys.stdin.readline()
lease.release()
"""


class Clock:
    """A clock that only moves when told, and a sleep that moves it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []
        self.during_sleep: Callable[[], object] = lambda: None

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let time pass, and whatever happens meanwhile."""
        self.slept.append(seconds)
        self.now += seconds
        self.during_sleep()


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """An empty output."""
    return Storage(str(tmp_path))


@pytest.fixture
def clock() -> Clock:
    """Time under the test's control."""
    return Clock()


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process on this host that holds the lease until it reads a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": "."},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def records(storage: Storage) -> list[dict[str, Any]]:
    """Every epoch so far."""
    return [json.loads(storage.read(name)) for name in storage.names("lease")]


def write_epoch(storage: Storage, epoch: int, **fields: object) -> None:
    """An epoch as another process would write it: by default a living one on another host."""
    record = {"run_id": "elsewhere", "host": "far/boot", "pid": 1, "started": "5", "nonce": "n", "released": False}
    assert storage.create(f"lease/{epoch:08d}.json", json.dumps({**record, **fields}).encode())


def no_sleep(seconds: float) -> None:
    """A sleep that must not be needed."""
    raise AssertionError(f"waited {seconds} s")


def test_a_living_holder_refuses_others(storage: Storage, holder: subprocess.Popen[str]) -> None:
    """At once, naming the run, its process and the output."""
    with pytest.raises(OutputLockedError, match=f"run the-other-run .process {holder.pid} on this host.") as caught:
        Lease.acquire(storage, "mine", sleep=no_sleep)
    assert storage.url in str(caught.value)
    assert [record["run_id"] for record in records(storage)] == ["the-other-run"]


def test_a_killed_holder_is_succeeded_at_once(storage: Storage, holder: subprocess.Popen[str]) -> None:
    """Without waiting, whether its parent has collected it (as here later) or it is still a zombie."""
    holder.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)  # dead, and left a zombie
    assert Path(f"/proc/{holder.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    first = Lease.acquire(storage, "mine", sleep=no_sleep)
    assert first.epoch == 2
    first.release()
    holder.wait()
    assert Lease.acquire(storage, "mine-again", sleep=no_sleep).epoch == 4


def test_a_collected_process_is_succeeded_at_once(storage: Storage, holder: subprocess.Popen[str]) -> None:
    """The usual case: nothing of the process is left."""
    holder.kill()
    holder.wait()
    assert Lease.acquire(storage, "mine", sleep=no_sleep).epoch == 2


def test_a_released_lease_is_free(storage: Storage, holder: subprocess.Popen[str]) -> None:
    """The holder lives on for a moment; it has nothing more to write."""
    holder.communicate("done\n", timeout=10)
    assert records(storage)[-1]["released"] is True
    mine = Lease.acquire(storage, "mine", sleep=no_sleep)
    mine.release()
    again = Lease.acquire(storage, "again", sleep=no_sleep)
    assert (mine.epoch, again.epoch) == (4, 5)
    with pytest.raises(OutputLockedError, match="run again"):
        Lease.acquire(storage, "third", sleep=no_sleep)


def test_a_number_used_again_by_another_process_is_not_the_holder(storage: Storage) -> None:
    """A dead holder's pid may belong to someone else by now: its start time tells."""
    Lease.acquire(storage, "old")
    own = records(storage)[-1]
    write_epoch(storage, 2, **{**own, "started": str(int(own["started"]) - 1)})
    assert Lease.acquire(storage, "mine", sleep=no_sleep).epoch == 3


def test_a_silent_holder_elsewhere_is_waited_out(storage: Storage, clock: Clock) -> None:
    """Its clock is not trusted, only that no new epoch appears for a lease's life."""
    write_epoch(storage, 7)
    lease = Lease.acquire(storage, "mine", clock=clock, sleep=clock.sleep)
    assert (clock.slept, lease.epoch) == ([LEASE_SECONDS], 8)


def test_a_holder_elsewhere_that_renews_is_left_alone(storage: Storage, clock: Clock) -> None:
    """A new epoch during the wait means that it lives."""
    write_epoch(storage, 7)
    clock.during_sleep = lambda: write_epoch(storage, 8)
    with pytest.raises(OutputLockedError, match="run elsewhere on host far/boot"):
        Lease.acquire(storage, "mine", clock=clock, sleep=clock.sleep)
    assert len(records(storage)) == 2


def test_a_holder_elsewhere_that_released_is_not_waited_for(storage: Storage) -> None:
    """The next run starts at once."""
    write_epoch(storage, 7, released=True)
    assert Lease.acquire(storage, "mine", sleep=no_sleep).epoch == 8


def test_of_many_takers_one_gets_it(storage: Storage) -> None:
    """All at the same moment, over a holder that is dead by everyone's reckoning."""
    write_epoch(storage, 1)
    barrier = threading.Barrier(8)
    got: list[str] = []
    refused: list[str] = []

    def take(run_id: str) -> None:
        try:
            Lease.acquire(Storage(storage.url), run_id, sleep=lambda _: barrier.wait(timeout=10) and None)
            got.append(run_id)
        except OutputLockedError:
            refused.append(run_id)

    threads = [threading.Thread(target=take, args=(f"run-{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(got), len(refused)) == (1, 7)
    assert records(storage)[-1]["run_id"] == got[0]


def test_it_renews_after_a_third_of_its_life(storage: Storage, clock: Clock) -> None:
    """Renewing is the next epoch, by the same run; checking more often costs no write."""
    lease = Lease.acquire(storage, "mine", clock=clock, sleep=no_sleep)
    clock.now += LEASE_SECONDS / 3 - 1
    lease.check()
    assert lease.epoch == len(records(storage)) == 1
    clock.now += 2
    lease.check()
    assert lease.epoch == len(records(storage)) == 2
    lease.check()
    assert lease.epoch == 2
    assert {(record["run_id"], record["released"]) for record in records(storage)} == {("mine", False)}


@pytest.mark.parametrize("seconds_later", [0.0, LEASE_SECONDS / 2, 10 * LEASE_SECONDS])
def test_a_lost_lease_is_noticed_before_a_commit(storage: Storage, clock: Clock, seconds_later: float) -> None:
    """A holder that slept through its lease must not write over its successor, nor renew or release it."""
    lease = Lease.acquire(storage, "mine", clock=clock, sleep=no_sleep)
    write_epoch(storage, 2)
    clock.now += seconds_later
    for _ in range(2):
        with pytest.raises(OutputLockedError, match="another run took over"):
            lease.check()
    lease.release()
    assert [record["run_id"] for record in records(storage)] == ["mine", "elsewhere"]


class Unanswered(Storage):
    """Takes what it is given, and does not answer at these writes."""

    def __init__(self, url: str, writes: set[int]) -> None:
        super().__init__(url)
        self.writes, self.number = writes, 0

    def create(self, name: str, content: bytes, *, within_s: float = 1.0) -> bool:
        """As storage does, but for the reply."""
        self.number += 1
        created = super().create(name, content, within_s=within_s)
        if self.number in self.writes:
            raise StorageUnavailableError("no answer", self.url)
        return created


def test_a_renewal_without_a_reply_is_not_somebody_elses(tmp_path: Path, clock: Clock) -> None:
    """Its epoch stands there, and is ours."""
    storage = Unanswered(str(tmp_path), {2})
    lease = Lease.acquire(storage, "run", clock=clock)
    clock.now += LEASE_SECONDS / 3 + 1
    with pytest.raises(StorageUnavailableError):
        lease.keep_alive()
    lease.check()
    assert lease.epoch == len(storage.names("lease")) == 3


def test_a_renewal_that_came_too_late_stays_refused(storage: Storage, clock: Clock) -> None:
    """Another's epoch stands there; a check behind the renewal that met it finds the same."""
    lease = Lease.acquire(storage, "run", clock=clock)
    clock.now += LEASE_SECONDS / 3 + 1
    write_epoch(storage, 2)
    for ask in (lease.keep_alive, lease.check):
        with pytest.raises(OutputLockedError):
            ask()


@pytest.mark.parametrize(("writes", "epochs"), [({2}, 3), ({2, 3}, 3), ({2, 4}, 4)])
def test_a_renewal_counts_from_its_first_try(tmp_path: Path, clock: Clock, writes: set[int], epochs: int) -> None:
    """Others may have seen the epoch then, and wait since; so what was interrupted is renewed again at once."""
    storage = Unanswered(str(tmp_path), writes)
    lease = Lease.acquire(storage, "run", clock=clock)
    for _ in writes:
        clock.now += LEASE_SECONDS / 3 + 1
        with pytest.raises(StorageUnavailableError):
            lease.keep_alive()
    clock.now += 1
    lease.keep_alive()
    assert lease.epoch == len(storage.names("lease")) == epochs
    # The last one began now, and lives for as long as any.
    clock.now += LEASE_SECONDS / 3 - 1
    lease.keep_alive()
    assert lease.epoch == len(storage.names("lease")) == epochs


def test_no_write_begins_too_late(storage: Storage, clock: Clock) -> None:
    """A write takes up to 25 s and must end before another host takes over, 60 s after the last renewal."""
    lease = Lease.acquire(storage, "run", clock=clock, sleep=clock.sleep)
    clock.now += 35.0
    assert storage.create("answers/one", b"1", just_before=lease.check_deadline)
    clock.now += 61.0  # stopped, or suspended, for so long
    with pytest.raises(StorageUnavailableError, match="the lease was renewed 96 s ago"):
        storage.create("answers/two", b"2", just_before=lease.check_deadline)
    assert storage.names("") == ["answers/one", "lease/00000001.json"]
    lease.check()
    assert storage.create("answers/two", b"2", just_before=lease.check_deadline)


def test_a_machine_that_was_suspended_knows_it() -> None:
    """The kernel's clock that also runs meanwhile; without one, the usual one."""
    assert boot_time() == pytest.approx(time.clock_gettime(time.CLOCK_BOOTTIME), abs=1.0)
    assert inspect.signature(Lease.acquire).parameters["clock"].default is boot_time


class WrongListings(Storage):
    """A store whose listings are well-formed and empty, as behind a proxy in trouble."""

    def names(self, folder: str) -> list[str]:
        """Nothing."""
        assert folder
        return []


def test_a_listing_without_ones_own_lease_is_not_believed(tmp_path: Path, clock: Clock) -> None:
    """An output with results must not look like a new one."""
    with pytest.raises(StorageUnavailableError, match="its listing lacks an object that was just written"):
        Lease.acquire(WrongListings(str(tmp_path)), "run", clock=clock, sleep=clock.sleep)
