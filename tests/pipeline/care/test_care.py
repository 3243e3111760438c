"""Export, gc, forget, verify, retry: on outputs made by hand, without Ray or a model."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from flashvid.errors import ConfigurationError
from jobs.cli.main import app
from pipeline.care import export as export_module
from pipeline.care.export import export_answers
from pipeline.care.forget import forget_video, token_roots
from pipeline.care.gc import Garbage, find_garbage, remove_garbage
from pipeline.care.verify import verify
from pipeline.clip import ClipIdentity
from pipeline.errors import OutputLockedError
from pipeline.plan.history import FailureHistory
from pipeline.store import schemas
from pipeline.store.cache_users import cache_users, note_cache_user
from pipeline.store.fingerprint import digest_of_settings
from pipeline.store.keys import content_key, shard_of
from pipeline.store.lease import Lease
from pipeline.store.ledger import Ledger
from pipeline.store.parquet import to_bytes
from pipeline.store.retries import RetryRequest, request_retry
from pipeline.store.run_records import RunRecords
from pipeline.store.storage import Storage
from pipeline.store.tokens import TokenStore
from tests.pipeline.store.test_ledger import answer, failure
from tests.support.helpers import compressed_video
from tests.support.outputs import start_record

VIDEOS = [f"v{number:02}" for number in range(20)]
TOKENS_SETTINGS = {"retention_ratio": 0.1}
ANSWERS_SETTINGS = {"retention_ratio": 0.1, "max_new_tokens": 8}
TOKENS_PRINT, ANSWERS_PRINT = digest_of_settings(TOKENS_SETTINGS), digest_of_settings(ANSWERS_SETTINGS)
RUNS = ("20260101T000000-aa", "20260102T000000-bb")


@dataclass(frozen=True)
class Run:
    """What `RunRecords` records of a run, made by hand."""

    run_id: str
    tokens: str = TOKENS_PRINT
    answers: str = ANSWERS_PRINT
    cache: str | bool | None = None

    def record(self, storage: Storage) -> None:
        """Write it."""
        content = start_record(
            self.run_id,
            self.answers,
            tokens_fingerprint=self.tokens,
            tokens_settings=TOKENS_SETTINGS,
            answers_settings=ANSWERS_SETTINGS,
            job={"cache": self.cache},
        )
        assert storage.create(f"runs/{self.run_id}.json", json.dumps(content).encode())


@pytest.fixture
def output(tmp_path: Path) -> Storage:
    """Two runs over 20 videos and two questions, one failure, tokens and probes of all."""
    storage = Storage(str(tmp_path / "output"))
    ledger, tokens = Ledger(storage, ANSWERS_PRINT), TokenStore(storage, TOKENS_PRINT)
    for run_id, question in zip(RUNS, ("q2", "q1"), strict=True):
        Run(run_id).record(storage)
        ledger.append_answers([answer(video, question, run_id=run_id) for video in VIDEOS], f"{run_id}-1")
    failures = [failure(VIDEOS[0], run_id=RUNS[0]), failure("bad", run_id=RUNS[0])]
    ledger.append_failures([*failures, failure("worse", run_id=RUNS[0], stage="encode")], "p1")
    for video in VIDEOS:
        origin = ClipIdentity(f"clip-{video}", video, f"source-{video}", 0.5, None)
        key = content_key(origin.source_id, 0.5, None)
        assert tokens.commit(key, compressed_video(torch.ones(5, 6)), origin, thumbnails=[], run_id=RUNS[0])
    probes = [{"source_id": f"source-{video}", "video_path": f"/videos/{video}"} for video in VIDEOS]
    assert storage.create("probes/part-1.parquet", to_bytes(probes, schemas.PROBES))
    return storage


def rows(storage: Storage, name: str) -> list[dict[str, Any]]:
    """What any reader sees of a table."""
    found: list[dict[str, Any]] = ds.dataset(storage.path(name), format="parquet").to_table().to_pylist()
    return found


def of_others(storage: Storage, name: str, column: str, value: str) -> list[dict[str, Any]]:
    """The rows that are none of a video's, in an order of their own."""
    return sorted((row for row in rows(storage, name) if row[column] != value), key=repr)


