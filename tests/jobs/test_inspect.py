"""The picture of a clip: colours of single pixels by hand, numbers against the tokens table, refusals by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from flashvid.errors import ConfigurationError
from flashvid.models import CompressedVideo
from jobs.cli.main import app
from jobs.inspection import account, contact_sheet
from tests.support.outputs import make_output
from tests.support.runs import copy_videos, job, table

# Two steps of 2 x 2 tokens (a frame each, one patch a token). Slots: 0 is the tree of tokens 0, 1 and 4; 1 is token 7
# alone; tokens 2, 3, 5 and 6 are dropped.
SHAPE: dict[str, Any] = {"grid_thw": (2, 2, 2), "frame_timestamps": np.array([0.5, 1.5]), "segment_lengths": (1, 1)}
VIDEO = CompressedVideo(
    tokens=torch.zeros(2, 3),
    indices=torch.tensor([0, 7]),
    assignment=torch.tensor([0, 0, -1, -1, 0, -1, -1, 1]),
    **SHAPE,
)
GREY = 200
CELL, TOP, GAP = 24, 3 * 18 + 18, 12


def test_the_account_by_hand() -> None:
    """Of each step, and of the whole."""
    found = account(VIDEO)
    assert [(step.start_s, step.segment, step.kept, step.merged, step.dropped) for step in found.steps] == [
        (0.5, 0, 1, 1, 2),
        (1.5, 1, 1, 1, 2),
    ]
    assert (found.rows, found.columns, found.kept, found.total) == (2, 2, 2, 8)
    assert (found.trees, found.largest_tree) == (1, 3)


def test_colours_by_hand() -> None:
    """The middle of each cell: a tree has one colour in all steps, a token by itself none, what is dropped is dark."""
    frames = np.full((2, 10, 10, 3), GREY, np.uint8)
    before = frames.copy()
    pixels = np.asarray(contact_sheet(frames, VIDEO, "a\n[title] \u2603"))
    assert (frames == before).all()

    def middle(step: int, place: int) -> tuple[int, ...]:
        left = GAP + step * (2 * CELL + GAP) + place % 2 * CELL
        return tuple(pixels[TOP + place // 2 * CELL + CELL // 2, left + CELL // 2])

    tree = middle(0, 0)
    assert tree == middle(0, 1) == middle(1, 0)
    assert tree != (GREY, GREY, GREY)
    assert middle(1, 3) == (GREY, GREY, GREY)
    assert middle(0, 2) == middle(0, 3) == middle(1, 1) == (GREY // 4, GREY // 4, GREY // 4)
    # Kept tokens have a frame, the others none.
    frame = (255, 212, 0)
    assert tuple(pixels[TOP, GAP + CELL // 2]) == frame
    assert tuple(pixels[TOP, GAP + CELL + CELL // 2]) == tree
    # One of the steps only, where that many are asked for.
    assert (
        contact_sheet(frames, VIDEO, "t", max_steps=1).height
        < contact_sheet(frames, VIDEO, "t", sheet_columns=1).height
    )


def test_a_clip_of_which_nothing_was_kept() -> None:
    """Every token is dark, and counted as dropped."""
    empty = CompressedVideo(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), torch.full((8,), -1), **SHAPE)
    pixels = np.asarray(contact_sheet(np.full((2, 10, 10, 3), GREY, np.uint8), empty, "t"))
    assert (pixels[TOP : TOP + 2 * CELL, GAP : GAP + 2 * CELL] == GREY // 4).all()
    found = account(empty)
    assert ([step.dropped for step in found.steps], found.kept, found.trees, found.largest_tree) == ([4, 4], 0, 0, 0)


def inspect(*arguments: str | Path) -> Result:
    """Run the command."""
    return CliRunner().invoke(app, ["inspect", *map(str, arguments)])


@pytest.fixture
def finished(sample_videos: Path, tmp_path: Path) -> Path:
    """The folder of a run over one video."""
    copy_videos(sample_videos, tmp_path, ["moving_red_disc.mp4"])
    make_output(job(tmp_path))
    return tmp_path


def test_a_clip_of_a_run(finished: Path) -> None:
    """The picture is there, the numbers are the tokens table's; the file may have moved."""
    picture = finished / "clip.png"
    done = inspect(finished / "output", "moving_red_disc.mp4", "--to", picture, "--json")
    assert done.exception is None, done.exception
    found: dict[str, Any] = json.loads(done.stdout)
    (row,) = table(finished / "output", "tokens")
    assert (found["kept"], found["total"], found["clip_id"]) == (
        row["num_tokens"],
        len(row["assignment"]),
        row["clip_id"],
    )
    assert sum(step["dropped"] for step in found["steps"]) == sum(slot == -1 for slot in row["assignment"])
    assert found["segment_lengths"] == row["segment_lengths"]
    with Image.open(picture) as image:
        assert image.size[0] >= found["columns"] * CELL
    video = finished / "videos" / "moving_red_disc.mp4"
    moved = video.rename(finished / "moved.mp4")
    assert "--video-path" in str(inspect(finished / "output", "moving_red_disc.mp4").exception)
    assert inspect(finished / "output", video.name, "--video-path", moved, "--to", picture).exit_code == 0


def test_what_can_not_be_shown_is_refused_by_name(finished: Path, tmp_path: Path) -> None:
    """An unknown video with the nearest known, another clip, a place that can't be written to, tokens that are gone."""
    output = finished / "output"

    def refusal(*arguments: str | Path) -> str:
        done = inspect(output, *arguments)
        assert isinstance(done.exception, ConfigurationError), done.exception
        return str(done.exception)

    assert "did you mean 'moving_red_disc.mp4'?" in refusal("moving_red_disk.mp4")
    assert "0 s to the end" in refusal("moving_red_disc.mp4", "--clip-id", "0")
    assert "can't be written" in refusal("moving_red_disc.mp4", "--to", tmp_path / "no" / "clip.png")
    for file in (output / "tokens").rglob("*.parquet"):
        file.unlink()
    assert "tokens are not there" in refusal("moving_red_disc.mp4")
