"""What build 780b831 wrote stays valid: its fingerprints, its ids, its output, its columns, its view of ours."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem
from typer.testing import CliRunner

from flashvid.models import load_model, resolve_model
from jobs.cli.main import app
from jobs.job_file import load_job
from pipeline.errors import SettingsChangedError
from pipeline.inputs import Video
from pipeline.inputs.sources import stat_sources
from pipeline.run.run import run
from pipeline.store import schemas
from pipeline.store.fingerprint import fingerprints
from pipeline.store.keys import content_key
from pipeline.store.storage import Storage
from pipeline.store.tokens import TokenStore
from tests.support.runs import table
from tests.support.shared_runs import SharedRun

DATA = Path(__file__).parents[1] / "data" / "build-780b831"
EXPECTED: Mapping[str, Mapping[str, str]] = json.loads((DATA / "fingerprints.json").read_text())
# Of job.yaml.
TOKENS, ANSWERS = "47ba6ffcdba7795d", "fda7e47e4ab58d69"
# Python of an environment with build 780b831; there is none in CI.
OLD_PYTHON = os.environ.get("FLASHVID_OLD_BUILD")

_TEXT, _INT, _FLOAT = pa.string(), pa.int64(), pa.float64()
_SPAN: Mapping[str, pa.DataType] = {"source_id": _TEXT, "start_s": _FLOAT, "end_s": _FLOAT}
COLUMNS: Mapping[str, Mapping[str, pa.DataType]] = {
    "probes": {
        "source_id": _TEXT, "video_path": _TEXT, "size_bytes": _INT, "duration_s": _FLOAT, "fps": _FLOAT,
        "num_frames": _INT, "width": pa.int32(), "height": pa.int32(), "container": _TEXT, "codec": _TEXT,
        "decoder": _TEXT,
    },
    "tokens": {
        "clip_id": _TEXT, "video_id": _TEXT, **_SPAN, "frame_timestamps": pa.list_(_FLOAT), "grid_thw": pa.list_(_INT),
        "segment_lengths": pa.list_(_INT), "num_tokens": _INT, "hidden_size": _INT, "dtype": _TEXT,
        "indices": pa.list_(_INT), "assignment": pa.list_(_INT), "tokens": pa.large_binary(),
        "scales": pa.list_(pa.float32()), "deepstack": pa.list_(pa.large_binary()),
        "deepstack_scales": pa.list_(pa.list_(pa.float32())), "thumbnails": pa.list_(pa.binary()), "run_id": _TEXT,
    },
    "answers": {
        "clip_id": _TEXT, "video_id": _TEXT, **_SPAN, "question_id": _TEXT, "question": _TEXT, "question_hash": _TEXT,
        "options": pa.list_(_TEXT), "expected_answer": _TEXT, "response": _TEXT, "finish_reason": _TEXT,
        "num_visual_tokens": _INT, "num_prompt_tokens": _INT, "num_generated_tokens": _INT,
        "option_scores": pa.list_(_FLOAT), "answer_seconds": _FLOAT, "attempt": pa.int32(), "run_id": _TEXT,
    },
    "failures": {
        "clip_id": _TEXT, "video_id": _TEXT, "video_path": _TEXT, "question_id": _TEXT, "stage": _TEXT,
        "error_type": _TEXT, "error_kind": _TEXT, "error_message": _TEXT, "traceback": _TEXT, "attempt": pa.int32(),
        "run_id": _TEXT, "question_hash": _TEXT, **_SPAN,
    },
}  # fmt: skip


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A copy of the folder with jobs, videos and output."""
    return Path(shutil.copytree(DATA, tmp_path / "old"))


def flashvid(*arguments: str | Path) -> dict[str, Any]:
    """What a command of today's build prints as JSON; it must succeed."""
    done = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_there_are_ten_job_files() -> None:
    """Each with its fingerprints."""
    assert len(EXPECTED) == 10
    assert {path.stem for path in (DATA / "jobs").iterdir()} == EXPECTED.keys()


@pytest.mark.parametrize("name", EXPECTED)
def test_fingerprints_are_those_of_the_build(name: str) -> None:
    """Literally: a setting that is new adds nothing while it is left alone."""
    job = load_job(DATA / "jobs" / f"{name}.yaml")
    identity = resolve_model(job.model.name, job.model.revision).identity
    prints = fingerprints(job, identity)
    found = {"model_identity": identity, "tokens": prints.tokens, "answers": prints.answers}
    assert found == EXPECTED[name], dict(prints.answers_settings)


def test_source_ids_are_those_of_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    """By path, size and time; by path, size and etag; by a column."""
    states = {"/v/a.mp4": {"size": 1234, "mtime": 1700000000.25}, "/v/b.mp4": {"size": 99, "ETag": '"abc"'}}
    monkeypatch.setattr(LocalFileSystem, "info", lambda _, path, **__: states[path])
    videos = [Video("a", "/v/a.mp4", columns={"sha": "s1"}), Video("b", "/v/b.mp4", columns={"sha": "s2"})]
    by_state, by_column = (
        [source.source_id for source in stat_sources(videos, source_id_column=column, storage_options={})]
        for column in (None, "sha")
    )
    assert by_state == ["05f55969b17c5a82783a48e5afe2a33b", "6782ed5578b71c4b4efa73070c8a97a6"]
    assert by_column == ["f24bf5c7c899a85c84622bd6d2400781", "de41074f3356bfaab3fe4860996f9bf9"]