def test_an_export_is_sorted_and_leaves_the_ledger_alone(output: Storage, tmp_path: Path) -> None:
    """One row for each answer, by video and question, in one file; the source is as it was."""
    before = output.sizes("")
    target = Storage(str(tmp_path / "export"))
    done = export_answers(output, target)
    assert (done.fingerprint, done.rows, done.superseded, done.files) == (ANSWERS_PRINT, 40, 0, ("part-00000.parquet",))
    table = pq.read_table(tmp_path / "export" / "part-00000.parquet")
    assert table.schema.equals(schemas.ANSWERS)
    keys = [(row["video_id"], row["question_id"]) for row in table.to_pylist()]
    assert keys == [(video, question) for video in VIDEOS for question in ("q1", "q2")]
    assert output.sizes("") == before
    with pytest.raises(ConfigurationError, match="not empty"):
        export_answers(output, target)


def test_an_export_takes_the_latest_of_each_answer(output: Storage, tmp_path: Path) -> None:
    """Of a file that was replaced, only answers about the new one; other spans and fingerprints are other answers."""
    ledger = Ledger(output, ANSWERS_PRINT)
    of_new = {"source_id": "new", "clip_id": "new", "run_id": "20260103T000000-cc"}
    again = [
        answer(VIDEOS[3], "q1", response="new", **of_new),
        answer(VIDEOS[3], "q1", start_s=7.0, **{**of_new, "clip_id": "span"}),
    ]
    ledger.append_answers(again, "later")
    Ledger(output, "fork").append_answers([answer(VIDEOS[3], "q1", response="fork")], "fork")
    done = export_answers(output, Storage(str(tmp_path / "export")), ANSWERS_PRINT)
    # The old file's other answer is no answer about what is there now.
    assert (done.rows, done.superseded) == (40, 2)
    found = pd.read_parquet(tmp_path / "export")
    found = found[(found.video_id == VIDEOS[3]) & (found.question_id == "q1")]
    assert list(zip(found.start_s, found.response, strict=True)) == [(0.5, "new"), (7.0, "")]
    with pytest.raises(ConfigurationError, match="no answers under fingerprint nothing"):
        export_answers(output, Storage(str(tmp_path / "other")), "nothing")


