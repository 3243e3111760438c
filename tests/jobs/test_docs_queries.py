"""What docs/tables.md shows to read the tables with, run on an output."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.clip import Clip
from pipeline.errors import WorkerDiedError
from pipeline.store.ledger import Ledger
from pipeline.store.results import Results
from pipeline.store.storage import Storage
from pipeline.store.tokens import TokenStore
from tests.pipeline.store.test_ledger import answer, failure
from tests.support.outputs import job_fingerprints, make_output, start_record
from tests.support.runs import copy_videos, job, table

PAGE = (Path(__file__).parents[2] / "docs" / "tables.md").read_text(encoding="utf-8")
RUNS = ("20260101T000001-aaaaaaaa", "20260101T000002-bbbbbbbb")
BROKEN = ("broken_again.mp4", "moving_red_disc.mp4")


def shown(language: str) -> str:
    """The one block of the page in a language."""
    (block,) = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    return str(block)


def test_duckdb(sample_videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two runs the latest answers, also about videos that were replaced in between, and the failures that stand.

    The page's query and `Results.failures` agree about these.
    """
    duckdb = pytest.importorskip("duckdb", reason="the extra `dev` brings duckdb")
    videos = copy_videos(sample_videos, tmp_path, ["three_boxes.mp4", "short_flash.mp4", "moving_red_disc.mp4"])
    shutil.copyfile(videos / "short_flash.mp4", videos / "mended.mp4")
    shutil.copyfile(videos / "short_flash.mp4", videos / "broken_again.mp4")
    settings = job(tmp_path)

    def respond(run: int, clip: Clip, text: str) -> str | Exception:
        fails_in = {
            ("short_flash.mp4", "What happens here?"): (1,),
            ("moving_red_disc.mp4", text): (1, 2),
            ("mended.mp4", text): (1,),
            ("broken_again.mp4", text): (1, 2),
        }
        if run in fails_in.get((clip.video_id, text), ()):
            return WorkerDiedError(f"died in run {run}")
        return f"{run}: {clip.video_id}, {text}"

    make_output(settings, lambda clip, text: respond(1, clip, text), encode=False, run_id=RUNS[0])
    for name in ("three_boxes.mp4", "mended.mp4", "broken_again.mp4"):
        shutil.copyfile(sample_videos / "scene_cuts.mp4", videos / name)
    make_output(settings, lambda clip, text: respond(2, clip, text), encode=False, run_id=RUNS[1])
    monkeypatch.chdir(tmp_path)
    answers, failures = (
        duckdb.sql(query).fetchall() for query in shown("sql").split(";") if re.sub(r"--.*", "", query).strip()
    )
    print_of_both = job_fingerprints(settings).answers
    first, second = settings.questions
    assert sorted(answers) == sorted(
        (print_of_both, video, question, f"{run}: {video}, {question}")
        for video, question, run in (
            ("three_boxes.mp4", first.question, 2),
            ("three_boxes.mp4", second.question, 2),
            ("short_flash.mp4", first.question, 2),
            ("short_flash.mp4", second.question, 1),
            ("mended.mp4", first.question, 2),
            ("mended.mp4", second.question, 2),
        )
    )
    of_two = [(video, "answer", "WorkerDiedError", "died in run 2") for video in BROKEN for _ in (first, second)]
    assert sorted(failures) == of_two
    results = Results(Storage(settings.output))
    standing = results.failures(results.answers(()))
    assert [(row["video_id"], row["run_id"]) for row in standing] == [(video, RUNS[1]) for video, *_ in of_two]
    # Those that were written before failures told their file stand until the clip is answered.
    ledger = Ledger(Storage(settings.output), print_of_both)
    old = failure("mended.mp4", error_type="VideoNotFoundError", run_id=RUNS[0])
    ledger.append_failures([old, failure("unknown.mp4", run_id=RUNS[0])], "older")
    standing = results.failures(results.answers(()))
    assert [row["video_id"] for row in standing] == [*(video for video, *_ in of_two), "unknown.mp4"]


