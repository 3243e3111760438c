"""MLVU: videos of three minutes to two hours, seven multiple-choice tasks of the development set (arXiv 2406.04264).

Annotations: the folder json/ of the data set `MLVU/MVLU`, a file per task (1_plotQA.json: video, question, candidates,
answer, question_type; videos in video/1_plotQA/), or the Parquet file of `sy1998/MLVU_dev` (video_name, question with
its options, answer as a letter, task_type). Rules: tasks/mlvu/utils.py and mlvu_dev.yaml. The two tasks that ask for
free text have no candidates, and are left out as there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jobs.datasets.annotations import files_of, letter, read_rows, text, texts
from jobs.datasets.converter import Benchmark, Row, Source, Tables, lettered, literal, unique_videos
from pipeline.errors import InputTableError

_NUM_LETTERS = 4
_CHOOSE = "\nOnly give the best option.\nBest option: ("


def convert(source: Source) -> Tables:
    """Rows of both tables; the category is the task."""
    videos: list[Row] = []
    questions: list[Row] = []
    left_out = 0
    for file in [source.annotations] if source.annotations.suffix == ".parquet" else files_of(source.annotations):
        for number, row in enumerate(read_rows(file), 1):
            if not row.get("candidates") and "task_type" not in row:
                left_out += 1
                continue
            # In the authors' layout a task's videos are in a folder that is named as its file.
            name = str(row["video_name"]) if "video_name" in row else f"{file.stem}/{text(row, 'video', file, number)}"
            task = str(row.get("task_type") or text(row, "question_type", file, number))
            asked, right = _question(row, file, number)
            videos.append({"video_id": name, "video_path": str(source.videos / name)})
            questions.append(
                {
                    "question_id": str(row.get("question_id") or f"{task}-{number}"),
                    "question": literal(asked + _CHOOSE),
                    "answer": right,
                    "video_id": name,
                    "category": task,
                }
            )
    return Tables(unique_videos(videos), tuple(questions), left_out)


def _question(row: dict[str, Any], file: Path, number: int) -> tuple[str, str | None]:
    """Question with its options a line each, and the right one's letter if it is public."""
    asked, right = text(row, "question", file, number), row.get("answer")
    if "task_type" in row:
        # Its options stand in the question: lmms-eval looks for A to D.
        return asked, None if right is None else letter(right, _NUM_LETTERS, file, number)
    options = texts(row, "candidates", file, number)
    if right is not None and str(right) not in options:
        raise InputTableError(f"the answer {right!r} is none of {options}", f"{file}, row {number}")
    name = None if right is None else chr(ord("A") + options.index(str(right)))
    return "\n".join([asked, *lettered(options, "({}) {}"), ""]), name


MLVU = Benchmark(
    name="mlvu",
    title="MLVU",
    convert=convert,
    letters="ranked-of-four",
    categories=("category",),
    max_new_tokens=16,
    counted="The mean over the seven tasks, however many questions each has.",
)