def test_a_large_export_keeps_each_video_in_one_file(
    output: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several files, each sorted, together every answer once."""
    monkeypatch.setattr(export_module, "_ROWS_PER_FILE", 10)
    done = export_answers(output, Storage(str(tmp_path / "export")))
    assert len(done.files) > 2
    parts = [pq.read_table(tmp_path / "export" / name)["video_id"].to_pylist() for name in done.files]
    assert all(part == sorted(part) for part in parts)
    assert Counter(video for part in parts for video in part) == dict.fromkeys(VIDEOS, 2)
    assert sum(len(set(part)) for part in parts) == len(VIDEOS)


def _age(path: str | Path) -> None:
    """Make a file two hours old."""
    two_hours_ago = time.time() - 7200
    os.utime(path, (two_hours_ago, two_hours_ago))


def test_gc_finds_what_no_run_names(output: Storage, tmp_path: Path) -> None:
    """Tokens of unnamed fingerprints, and old uploads; nothing that a run or a writer at work needs."""
    assert find_garbage(output).pieces == ()
    stranger = TokenStore(output, "nobody's")
    origin = ClipIdentity("c", "v", "s", None, None)
    stranger.commit("aa" + 30 * "0", compressed_video(torch.ones(5, 6)), origin, thumbnails=[], run_id="r")
    uploads = [tmp_path / "output" / "answers" / f".uploading-{name}" for name in ("old", "new")]
    for upload in uploads:
        upload.write_bytes(b"half")
    assert find_garbage(output) == Garbage((), spared=1)
    for path in (uploads[0], output.path(stranger.name("aa" + 30 * "0"))):
        _age(path)
    garbage = find_garbage(output)
    assert {piece.name for piece in garbage.pieces} == {stranger.name("aa" + 30 * "0"), "answers/.uploading-old"}
    sizes = {4, output.sizes("tokens/fingerprint=nobody's").popitem()[1]}
    assert {piece.size_bytes for piece in garbage.pieces} == sizes
    later = find_garbage(output, now=datetime.now(UTC) + timedelta(hours=2))
    assert len(later.pieces) == 3
    # Another output that names the fingerprint.
    user = Storage(str(tmp_path / "user"))
    Run("r", tokens="nobody's").record(user)
    assert [piece.name for piece in find_garbage(output, [user]).pieces] == ["answers/.uploading-old"]
    assert remove_garbage(output, garbage, list, ()) == garbage
    assert find_garbage(output).pieces == ()
    assert verify(output, [output]).findings == ()


def test_gc_of_a_cache_needs_to_know_who_uses_it(tmp_path: Path) -> None:
    """A cache has no runs of its own; without any, everything would look unused."""
    with pytest.raises(ConfigurationError, match="--used-by"):
        find_garbage(Storage(str(tmp_path)))


def test_gc_keeps_what_other_outputs_have_in_a_cache(output: Storage, tmp_path: Path) -> None:
    """They left word; one that can't be seen from here may be on another machine, until somebody says it is gone."""
    user = Storage(str(tmp_path / "user"))
    note_cache_user(output, user)
    note_cache_user(output, user)
    assert len(output.names("used-by")) == 1
    with pytest.raises(ConfigurationError, match=f"--gone {user.root}"):
        cache_users(output, {})
    assert cache_users(output, {}, gone=[user.root]) == []
    origin = ClipIdentity("c", "v", "s", None, None)
    theirs = TokenStore(output, "theirs")
    theirs.commit("aa" + 30 * "0", compressed_video(torch.ones(5, 6)), origin, thumbnails=[], run_id="r")
    _age(output.path(theirs.name("aa" + 30 * "0")))
    Run("r", tokens="theirs").record(user)
    assert find_garbage(output, cache_users(output, {})).pieces == ()
    assert len(find_garbage(output, cache_users(output, {}, gone=[user.root])).pieces) == 1


def test_an_output_without_a_cache_is_its_own_root_of_tokens(tmp_path: Path) -> None:
    """`cache: off` is recorded as false, which is no place to look for tokens."""
    output = Storage(str(tmp_path))
    Run(RUNS[0], cache=False).record(output)
    Run(RUNS[1], cache=str(tmp_path / "cache")).record(output)
    assert [root.url for root in token_roots(output, {})] == [str(tmp_path), str(tmp_path / "cache")]


def test_a_forgotten_video_is_nowhere(output: Storage, tmp_path: Path) -> None:
    """In no byte of the output and its cache; every other row is as it was."""
    video, cache = VIDEOS[0], Storage(str(tmp_path / "cache"))
    Run("20260103T000000-cc", cache=cache.url).record(output)
    # Probed, and then never answered: only its failure says where it was.
    probe = {"source_id": "an earlier one", "video_path": f"/videos/{video}"}
    assert output.create("probes/part-2.parquet", to_bytes([probe], schemas.PROBES))
    origin = ClipIdentity("clip", video, "another source", None, None)
    elsewhere = TokenStore(cache, TOKENS_PRINT)
    ours = "20260103T000000-cc"
    elsewhere.commit("aa" + 30 * "0", compressed_video(torch.ones(5, 6)), origin, thumbnails=[], run_id=ours)
    # Of another output that shares the cache, and calls other bytes by the same name; and one that nobody can read.
    theirs = elsewhere.name("bb" + 30 * "0")
    elsewhere.commit("bb" + 30 * "0", compressed_video(torch.ones(5, 6)), origin, thumbnails=[], run_id="theirs")
    assert cache.create(elsewhere.name("cc" + 30 * "0"), b"garbage")
    # The same bytes, encoded by another output for a video of another name.
    same = content_key(f"source-{video}", 0.5, None)
    twin = ClipIdentity("clip", "twin", f"source-{video}", 0.5, None)
    elsewhere.commit(same, compressed_video(torch.ones(5, 6)), twin, thumbnails=[], run_id="theirs")
    names = (("answers", "video_id"), ("failures", "video_id"), ("tokens", "video_id"))
    before = [of_others(output, name, column, video) for name, column in names]
    probes_before = of_others(output, "probes", "video_path", f"/videos/{video}")
    lease = Lease.acquire(output, "forget")
    done = forget_video(output, token_roots(output, {}), lease, video)
    assert (done.answers, done.failures, done.tokens, done.probes) == (2, 1, 3, 2)
    assert [of_others(output, name, column, video) for name, column in names] == before
    assert of_others(output, "probes", "video_path", f"/videos/{video}") == probes_before
    assert video not in {row["video_id"] for name, _ in names for row in rows(output, name)}
    assert f"/videos/{video}" not in {row["video_path"] for row in rows(output, "probes")}
    assert sorted(cache.names("tokens")) == [theirs, elsewhere.name("cc" + 30 * "0")]
    assert verify(output, [output]).findings == ()
    again = forget_video(output, token_roots(output, {}), lease, video)
    assert (again.answers, again.failures, again.tokens, again.probes) == (0, 0, 0, 0)


def test_nothing_is_forgotten_without_the_lease(output: Storage) -> None:
    """Another run has taken it: its output is left alone."""
    lease, before = Lease.acquire(output, "forget"), {name: output.sizes(name) for name in ("answers", "tokens")}
    assert output.create(f"lease/{lease.epoch + 1:08d}.json", b"{}")
    with pytest.raises(OutputLockedError):
        forget_video(output, [output], lease, VIDEOS[0])
    assert {name: output.sizes(name) for name in before} == before


class DiesError(Exception):
    """The process ends here."""


@pytest.mark.parametrize("removals", range(5))
def test_forgetting_may_break_off_anywhere(output: Storage, monkeypatch: pytest.MonkeyPatch, removals: int) -> None:
    """Nothing of the others is lost at any moment, and the same command given again completes it."""
    video, count = VIDEOS[0], 0
    neighbour = next(f"n{n}" for n in range(10_000) if shard_of(f"n{n}") == shard_of(video))
    Ledger(output, ANSWERS_PRINT).append_answers([answer(neighbour, "q1"), answer(video, "q3")], "both")
    before = of_others(output, "answers", "video_id", video)
    remove = output.remove

    def die(name: str) -> None:
        nonlocal count
        if count == removals:
            raise DiesError
        count += 1
        remove(name)

    monkeypatch.setattr(output, "remove", die)
    with pytest.raises(DiesError):
        forget_video(output, [output], Lease.acquire(output, "forget"), video)
    present = {repr(row) for row in of_others(output, "answers", "video_id", video)}
    assert present == {repr(row) for row in before}
    monkeypatch.undo()
    lease = Lease(output, "forget", len(output.names("lease")), time.monotonic)
    forget_video(output, [output], lease, video)
    assert of_others(output, "answers", "video_id", video) == before == sorted(rows(output, "answers"), key=repr)


def test_a_sound_output_has_no_findings(output: Storage) -> None:
    """And everything in it was looked at."""
    done = verify(output, [output])
    assert (done.answers, done.findings) == (40, ())
    assert done.objects == len(output.names(""))


def _truncate(storage: Storage, name: str) -> None:
    path = Path(storage.path(name))
    path.write_bytes(path.read_bytes()[:-9])


def _flip(storage: Storage, name: str) -> None:
    path = Path(storage.path(name))
    content = bytearray(path.read_bytes())
    content[20] ^= 1
    path.write_bytes(content)


def _twice(storage: Storage, name: str) -> None:
    table = pq.read_table(storage.path(name), partitioning=None)
    pq.write_table(table, Path(storage.path(name)).with_name("part-again.parquet"))


def _rename(storage: Storage, name: str) -> None:
    path = Path(storage.path(name))
    path.rename(path.with_name("00" * 16 + ".parquet"))


def _elsewhere(storage: Storage, name: str) -> None:
    target = Path(storage.path(name.replace("fingerprint=", "fingerprint=0")))
    target.parent.mkdir(parents=True)
    Path(storage.path(name)).rename(target)


def _without_records(storage: Storage, name: str) -> None:
    del name
    storage.remove(f"runs/{RUNS[0]}.json")


@pytest.mark.parametrize(
    ("table", "damage", "kinds"),
    [
        ("answers", _truncate, {"damaged"}),
        ("answers", _flip, {"damaged"}),
        ("answers", _twice, {"duplicate"}),
        ("answers", _elsewhere, {"orphan"}),
        ("answers", _without_records, {"orphan"}),
        ("failures", _truncate, {"damaged"}),
        ("failures", _elsewhere, {"orphan"}),
        ("probes", _truncate, {"damaged"}),
        ("tokens", _truncate, {"damaged"}),
        ("tokens", _flip, {"damaged"}),
        ("tokens", _rename, {"damaged"}),
        ("tokens", _elsewhere, {"orphan"}),
    ],
)
def test_verify_finds_it(output: Storage, table: str, damage: Callable[[Storage, str], None], kinds: set[str]) -> None:
    """Each kind of damage, in each table, under its own name."""
    name = output.names(table)[0]
    damage(output, name)
    assert {finding.kind for finding in verify(output, [output]).findings} == kinds


def test_a_retried_failure_may_be_tried_again_as_often_as_a_new_one(output: Storage) -> None:
    """Permanent or exhausted; those that do not match, or were answered since, stay; a failure after it counts."""
    ledger = Ledger(output, ANSWERS_PRINT)

    def exhausted(clip: str) -> bool:
        return FailureHistory(ledger.failure_keys(), {}, max_attempts=2).is_exhausted(clip, None)

    assert exhausted("clip-bad")
    assert exhausted("clip-worse")
    assert request_retry(output, RetryRequest("20260105T000000-ee", kind="transient")) == 0
    assert output.names("retries") == []
    assert request_retry(output, RetryRequest("20260105T000000-ee", "permanent", "UnreadableVideoError", "decode")) == 1
    assert not exhausted("clip-bad")
    assert exhausted("clip-worse")
    assert request_retry(output, RetryRequest("20260105T000001-ee", stage="decode")) == 0  # asked for already
    later = {"run_id": "20260106T000000-ff", "error_kind": "transient"}
    ledger.append_failures([failure("bad", attempt=2, **later)], "p2")
    assert not exhausted("clip-bad")
    assert FailureHistory(ledger.failure_keys(), {}, max_attempts=2).attempts("clip-bad") == 2
    ledger.append_failures([failure("bad", attempt=3, **later)], "p3")
    assert exhausted("clip-bad")
    # What fails for good once more has to be asked for once more.
    request_retry(output, RetryRequest("20260107T000000-gg"))
    assert not exhausted("clip-worse")
    ledger.append_failures([failure("worse", attempt=2, stage="encode", run_id="20260108T000000-hh")], "p4")
    assert exhausted("clip-worse")


def test_retry_names_an_output_without_failures(tmp_path: Path) -> None:
    """Most likely another folder was meant."""
    with pytest.raises(ConfigurationError, match="has no failures"):
        request_retry(Storage(str(tmp_path)), RetryRequest("r"))


def test_the_commands(output: Storage, tmp_path: Path) -> None:
    """What a person types: JSON for programs, exit codes, a dry run that removes nothing."""

    def flashvid(*arguments: str) -> tuple[int, dict[str, Any]]:
        done = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
        return done.exit_code, json.loads(done.stdout)

    url = output.url
    assert flashvid("verify", url)[0] == 0
    assert flashvid("export", url, str(tmp_path / "export"))[1]["rows"] == 40
    assert flashvid("retry", url, "--stage", "encode") == (0, {"failures": 1})
    _elsewhere(output, output.names("tokens")[0])
    code, found = flashvid("verify", url)
    assert (code, [finding["kind"] for finding in found["findings"]]) == (1, ["orphan"])
    assert [flashvid("gc", url)[1][name] for name in ("removed", "garbage", "spared")] == [False, [], 1]
    _age(output.path(next(name for name in output.names("tokens") if "fingerprint=0" in name)))
    assert [flashvid("gc", url)[1]["removed"], len(flashvid("gc", url)[1]["garbage"])] == [False, 1]
    assert flashvid("gc", url, "--yes")[1]["removed"] is True
    assert flashvid("gc", url)[1]["garbage"] == []
    assert flashvid("forget", url, "--video-id", VIDEOS[1])[1]["answers"] == 2
    assert flashvid("verify", url)[0] == 0
    # The lease was given back: a run may start at once.
    Lease.acquire(output, "run", sleep=pytest.fail)
    assert len(RunRecords(output).all()) == 2


@pytest.mark.parametrize("command", ["export", "gc", "forget", "verify", "retry"])
def test_help_has_an_example(command: str) -> None:
    """Of every command."""
    assert f"Example: flashvid {command}" in " ".join(CliRunner().invoke(app, [command, "--help"]).stdout.split())
