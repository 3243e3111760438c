"""What a report shows, collected from an output: plain values, nothing escaped yet."""

from __future__ import annotations

import base64
import shlex
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow.parquet as pq

from pipeline.history import PLAN_STAGE
from pipeline.keys import content_key
from pipeline.parquet import Row
from pipeline.results import Results
from pipeline.run_records import RunRecords
from pipeline.storage import Storage
from pipeline.token_columns import read_token_columns

_TOKEN_COLUMNS = ["thumbnails", "grid_thw", "indices", "assignment", "num_tokens"]
# Objects whose times are looked at for the curve of a run: each is a request.
_MOST_PARTS = 2000


@dataclass(frozen=True)
class FailureGroup:
    """Failures of one cause.

    Attributes:
        stage: Where.
        error_type: What.
        error_kind: transient or permanent.
        count: How many.
        examples: Messages, the most frequent first.
        retry: The command that has the next run try them again; None for rows that planning itself looks at again.
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
        record: Of the latest run, as it was started.
        runs: Every ended run under the same fingerprint, as they ended, the earliest first.
        failures: By cause, the most frequent first.
        clips: A mapping for each clip, as the page's script reads it.
        answers: How many there are.
        clips_left_out: Clips beyond the limit.
        pictures_left_out: Clips shown without a picture, because of the limit.
        committed: Seconds since the latest run began and answers committed until then.
    """

    output: str
    record: Mapping[str, Any]
    runs: tuple[Mapping[str, Any], ...]
    failures: tuple[FailureGroup, ...]
    clips: tuple[Mapping[str, Any], ...]
    answers: int
    clips_left_out: int
    pictures_left_out: int
    committed: tuple[tuple[float, int], ...]


def collect(
    storage: Storage,
    tokens: Storage | None = None,
    fingerprint: str | None = None,
    *,
    max_clips: int,
    max_pictures: int,
) -> ReportContent:
    """Read an output.

    Args:
        storage: The output.
        tokens: Where its tokens are; by default where its latest run says.
        fingerprint: Whose answers; those of the latest run when omitted.
        max_clips: Clips that the page holds.
        max_pictures: Clips that it holds with a picture.

    Raises:
        ConfigurationError: no run there, or none of that fingerprint.
    """
    results = Results(storage, fingerprint)
    record, answers = results.record, results.answers()
    failures = results.failures(answers)
    if tokens is None:
        root = record["job"]["cache"]
        # The output itself may have been copied since: then its tokens have, too.
        tokens = Storage(root, record["job"]["storage_options"]) if root else storage
    by_clip: dict[str, list[Row]] = defaultdict(list)
    for row in answers:
        by_clip[row["clip_id"]].append(row)
    failed: dict[str, list[Row]] = defaultdict(list)
    for row in failures:
        failed[row["clip_id"]].append(row)
    clip_ids = list(dict.fromkeys([*by_clip, *failed]))
    clips = []
    for number, clip_id in enumerate(clip_ids[:max_clips]):
        picture = None
        if number < max_pictures and by_clip[clip_id]:
            picture = _picture(tokens, record["tokens_fingerprint"], by_clip[clip_id][0])
        clips.append(_clip(by_clip[clip_id], failed[clip_id], picture))
    ended = [end for start, end in RunRecords(storage).ended() if start["answers_fingerprint"] == results.fingerprint]
    return ReportContent(
        output=storage.url,
        record=record,
        runs=tuple(ended),
        failures=_grouped(failures, storage.url),
        clips=tuple(clips),
        answers=len(answers),
        clips_left_out=max(0, len(clip_ids) - max_clips),
        pictures_left_out=max(0, min(len(clip_ids), max_clips) - max_pictures),
        committed=_committed(storage, record),
    )


def _clip(answers: Sequence[Row], failures: Sequence[Row], picture: Mapping[str, Any] | None) -> Mapping[str, Any]:
    first = (*answers, *failures)[0]
    return {
        "video": first["video_id"],
        "span": [first.get("start_s"), first.get("end_s")],
        "tokens": answers[0]["num_visual_tokens"] if answers else None,
        "answers": [
            {
                "question": row["question"],
                "options": row["options"],
                "expected": row["expected_answer"],
                "response": row["response"],
                "cut": row["finish_reason"] == "length",
            }
            for row in answers
        ],
        "failures": [
            {"stage": row["stage"], "type": row["error_type"], "message": row["error_message"]} for row in failures
        ],
        "picture": picture,
    }


def _picture(tokens: Storage, fingerprint: str, answer: Row) -> Mapping[str, Any] | None:
    """The clip's middle thumbnail, and what became of the tokens of its time: kept 2, merged 1, dropped 0."""
    key = content_key(answer["source_id"], answer["start_s"], answer["end_s"])
    row = read_token_columns(tokens, fingerprint, key, _TOKEN_COLUMNS)
    if row is None or not row["thumbnails"]:
        return None
    number = len(row["thumbnails"]) // 2
    steps, patch_rows, patch_columns = row["grid_thw"]
    per_step = len(row["assignment"]) // steps
    step = round(number * (steps - 1) / max(len(row["thumbnails"]) - 1, 1))
    kept = set(row["indices"])
    states = [
        2 if place in kept else 1 if row["assignment"][place] >= 0 else 0
        for place in range(step * per_step, (step + 1) * per_step)
    ]
    merge = round((patch_rows * patch_columns / per_step) ** 0.5)
    return {
        "jpeg": base64.b64encode(row["thumbnails"][number]).decode(),
        "columns": patch_columns // merge,
        "states": "".join(map(str, states)),
        "before": len(row["assignment"]),
        "after": row["num_tokens"],
    }


def _grouped(failures: Sequence[Row], output: str) -> tuple[FailureGroup, ...]:
    messages: dict[tuple[str, str, str], Counter[str]] = defaultdict(Counter)
    for row in failures:
        messages[row["stage"], row["error_type"], row["error_kind"]][row["error_message"]] += 1
    return tuple(
        FailureGroup(
            stage=stage,
            error_type=error_type,
            error_kind=kind,
            count=count.total(),
            examples=tuple(message for message, _ in count.most_common(3)),
            retry=None
            if stage == PLAN_STAGE
            else shlex.join(["flashvid", "retry", output, "--stage", stage, "--type", error_type]),
        )
        for (stage, error_type, kind), count in sorted(
            messages.items(), key=lambda group: (-group[1].total(), group[0])
        )
    )


def _committed(storage: Storage, record: Mapping[str, Any]) -> tuple[tuple[float, int], ...]:
    """From the times of the latest run's files; empty where the storage tells none."""
    folder = f"answers/fingerprint={record['answers_fingerprint']}"
    names = [name for name in storage.names(folder) if record["run_id"] in name]
    if not 0 < len(names) <= _MOST_PARTS:
        return ()
    started = datetime.fromisoformat(record["started"])
    written = []
    for name in names:
        path = storage.path(name)
        at = _time(storage.fs.info(path))
        if at is None:
            return ()
        with storage.fs.open(path, "rb") as file:
            written.append(((at - started).total_seconds(), pq.ParquetFile(file).metadata.num_rows))
    curve, total = [(0.0, 0)], 0
    for seconds, rows in sorted(written):
        total += rows
        curve.append((max(seconds, 0.0), total))
    return tuple(curve)


def _time(info: Mapping[str, Any]) -> datetime | None:
    for name in ("mtime", "LastModified", "updated"):
        value = info.get(name)
        if isinstance(value, datetime):
            return value if value.tzinfo else value.replace(tzinfo=UTC)
        if isinstance(value, int | float):
            return datetime.fromtimestamp(value, UTC)
    return None
