"""Checks whole runs of LLaVA-OneVision, LLaVA-Video and Qwen3-VL, from pixels to generated tokens.

`python -m tests.oracles.reference_vectors DIR` calls `check_vector`, where DIR is laid out like `e2e/`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from flashvid.config import CompressionConfig, InnerPruningConfig
from flashvid.engine.lm_input import QuestionSuffix, SharedPrefix
from flashvid.models import CompressedVideo, VideoModel, VisualFeatures, load_model, resolve_model
from flashvid.models.llava.language import LlavaLanguage
from flashvid.models.llava.vision import LlavaVision
from flashvid.models.qwen.qwen3_vl.language import question_suffix, shared_prefix
from flashvid.models.qwen.qwen3_vl.vision import Qwen3Vision
from tests.oracles.reference import Vector, load_vector
from tests.oracles.reference_e2e import compare_run, run_parts, run_paths

FAMILIES = ("llava_onevision", "llava_video", "qwen3_vl")
_IMAGE, _VIDEO, _MARKERS = -200, 501, frozenset({502, 503})


@dataclass(frozen=True)
class FamilyCheck:
    """The outcome of one vector file; `problems` is empty if it agrees."""

    name: str
    problems: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Return whether nothing differs."""
        return not self.problems

    def __str__(self) -> str:
        verdict = "ok  " if self.passed else "MISS"
        return f"{verdict} {self.name:<48} {'; '.join(self.problems) or 'everything agrees'}"


@dataclass(frozen=True, eq=False)
class FamilyCase:
    """A family's reference model and its recorded inputs."""

    family: str
    model: VideoModel
    inputs: dict[str, Tensor]

    def encode(self) -> VisualFeatures:
        """Encode the recorded pixels with this vision side."""
        vision = self.model.vision
        if isinstance(vision, LlavaVision):
            found = vision.encode_pictures(self.inputs["pixel_values"])
            side = round(found.features.shape[1] ** 0.5)
            grid = (len(found.features), side, side)
        else:
            assert isinstance(vision, Qwen3Vision)
            steps, rows, columns = self.inputs["video_grid_thw"][0].tolist()
            grid = (steps, rows, columns)
            found = vision.encode_patches(self.inputs["pixel_values_videos"], grid)
        deepstack = tuple(level.flatten(0, 1) for level in found.deepstack)
        return VisualFeatures(found.features, found.scores, grid, np.arange(grid[0], dtype=np.float64), deepstack)

    def prompt(self, compressed: CompressedVideo) -> tuple[SharedPrefix, QuestionSuffix]:
        """Lay out the recorded prompt around a video, without the markers that the reference drops."""
        language = self.model.language
        ids = self.inputs["input_ids"][0].tolist()
        if isinstance(language, LlavaLanguage):
            place = ids.index(_IMAGE)
            before, after = tuple(ids[:place]), tuple(ids[place + 1 :])
            return language.prefix(before, compressed), language.suffix(before, after, compressed)
        runs = [(is_video, tuple(run)) for is_video, run in groupby(ids, key=lambda token: token == _VIDEO)]
        texts = tuple(run for is_video, run in runs if not is_video)
        all_kept = len(compressed.tokens) == len(compressed.assignment)
        dropped = frozenset() if all_kept else _MARKERS
        prefix = shared_prefix(texts, compressed, 2, language.decoder.embed, dropped)
        return prefix, question_suffix(texts, compressed, 2, dropped)


def load_case(family: str, folder: Path, target: Path) -> FamilyCase:
    """Write a family's reference model to a directory, with the embedded model's tokenizer, and load it."""
    shutil.copytree(resolve_model("tiny-random").path, target)
    (target / "preprocessor_config.json").unlink()
    shutil.copyfile(folder / f"{family}_weights.safetensors", target / "model.safetensors")
    given = json.loads((folder / f"{family}_config.json").read_text())
    if family == "qwen3_vl":
        config = {"architectures": ["Qwen3VLForConditionalGeneration"], "model_type": "qwen3_vl", **given}
    else:
        head = {"architectures": ["LlavaQwenForCausalLM"], "model_type": "llava"}
        config = {**head, **given["text"], **given["llava"], "vision_config": given["vision"]}
    (target / "config.json").write_text(json.dumps(config))
    model = load_model(str(target), dtype="float32", device="cpu")
    return FamilyCase(family, model, load_file(folder / f"{family}_inputs.safetensors"))