def test_of_two_answers_the_higher_epoch_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's query and `Results.answers` agree, also where the clock of one host made its run look later."""
    duckdb = pytest.importorskip("duckdb", reason="the extra `dev` brings duckdb")
    storage = Storage(str(tmp_path / "output"))
    assert storage.create(f"runs/{RUNS[0]}.json", json.dumps(start_record(RUNS[0], "print")).encode())
    ledger = Ledger(storage, "print")
    ledger.append_answers([answer("v", run_id=RUNS[1], epoch=3, response="of the driver that was paused")], "a")
    ledger.append_answers([answer("v", run_id=RUNS[0], epoch=4, response="of the one that took over")], "b")
    ledger.append_answers([answer("w", run_id=RUNS[1], epoch=None, response="of an earlier version")], "c")
    monkeypatch.chdir(tmp_path)
    found = duckdb.sql(shown("sql").split(";")[0]).fetchall()
    current = Results(storage).answers(("response",))
    assert sorted(found) == [("print", row["video_id"], answer("v")["question"], row["response"]) for row in current]
    assert [row["response"] for row in current] == ["of the one that took over", "of an earlier version"]


@pytest.mark.parametrize("name", ["9123456789012345", "12345e6789012345", "0000000000000012"])
def test_names_of_folders_stay_texts(
    name: str, sample_videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every recipe reads a fingerprint and a shard that look like numbers, also next to a fingerprint that does not."""
    duckdb = pytest.importorskip("duckdb", reason="the extra `dev` brings duckdb")
    copy_videos(sample_videos, tmp_path, ["three_boxes.mp4"])
    settings = job(tmp_path)
    fails, other = settings.questions[0].question, job_fingerprints(settings)
    make_output(settings, lambda _, text: WorkerDiedError("died") if text == fails else "an answer")
    monkeypatch.chdir(tmp_path / "output")
    for table_name, old in (("answers", other.answers), ("failures", other.answers), ("tokens", other.tokens)):
        new = Path(table_name, f"fingerprint={name}")
        shutil.copytree(Path(table_name, f"fingerprint={old}"), new)
        for shard in new.glob("shard=*"):
            shard.rename(new / "shard=07")
    shutil.rmtree(Path("failures", f"fingerprint={other.answers}"))
    monkeypatch.chdir(tmp_path)
    answers, failures = (
        duckdb.sql(query).fetchall() for query in shown("sql").split(";") if re.sub(r"--.*", "", query).strip()
    )
    assert sorted(row[0] for row in answers) == sorted([name, other.answers])
    assert failures == [("three_boxes.mp4", "answer", "WorkerDiedError", "died")]
    shutil.rmtree(Path("output", "answers", f"fingerprint={other.answers}"))
    names: dict[str, Any] = {}
    exec(compile(shown("python"), "docs/tables.md", "exec"), names)  # noqa: S102 - our own page
    assert names["answers"][["fingerprint", "shard"]].to_numpy().tolist() == [[name, "07"]]


@pytest.mark.parametrize(("dtype", "cache_dtype"), [("float32", None), ("bfloat16", None), ("float32", "int8")])
def test_pandas_and_numpy(
    dtype: str, cache_dtype: str | None, sample_videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tokens that the page's lines read are those that the run's own reader reads."""
    copy_videos(sample_videos, tmp_path, ["three_boxes.mp4"])
    asked = job(tmp_path, model={"name": "tiny-random", "dtype": dtype}, cache_dtype=cache_dtype)
    make_output(asked)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(shown("python"), "docs/tables.md", "exec"), names)  # noqa: S102 - our own page
    answers, tokens = names["answers"], names["tokens"]
    assert len(answers) == 2
    assert set(answers["shard"]) == {row["shard"] for row in table(tmp_path / "output", "answers")}
    store = TokenStore(Storage(asked.output), job_fingerprints(asked).tokens)
    (key,) = store.committed()
    np.testing.assert_array_equal(tokens, store.read(key).tokens.float().numpy())
