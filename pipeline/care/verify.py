"""Holding an output against its guarantees: nothing twice, nothing without a run, nothing damaged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

import pyarrow as pa

from pipeline.errors import CorruptTokensError
from pipeline.store import schemas
from pipeline.store.keys import content_key, shard_of
from pipeline.store.parquet import from_bytes
from pipeline.store.run_records import RunRecords
from pipeline.store.storage import Storage
from pipeline.store.token_codec import decode_tokens

_ANSWER_KEY = ("clip_id", "question_id", "question_hash")


@dataclass(frozen=True)
class Finding:
    """Something that should not be.

    Attributes:
        kind: duplicate: an answer that was committed twice; orphan: results of no recorded run; damaged: an object
            that can't be read or contradicts its name.
        name: The object.
        message: One sentence.
    """

    kind: Literal["duplicate", "orphan", "damaged"]
    name: str
    message: str


@dataclass(frozen=True)
class Verified:
    """What was looked at, and what is wrong with it."""

    objects: int
    answers: int
    findings: tuple[Finding, ...]


def verify(output: Storage, token_roots: Sequence[Storage]) -> Verified:
    """Read every object of an output and its tokens, one at a time, checksums included.

    Args:
        output: The output.
        token_roots: Every place with tokens of it, the output itself included (`forgetting.token_roots`). In a
            shared cache only the tokens that this output's runs name are looked at.
    """
    check = _Verification(output)
    for names in output.by_folder("answers").values():
        check.answers_of_shard(names)
    for name in output.names("failures"):
        if (failures := check.read(output, name, schemas.FAILURES.names)) is not None:
            check.runs_of(name, set(failures["run_id"].to_pylist()))
    for name in output.names("probes"):
        check.read(output, name, schemas.PROBES.names)
    for root in token_roots:
        for name in root.names("tokens"):
            check.tokens(root, name)
    return Verified(check.objects, check.answers, tuple(check.findings))


class _Verification:
    """Looks at one object after the other and notes what is wrong."""

    def __init__(self, output: Storage) -> None:
        runs = RunRecords(output).all()
        self._output = output
        self._run_ids = {run["run_id"] for run in runs}
        self._answers_prints = {run["answers_fingerprint"] for run in runs}
        self._tokens_prints = {run["tokens_fingerprint"] for run in runs}
        self.objects = self.answers = 0
        self.findings: list[Finding] = []

    def read(self, storage: Storage, name: str, columns: Iterable[str]) -> pa.Table | None:
        """A whole object; None, and a finding, if it can't be read or lacks a column."""
        self.objects += 1
        try:
            table = from_bytes(storage.read(name))
        except (pa.ArrowException, OSError, ValueError) as error:
            self._find("damaged", name, f"can't be read: {error}")
            return None
        later = schemas.LATER_COLUMNS.get(name.split("/", maxsplit=1)[0], frozenset())
        if missing := [column for column in columns if column not in (*table.column_names, *later)]:
            self._find("damaged", name, f"has no columns {missing}")
            return None
        return table

    def answers_of_shard(self, names: Sequence[str]) -> None:
        """All answers of one shard and fingerprint: their keys are held, and no more."""
        keys: Counter[tuple[str, ...]] = Counter()
        by_part: dict[str, set[tuple[str, ...]]] = {}
        for name in names:
            if (table := self.read(self._output, name, schemas.ANSWERS.names)) is None:
                continue
            self.answers += table.num_rows
            rows = table.select([*_ANSWER_KEY, "video_id", "run_id"]).to_pylist()
            part = [tuple(row[column] for column in _ANSWER_KEY) for row in rows]
            keys.update(part)
            by_part[name] = set(part)
            self.runs_of(name, {row["run_id"] for row in rows})
            if (shards := {shard_of(row["video_id"]) for row in rows}) != {_folder_value(name, "shard")}:
                self._find("damaged", name, f"holds rows of the shards {sorted(shards)}")
        for name, part_keys in by_part.items():
            if doubled := sorted(key for key in part_keys if keys[key] > 1):
                self._find(
                    "duplicate", name, f"{len(doubled)} answers stand elsewhere too, e.g. of clip {doubled[0][0]}"
                )

    def runs_of(self, name: str, run_ids: set[str]) -> None:
        """Whether the runs that wrote a part are recorded."""
        if _folder_value(name, "fingerprint") not in self._answers_prints:
            self._find("orphan", name, "no run names its fingerprint")
            return
        for run_id in sorted(run_ids - self._run_ids):
            self._find("orphan", name, f"there is no record of run {run_id}")

    def tokens(self, root: Storage, name: str) -> None:
        """One clip's tokens: whether they can be read, and are the ones that their name says."""
        if _folder_value(name, "fingerprint") not in self._tokens_prints:
            if root is self._output:
                self._find("orphan", name, "no run names its fingerprint")
            return
        self.objects += 1
        content = root.read(name)
        try:
            decode_tokens(content, name)
        except CorruptTokensError as error:
            self._find("damaged", name, error.message)
            return
        (row,) = from_bytes(content).select(["source_id", "start_s", "end_s"]).to_pylist()
        if PurePosixPath(name).stem != content_key(row["source_id"], row["start_s"], row["end_s"]):
            self._find("damaged", name, "holds the tokens of another clip than its name says")

    def _find(self, kind: Literal["duplicate", "orphan", "damaged"], name: str, message: str) -> None:
        self.findings.append(Finding(kind, name, message))


def _folder_value(name: str, key: str) -> str:
    """The value of a hive folder in an object's name."""
    return next(part.removeprefix(f"{key}=") for part in name.split("/") if part.startswith(f"{key}="))
