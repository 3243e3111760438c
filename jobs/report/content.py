"""The content of a report, collected from an output: plain values, not escaped yet."""

import shlex
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import accumulate
from math import inf
from typing import Any

import pyarrow.parquet as pq

from jobs.report.pictures import Pictures, take_pictures
from pipeline.plan.history import PLAN_STAGE
from pipeline.redaction import redacted, redacted_values
from pipeline.store.parquet import Row
from pipeline.store.results import Results
from pipeline.store.run_records import RunRecords
from pipeline.store.storage import Storage

# The most objects whose times are read for the curve of a run: each costs a request.
_MOST_PARTS = 2000
# What the page's script reads of an answer and a failure, with the columns that hold it.
_ANSWER = {"question": "question", "options": "options", "expected": "expected_answer", "response": "response"}
_FAILURE = {"stage": "stage", "type": "error_type", "message": "error_message"}


@dataclass(frozen=True)
class FailureGroup:
    """Failures of one cause.

    Attributes:
        stage: Where they happened.
        error_type: Class of the error.
        error_kind: transient or permanent.
        count: Number of failures.
        examples: Messages, the most frequent first.
        retry: The command that makes the next run retry them; None for rows that planning checks again anyway.
    """

    stage: str
    error_type: str
    error_kind: str
    count: int
    examples: tuple[str, ...]
    retry: str | None


@dataclass(frozen=True)
class ReportContent:
    """Everything a report shows.

    Attributes:
        output: Folder or URL.
        record: Start record of the latest run.
        runs: End records of all runs with the same fingerprint, the earliest first.
        failures: By cause, the most frequent first.
        clips: A mapping for each clip, as the page's script reads it.
        answers: Number of answers.
        clips_left_out: Clips beyond the limit.
        pictures: Pictures of the first clips with stored tokens.
        committed: Seconds since the latest run began and answers committed until then.
    """

    output: str
    record: Mapping[str, Any]
    runs: tuple[Mapping[str, Any], ...]
    failures: tuple[FailureGroup, ...]
    clips: tuple[Mapping[str, Any], ...]
    answers: int
    clips_left_out: int
    pictures: Pictures
    committed: tuple[tuple[float, int], ...]


def collect(
    storage: Storage,
    tokens: Storage | None = None,
    fingerprint: str | None = None,
    *,
    max_clips: int,
    max_pictures: int,
    max_picture_bytes: float = inf,
) -> ReportContent:
    """Read an output.

    Args:
        storage: The output.
        tokens: Where its tokens are; by default where its latest run put them.
        fingerprint: Which answers; by default those of the latest run.
        max_clips: The most clips in the page.
        max_pictures: The most clips with a picture.
        max_picture_bytes: The most bytes of pictures in the page.

    Raises:
        ConfigurationError: there is no run, or none with that fingerprint.
    """
    results = Results(storage, fingerprint)
    record, answers = results.record, results.answers()
    failures = results.failures(answers)
    root = record["job"]["cache"]
    if tokens is None and root is not False:
        # The output may have been copied since; its tokens were then copied too.
        tokens = Storage(root, record["job"]["storage_options"]) if root else storage
    by_clip: dict[str, list[Row]] = defaultdict(list)
    failed: dict[str, list[Row]] = defaultdict(list)
    for rows, found in ((answers, by_clip), (failures, failed)):
        for row in rows:
            found[row["clip_id"]].append(row)
    clip_ids = list(dict.fromkeys([*by_clip, *failed]))
    shown = clip_ids[:max_clips]
    pictures = Pictures({}, 0, 0)
    if tokens is not None:
        answered = [by_clip[clip_id][0] for clip_id in shown if clip_id in by_clip]
        fingerprint = record["tokens_fingerprint"]
        pictures = take_pictures(tokens, fingerprint, answered, max_pictures=max_pictures, max_bytes=max_picture_bytes)
    clips = [
        _clip(by_clip.get(clip_id, []), failed.get(clip_id, []), pictures.by_clip.get(clip_id)) for clip_id in shown
    ]
    # The page may be read from any folder: its commands name a local output by its absolute path.
    place = storage.root if storage.is_local else storage.url
    ended = [end for start, end in RunRecords(storage).ended() if start["answers_fingerprint"] == results.fingerprint]
    groups, left_out = _grouped(failures, place), max(0, len(clip_ids) - max_clips)
    curve = _committed(storage, record)
    return ReportContent(place, record, tuple(ended), groups, tuple(clips), len(answers), left_out, pictures, curve)


def _clip(answers: Sequence[Row], failures: Sequence[Row], picture: Mapping[str, Any] | None) -> Mapping[str, Any]:
    first = (*answers, *failures)[0]
    return {
        "video": first["video_id"],
        "span": [first.get("start_s"), first.get("end_s")],
        "tokens": answers[0]["num_visual_tokens"] if answers else None,
        "answers": [
            {name: row[column] for name, column in _ANSWER.items()} | {"cut": row["finish_reason"] == "length"}
            for row in answers
        ],
        "failures": [redacted_values({name: row[column] for name, column in _FAILURE.items()}) for row in failures],
        "picture": picture,
    }


def _grouped(failures: Sequence[Row], output: str) -> tuple[FailureGroup, ...]:
    """Return failures by cause, the most frequent first."""
    messages: dict[tuple[str, str, str], Counter[str]] = defaultdict(Counter)
    for row in failures:
        messages[row["stage"], row["error_type"], row["error_kind"]][row["error_message"]] += 1
    groups = []
    for (stage, error_type, kind), count in messages.items():
        # Planning checks its rows again in every run.
        retry = ["flashvid", "retry", output, "--stage", stage, "--type", error_type] if stage != PLAN_STAGE else None
        examples = tuple(redacted(message) for message, _ in count.most_common(3))
        groups.append(
            FailureGroup(stage, error_type, kind, count.total(), examples, None if retry is None else shlex.join(retry))
        )
    return tuple(sorted(groups, key=lambda group: (-group.count, group.stage, group.error_type, group.error_kind)))


def _committed(storage: Storage, record: Mapping[str, Any]) -> tuple[tuple[float, int], ...]:
    """Return the curve by the times of the latest run's files; empty if the storage has no times."""
    folder = f"answers/fingerprint={record['answers_fingerprint']}"
    names = [name for name in storage.names(folder) if record["run_id"] in name]
    if not 0 < len(names) <= _MOST_PARTS:
        return ()
    started = datetime.fromisoformat(record["started"])
    written = []
    for path in map(storage.path, names):
        try:
            at: datetime = storage.fs.modified(path)
        except NotImplementedError:
            return ()
        with storage.fs.open(path, "rb") as file:
            rows = pq.ParquetFile(file).metadata.num_rows
        written.append((((at if at.tzinfo else at.replace(tzinfo=UTC)) - started).total_seconds(), rows))
    written.sort()
    totals = accumulate(rows for _, rows in written)
    return ((0.0, 0), *((max(seconds, 0.0), total) for (seconds, _), total in zip(written, totals, strict=True)))
