"""Read the current results of an output: the latest answer of each question, and the unresolved failures."""

from collections.abc import Sequence
from operator import itemgetter

from pydantic import ValidationError

from flashvid.errors import ConfigurationError
from pipeline.config import JobConfig
from pipeline.errors import SourceUnreachableError, VideoNotFoundError
from pipeline.store import doubles, schemas
from pipeline.store.parquet import Row
from pipeline.store.run_records import RunRecords
from pipeline.store.storage import Storage

# Identifies one question about one span of one video.
KEY = ("video_id", "start_s", "end_s", "question_id")
# Columns that `latest_rows` needs in addition to KEY.
ORDER = ("source_id", *doubles.COLUMNS)
# Errors of a video whose bytes could not be identified, so the failure's `clip_id` differs from that of the readable
# file. Failures of earlier versions have no `source_id` either: such a failure is resolved as soon as any clip of its
# video has an answer.
_OF_NO_FILE = (VideoNotFoundError.__name__, SourceUnreachableError.__name__)


def latest_rows(rows: Sequence[Row]) -> list[int]:
    """Return the indices of the current answers, ascending.

    Of answers with the same key, the one of the latest run is current, except where an answer stands twice
    (`without_doubles`). Answers about a replaced file are not current.

    Args:
        rows: Rows with the columns `KEY` and `ORDER`; they must include every answer of each of their videos.
    """
    # Run ids sort by the start of their run.
    oldest_first = sorted(doubles.without_doubles(rows), key=lambda number: rows[number]["run_id"])
    file_of = {rows[n]["video_id"]: rows[n]["source_id"] for n in oldest_first if rows[n]["source_id"] is not None}
    of_current_files = (n for n in oldest_first if rows[n]["source_id"] == file_of.get(rows[n]["video_id"]))
    return sorted({tuple(rows[n][name] for name in KEY): n for n in of_current_files}.values())


class Results:
    """The committed results of one `answers_fingerprint`.

    Args:
        storage: The output.
        fingerprint: The `answers_fingerprint`; default: that of the latest run.

    Raises:
        ConfigurationError: the output has no run, or none under this fingerprint.
        NewerFormatError: see `RunRecords.all`.

    Attributes:
        fingerprint: The `answers_fingerprint`.
        record: Start record of the latest run under the fingerprint: job, settings, versions.
    """

    def __init__(self, storage: Storage, fingerprint: str | None = None) -> None:
        self._storage = storage
        self.record = RunRecords(storage).latest(fingerprint)
        self.fingerprint: str = self.record["answers_fingerprint"]

    @property
    def job(self) -> JobConfig:
        """Return the resolved job of the latest run.

        Raises:
            ConfigurationError: the job has settings that this version does not accept.
        """
        try:
            return JobConfig.model_validate(self.record["job"])
        except ValidationError as error:
            first = error.errors()[0]
            what = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
            raise ConfigurationError(
                f"the job of run {self.record['run_id']} is of another version of flashvid ({what}): use that one",
                self._storage.url,
            ) from None

    def answers(self, columns: Sequence[str] = tuple(schemas.ANSWERS.names)) -> list[Row]:
        """Return the latest answer of every question about every span of every video, sorted by `KEY`.

        Args:
            columns: Columns of `schemas.ANSWERS`; the columns that identify an answer are always included.
        """
        wanted = list(dict.fromkeys([*KEY, *ORDER, *columns]))
        latest: list[Row] = []
        # One shard holds all answers of a video.
        for names in self._storage.by_folder(f"answers/fingerprint={self.fingerprint}").values():
            rows = self._storage.table(names, schemas.ANSWERS, wanted).to_pylist()
            latest += (rows[number] for number in latest_rows(rows))
        return sorted(latest, key=lambda row: tuple(str(row[name]) for name in KEY))

    def failures(self, answers: Sequence[Row]) -> list[Row]:
        """Return the latest failure of each clip and question without a later answer, sorted by video and question.

        Failures of a replaced file are left out.

        Args:
            answers: Rows of the method `answers`, with any columns.
        """
        names = self._storage.names(f"failures/fingerprint={self.fingerprint}")
        failures = self._storage.table(names, schemas.FAILURES, schemas.FAILURES.names).to_pylist()
        # The latest run or file of each key: in a dictionary made from the oldest to the latest, the latest stays.
        oldest_first = sorted(answers, key=itemgetter("run_id"))
        answered = {(row["clip_id"], row["question_id"]): row["run_id"] for row in oldest_first}
        clips, videos = ({row[name]: row["run_id"] for row in oldest_first} for name in ("clip_id", "video_id"))
        identified = (row for row in (*answers, *failures) if row["source_id"] is not None)
        files = {row["video_id"]: row["source_id"] for row in sorted(identified, key=itemgetter("run_id", "source_id"))}
        latest: dict[tuple[str, str | None], Row] = {}
        for row in failures:
            key = (row["clip_id"], row["question_id"])
            if row["source_id"] is None and row["error_type"] in _OF_NO_FILE:
                since = videos.get(row["video_id"], "")
            else:
                since = clips.get(row["clip_id"], "") if row["question_id"] is None else answered.get(key, "")
            is_current = row["source_id"] is None or row["source_id"] == files[row["video_id"]]
            if is_current and since < row["run_id"] and (key not in latest or latest[key]["run_id"] <= row["run_id"]):
                latest[key] = row
        return sorted(latest.values(), key=lambda row: (row["video_id"], str(row["question_id"])))
