"""MLVU: videos of three minutes to two hours, seven multiple-choice tasks of the development set (arXiv 2406.04264).

Annotations: the folder json/ of the data set `MLVU/MVLU`, a file per task (1_plotQA.json: video, question, candidates,
answer, question_type; videos in video/1_plotQA/), or the Parquet file of `sy1998/MLVU_dev` (video_name, question with
its options, answer as a letter, task_type). Rules: tasks/mlvu/utils.py and mlvu_dev.yaml. The two tasks that ask for
free text have no candidates, and are left out, as lmms-eval does.
"""

from jobs.datasets.annotations import Annotation, files_of, read_annotations
from jobs.datasets.converter import Source, Tables, lettered, question_row

_CHOOSE = "\nOnly give the best option.\nBest option: ("
# How lmms-eval computes its one number.
COUNTED = "The mean over the seven tasks, however many questions each has."


def convert(source: Source) -> Tables:
    """Return rows of both tables; the category is the task."""
    rows, left_out = [], 0
    for file in [source.annotations] if source.annotations.suffix == ".parquet" else files_of(source.annotations):
        for row in read_annotations(file):
            if not row.get("candidates") and "task_type" not in row.fields:
                left_out += 1
                continue
            # In the authors' layout a task's videos are in a folder with the name of its file.
            name = str(row.get("video_name") or f"{file.stem}/{row.text('video')}")
            task = str(row.get("task_type") or row.text("question_type"))
            asked, right = _question(row)
            question_id = str(row.get("question_id") or f"{task}-{row.number}")
            question = question_row(question_id, name, asked + _CHOOSE, right, task)
            rows.append(({"video_id": name, "video_path": str(source.videos / name)}, question))
    return Tables.of(rows, left_out)


def _question(row: Annotation) -> tuple[str, str | None]:
    """Return the question with its options, one a line, and the right one's letter if it is public."""
    asked, right = row.text("question"), row.get("answer")
    if "task_type" in row.fields:
        # The question holds its options: lmms-eval looks for A to D.
        return asked, None if right is None else row.letter(right, len("ABCD"))
    options = row.texts("candidates")
    text = "\n".join([asked, *lettered(options), ""])
    return text, None if right is None else row.letter_of(right, options)
