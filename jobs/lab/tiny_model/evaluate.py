"""Ask a model directory about held-out clips, written as h264 files and decoded by the pipeline.

python -m jobs.lab.tiny_model.evaluate MODEL_DIR [--questions 2000] [--dtype float32]
"""

import argparse
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from flashvid.models import GenerationConfig, VideoModel, load_model
from jobs.lab.tiny_model.clips import held_out_clips
from jobs.lab.tiny_model.drawn_questions import OPEN_FAMILIES, Question
from jobs.lab.tiny_model.rendering import write_clip
from jobs.lab.tiny_model.scenes import Scene
from pipeline.clip import DecodedClip
from pipeline.config import SamplingConfig
from pipeline.video.clip_frames import decode_clip

# Far from the clips on which training reports its progress.
_FIRST_CLIP = 1_000_000
_QUESTIONS_PER_CLIP = 8
_LENGTHS: Mapping[int, float] = {2: 0.04, 3: 0.06, 4: 0.15, 6: 0.2, 8: 0.3, 12: 0.15, 16: 0.1}
_LONGEST_ANSWER = 40


@dataclass(frozen=True)
class Verdict:
    """A question, its answer, and whether that is right.

    Attributes:
        question: With the right answer.
        steps: Length of its clip.
        response: The model's response.
        exact: Whether it is exactly the right answer.
        first: Whether it begins with the right answer.
    """

    question: Question
    steps: int
    response: str
    exact: bool
    first: bool


def judge(question: Question, steps: int, response: str) -> Verdict:
    """Compare a response with the right answer."""
    follows = response[len(question.answer) :]
    first = response.startswith(question.answer) and not follows[:1].isalnum()
    return Verdict(question, steps, response, response == question.answer, first)


def through_file(scene: Scene, path: Path) -> DecodedClip:
    """Write a scene's clip as a file and decode it as the pipeline does."""
    write_clip(path, scene)
    return decode_clip(str(path), SamplingConfig(num_frames=scene.num_frames), None, None)


def evaluate(model: VideoModel, num_questions: int) -> list[Verdict]:
    """Ask about held-out clips with full tokens."""
    verdicts = []
    number = -(-num_questions // _QUESTIONS_PER_CLIP)
    clips = held_out_clips(number, first_clip=_FIRST_CLIP, lengths=_LENGTHS)
    with TemporaryDirectory(prefix="tiny-model-") as folder:
        for scene, questions in clips:
            clip = through_file(scene, Path(folder) / "clip.mp4")
            video = model.compress(model.encode(clip.frames, clip.frame_timestamps), None)
            generation = GenerationConfig(max_new_tokens=_LONGEST_ANSWER)
            answers = model.answer(video, [question.text for question in questions], generation)
            for question, answer in zip(questions, answers, strict=True):
                verdicts.append(judge(question, scene.steps, answer.response))
    return verdicts


def report(verdicts: list[Verdict]) -> dict[str, dict[str, float]]:
    """Return exact and first-answer accuracy per family, over the open families, and per length."""
    rows: dict[str, list[Verdict]] = {"open families": []}
    for verdict in verdicts:
        family = verdict.question.family
        rows.setdefault(family, []).append(verdict)
        if family in OPEN_FAMILIES:
            rows["open families"].append(verdict)
            rows.setdefault(f"{verdict.steps} steps", []).append(verdict)
    return {
        name: {
            "n": len(row),
            "exact": round(float(np.mean([verdict.exact for verdict in row])), 4),
            "first": round(float(np.mean([verdict.first for verdict in row])), 4),
        }
        for name, row in rows.items()
    }


def main() -> None:
    """Print the table, and the most frequent mistakes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", help="directory or embedded name")
    parser.add_argument("--questions", type=int, default=2000)
    parser.add_argument("--dtype", default=None, help="float32 or bfloat16; that of the checkpoint when omitted")
    parser.add_argument("--output", type=Path, default=None, help="a JSON file for the table")
    options = parser.parse_args()
    verdicts = evaluate(load_model(options.model, dtype=options.dtype), options.questions)
    table = report(verdicts)
    for name, row in table.items():
        print(f"{name:14} n {row['n']:5}  exact {row['exact']:.3f}  first {row['first']:.3f}")
    wrong = Counter(
        (verdict.question.family, verdict.question.answer, verdict.response)
        for verdict in verdicts
        if not verdict.exact
    )
    for (family, answer, response), times in wrong.most_common(12):
        print(f"{times:4} x {family}: {answer!r} answered {response!r}")
    if options.output is not None:
        options.output.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
