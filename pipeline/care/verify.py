"""Check an output against its guarantees (docs/guarantees.md), and move what is damaged to `quarantine/`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

import pyarrow as pa

from pipeline.errors import CorruptTokensError, DamagedObjectError
from pipeline.store import cache_users, doubles, retries
from pipeline.store.fingerprint import digest_of_settings
from pipeline.store.keys import content_key, shard_of
from pipeline.store.lease import Lease, read_lease
from pipeline.store.parquet import from_bytes
from pipeline.store.quarantine import FOLDER as QUARANTINE
from pipeline.store.quarantine import quarantine
from pipeline.store.run_records import END, RunRecords
from pipeline.store.storage import Storage
from pipeline.store.token_codec import decode_tokens
from pipeline.store.whole_table import whole_table


@dataclass(frozen=True)
class Finding:
    """A violation of a guarantee.

    Attributes:
        kind: duplicate: an answer was committed twice; orphan: no run record belongs to the results; damaged: an object
            can't be read or contradicts its name.
        name: Name of the object.
        message: What is wrong, to be read after the name.
        root: URL of the output or the cache that holds the object.
        quarantined: New name of the damaged object below `root` after a repair; None if it was not moved.
    """

    kind: Literal["duplicate", "orphan", "damaged"]
    name: str
    message: str
    root: str
    quarantined: str | None = None


@dataclass(frozen=True)
class Verified:
    """The number of checked objects and answers, and the findings."""

    objects: int
    answers: int
    findings: tuple[Finding, ...]


def verify(output: Storage, token_roots: Sequence[Storage], repair: Lease | None = None) -> Verified:
    """Read every object of an output and its tokens, one at a time, and verify checksums and guarantees.

    Args:
        output: The output.
        token_roots: Every place with tokens of the output, including the output itself, as `token_roots` of
            `pipeline/care/forget.py` returns them. In a shared cache, only tokens under a fingerprint of this output's
            runs are checked.
        repair: The lease of the output, to move every damaged object to `quarantine/`: the next run makes its content
            again. None to change nothing.

    Raises:
        NewerFormatError: see `RunRecords.all`.
        OutputLockedError: another run took the lease. Objects already moved stay in quarantine.
    """
    check = _Verification(output, repair)
    check.runs()
    check.records(output, "retries", retries.read_retry)
    check.records(output, "lease", read_lease)
    for names in output.by_folder("answers").values():
        check.answers_of_shard(names)
    for name in output.names("failures"):
        if (failures := check.table(name)) is not None:
            check.runs_of(name, set(failures["run_id"].to_pylist()))
    for name in output.names("probes"):
        check.table(name)
    for root in token_roots:
        check.records(root, cache_users.FOLDER, cache_users.read_cache_user)
        for name in root.names("tokens"):
            check.tokens(root, name)
    return Verified(check.num_objects, check.num_answers, tuple(check.findings))


class _Verification:
    """Checks objects one by one and collects findings."""

    def __init__(self, output: Storage, repair: Lease | None) -> None:
        self._output = output
        self._repair = repair
        # A quarantined record no longer tells its run's settings, but the run did exist.
        self._run_ids = {PurePosixPath(name).name.split(".")[0] for name in output.names(f"{QUARANTINE}/runs")}
        self._answers_prints: set[str] = set()
        self._tokens_prints: set[str] = set()
        self.num_objects = self.num_answers = 0
        self.findings: list[Finding] = []

    def runs(self) -> None:
        """Check the records of runs, and note the runs and fingerprints that they name."""
        records, damaged = RunRecords(self._output), list[tuple[str, str]]()
        # Nothing is moved before all were read: one of a later format may be among them.
        for name in self._output.names("runs"):
            self.num_objects += 1
            try:
                if name.endswith(END):
                    records.read_end(name)
                    continue
                record = records.read_start(name)
                for kind in ("answers", "tokens"):
                    if digest_of_settings(record[f"{kind}_settings"]) != record[f"{kind}_fingerprint"]:
                        reason = f"its {kind}_fingerprint is not that of its settings"
                        raise DamagedObjectError(reason, self._output.url, name)
            except DamagedObjectError as error:
                damaged.append((name, error.reason))
                continue
            self._run_ids.add(record["run_id"])
            self._answers_prints.add(record["answers_fingerprint"])
            self._tokens_prints.add(record["tokens_fingerprint"])
        for name, reason in damaged:
            self._run_ids.add(PurePosixPath(name).name.split(".")[0])
            self._damaged(self._output, name, reason)

    def records(self, root: Storage, folder: str, read: Callable[[Storage, str], object]) -> None:
        """Check that every record of a folder can be read by the function that its readers use."""
        for name in root.names(folder):
            self.num_objects += 1
            try:
                read(root, name)
            except DamagedObjectError as error:
                self._damaged(root, name, error.reason)

    def table(self, name: str) -> pa.Table | None:
        """Return a table of the output; note a finding and return None if it is damaged."""
        self.num_objects += 1
        try:
            return whole_table(self._output, name)
        except DamagedObjectError as error:
            self._damaged(self._output, name, error.reason)
            return None

    def answers_of_shard(self, names: Sequence[str]) -> None:
        """Check all answers of one shard and fingerprint. Only their keys are kept in memory."""
        rows: list[Mapping[str, Any]] = []
        parts: list[str] = []
        for name, table in self._sound_parts(names):
            self.num_answers += table.num_rows
            keys = [column for column in doubles.COLUMNS if column in table.column_names]
            rows += ({"epoch": None, **row} for row in table.select(keys).to_pylist())
            parts += [name] * table.num_rows
            self.runs_of(name, set(table["run_id"].to_pylist()))
        superfluous: dict[str, list[str]] = {}
        for number in sorted(set(range(len(rows))) - set(doubles.without_doubles(rows))):
            superfluous.setdefault(parts[number], []).append(rows[number]["clip_id"])
        for name, clips in superfluous.items():
            message = f"has {len(clips)} answers that stand twice and do not count, for example of clip {clips[0]}"
            self._find("duplicate", name, message)

    def _sound_parts(self, names: Sequence[str]) -> Iterator[tuple[str, pa.Table]]:
        for name in names:
            if (table := self.table(name)) is None:
                continue
            shards = {shard_of(video_id) for video_id in table["video_id"].to_pylist()}
            if shards != {_folder_value(name, "shard")}:
                self._damaged(self._output, name, f"has rows of the shards {sorted(shards)}, not only of its own")
            else:
                yield name, table

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
        self.num_objects += 1
        content = root.read(name)
        try:
            decode_tokens(content, name)
        except CorruptTokensError as error:
            self._damaged(root, name, error.message, content)
            return
        (row,) = from_bytes(content).select(["source_id", "start_s", "end_s"]).to_pylist()
        if PurePosixPath(name).stem != content_key(row["source_id"], row["start_s"], row["end_s"]):
            self._damaged(root, name, "has the tokens of another clip than its name says", content)

    def _find(self, kind: Literal["duplicate", "orphan"], name: str, message: str) -> None:
        self.findings.append(Finding(kind, name, message, self._output.url))

    def _damaged(self, root: Storage, name: str, message: str, content: bytes | None = None) -> None:
        moved = None
        if (lease := self._repair) is not None:
            lease.check()
            content = root.read(name) if content is None else content
            moved = quarantine(root, name, content, lease.check_deadline)
        self.findings.append(Finding("damaged", name, message, root.url, moved))


def _folder_value(name: str, key: str) -> str:
    """Return the value of a Hive partition folder (``key=value``) in an object's name."""
    return next(part.removeprefix(f"{key}=") for part in name.split("/") if part.startswith(f"{key}="))
