"""Storage on S3, quickly against moto's server and thoroughly against SeaweedFS."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from pipeline.errors import OutputLockedError, StorageUnavailableError
from pipeline.store import calls
from pipeline.store.lease import LEASE_SECONDS, Lease
from pipeline.store.storage import WRITE_SECONDS, Storage
from tests.support.object_stores import ObjectStore, free_port

WRITERS = 16


@pytest.fixture(params=["moto", pytest.param("seaweed", marks=pytest.mark.slow)])
def store(request: pytest.FixtureRequest) -> Iterator[ObjectStore]:
    """An S3 server."""
    yield request.getfixturevalue(request.param)


def test_objects_are_created_once(store: ObjectStore) -> None:
    """Bytes come back; the second writer is told so and changes nothing; repeating one's own write is no conflict."""
    storage = store.storage()
    assert storage.is_exclusive
    assert storage.names("") == []  # trying that out leaves nothing
    assert not storage.exists("a/b.bin")
    assert not storage.has_folder("a")
    content = bytes(range(256)) * 1000
    assert storage.create("a/b.bin", content) is True
    assert storage.create("a/b.bin", content) is True
    assert storage.create("a/b.bin", b"other") is False
    assert storage.read("a/b.bin") == content
    assert storage.exists("a/b.bin")
    assert storage.has_folder("a")
    assert not storage.exists("a")
    assert storage.sizes("") == {"a/b.bin": len(content)}
    with pytest.raises(FileNotFoundError):
        storage.read("a/c.bin")
    storage.remove("a/b.bin")
    assert (storage.names(""), storage.exists("a/b.bin")) == ([], False)


def test_listings_are_never_cached(store: ObjectStore) -> None:
    """Neither those of names nor whether one is there: they decide what work is left."""
    mine = store.storage()
    assert (mine.names("x"), mine.exists("x/1")) == ([], False)
    store.filesystem().pipe_file(mine.path("x/1"), b"1")
    assert (mine.names("x"), mine.exists("x/1")) == (["x/1"], True)
    store.filesystem().pipe_file(mine.path("x/2"), b"2")
    assert mine.names("x") == ["x/1", "x/2"]


def test_of_16_racing_writers_one_wins(store: ObjectStore) -> None:
    """And the object holds its bytes, whole."""
    url, barrier = store.folder(), threading.Barrier(WRITERS)
    contents = [bytes([writer]) * 100_000 for writer in range(WRITERS)]
    winners: list[int] = []

    def write(writer: int) -> None:
        storage = store.storage(url)
        assert storage.is_exclusive
        barrier.wait()
        if storage.create("object", contents[writer]):
            winners.append(writer)

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(winners) == 1
    assert store.storage(url).read("object") == contents[winners[0]]


def test_one_lease_for_all(store: ObjectStore) -> None:
    """The lease rests on the same exclusive writes."""
    url = store.folder()
    lease = Lease.acquire(store.storage(url), "first")
    with pytest.raises(OutputLockedError, match="run first"):
        Lease.acquire(store.storage(url), "second")
    lease.release()
    assert Lease.acquire(store.storage(url), "second").epoch == 3


def test_a_store_without_conditional_writes_is_found_out(moto: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes every write; then a name is looked at before it is written, and nothing else keeps it."""
    storage, plain = moto.storage(), moto.filesystem()
    monkeypatch.setattr(storage.fs, "pipe_file", lambda path, value, **_: plain.pipe_file(path, value))
    assert not storage.is_exclusive
    assert storage.names("") == []
    assert storage.create("a", b"first") is True
    assert storage.create("a", b"first") is True
    assert storage.create("a", b"second") is False
    assert storage.read("a") == b"first"


def test_a_store_that_is_away_is_an_error_in_time(aws_environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens: tried again for as long as a write may take, and then said with the output's name."""
    del aws_environment
    monkeypatch.setattr(calls, "_READ_SECONDS", 1.0)
    storage = Storage("s3://bucket/output", {"endpoint_url": f"http://127.0.0.1:{free_port()}"})
    with pytest.raises(StorageUnavailableError, match="s3://bucket/output: no answer within 1 s"):
        storage._create("a", b"content", 1.0)


def test_missing_credentials_are_an_error_soon(aws_environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not after a minute: nobody who forgot them wants to wait for what will not come."""
    del aws_environment
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setattr(calls, "_CREDENTIALS_SECONDS", 0.5)
    options = {"endpoint_url": f"http://127.0.0.1:{free_port()}", "skip_instance_cache": True}
    with pytest.raises(StorageUnavailableError, match="output: Unable to locate credentials: set AWS_PROFILE"):
        Storage("s3://bucket/output", options).exists("a")


def test_a_write_ends_before_the_lease_does() -> None:
    """One that begins a third into the lease's life, or after a renewal that took its whole time."""
    assert WRITE_SECONDS < LEASE_SECONDS / 2
    assert max(LEASE_SECONDS / 3, WRITE_SECONDS) + WRITE_SECONDS < LEASE_SECONDS
