"""The paper's accuracies (arXiv 2602.08024, its main tables and the one with more frames), by model and setting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

_PAPER = "arXiv 2602.08024"
_COLUMNS = ("video_mme", "egoschema", "long_video_bench", "mvbench")
_MORE_FRAMES_COLUMNS = ("video_mme", "egoschema", "long_video_bench", "mlvu")
_ALL_TOKENS = 1.0


@dataclass(frozen=True)
class PaperModel:
    """How a model of the paper's tables was run.

    Attributes:
        title: As the paper writes it.
        hub_id: Where its weights are.
        num_frames: Of the main tables.
        pixels: Bounds of a frame's area, as the published demo sets them; the model's own when None.
    """

    title: str
    hub_id: str
    num_frames: int
    pixels: tuple[int, int] | None = None


# By the preset that holds the rest of their settings.
PAPER_MODELS: Mapping[str, PaperModel] = MappingProxyType(
    {
        "llava_onevision": PaperModel("LLaVA-OneVision-7B", "lmms-lab/llava-onevision-qwen2-7b-ov", 32),
        "llava_video": PaperModel("LLaVA-Video-7B", "lmms-lab/LLaVA-Video-7B-Qwen2", 64),
        "qwen2_5_vl": PaperModel("Qwen2.5-VL-7B", "Qwen/Qwen2.5-VL-7B-Instruct", 32, (64 * 28 * 28, 256 * 28 * 28)),
    }
)
# preset, num_frames, retention_ratio: accuracies in the order of the columns.
_MAIN: Mapping[tuple[str, int, float], tuple[float, ...]] = MappingProxyType(
    {
        ("llava_onevision", 32, _ALL_TOKENS): (58.5, 60.3, 56.6, 58.3),
        ("llava_onevision", 32, 0.25): (59.2, 60.4, 56.8, 58.0),
        ("llava_onevision", 32, 0.20): (58.2, 60.1, 58.5, 58.2),
        ("llava_onevision", 32, 0.15): (58.2, 60.4, 57.5, 57.9),
        ("llava_onevision", 32, 0.10): (57.8, 60.0, 56.5, 57.4),
        ("llava_video", 64, _ALL_TOKENS): (64.2, 57.3, 59.5, 61.9),
        ("llava_video", 64, 0.25): (62.4, 56.6, 59.1, 60.2),
        ("llava_video", 64, 0.20): (62.2, 56.4, 58.7, 59.8),
        ("llava_video", 64, 0.15): (61.8, 55.8, 58.3, 60.4),
        ("llava_video", 64, 0.10): (60.9, 54.9, 57.7, 59.3),
        ("qwen2_5_vl", 32, _ALL_TOKENS): (61.3, 58.3, 58.9, 68.0),
        ("qwen2_5_vl", 32, 0.25): (59.6, 57.2, 58.1, 67.1),
        ("qwen2_5_vl", 32, 0.20): (59.6, 56.8, 58.1, 66.5),
        ("qwen2_5_vl", 32, 0.15): (58.7, 56.4, 56.8, 66.6),
        ("qwen2_5_vl", 32, 0.10): (57.3, 55.9, 57.1, 65.5),
    }
)
_MORE_FRAMES: Mapping[tuple[str, int, float], tuple[float, ...]] = MappingProxyType(
    {
        ("qwen2_5_vl", 16, _ALL_TOKENS): (57.0, 55.6, 56.9, 40.6),
        ("qwen2_5_vl", 48, 1 / 3): (61.9, 57.8, 57.0, 45.1),
        ("qwen2_5_vl", 64, 0.25): (60.9, 58.4, 58.4, 45.0),
        ("qwen2_5_vl", 80, 0.20): (62.4, 58.6, 58.9, 45.0),
        ("qwen2_5_vl", 160, 0.10): (62.4, 59.5, 58.9, 47.5),
    }
)


@dataclass(frozen=True)
class PublishedNumber:
    """An accuracy of the paper.

    Attributes:
        shown: Whose it is.
        accuracy: In percent.
    """

    shown: str
    accuracy: float


def published_numbers(benchmark: str, job: Mapping[str, Any]) -> tuple[PublishedNumber, ...]:
    """The paper's numbers beside which a job's belong: with all tokens, and with FlashVID at its retention.

    Args:
        benchmark: Name of the benchmark.
        job: A `JobConfig` as it was recorded. Without one of the paper's presets there is nothing to compare.
    """
    preset, num_frames = job.get("preset"), job["sampling"]["num_frames"]
    retention = job["compression"]["retention_ratio"]
    found = []
    for columns, numbers in ((_COLUMNS, _MAIN), (_MORE_FRAMES_COLUMNS, _MORE_FRAMES)):
        for (model, frames, ratio), accuracies in numbers.items():
            of_all = ratio == _ALL_TOKENS
            if benchmark not in columns or model != preset:
                continue
            # The table with more frames compares all of its rows with 16 frames and all tokens.
            same_table = frames == num_frames or (
                of_all and numbers is _MORE_FRAMES and num_frames in (48, 64, 80, 160)
            )
            if same_table and (of_all or abs(ratio - retention) < 1e-3):
                tokens = "all tokens" if of_all else f"FlashVID at {ratio:.1%}"
                shown = f"published: {PAPER_MODELS[model].title}, {frames} frames, {tokens} ({_PAPER})"
                found.append(PublishedNumber(shown, accuracies[columns.index(benchmark)]))
    return tuple(found)
