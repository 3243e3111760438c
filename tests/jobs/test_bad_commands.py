"""Bad input for each command: one message on stderr, no traceback, an exit code by kind, and nothing lost."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from flashvid.errors import ConfigurationError
from jobs.cli import main
from jobs.cli.printing import write_file
from pipeline.store.ledger import Ledger
from pipeline.store.run_records import FORMAT_VERSION
from pipeline.store.storage import Storage
from tests.pipeline.store.test_ledger import answer
from tests.support.outputs import start_record

REFUSED, AWAY = 2, 3
CLOSED = "127.0.0.1:1"  # a port where nothing listens
JOB = "videos: {videos}\nquestions: [What]\noutput: {output}\nmodel: {{name: tiny-random}}\n"


class DeniedFileSystem(MemoryFileSystem):  # type: ignore[misc]
    """A store that lets nobody in."""

    protocol: ClassVar[str] = "denied"
    cachable = False

    def _refuse(self, *_: object, **__: object) -> Any:
        raise PermissionError("Access Denied")

    ls = info = find = cat_file = pipe_file = _refuse


class SilentFileSystem(MemoryFileSystem):  # type: ignore[misc]
    """A store that can't be reached; as botocore's, its error is no OSError."""

    protocol: ClassVar[str] = "silent"
    cachable = False

    def _fail(self, *_: object, **__: object) -> Any:
        raise RuntimeError("Could not connect to the endpoint")

    isdir = ls = info = find = glob = cat_file = _fail


class NoBucketFileSystem(MemoryFileSystem):  # type: ignore[misc]
    """A store without the bucket that is meant."""

    protocol: ClassVar[str] = "nobucket"
    cachable = False

    def pipe_file(self, *_: object, **__: object) -> Any:
        """As s3fs answers a PUT."""
        raise FileNotFoundError("The specified bucket does not exist")


@pytest.fixture(autouse=True)
def stores() -> None:
    """denied:// and its like for this test; registered again for each, which changes nothing."""
    for store in (DeniedFileSystem, SilentFileSystem, NoBucketFileSystem):
        fsspec.register_implementation(store.protocol, store, clobber=True)


