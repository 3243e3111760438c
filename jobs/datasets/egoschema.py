"""EgoSchema: 5,031 clips of three minutes, a question of five options each (arXiv 2308.09126).

Annotations: questions.json of the authors (q_uid, question, "option 0" to "option 4"), with subset_answers.json beside
it for the 500 whose answers are public; or the Parquet file of the data set `lmms-lab/egoschema` (video_idx, question,
option with letters, answer). Rules: tasks/egoschema/utils.py and egoschema.yaml.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from jobs.datasets.annotations import letter, read_json, read_rows, text, texts, value
from jobs.datasets.converter import Benchmark, Source, Tables, literal

_NUM_OPTIONS = 5
_ANSWERS = "subset_answers.json"


def convert(source: Source) -> Tables:
    """Rows of both tables; questions whose answer is not public have none."""
    file = source.annotations / "questions.json" if source.annotations.is_dir() else source.annotations
    public = file.parent / _ANSWERS
    answers: dict[str, Any] = read_json(public) if public.exists() else {}
    videos, questions = [], []
    for number, row in enumerate(read_rows(file), 1):
        name = str(row.get("video_idx") or value(row, "q_uid", file, number))
        right = row.get("answer", answers.get(name))
        videos.append({"video_id": name, "video_path": str(source.videos / f"{name}.mp4")})
        questions.append(
            {
                "question_id": name,
                "question": literal(text(row, "question", file, number)),
                # The pipeline's own prompt: letters, and the request for one.
                "options": _options(row, file, number),
                "answer": None if right in (None, "", "None") else letter(right, _NUM_OPTIONS, file, number),
                "video_id": name,
            }
        )
    return Tables(tuple(videos), tuple(questions))


def _options(row: dict[str, Any], file: Path, number: int) -> list[str]:
    if row.get("option"):
        # "A. ...": the letter is the prompt's to write.
        return [re.sub(r"^[A-E]\. ?", "", option) for option in texts(row, "option", file, number)]
    return [text(row, f"option {index}", file, number) for index in range(_NUM_OPTIONS)]


EGOSCHEMA = Benchmark(
    name="egoschema",
    title="EgoSchema",
    convert=convert,
    letters="earliest",
    categories=(),
    max_new_tokens=16,
    counted="The share of right answers. The published numbers are of all 5,031, which only the authors' server "
    "counts; here it is of the 500 public ones.",
)
