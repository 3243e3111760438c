"""What an output says today: the latest answer of each question, and the failures that no answer has superseded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from pydantic import ValidationError

from flashvid.errors import ConfigurationError
from pipeline.config import JobConfig
from pipeline.errors import SourceUnreachableError, VideoNotFoundError
from pipeline.store import schemas
from pipeline.store.latest import KEY, ORDER, latest_answers
from pipeline.store.parquet import Row
from pipeline.store.run_records import RunRecords
from pipeline.store.storage import Storage

# Where a failure does not tell its file (those from before it did): without its bytes a video is another clip than with
# them, so these are over once any clip of it is answered.
_OF_NO_FILE = (VideoNotFoundError.__name__, SourceUnreachableError.__name__)


class Results:
    """The committed results of one `answers_fingerprint`.

    Args:
        storage: The output.
        fingerprint: Whose; those of the latest run when omitted.

    Raises:
        ConfigurationError: no run, or none of that fingerprint.

    Attributes:
        fingerprint: The `answers_fingerprint`.
        record: How the latest run under it was started: job, settings, versions.
    """

    def __init__(self, storage: Storage, fingerprint: str | None = None) -> None:
        records = RunRecords(storage).all()
        if not records:
            raise ConfigurationError("is no output of a run: there is nothing in runs/", storage.url)
        chosen = [run for run in records if fingerprint in (None, run["answers_fingerprint"])]
        if not chosen:
            known = ", ".join(dict.fromkeys(run["answers_fingerprint"] for run in records))
            raise ConfigurationError(f"has no run of fingerprint {fingerprint}; there are {known}", storage.url)
        self._storage = storage
        self.record: dict[str, Any] = chosen[-1]
        self.fingerprint: str = self.record["answers_fingerprint"]

    @property
    def job(self) -> JobConfig:
        """The job that the latest run was given, as it was resolved.

        Raises:
            ConfigurationError: it has settings that this version does not know.
        """
        try:
            return JobConfig.model_validate(self.record["job"])
        except ValidationError as error:
            first = error.errors()[0]
            what = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
            raise ConfigurationError(
                f"its run {self.record['run_id']} was made by another version of flashvid ({what})", self._storage.url
            ) from None

    def answers(self, columns: Sequence[str] = tuple(schemas.ANSWERS.names)) -> list[Row]:
        """The latest answer of every question of every span of a video, sorted by these.

        Args:
            columns: Of `schemas.ANSWERS`; those that identify an answer come along.
        """
        wanted = list(dict.fromkeys([*KEY, *ORDER, "clip_id", *columns]))
        rows: list[Row] = []
        shards: dict[str, list[str]] = {}
        for name in self._storage.names(f"answers/fingerprint={self.fingerprint}"):
            shards.setdefault(name.rsplit("/", 1)[0], []).append(name)
        # A video's answers are all in one shard.
        for names in shards.values():
            rows += latest_answers(pa.concat_tables(self._storage.scan(names, schemas.ANSWERS, wanted))).to_pylist()
        return sorted(rows, key=lambda row: tuple(str(row[name]) for name in KEY))

    def failures(self, answers: Sequence[Row]) -> list[Row]:
        """The latest failure of everything that failed and has not been answered since; of a replaced file, none.

        Args:
            answers: As `answers` gives them.
        """
        names = self._storage.names(f"failures/fingerprint={self.fingerprint}")
        parts = self._storage.scan(names, schemas.FAILURES, schemas.FAILURES.names)
        failures = [row for part in parts for row in part.to_pylist()]
        answered = {(row["clip_id"], row["question_id"]): row["run_id"] for row in answers}
        clips, videos = (_latest_runs(answers, by=name) for name in ("clip_id", "video_id"))
        files: dict[str, tuple[str, str]] = {}
        for row in (*answers, *failures):
            if row["source_id"] is not None:
                files[row["video_id"]] = max(files.get(row["video_id"], ("", "")), (row["run_id"], row["source_id"]))
        latest: dict[tuple[str, str | None], Row] = {}
        for row in failures:
            key = (row["clip_id"], row["question_id"])
            if row["source_id"] is None and row["error_type"] in _OF_NO_FILE:
                since = videos.get(row["video_id"], "")
            else:
                since = clips.get(row["clip_id"], "") if row["question_id"] is None else answered.get(key, "")
            is_current = row["source_id"] is None or row["source_id"] == files[row["video_id"]][1]
            if is_current and since < row["run_id"] and (key not in latest or latest[key]["run_id"] <= row["run_id"]):
                latest[key] = row
        return sorted(latest.values(), key=lambda row: (row["video_id"], str(row["question_id"])))


def _latest_runs(rows: Sequence[Row], *, by: str) -> dict[str, str]:
    """Of each value of a column the latest run that has it."""
    runs: dict[str, str] = {}
    for row in rows:
        runs[row[by]] = max(runs.get(row[by], ""), row["run_id"])
    return runs