def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Exit code and stderr of a command in this process, as the console script gives them."""
    monkeypatch.setattr(sys, "argv", ["flashvid", *words])
    with pytest.raises(SystemExit) as ended:
        main.main()
    code = ended.value.code
    return (0 if code is None else int(code)), capsys.readouterr().err


def make_output(folder: Path, format_version: int = FORMAT_VERSION) -> Path:
    """An output with one answer of one run."""
    output = folder / "output"
    packages = {"flashvid-pipeline": "9.1.0"}
    record = start_record("20260101T000000-aa", "print", format_version=format_version, packages=packages)
    storage = Storage(str(output))
    assert storage.create("runs/20260101T000000-aa.json", json.dumps(record).encode())
    Ledger(storage, "print").append_answers([answer("a", "q", run_id="20260101T000000-aa")], "part")
    return output


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Every command that reads an output, with what else it needs.
OF_OUTPUT = {
    "export": ("OUTPUT", "TO"),
    "forget": ("OUTPUT", "--video-id", "a"),
    "verify": ("OUTPUT",),
    "retry": ("OUTPUT",),
    "report": ("OUTPUT", "--to", "TO"),
    "inspect": ("OUTPUT", "a", "--to", "TO"),
    "evaluate": ("OUTPUT", "--answered-only"),
    "status": ("OUTPUT",),
    "gc": ("OUTPUT",),
}
OF_JOB = {"run": (), "plan": (), "submit": ("--address", f"http://{CLOSED}"), "validate": (), "doctor": ()}


def words_for(name: str, output: str, to: Path) -> list[str]:
    """The command line of a command of an output."""
    return [name, *({"OUTPUT": output, "TO": str(to)}.get(word, word) for word in OF_OUTPUT[name])]


@pytest.mark.parametrize("name", OF_OUTPUT)
def test_an_output_of_a_newer_version(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Named, with the version that can read it; nothing in it is touched but the lease."""
    output = make_output(tmp_path, FORMAT_VERSION + 1)
    before = contents(output)
    code, said = command(monkeypatch, capsys, *words_for(name, str(output), tmp_path / "to"))
    assert code == REFUSED
    assert "install 9.1.0 or a later one" in said
    assert before.items() <= contents(output).items()
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize("name", sorted(OF_OUTPUT.keys() - {"gc", "verify", "retry", "forget"}))
def test_no_such_output(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is not made by being looked for."""
    code, said = command(monkeypatch, capsys, *words_for(name, str(tmp_path / "nowhere"), tmp_path / "to"))
    assert code == REFUSED
    assert f"{tmp_path}/nowhere: no run has written here" in said
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("name", OF_OUTPUT)
def test_no_permission(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Refused, with the store's own words."""
    code, said = command(monkeypatch, capsys, *words_for(name, "denied://bucket/output", tmp_path / "to"))
    place = (
        "denied://bucket/output: access denied (Access Denied): check the credentials that are used, and their rights"
    )
    assert (code, said) == (REFUSED, f"PermissionError: {place}\n")


@pytest.mark.parametrize("name", OF_JOB)
@pytest.mark.parametrize(
    ("content", "part"),
    [(JOB + "retention_ratoi: 0.1\n", "line 5"), (None, "can't read the job file")],
    ids=["unknown key", "no file"],
)
def test_a_job_file_that_is_none(
    name: str,
    content: str | None,
    part: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The key with its line, or the path."""
    job = tmp_path / "job.yaml"
    if content is not None:
        job.write_text(content.format(videos="videos", output="output"))
    code, said = command(monkeypatch, capsys, name, str(job), *OF_JOB[name])
    assert code == REFUSED
    assert part in said
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["status", "OUTPUT", "--address", f"http://{CLOSED}"],
        ["list", "--address", f"http://{CLOSED}"],
        ["logs", "flashvid-1", "--address", f"http://{CLOSED}"],
        ["stop", "flashvid-1", "--address", f"http://{CLOSED}"],
        ["submit", "JOB", "--address", f"http://{CLOSED}"],
    ],
    ids=lambda words: words[0],
)
def test_a_cluster_that_is_away(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 3: the same command may work later."""
    job = tmp_path / "job.yaml"
    job.write_text(JOB.format(videos="s3://v", output="s3://o"))
    places = {"OUTPUT": str(make_output(tmp_path)), "JOB": str(job)}
    record = tmp_path / "output" / "runs" / "20260101T000000-aa.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "started": "2026", "host": "h"}))
    code, said = command(monkeypatch, capsys, *(places.get(word, word) for word in words))
    assert code == AWAY
    assert f"ClusterUnreachableError: http://{CLOSED}" in said


def test_run_on_a_cluster_that_is_away(
    tmp_path: Path, sample_videos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Found out within seconds; the run's record stays, and binds nobody."""
    import ray

    if ray.is_initialized():
        pytest.skip("a run takes the connection that there is")
    job = tmp_path / "job.yaml"
    job.write_text(JOB.format(videos=sample_videos, output="output"))
    code, said = command(monkeypatch, capsys, "run", str(job), "--address", CLOSED)
    assert code == AWAY
    assert f"ClusterUnreachableError: {CLOSED}: no answer (Connection refused)" in said
    assert not (tmp_path / "output" / "answers").exists()


@pytest.mark.parametrize(
    "words", [["list"], ["list", "--address", "127.0.0.1:6379"]], ids=["none", "not the job API's"]
)
def test_which_cluster(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """An address that can't be the job API's is refused before it is tried."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    code, said = command(monkeypatch, capsys, *words)
    assert code == REFUSED
    assert "http://HEAD:8265" in said


@pytest.mark.parametrize("name", ["init", "validate", "plan", "run"])
@pytest.mark.parametrize("videos", ["silent://bucket/videos", "silent://bucket/videos.csv", "silent://bucket/*.mp4"])
def test_videos_in_a_store_that_is_away(
    name: str, videos: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 3: the same command may work later."""
    job = tmp_path / "job.yaml"
    job.write_text(JOB.format(videos=videos, output="output"))
    code, said = command(monkeypatch, capsys, name, videos if name == "init" else str(job))
    assert code == AWAY
    assert said == f"StorageUnavailableError: {videos}: no answer (Could not connect to the endpoint)\n"
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize("url", ["nosuch://bucket/out", "denied:/nosuch://x"])
def test_a_url_of_a_kind_that_nobody_knows(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Refused by name."""
    code, said = command(monkeypatch, capsys, "status", url)
    assert (code, said.count("\n")) == (REFUSED, 1)
    assert f"{url}: can't be opened: Protocol not known" in said


def test_a_bucket_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Refused by name; the output stays as it is."""
    output = make_output(tmp_path)
    before = contents(output)
    code, said = command(monkeypatch, capsys, "export", str(output), "nobucket://typo/out")
    assert code == REFUSED
    assert said == (
        "ConfigurationError: nobucket://typo/out: can't be written to: The specified bucket does not exist\n"
    )
    assert contents(output) == before


def test_an_output_below_a_file(
    tmp_path: Path, sample_videos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No folder can be there: refused, with the path."""
    job = tmp_path / "job.yaml"
    job.write_text(JOB.format(videos=sample_videos, output="job.yaml/output"))
    code, said = command(monkeypatch, capsys, "plan", str(job))
    assert (code, said.count("\n")) == (REFUSED, 1)
    assert f"{job}/output" in said


@pytest.mark.parametrize("replace", [True, False])
def test_no_space_for_a_file(tmp_path: Path, replace: bool) -> None:
    """An earlier report or picture stays as it was, and nothing half is left; `main` makes exit code 3 of the error."""
    to = tmp_path / "report.html"
    if replace:
        to.write_text("the earlier one")
    before = contents(tmp_path)
    script = (
        "import sys; from pathlib import Path; from jobs.cli.printing import write_file; "
        "write_file(Path(sys.argv[1]), bytes(8192), replace=sys.argv[2] == 'True')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(to), str(replace)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stderr.splitlines()[-1] == "OSError: [Errno 27] File too large"
    assert contents(tmp_path) == before


def test_a_file_takes_the_place_of_an_earlier_one_only_when_it_may(tmp_path: Path) -> None:
    """A link stays a link, and a device is written to."""
    to, link = tmp_path / "report.html", tmp_path / "latest.html"
    link.symlink_to(to.name)
    write_file(link, b"first")
    with pytest.raises(ConfigurationError, match="exists already"):
        write_file(to, b"second")
    assert to.read_bytes() == b"first"
    write_file(link, b"second", replace=True)
    assert (to.read_bytes(), link.is_symlink(), len(list(tmp_path.iterdir()))) == (b"second", True, 2)
    write_file(Path("/dev/null"), b"third", replace=True)
    assert Path("/dev/null").is_char_device()


def test_no_space(tmp_path: Path) -> None:
    """A write that the disk cuts short leaves nothing half; exit code 3, and what was there stays."""
    output = make_output(tmp_path)
    rows = [answer(f"video {index}", "q", run_id="20260101T000000-aa") for index in range(3000)]
    Ledger(Storage(str(output)), "print").append_answers(rows, "more")
    before = contents(output)
    done = subprocess.run(
        [sys.executable, "-c", "from jobs.cli.main import main; main()", "export", str(output), str(tmp_path / "to")],
        # Files of more bytes are refused with EFBIG, since Python ignores the signal.
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == AWAY, done.stderr
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert contents(output) == before
    assert not contents(tmp_path / "to")
