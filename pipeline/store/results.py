"""What an output says today: the latest answer of each question, and the failures that no answer has superseded."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import ValidationError

from flashvid.errors import ConfigurationError
from pipeline.config import JobConfig
from pipeline.errors import SourceUnreachableError, VideoNotFoundError
from pipeline.store import schemas
from pipeline.store.parquet import Row
from pipeline.store.run_records import RunRecords
from pipeline.store.storage import Storage

# One question of one span of one video.
KEY = ("video_id", "start_s", "end_s", "question_id")
# What `latest_rows` looks at besides.
ORDER = ("source_id", "run_id")
# Where a failure does not tell its file (those from before it did): without its bytes a video is another clip than with
# them, so these are over once any clip of it is answered.
_OF_NO_FILE = (VideoNotFoundError.__name__, SourceUnreachableError.__name__)


def latest_rows(rows: Sequence[Row]) -> list[int]:
    """Return the numbers of the answers that count today, ascending.

    Of answers with the same key that is the one of the latest run; of a replaced file none counts.

    Args:
        rows: With the columns `KEY` and `ORDER`; every answer of each of their videos.
    """
    # A `run_id` sorts by the time its run began. Rows of one run are equal work, and any of them will do.
    oldest_first = sorted(range(len(rows)), key=lambda number: rows[number]["run_id"])
    file_of = {rows[n]["video_id"]: rows[n]["source_id"] for n in oldest_first if rows[n]["source_id"] is not None}
    of_current_files = (n for n in oldest_first if rows[n]["source_id"] == file_of.get(rows[n]["video_id"]))
    return sorted({tuple(rows[n][name] for name in KEY): n for n in of_current_files}.values())


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
        self._storage = storage
        self.record = RunRecords(storage).latest(fingerprint)
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
        latest: list[Row] = []
        # A video's answers are all in one shard.
        for names in self._storage.by_folder(f"answers/fingerprint={self.fingerprint}").values():
            rows = [row for part in self._storage.scan(names, schemas.ANSWERS, wanted) for row in part.to_pylist()]
            latest += (rows[number] for number in latest_rows(rows))
        return sorted(latest, key=lambda row: tuple(str(row[name]) for name in KEY))

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
