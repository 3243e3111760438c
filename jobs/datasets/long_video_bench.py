"""LongVideoBench: videos up to an hour, 1,337 validation questions of two to five options (arXiv 2407.15754).

Annotations: lvb_val.json of the authors (video_id, video_path, question, candidates, correct_choice, question_category,
duration_group, id), or the Parquet file with option0 to option4. Rules: tasks/longvideobench/utils.py and
longvideobench_val_v.yaml, without subtitles: lmms-eval's variant with them puts each between two frames, where our
prompts can't have text. The line break after the prompt is left out.
"""

from typing import Any

from jobs.datasets.annotations import read_annotations
from jobs.datasets.converter import Source, Tables, question_row

# How lmms-eval computes its one number.
COUNTED = (
    "The share of right answers over all questions. lmms-eval draws an option where it finds none in a response; here "
    "such a response is wrong."
)


def convert(source: Source) -> Tables:
    """Return rows of both tables."""
    rows = []
    for row in read_annotations(source.annotations):
        path, right = row.text("video_path"), row.get("correct_choice")
        given: list[Any] = [row.get(f"option{index}") for index in range(5)]
        given = row.texts("candidates") if row.get("candidates") else given
        options = [str(option) for option in given if option not in (None, "N/A")]
        name = str(row.get("video_id") or path)
        video = {"video_id": name, "video_path": str(source.videos / path), "duration_group": row.get("duration_group")}
        # The test split's answers are not public, and are numbered -1.
        answer = None if right in (None, -1, "-1") else row.letter(right, len(options))
        # With options, the prompt is the pipeline's own: letters, and the request for one.
        asked, category = row.text("question"), row.get("question_category")
        rows.append((video, question_row(row.text("id"), name, asked, answer, category, options=options)))
    return Tables.of(rows)
