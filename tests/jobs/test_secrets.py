"""Secrets of every kind, planted wherever a text enters, are in no file, log or message afterwards."""

from __future__ import annotations

import json
from pathlib import Path

import fsspec
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from flashvid.errors import ConfigurationError
from flashvid.models import resolve_model
from jobs.cli import main
from jobs.cli.main import app
from jobs.cli.printing import shown
from jobs.job_file import load_job
from pipeline.care.forget import forget_video, token_roots
from pipeline.clip import Failure
from pipeline.config import CommitConfig
from pipeline.errors import UnreadableVideoError
from pipeline.plan.hardware import Hardware
from pipeline.plan.preview import preview
from pipeline.plan.probe import ProbeTable
from pipeline.run.committer import Committer
from pipeline.run.log import RunLog
from pipeline.store import schemas
from pipeline.store.context import RunContext
from pipeline.store.lease import Lease
from pipeline.store.parquet import to_bytes
from pipeline.store.run_records import RunRecords
from pipeline.store.storage import Storage
from tests.jobs.test_terminal import flashvid
from tests.support.outputs import make_output, row_clips
from tests.support.runs import job, table
from tests.support.secrets import SECRETS

WORD = SECRETS["api_key"][1]


def written(folder: Path) -> str:
    """Everything in the files of a folder, of Parquet files their rows."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return "\n".join(
        repr(pq.ParquetFile(path).read().to_pylist()) if path.suffix == ".parquet" else path.read_text(errors="replace")
        for path in files
    )


@pytest.mark.parametrize("name", SECRETS)
def test_what_fails_with_a_secret(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the path of a video, and in the message and the traceback of an error; read back by every command."""
    text, secret = SECRETS[name]
    (tmp_path / "videos.jsonl").write_text(json.dumps({"video_id": "a", "video_path": text}))
    settings = job(tmp_path, videos=str(tmp_path / "videos.jsonl"), questions=["Is it a cat?"])
    make_output(settings, lambda *_: OSError(text), encode=False)
    (clip,), _ = row_clips(settings)
    context, lines, told = RunContext.of(settings, resolve_model("tiny-random")), list[str](), list[str]()
    lease = Lease.acquire(context.storage, context.run_id)
    log = RunLog(context.run_id, lines.append)
    committer = Committer(context.ledger, lease, CommitConfig(), on_commit=log.committed)
    try:
        raise UnreadableVideoError(f"can't open {clip.video_path}: {text}")
    except UnreadableVideoError as error:
        committer.add_failure(clip, Failure.of(error, "decode"))
    committer.flush()
    log.notice(text)
    lease.release()
    for command in ("status", "verify", "retry"):
        told += map(str, flashvid(capsys, monkeypatch, command, settings.output))
    assert (
        CliRunner().invoke(app, ["report", settings.output, "--to", str(tmp_path / "output" / "r.html")]).exit_code == 0
    )

    assert secret not in written(tmp_path / "output")
    assert secret not in "".join((*lines, *told))
    assert len(table(tmp_path / "output", "failures")) == 2


@pytest.mark.parametrize("name", SECRETS)
def test_a_job_file_with_a_secret(name: str, tmp_path: Path) -> None:
    """Refused as an option, in the URL of a place to write to, or as a value of another kind; never repeated."""
    text, secret = SECRETS[name]
    minimal = {"videos": "v", "questions": ["What?"], "output": "o", "model": {"name": "tiny-random"}}
    for wrong in (
        {"storage_options": {"headers": {"x": text}}},
        {"storage_options": {"options": [text]}},
        {"allowed_roots": [f"https://user:{secret}@host/"]},
        {"window_s": text},
        {"videos": [text]},
        {"output": text if "://" in text else f"https://host/o?sig={secret}"},
        {"cache": f"https://host/o?sig={secret}"},
        {"unknown": text},
    ):
        (tmp_path / "job.yaml").write_text(json.dumps(minimal | wrong))
        with pytest.raises(ConfigurationError) as refused:
            load_job(tmp_path / "job.yaml")
        assert secret not in shown(str(refused.value)), wrong


