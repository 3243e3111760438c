"""The committed weights answer questions about held-out clips, through the whole pipeline."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import csv

from jobs.lab.tiny_model.clips import held_out_clips
from jobs.lab.tiny_model.drawn_questions import OPEN_FAMILIES
from jobs.lab.tiny_model.rendering import write_clip
from pipeline.config import JobConfig
from pipeline.run.run import run
from tests.support.runs import table

_FIRST_CLIP = 6_000_000
_CLIPS = 14
# Whoever always gave a family's most frequent answer would be right in three of ten.
_FLOOR = 0.8


@pytest.mark.usefixtures("ray_session")
@pytest.mark.slow
def test_a_hundred_held_out_questions(tmp_path: Path) -> None:
    """Decode, encode, compress to a quarter, commit, answer: accuracy that no random weights reach."""
    (tmp_path / "videos").mkdir()
    questions = []
    for number, (scene, asked) in enumerate(
        held_out_clips(_CLIPS, first_clip=_FIRST_CLIP, lengths={8: 1.0}, families=OPEN_FAMILIES)
    ):
        write_clip(tmp_path / "videos" / f"{number}.mp4", scene)
        questions += [{"video_id": f"{number}.mp4", "question": one.text, "answer": one.answer} for one in asked]
    csv.write_csv(pa.Table.from_pylist(questions), tmp_path / "questions.csv")
    job = JobConfig.model_validate(
        {
            "videos": str(tmp_path / "videos"),
            "questions": str(tmp_path / "questions.csv"),
            "output": str(tmp_path / "output"),
            "model": {"name": "tiny"},
            "sampling": {"num_frames": 16},
            "compression": {"retention_ratio": 0.25},
            "generation": {"max_new_tokens": 12},
        }
    )
    summary = run(job)
    assert summary.realised_retention == pytest.approx(0.25, abs=0.001)
    answers = table(tmp_path / "output", "answers")
    assert len(answers) >= 100
    right = sum(row["response"] == row["expected_answer"] for row in answers)
    assert right >= _FLOOR * len(answers), f"{right} of {len(answers)}"
