"""What commands print of texts that others wrote: escapes are shown, markup is text, secrets are hidden."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from rich.console import Console

from jobs.cli import main, run_commands
from jobs.cli.printing import print_json, print_table, print_text
from pipeline.config import JobConfig
from pipeline.store.lease import Lease
from pipeline.store.storage import Storage
from tests.support.outputs import make_output
from tests.support.runs import job

EVIL = "\x1b]0;owned\x07[red]x[bold]\x9b2J\u202eabc\u2028:smile:\r"
SHOWN = r"\x1b]0;owned\x07[red]x[bold]\x9b2J\u202eabc\u2028:smile:\r"


def flashvid(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str
) -> tuple[object, str, str]:
    """Run a command in this process: its exit code, stdout and stderr."""
    monkeypatch.setattr(sys, "argv", ["flashvid", *words])
    # Wide, so that no column is folded.
    monkeypatch.setenv("COLUMNS", "400")
    code: object = 0
    try:
        main.main()
    except SystemExit as ended:
        code = ended.code
    said = capsys.readouterr()
    return code, said.out, said.err


def assert_harmless(text: str) -> None:
    """No control character but line breaks, and no override."""
    assert not [
        character
        for character in text
        if character in "\u202e\u2028" or (ord(character) < 32 and character != "\n") or 127 <= ord(character) < 160
    ]


def evil_job(folder: Path) -> JobConfig:
    """One answered and one failed video with evil ids, categories and texts."""
    rows = [{"video_id": f"{name} {EVIL}", "video_path": f"{name}.mp4", "kind": EVIL} for name in ("a", "b")]
    (folder / "videos.jsonl").write_text("\n".join(map(json.dumps, rows)))
    questions = [{"question": "Is it a cat?", "answer": "yes", "question_id": EVIL, "category": EVIL}]
    return job(folder, videos=str(folder / "videos.jsonl"), questions=questions)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Of `evil_job`."""

    def respond(clip: object, _: str) -> str | Exception:
        return EVIL if str(getattr(clip, "video_id", "")).startswith("a") else OSError(EVIL)

    make_output(evil_job(tmp_path), respond, encode=False)
    return tmp_path / "output"


def test_tables_texts_rows_and_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The four ways to print."""
    monkeypatch.setenv("COLUMNS", "400")
    print_table([EVIL], [[EVIL], ["a\nb"]])
    print_text(EVIL)
    print_table((), [(EVIL, EVIL)], EVIL)
    print_json({EVIL: EVIL})
    said = capsys.readouterr().out
    assert_harmless(said)
    assert said.count(SHOWN) == 6
    assert r"a\nb" in said
    assert json.loads(said[said.index("{\n") :]) == {EVIL: EVIL}


@pytest.mark.parametrize("extra", [[], ["--json"]])
@pytest.mark.parametrize("command", ["evaluate", "status", "verify", "forget", "retry"])
def test_commands_on_an_output(
    output: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str, extra: list[str]
) -> None:
    """Ids, categories and columns of the tables, and names of objects."""
    (output / "answers" / f"evil{EVIL}.parquet").write_bytes(b"no Parquet")
    if command != "verify":
        (output / "answers" / f"evil{EVIL}.parquet").unlink()
    words = {"evaluate": ["--by", "category", "--by", "kind"], "forget": ["--video-id", f"a {EVIL}"]}.get(command, [])
    code, out, err = flashvid(capsys, monkeypatch, command, str(output), *words, *extra)
    assert code == (1 if command == "verify" else 0), err
    assert_harmless(out + err)
    if command in ("evaluate", "forget", "verify") and not extra:
        assert SHOWN.replace("\\r", "") in out
    if extra:
        json.loads(out)


def test_a_plan(
    tmp_path: Path, sample_videos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replaced file is named by its id."""
    shutil.copy(sample_videos / "short_flash.mp4", tmp_path / "a.mp4")
    settings = evil_job(tmp_path)
    (tmp_path / "job.yaml").write_text(json.dumps(settings.model_dump(mode="json")))
    assert flashvid(capsys, monkeypatch, "plan", str(tmp_path / "job.yaml"))[0] == 0
    (tmp_path / "a.mp4").write_bytes((tmp_path / "a.mp4").read_bytes() + b"0")
    code, out, err = flashvid(capsys, monkeypatch, "plan", str(tmp_path / "job.yaml"))
    assert (code, err) == (0, "")
    assert f"a {SHOWN}" in out
    assert_harmless(out)


def test_the_holder_of_a_lease(tmp_path: Path) -> None:
    """Whoever can write to the storage names it."""
    storage = Storage(str(tmp_path / "output"))
    held = Lease.acquire(storage, EVIL)
    with pytest.raises(Exception, match="is writing to") as refused:
        Lease.acquire(storage, "mine")
    held.release()
    assert SHOWN in str(refused.value)
    assert_harmless(str(refused.value))


def test_errors_and_bugs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is ours, and one that is nobody's: its traceback is shown, and ends with exit code 1."""

    def fail(error: Exception) -> None:
        raise error

    for error, expected in ((PermissionError(EVIL), 2), (RuntimeError(f"{EVIL} api_key=hunter2"), 1)):
        monkeypatch.setattr(main, "app", lambda error=error: fail(error))
        code, _, err = flashvid(capsys, monkeypatch)
        assert code == expected
        assert_harmless(err)
        assert SHOWN in err
        assert "hunter2" not in err
    assert "Traceback" in err


def test_notices_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """They come while the progress is shown."""
    monkeypatch.setenv("COLUMNS", "400")

    def noisy(*_: object, on_notice: object, **__: object) -> None:
        assert callable(on_notice)
        on_notice(f"{EVIL} token=hunter2")

    monkeypatch.setattr("pipeline.run.run.run", noisy)
    run_commands._run(job(tmp_path))
    said = capsys.readouterr().out
    assert SHOWN in said
    assert "hunter2" not in said
    assert Console().is_terminal is False


def test_the_log_of_a_cluster(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Colours of Ray's own lines are left out, all else is shown."""
    from contextlib import contextmanager

    class Client:
        def get_job_logs(self, _: str) -> str:
            return f"\x1b[36m(Worker pid=1)\x1b[0m {EVIL}.\n\tat api_key=hunter2\n"

    @contextmanager
    def api(_: str | None):  # noqa: ANN202 - a stand-in
        yield Client()

    monkeypatch.setattr("jobs.job_api.job_api", api)
    code, out, _ = flashvid(capsys, monkeypatch, "logs", "flashvid-1")
    assert code == 0
    assert out == f"(Worker pid=1) {SHOWN}.\n\tat api_key=***\n"