def test_a_refused_job_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every secret at once, for people and for programs."""
    wrong = {f"unknown {n}": text for n, (text, _) in enumerate(SECRETS.values())}
    wrong |= {
        "window_s": " ".join(text for text, _ in SECRETS.values()),
        "videos": [text for text, _ in SECRETS.values()],
    }
    (tmp_path / "job.yaml").write_text(json.dumps(wrong))
    for words in ["validate"], ["validate", "--json"], ["plan"], ["run"]:
        code, out, err = flashvid(capsys, monkeypatch, words[0], str(tmp_path / "job.yaml"), *words[1:])
        assert code == 2
        assert "window_s" in out + err
        assert not [name for name, (_, secret) in SECRETS.items() if secret in out + err]


def test_the_signature_of_a_table(tmp_path: Path) -> None:
    """The run reads it with its signature and records it without; other queries are kept."""
    signed = job(tmp_path, videos=f"https://host/videos.csv?sv=1&sig={WORD}")
    plain = job(tmp_path, videos="https://host/videos.csv?version=3", output=str(tmp_path / "plain"))
    for settings in (signed, plain):
        context = RunContext.of(settings, resolve_model("tiny-random"))
        RunRecords(context.storage).start(context.run_id, settings, context.prints)
    assert WORD not in written(tmp_path / "output")
    assert "https://host/videos.csv?***" in written(tmp_path / "output")
    assert "https://host/videos.csv?version=3" in written(tmp_path / "plain")
    refused = CliRunner().invoke(app, ["evaluate", signed.output])
    assert isinstance(refused.exception, ConfigurationError)
    assert "the table videos was read from a URL with a secret" in str(refused.exception)
    assert "--job" in str(refused.exception)


@pytest.mark.parametrize("by_an_earlier_version", [False, True])
def test_probes(tmp_path: Path, sample_videos: Path, *, by_an_earlier_version: bool) -> None:
    """They keep no URL with a signature, and are found by its hash: nothing is probed twice, a new file is noticed.

    Two URLs differ only in what is hidden. A probe of an earlier version, with the whole URL, is found as well.
    """
    urls = [f"memory://{tmp_path}/v.mp4?n={n}&sig={WORD}" for n in (1, 2)]
    memory = fsspec.filesystem("memory")
    for url in urls:
        memory.pipe(url, (sample_videos / "short_flash.mp4").read_bytes())
    (tmp_path / "videos.jsonl").write_text(
        "\n".join(json.dumps({"video_id": f"v{n}", "video_path": url}) for n, url in enumerate(urls))
    )
    settings = job(tmp_path, videos=str(tmp_path / "videos.jsonl"))
    here = Hardware(num_cpus=2, machine_bytes=10**10)
    assert preview(settings, here).headers_read == 2
    storage = Storage(settings.output)
    if by_an_earlier_version:
        (part,) = storage.names("probes")
        rows = table(tmp_path / "output", "probes")
        whole = {clip.source_id: url for clip, url in zip(row_clips(settings)[0], urls, strict=True)}
        storage.remove(part)
        schema = schemas.PROBES.remove(schemas.PROBES.get_field_index("path_hash"))
        earlier = [{name: row[name] for name in schema.names} | {"video_path": whole[row["source_id"]]} for row in rows]
        storage.create(part, to_bytes(earlier, schema))
    else:
        assert WORD not in written(tmp_path / "output")
        assert ProbeTable(storage).paths() == {}

    again = preview(settings, here)
    assert (again.headers_read, again.changed_sources) == (0, ())
    memory.pipe(urls[1], (sample_videos / "moving_red_disc.mp4").read_bytes())
    changed = preview(settings, here)
    assert (changed.headers_read, changed.changed_sources) == (1, ("v1",))


def test_forgetting_a_video_spares_probes_of_others(tmp_path: Path, sample_videos: Path) -> None:
    """Whose URLs look the same without their secrets."""
    urls = [f"memory://{tmp_path}/w.mp4?n={n}&sig={WORD}" for n in (1, 2)]
    for url in urls:
        fsspec.filesystem("memory").pipe(url, (sample_videos / "short_flash.mp4").read_bytes())
    rows = [json.dumps({"video_id": f"v{n}", "video_path": url}) for n, url in enumerate(urls)]
    (tmp_path / "videos.jsonl").write_text("\n".join(rows))
    settings = job(tmp_path, videos=str(tmp_path / "videos.jsonl"), questions=["What?"])
    preview(settings, Hardware(num_cpus=2, machine_bytes=10**10))
    make_output(settings, lambda *_: OSError("gone"), encode=False)
    storage = Storage(settings.output)
    lease = Lease.acquire(storage, "forget")
    assert forget_video(storage, token_roots(storage, {}), lease, "v0").probes in (0, 1)
    left = table(tmp_path / "output", "probes")
    assert row_clips(settings)[0][1].source_id in {row["source_id"] for row in left}


def test_a_bug_in_a_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its traceback is printed without the secrets of its message."""
    for text, secret in SECRETS.values():

        def fail(text: str = text) -> None:
            raise RuntimeError(text)

        monkeypatch.setattr(main, "app", fail)
        code, out, err = flashvid(capsys, monkeypatch)
        assert code == 1
        assert "Traceback" in err
        assert secret not in out + err


def test_questions_and_answers_are_not_altered(tmp_path: Path) -> None:
    """They are the user's data, in the tables and in the report."""
    said = f"The screen shows password: {WORD}"
    (tmp_path / "videos.jsonl").write_text(json.dumps({"video_id": said, "video_path": "a.mp4"}))
    settings = job(tmp_path, videos=str(tmp_path / "videos.jsonl"), questions=[said])
    make_output(settings, lambda *_: said, encode=False)
    (row,) = table(tmp_path / "output", "answers")
    assert (row["video_id"], row["question"], row["response"]) == (said, said, said)
    page = tmp_path / "r.html"
    assert CliRunner().invoke(app, ["report", settings.output, "--to", str(page)]).exit_code == 0
    assert page.read_text().count(said) >= 3


def test_the_report_of_an_earlier_version(tmp_path: Path) -> None:
    """Which redacted less: what it stored is not shown."""
    settings = job(tmp_path, videos=f"https://host/videos.csv?sig={WORD}")
    context = RunContext.of(settings, resolve_model("tiny-random"))
    RunRecords(context.storage).start(context.run_id, settings, context.prints)
    (name,) = context.storage.names("runs")
    earlier = json.loads(context.storage.read(name))
    earlier["job"]["videos"] = settings.videos
    (tmp_path / "output" / name).write_text(json.dumps(earlier))
    row = dict.fromkeys(schemas.FAILURES.names) | {"clip_id": "c", "video_id": "v", "attempt": 1, "stage": "decode"}
    row |= {"error_type": "OSError", "error_kind": "transient", "run_id": context.run_id}
    row |= {"error_message": "\n".join(text for text, _ in SECRETS.values())}
    context.ledger.append_failures([row], "part")
    page = tmp_path / "r.html"
    assert CliRunner().invoke(app, ["report", settings.output, "--to", str(page)]).exit_code == 0
    assert "OSError" in page.read_text()
    assert not [name for name, (_, secret) in SECRETS.items() if secret in page.read_text()]
