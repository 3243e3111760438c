"""`flashvid demo`: the main job on sample videos, from files to answers beside the right ones."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
from pyarrow import csv
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jobs.cli.run_command import run_and_report
from jobs.job_file import load_job
from jobs.lab.tiny_model.clips import held_out_clips
from jobs.lab.tiny_model.drawn_questions import OPEN_FAMILIES
from jobs.lab.tiny_model.rendering import write_clip
from jobs.sample_videos import natural_clips

# Clips that neither training nor any measurement has seen.
_FIRST_CLIP, _NUM_CLIPS, _QUESTIONS_PER_CLIP = 5_000_000, 5, 2
_STEPS = 8
_NATURAL_QUESTION = "How many circles are there?"


def run_demo(output: Path, console: Console | None = None) -> None:
    """Write sample videos, their questions and the job file into a folder, run the job, show its answers.

    Running it again finds everything answered; deleting the folder starts over.

    Raises:
        FatalError: see `pipeline.run.run.run`.
    """
    console = console or Console()
    videos = write_samples(output)
    where = f"{len(videos)} sample videos in {output / 'videos'}, questions in {output / 'questions.csv'}"
    console.print(Text(where), soft_wrap=True)
    job_file = output / "job.yaml"
    job_file.write_text(files("jobs").joinpath("examples/demo.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    summary = run_and_report(load_job(job_file), console=console)
    answers = Path(summary.output) / "answers" / f"fingerprint={summary.answers_fingerprint}"
    rows = read_answers(answers)
    print_answers(console, rows)
    known = [row for row in rows if row["expected_answer"] is not None]
    right = sum(row["response"] == row["expected_answer"] for row in known)
    console.print(f"{right} of {len(known)} answers are right")
    where = f"the job file: {job_file}\nthe answers as Parquet: {answers}/shard=*/part-*.parquet"
    # Whole lines: paths are copied from here.
    console.print(Text(where), soft_wrap=True)


def write_samples(output: Path) -> list[Path]:
    """Write the sample videos that are not there yet, and the table of questions with their right answers.

    Returns:
        Paths of the videos.
    """
    (output / "videos").mkdir(parents=True, exist_ok=True)
    videos: list[Path] = []
    questions: list[dict[str, str | None]] = []
    clips = held_out_clips(_NUM_CLIPS, first_clip=_FIRST_CLIP, lengths={_STEPS: 1.0}, families=OPEN_FAMILIES)
    for number, (scene, asked) in enumerate(clips, start=1):
        video = output / "videos" / f"clip_{number}.mp4"
        if not video.exists():
            partial = video.with_suffix(".partial.mp4")
            write_clip(partial, scene)
            partial.rename(video)
        videos.append(video)
        questions += [
            {"video_id": video.name, "question": question.text, "answer": question.answer}
            for question in asked[:_QUESTIONS_PER_CLIP]
        ]
    for clip in natural_clips():
        video = output / "videos" / clip.name
        if not video.exists():
            shutil.copyfile(clip, video)
        videos.append(video)
        # Of a film the model knows nothing: its answer is shown, and not judged.
        questions.append({"video_id": video.name, "question": _NATURAL_QUESTION, "answer": None})
    csv.write_csv(pa.Table.from_pylist(questions), output / "questions.csv")
    return videos


def read_answers(folder: Path) -> list[dict[str, Any]]:
    """Committed answers, by video and question."""
    columns = ["video_id", "question", "expected_answer", "response", "num_visual_tokens"]
    rows = ds.dataset(folder, format="parquet").to_table(columns=columns).to_pylist()
    return sorted(rows, key=lambda row: (row["video_id"], row["question"]))


def print_answers(console: Console, rows: Sequence[Mapping[str, object]]) -> None:
    """Show answers beside the right ones."""
    table = Table(title="answers", title_justify="left")
    for heading in ("video", "question", "expected", "given", "", "tokens"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        expected, given = row["expected_answer"], row["response"]
        mark = "" if expected is None else "✓" if given == expected else "✗"
        texts = (row["video_id"], row["question"], "(not known)" if expected is None else expected, given)
        # Text, not markup: whatever a model says is shown, not interpreted.
        table.add_row(*(Text(str(text)) for text in texts), mark, str(row["num_visual_tokens"]))
    console.print(table)