# Windows need the length of the file that cannot be read: it is looked at again, on Ray.
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(("job", "answers", "exhausted"), [("job.yaml", 4, 2), ("windows.yaml", 8, 2)])
def test_the_job_has_nothing_left_to_do(old: Path, job: str, answers: int, exhausted: int) -> None:
    """Whole clips, and windows with an int8 cache: no frame is decoded, no answer made, no flag is needed."""
    before = {path: path.read_bytes() for path in (old / "output").rglob("*.parquet")}
    summary = flashvid("run", old / job)
    assert (summary["frames_decoded"], summary["clips_planned"], summary["encoder_calls"]) == (0, 0, 0)
    assert (summary["answers_before"], summary["answers_new"], summary["failures_new"]) == (answers, 0, 0)
    assert (summary["answers_exhausted"], summary["changed_sources"]) == (exhausted, [])
    assert {path: path.read_bytes() for path in (old / "output").rglob("*.parquet")} == before


def test_a_changed_setting_is_still_seen(old: Path) -> None:
    """Else a fingerprint that forgets settings would pass for one that is stable."""
    for key, value in (("sampling.num_frames", 9), ("compression.alpha", 0.6), ("generation.max_new_tokens", 9)):
        with pytest.raises(SettingsChangedError, match=re.escape(key)):
            run(load_job(old / "job.yaml", {key: value}))


def test_a_new_question_finds_the_tokens(old: Path) -> None:
    """Planned, not run: both clips are cached."""
    (old / "questions.csv").write_text((old / "questions.csv").read_text() + "new,Is there a {shape}?,,\n")
    plan = flashvid("plan", old / "job.yaml")
    assert (plan["clips_to_encode"], plan["clips_cached"], plan["headers_read"]) == (0, 2, 0)
    assert (plan["answers_total"], plan["answers_done"], plan["answers_exhausted"]) == (9, 4, 3)


def test_its_output_can_be_looked_after(old: Path, tmp_path: Path) -> None:
    """`status`, `verify` and `export` read it as their own."""
    output = old / "output"
    status = flashvid("status", output)
    assert (status["state"], status["runs"], status["answers"], status["answers_total"]) == ("completed", 3, 4, 6)
    assert flashvid("verify", output) == {"objects": 33, "answers": 12, "findings": []}
    assert flashvid("export", output, tmp_path / "export")["rows"] == 4
    exported = {(row["video_id"], row["question_id"]): row["response"] for row in table(tmp_path, "export")}
    assert exported == {
        ("circle", "colour"): "A", ("circle", "direction"): "right",
        ("square", "colour"): "A", ("square", "direction"): "right",
    }  # fmt: skip


def test_its_tokens_give_its_answers(old: Path) -> None:
    """The same bytes in, the same text out: a fingerprint that stayed stands for results that stayed."""
    job = load_job(old / "job.yaml")
    store, model = TokenStore(Storage(job.output), TOKENS), load_model(job.model.name, part="language", device="cpu")
    asked = [row for row in table(old / "output", "answers") if row["question_id"] == "direction"]
    asked = [row for row in asked if row["fingerprint"] == ANSWERS]
    assert len(asked) == 2
    for row in asked:
        video = store.read(content_key(row["source_id"], row["start_s"], row["end_s"]))
        (answer,) = model.answer(video, [row["question"]], job.generation)
        for name in ("response", "finish_reason", "num_visual_tokens", "num_prompt_tokens", "num_generated_tokens"):
            assert getattr(answer, name) == row[name], name


def test_older_builds_can_read_what_is_below_runs(finished: SharedRun, forked: SharedRun) -> None:
    """They take every other name there for a run: new records get a folder of their own."""
    for output, runs in ((finished.output, 1), (forked.output, 2)):
        names = sorted(str(path.relative_to(output / "runs")) for path in (output / "runs").rglob("*"))
        assert [name for name in names if not re.fullmatch(r"\d{8}T\d{6}-[0-9a-f]{8}(\.end)?\.json", name)] == []
        ended = sum(name.endswith(".end.json") for name in names)
        assert ended >= runs  # other tests may have resumed the shared output
        assert len(names) == 2 * ended


@pytest.mark.parametrize("name", COLUMNS)
def test_tables_have_the_columns_that_the_build_wrote(name: str, forked: SharedRun) -> None:
    """By name and type, in what is declared and in what a run writes; there may be more."""
    parts = list((forked.output / name).rglob("*.parquet"))
    assert parts
    for schema in (getattr(schemas, name.upper()), *map(pq.read_schema, parts)):
        found = {field.name: field.type for field in schema}
        assert {column: found.get(column) for column in COLUMNS[name]} == COLUMNS[name]
        # Null before, so null may be read; an older reader fills in what it does not find.
        assert all(field.nullable for field in schema)


@pytest.mark.slow
@pytest.mark.skipif(OLD_PYTHON is None, reason="FLASHVID_OLD_BUILD names no python of build 780b831")
def test_the_build_reads_our_output(forked: SharedRun, tmp_path: Path) -> None:
    """Its own `status`, `verify` and `export`, on two runs of today's build with answers and failures."""
    output = forked.copy_output(tmp_path)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = Path(str(OLD_PYTHON)).with_name("flashvid")

    def ask(*arguments: str | Path) -> dict[str, Any]:
        done = subprocess.run(
            [command, *arguments, "--json"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    status = ask("status", output)
    assert (status["state"], status["runs"], status["answers"]) == ("completed", 2, forked.summary.answers_new)
    assert sum(failure["count"] for failure in status["failures"]) == forked.summary.failures_new
    verified = ask("verify", output)
    assert (verified["findings"], verified["answers"]) == ([], len(table(output, "answers")))
    assert ask("export", output, tmp_path / "export")["rows"] == forked.summary.answers_new
    assert {row["run_id"] for row in table(tmp_path, "export")} == {forked.summary.run_id}
