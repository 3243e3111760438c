"""EgoSchema: 5,031 clips of three minutes, a question of five options each (arXiv 2308.09126).

Annotations: questions.json of the authors (q_uid, question, "option 0" to "option 4"), with subset_answers.json in
the same folder for the 500 whose answers are public; or the Parquet file of the data set `lmms-lab/egoschema`
(video_idx, question, option with letters, answer). Rules: tasks/egoschema/utils.py and egoschema.yaml.
"""

import re
from typing import Any

from jobs.datasets.annotations import read_annotations, read_json
from jobs.datasets.converter import Source, Tables, question_row

_NUM_OPTIONS = 5
# How lmms-eval computes its one number.
COUNTED = (
    "The share of right answers. The published numbers are of all 5,031, which only the authors' server counts; here "
    "it is of the 500 public ones."
)


def convert(source: Source) -> Tables:
    """Return rows of both tables; a question whose answer is not public has none."""
    file = source.annotations / "questions.json" if source.annotations.is_dir() else source.annotations
    public = file.parent / "subset_answers.json"
    answers: dict[str, Any] = read_json(public) if public.exists() else {}
    rows = []
    for row in read_annotations(file):
        name = str(row.get("video_idx") or row.value("q_uid"))
        right = row.fields.get("answer", answers.get(name))
        if row.get("option"):
            # "A. ...": the prompt writes the letter.
            options = [re.sub(r"^[A-E]\. ?", "", option) for option in row.texts("option")]
        else:
            options = [row.text(f"option {index}") for index in range(_NUM_OPTIONS)]
        answer = None if right in (None, "", "None") else row.letter(right, _NUM_OPTIONS)
        # With options, the prompt is the pipeline's own: letters, and the request for one.
        question = question_row(name, name, row.text("question"), answer, options=options)
        rows.append(({"video_id": name, "video_path": str(source.videos / f"{name}.mp4")}, question))
    return Tables.of(rows)
