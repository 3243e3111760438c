"""LongVideoBench: videos up to an hour, 1,337 validation questions of two to five options (arXiv 2407.15754).

Annotations: lvb_val.json of the authors (video_id, video_path, question, candidates, correct_choice, question_category,
duration_group, id), or the Parquet file with option0 to option4. Rules: tasks/longvideobench/utils.py and
longvideobench_val_v.yaml, without subtitles: lmms-eval's variant with them puts each between two frames, where our
prompts have no place. The line break behind the prompt is left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jobs.datasets.annotations import letter, read_rows, text, texts
from jobs.datasets.converter import Benchmark, Source, Tables, literal, unique_videos

_NONE = "N/A"


def convert(source: Source) -> Tables:
    """Rows of both tables."""
    file = source.annotations
    videos, questions = [], []
    for number, row in enumerate(read_rows(file), 1):
        path = text(row, "video_path", file, number)
        right, options = row.get("correct_choice"), _options(row, file, number)
        name = str(row.get("video_id") or path)
        videos.append(
            {
                "video_id": name,
                "video_path": str(source.videos / path),
                "duration_group": row.get("duration_group"),
            }
        )
        questions.append(
            {
                "question_id": text(row, "id", file, number),
                "question": literal(text(row, "question", file, number)),
                # The pipeline's own prompt: letters, and the request for one.
                "options": options,
                # The test split's answers are not public, and are numbered -1.
                "answer": None if right in (None, -1, "-1") else letter(right, len(options), file, number),
                "video_id": name,
                "category": row.get("question_category"),
            }
        )
    return Tables(unique_videos(videos), tuple(questions))


def _options(row: dict[str, Any], file: Path, number: int) -> list[str]:
    given: list[Any] = [row.get(f"option{index}") for index in range(5)]
    if row.get("candidates"):
        given = texts(row, "candidates", file, number)
    return [str(option) for option in given if option not in (None, _NONE)]


LONG_VIDEO_BENCH = Benchmark(
    name="long_video_bench",
    title="LongVideoBench",
    convert=convert,
    letters="first",
    categories=("duration_group", "category"),
    max_new_tokens=32,
    counted="The share of right answers over all questions. lmms-eval draws an option where it finds none in a "
    "response; here such a response is wrong.",
)
