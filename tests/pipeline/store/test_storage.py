"""Storage: exclusive, atomic creation, locally and on an object store's interface (fsspec's memory filesystem)."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import pyarrow.dataset as ds
import pytest

from pipeline.store import schemas
from pipeline.store.parquet import to_bytes
from pipeline.store.storage import Storage

WRITERS = 16


@pytest.fixture(params=["local", "file-url", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """An empty folder, on each kind of filesystem."""
    urls = {"local": str(tmp_path / "out"), "file-url": f"file://{tmp_path}/out", "memory": f"memory://{uuid.uuid4()}"}
    return Storage(urls[request.param])


def all_files(folder: Path) -> set[str]:
    """Every file below a folder, hidden ones included."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_an_object_is_there_once_it_is_created(storage: Storage) -> None:
    """Bytes come back as they were; what is not there is an error, not an empty object."""
    content = bytes(range(256)) * 1000
    assert not storage.exists("a/b/c.bin")
    assert storage.create("a/b/c.bin", content) is True
    assert storage.exists("a/b/c.bin")
    assert storage.read("a/b/c.bin") == content
    assert storage.create("a/empty.bin", b"") is True
    assert storage.read("a/empty.bin") == b""
    with pytest.raises(FileNotFoundError):
        storage.read("a/b/d.bin")


def test_a_taken_name_stays_with_its_first_writer(storage: Storage) -> None:
    """The second writer is told so, and changes nothing."""
    assert storage.create("lease/1.json", b"first") is True
    assert storage.create("lease/1.json", b"second") is False
    assert storage.create("lease/1.json", b"") is False
    assert storage.read("lease/1.json") == b"first"


def test_the_same_bytes_again_are_no_conflict(storage: Storage) -> None:
    """Whoever lost the reply of its own write and repeats it has written it."""
    assert [storage.create("part.parquet", b"content") for _ in range(3)] == [True, True, True]
    assert storage.names("") == ["part.parquet"]


def test_names_are_relative_sorted_and_below_the_folder(storage: Storage) -> None:
    """At any depth; a folder whose name begins alike is another one; no folder is an empty one."""
    for name in ("t/b/2", "t/b/10", "t/a", "t2/x", "u"):
        storage.create(name, name.encode())
    assert storage.names("t") == ["t/a", "t/b/10", "t/b/2"]
    assert storage.names("t/b") == ["t/b/10", "t/b/2"]
    assert storage.names("nothing") == []
    assert [storage.read(name) for name in storage.names("t")] == [b"t/a", b"t/b/10", b"t/b/2"]


def test_a_listing_sees_what_another_process_just_wrote(storage: Storage) -> None:
    """Listings decide what is left to do: none is cached."""
    other = Storage(storage.url)
    assert storage.names("x") == []
    other.create("x/1", b"")
    assert storage.names("x") == ["x/1"]
    assert storage.exists("x/1")


def test_nothing_temporary_is_left_or_listed(tmp_path: Path) -> None:
    """Neither after a success nor after a refusal; what a killed writer left is nobody's object, for no reader."""
    storage = Storage(str(tmp_path))
    answers = to_bytes([{"video_id": "a"}], schemas.ANSWERS)
    storage.create("answers/part-1.parquet", answers)
    storage.create("answers/part-1.parquet", b"other")
    assert all_files(tmp_path) == {"answers/part-1.parquet"}
    # As `create` names it, cut off in mid-write.
    (tmp_path / "answers" / f".uploading-{uuid.uuid4().hex}").write_bytes(answers[:100])
    assert storage.names("answers") == ["answers/part-1.parquet"]
    assert ds.dataset(tmp_path / "answers", format="parquet").count_rows() == 1


def test_a_write_that_fails_leaves_no_object(tmp_path: Path) -> None:
    """A full disk, say: here a name in place of the folder."""
    (tmp_path / "answers").write_bytes(b"a file, not a folder")
    with pytest.raises(OSError, match="answers"):
        Storage(str(tmp_path)).create("answers/part-1.parquet", b"content")
    assert all_files(tmp_path) == {"answers"}


def test_racing_threads_have_one_winner(tmp_path: Path) -> None:
    """16 threads, 25 names: one `True` each, and the bytes of the one who got it."""
    names = [f"race/{number}" for number in range(25)]
    # Long enough that two half-written contents could mix.
    contents = [bytes([writer]) * 300_000 for writer in range(WRITERS)]
    barrier = threading.Barrier(WRITERS)
    won: dict[str, list[int]] = {name: [] for name in names}

    def write(writer: int) -> None:
        storage = Storage(str(tmp_path))
        for name in names:
            barrier.wait()
            if storage.create(name, contents[writer]):
                won[name].append(writer)

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {name: len(winners) for name, winners in won.items()} == dict.fromkeys(names, 1)
    for name, (winner,) in won.items():
        assert (tmp_path / name).read_bytes() == contents[winner]
    assert all_files(tmp_path) == set(names)


_RACER = """
import sys, time
from pathlib import Path
from pipeline.store.storage import Storage
folder, writer = Path(sys.argv[1]), sys.argv[2]
storage = Storage(str(folder))
(folder / f"ready-{writer}").touch()
while not (folder / "go").exists():
    time.sleep(0.001)
for number in range(100):
    if storage.create(f"race/{number}", writer.encode() * 10_000):
        print(number)
"""


def test_racing_processes_have_one_winner(tmp_path: Path) -> None:
    """Four processes, 100 names."""
    arguments = [sys.executable, "-c", _RACER, str(tmp_path)]
    processes = [
        subprocess.Popen([*arguments, writer], stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": "."})
        for writer in "abcd"
    ]
    while len(list(tmp_path.glob("ready-*"))) < len(processes):
        assert all(process.poll() is None for process in processes)
    (tmp_path / "go").touch()
    outputs = [process.communicate(timeout=30)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    winners = [(int(line), writer) for writer, text in zip("abcd", outputs, strict=True) for line in text.split()]
    assert sorted(number for number, _ in winners) == list(range(100))
    assert all((tmp_path / "race" / str(n)).read_text() == writer * 10_000 for n, writer in winners)
