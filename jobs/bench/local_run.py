"""`flashvid bench pipeline`: a run on this machine, stage by stage."""

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from jobs.bench.reports import describe_environment, markdown_table, publish
from jobs.demo import CLIPS
from pipeline.config import JobConfig
from pipeline.run.run import run
from pipeline.run.summary import RunSummary

QUESTIONS = ("What is it?", "When is it?", "Who has it?", "Why is it?")
NUM_FRAMES = 16
_CLIPS, _QUICK_CLIPS = 48, 5

# Measures more for our own claims; returns text for the report.
Study = Callable[[], str]


def bench_run(
    output: Path | None = None, *, quick: bool = False, clips: int | None = None, study: Study | None = None
) -> RunSummary:
    """Run a job on the demo's clips, print what each stage took, and write `pipeline.md` and `pipeline.csv`.

    Args:
        output: A folder, created if it is missing; None writes nothing.
        quick: Few clips, to see that the measurement works; its figures mean little.
        clips: Number of clips; None for the default.
        study: What else to measure.
    """
    with TemporaryDirectory(prefix="flashvid-bench-") as name:
        folder = Path(name)
        (folder / "videos").mkdir()
        samples = sorted(CLIPS.glob("*.mp4"))
        for number in range(clips or (_QUICK_CLIPS if quick else _CLIPS)):
            shutil.copyfile(samples[number % len(samples)], folder / "videos" / f"{number:04d}.mp4")
        places = {"videos": str(folder / "videos"), "questions": QUESTIONS, "output": str(folder / "output")}
        settings = {"sampling": {"num_frames": NUM_FRAMES}, "generation": {"max_new_tokens": 8}}
        summary = run(JobConfig.model_validate({**places, **settings, "model": {"name": "tiny"}}))
    actors = Counter(worker.stage for worker in summary.workers)
    seconds = {stage: total / summary.clips_planned for stage, total in summary.stage_seconds.items()}
    busy = {stage: total / actors[stage] / summary.seconds for stage, total in summary.stage_seconds.items()}
    lines = (f"{stage} | {actors[stage]} | {seconds[stage]:.3f} | {busy[stage]:.0%}" for stage in seconds)
    text = (
        f"# A run on this machine\n\n{describe_environment()}.\n\n{summary.clips_planned} clips of {NUM_FRAMES} "
        f"frames, {len(QUESTIONS)} questions each, with the embedded model `tiny`: {summary.seconds:.1f} s, including "
        f"the start of Ray and its actors.\n\n"
    )
    text += markdown_table("stage | actors | seconds per clip | busy", lines)
    figures = {"clips": summary.clips_planned, "answers": summary.answers_new, "seconds": summary.seconds}
    figures |= {f"{stage}_seconds_per_clip": each for stage, each in seconds.items()}
    if study is not None:
        text += f"\n{study()}"
    rows = [{"figure": figure, "value": value} for figure, value in figures.items()]
    publish(output, "pipeline", text, rows)
    return summary
