"""The paper's accuracies by model and setting: published.csv holds its main tables and the one with more frames."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

_ALL_TOKENS = 1.0
# The paper's table with more frames, and the frames of its rows.
_MORE_FRAMES, _FRAMES = "more frames", (48, 64, 80, 160)


@dataclass(frozen=True)
class PaperModel:
    """How a model of the paper's tables was run.

    Attributes:
        title: As the paper writes it.
        hub_id: Where its weights are.
        num_frames: Frames in the main tables.
        pixels: Bounds of a frame's area, as in the published demo; None for the model's own.
    """

    title: str
    hub_id: str
    num_frames: int
    pixels: tuple[int, int] | None = None


# By preset, which holds the rest of the settings.
PAPER_MODELS: Mapping[str, PaperModel] = {
    "llava_onevision": PaperModel("LLaVA-OneVision-7B", "lmms-lab/llava-onevision-qwen2-7b-ov", 32),
    "llava_video": PaperModel("LLaVA-Video-7B", "lmms-lab/LLaVA-Video-7B-Qwen2", 64),
    "qwen2_5_vl": PaperModel("Qwen2.5-VL-7B", "Qwen/Qwen2.5-VL-7B-Instruct", 32, (64 * 28 * 28, 256 * 28 * 28)),
}


@dataclass(frozen=True)
class PublishedNumber:
    """An accuracy of the paper.

    Attributes:
        shown: Source and setting, for a table.
        accuracy: In percent.
    """

    shown: str
    accuracy: float


def published_numbers(benchmark: str, job: Mapping[str, Any]) -> tuple[PublishedNumber, ...]:
    """Return the paper's numbers to compare a job with: with all tokens, and with FlashVID at its retention.

    Args:
        benchmark: Name of the benchmark.
        job: A `JobConfig` as it was recorded. Without one of the paper's presets there is nothing to compare with.
    """
    found = []
    with files("jobs.datasets").joinpath("published.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            frames, ratio = int(row["num_frames"]), float(row["retention_ratio"])
            if row["preset"] != job.get("preset") or not row[benchmark]:
                continue
            of_all, asked = ratio == _ALL_TOKENS, job["sampling"]["num_frames"]
            # The table with more frames compares all of its rows with 16 frames and all tokens.
            same_table = frames == asked or (of_all and row["table"] == _MORE_FRAMES and asked in _FRAMES)
            if same_table and (of_all or abs(ratio - job["compression"]["retention_ratio"]) < 1e-3):
                tokens = "all tokens" if of_all else f"FlashVID at {ratio:.1%}"
                title = PAPER_MODELS[row["preset"]].title
                shown = f"published: {title}, {frames} frames, {tokens} (arXiv 2602.08024)"
                found.append(PublishedNumber(shown, float(row[benchmark])))
    return tuple(found)