def run_vectors(family: str, folder: Path) -> list[Vector]:
    """Return the family's runs, with and without compression."""
    return [load_vector(path) for path in run_paths(family, folder)]


def check_vector(case: FamilyCase, vector: Vector) -> FamilyCheck:
    """Check one run, from the recorded pixels to the generated tokens."""
    is_plain = "compressed_tokens" not in vector.tensors
    return FamilyCheck(vector.name, tuple((_plain_problems if is_plain else _problems)(case, vector)))


def _problems(case: FamilyCase, vector: Vector) -> Iterator[str]:
    from tests.oracles.reference_vectors import pair_repeats  # which imports this module

    expected = vector.tensors
    visual = case.encode()
    if not close(visual.features, expected["vision_features"], 1e-4):
        yield "features differ"
    # Scores are around 1 / N: compare relative to that.
    if not torch.allclose(visual.scores, expected["attention_scores"], rtol=1e-4, atol=1e-7):
        yield "scores differ"
    settings = {key: value for key, value in vector.params.items() if key in CompressionConfig.model_fields}
    compressed = case.model.compress(visual, CompressionConfig(**settings, reference_compatible=True))
    if compressed.indices.tolist() != expected["kept_indices"].tolist():
        yield "kept indices differ"
        return
    if list(compressed.segment_lengths) != expected["segment_lengths"].tolist():
        yield "segments differ"
    # The order of tokens with one index is not specified; later checks use that of the reference.
    paired = pair_repeats(compressed.indices, compressed.tokens, expected["compressed_tokens"])
    compressed = replace(compressed, tokens=paired)
    if not close(compressed.tokens, expected["compressed_tokens"], 1e-3):
        yield "compressed tokens differ"
    yield from _prompt_problems(case, compressed, vector)


def _prompt_problems(case: FamilyCase, compressed: CompressedVideo, vector: Vector) -> Iterator[str]:
    expected = vector.tensors
    prefix, suffix = case.prompt(compressed)
    embeddings = torch.cat([prefix.embeddings, case.model.language.decoder.embed(suffix.ids)])
    if not close(embeddings, expected["lm_inputs_embeds"][0], 1e-3):
        yield "embeddings differ"
    rows = expected["lm_position_ids"].reshape(len(prefix.positions), -1)
    if not torch.equal(torch.cat([prefix.positions, suffix.positions], dim=1), rows):
        yield "positions differ"
    if "lm_visual_pos_masks" in expected:
        mask = torch.cat([prefix.is_visual, torch.zeros(len(suffix.ids), dtype=torch.bool)])
        if not torch.equal(mask, expected["lm_visual_pos_masks"][0]):
            yield "visual positions differ"
    for level, features in enumerate(prefix.deepstack):
        if not close(features, expected[f"lm_deepstack_{level}"], 1e-4):
            yield f"deepstack features {level} differ"
    pruning = InnerPruningConfig(
        pruning_layer=vector.params["pruning_layer"], llm_retention_ratio=vector.params["llm_retention_ratio"]
    )
    run = run_parts(case.model.language.decoder, prefix, suffix, pruning)
    if run.kept.tolist() != expected["inner_keep_indices"].tolist():
        yield "other tokens are kept inside the decoder"
    # Of several rows of positions, only the first is recorded.
    if not torch.equal(rows[:1, run.kept], expected["inner_position_ids"].reshape(1, -1)):
        yield "positions after the pruning differ"
    if problem := compare_run(run, expected):
        yield problem


def _plain_problems(case: FamilyCase, vector: Vector) -> Iterator[str]:
    compressed = case.model.compress(case.encode(), None)
    prefix, suffix = case.prompt(compressed)
    positions = torch.cat([prefix.positions, suffix.positions], dim=1)
    if not torch.equal(positions, vector.tensors["lm_position_ids"].reshape(len(positions), -1)):
        yield "positions differ"
    if problem := compare_run(run_parts(case.model.language.decoder, prefix, suffix, None), vector.tensors):
        yield problem


def close(got: Tensor, want: Tensor, tolerance: float) -> bool:
    """Return whether shapes are equal and values within a tolerance."""
    return got.shape == want.shape and torch.allclose(got, want, rtol=0, atol=tolerance)
