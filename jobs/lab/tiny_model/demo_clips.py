"""The clips that the demo ships: `python -m jobs.lab.tiny_model.demo_clips jobs/examples/clips` writes them."""

import argparse
import csv
from pathlib import Path

from jobs.lab.tiny_model.clips import ClipQuestions, held_out_clips
from jobs.lab.tiny_model.drawn_questions import OPEN_FAMILIES
from jobs.lab.tiny_model.rendering import write_clip

# Clips that neither training nor any measurement has seen.
_FIRST_CLIP, _NUM_CLIPS, _QUESTIONS_PER_CLIP = 5_000_000, 5, 2
_STEPS = 8


def demo_clips() -> dict[str, ClipQuestions]:
    """Return scene and questions by file name."""
    clips = held_out_clips(_NUM_CLIPS, first_clip=_FIRST_CLIP, lengths={_STEPS: 1.0}, families=OPEN_FAMILIES)
    return {f"clip_{n}.mp4": (scene, asked[:_QUESTIONS_PER_CLIP]) for n, (scene, asked) in enumerate(clips, 1)}


def write_demo_clips(folder: Path) -> None:
    """Write the clips and `questions.csv` into a folder."""
    rows = [("video_id", "question", "answer")]
    for name, (scene, questions) in demo_clips().items():
        write_clip(folder / name, scene)
        rows += [(name, question.text, question.answer) for question in questions]
    with (folder / "questions.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the folder to write")
    write_demo_clips(parser.parse_args().folder)
