"""Check an output against its guarantees (docs/guarantees.md): no duplicates, no orphans, no damage."""

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
    """A violation of a guarantee.

    Attributes:
        kind: duplicate: an answer was committed twice; orphan: no run record belongs to the results; damaged: an object
            can't be read or contradicts its name.
        name: Name of the object.
        message: What is wrong, to be read after the name.
    """

    kind: Literal["duplicate", "orphan", "damaged"]
    name: str
    message: str


@dataclass(frozen=True)
class Verified:
    """The number of checked objects and answers, and the findings."""

    objects: int
    answers: int
    findings: tuple[Finding, ...]


def verify(output: Storage, token_roots: Sequence[Storage]) -> Verified:
    """Read every object of an output and its tokens, one at a time, and verify checksums and guarantees.

    Args:
        output: The output.
        token_roots: Every place with tokens of the output, including the output itself, as `token_roots` of
            `pipeline/care/forget.py` returns them. In a shared cache, only tokens under a fingerprint of this output's
            runs are checked.

    Raises:
        NewerFormatError: see `RunRecords.all`.
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
    """Checks objects one by one and collects findings."""

    def __init__(self, output: Storage) -> None:
        runs = RunRecords(output).all()
        self._output = output
        self._run_ids = {run["run_id"] for run in runs}
        self._answers_prints = {run["answers_fingerprint"] for run in runs}
        self._tokens_prints = {run["tokens_fingerprint"] for run in runs}
        self.objects = self.answers = 0
        self.findings: list[Finding] = []

    def read(self, storage: Storage, name: str, columns: Iterable[str]) -> pa.Table | None:
        """Return the table of an object. If it can't be read or lacks a column, note a finding and return None."""
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
        """Check all answers of one shard and fingerprint. Only their keys are kept in memory."""
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
                self._find("damaged", name, f"has rows of the shards {sorted(shards)}, not only of its own")
        for name, part_keys in by_part.items():
            if doubled := sorted(key for key in part_keys if keys[key] > 1):
                self._find(
                    "duplicate",
                    name,
                    f"has {len(doubled)} answers that occur twice, for example of clip {doubled[0][0]}",
                )

    def runs_of(self, name: str, run_ids: set[str]) -> None:
        """Check that the runs that wrote a part have records."""
        if _folder_value(name, "fingerprint") not in self._answers_prints:
            self._find("orphan", name, "has a fingerprint that no run record names")
            return
        for run_id in sorted(run_ids - self._run_ids):
            self._find("orphan", name, f"has rows of run {run_id}, which has no run record")

    def tokens(self, root: Storage, name: str) -> None:
        """Check that a clip's tokens can be read and match the name of their object."""
        if _folder_value(name, "fingerprint") not in self._tokens_prints:
            if root is self._output:
                self._find("orphan", name, "has a fingerprint that no run record names")
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
            self._find("damaged", name, "has the tokens of another clip than its name says")

    def _find(self, kind: Literal["duplicate", "orphan", "damaged"], name: str, message: str) -> None:
        self.findings.append(Finding(kind, name, message))


def _folder_value(name: str, key: str) -> str:
    """Return the value of a Hive partition folder (``key=value``) in an object's name."""
    return next(part.removeprefix(f"{key}=") for part in name.split("/") if part.startswith(f"{key}="))
