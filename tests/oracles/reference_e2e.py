"""Checks the language side against recorded runs through real model classes (`e2e/`): prompts, pruning, generation.

One `Check` per file, used by `python -m tests.oracles.reference_vectors DIR` for a folder laid out like `e2e/`, and by
tests.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from flashvid.config import InnerPruningConfig
from flashvid.engine.decoder import Decoder
from flashvid.engine.lm_input import QuestionSuffix, SharedPrefix
from flashvid.engine.types import LanguageSide
from flashvid.models import CompressedVideo, VideoModel, load_model, resolve_model
from tests.oracles.reference import Vector, vector_paths
from tests.support.prefilled import prefill_one

SUPPRESSED = 511  # the recorded runs never choose this token, so that each has 16 tokens
LOGITS_TOLERANCE = 1e-3


@lru_cache(maxsize=4)
def qwen2_5_vl_model(folder: Path) -> VideoModel:
    """Load the reference's model with the tokenizer of the embedded model; prompts are given as ids."""
    with TemporaryDirectory() as made:
        target = Path(made) / "model"
        shutil.copytree(resolve_model("tiny-random").path, target)
        config = json.loads((folder / "qwen2_5_vl_config.json").read_text())
        config["architectures"] = ["Qwen2_5_VLForConditionalGeneration"]
        (target / "config.json").write_text(json.dumps(config))
        shutil.copyfile(folder / "qwen2_5_vl_weights.safetensors", target / "model.safetensors")
        # Read into memory, not mapped from a file that will be deleted.
        return load_model(str(target), device="cpu", dtype="float32")


@dataclass(frozen=True, eq=False)
class Run:
    """The engine's results for one prompt.

    Attributes:
        prefix: The prompt up to its last visual token.
        suffix: The rest of the prompt.
        kept: Positions of the prompt that reached the last layer.
        logits: `[16, V]`.
        ids: 16 generated tokens.
        cache_lengths: Cached tokens per layer afterwards.
    """

    prefix: SharedPrefix
    suffix: QuestionSuffix
    kept: Tensor
    logits: Tensor
    ids: list[int]
    cache_lengths: list[int]


def run_prompt(
    language: LanguageSide,
    before: tuple[int, ...],
    after: tuple[int, ...],
    compressed: CompressedVideo,
    pruning: InnerPruningConfig | None,
) -> Run:
    """Generate 16 tokens greedily, without the token that the reference suppresses."""
    prefix, suffix = language.prefix(before, compressed), language.suffix(before, after, compressed)
    return run_parts(language.decoder, prefix, suffix, pruning)


def run_parts(
    decoder: Decoder, prefix: SharedPrefix, suffix: QuestionSuffix, pruning: InnerPruningConfig | None
) -> Run:
    """Do the same as `run_prompt` for a prompt that is already laid out."""
    slots, prefilled = prefill_one(decoder, prefix, suffix, pruning)
    rows, ids = [prefilled.logits], [greedy(prefilled.logits)]
    while len(ids) < 16:
        position = suffix.next_position + len(ids) - 1
        rows.append(decoder.step([ids[-1]], [position], [slots])[0])
        ids.append(greedy(rows[-1]))
    return Run(prefix, suffix, prefilled.kept, torch.stack(rows), ids, list(*slots.lengths))


def logits_error(run: Run, expected: dict[str, Tensor]) -> float:
    """Return the largest absolute difference of a logit over 16 steps, without the suppressed token."""
    others = torch.arange(run.logits.shape[1]) != SUPPRESSED
    return float((run.logits - expected["logits"])[:, others].abs().max())


def compare_run(run: Run, expected: dict[str, Tensor]) -> str | None:
    """Return what differs from the reference in the generation; None if nothing does."""
    error = logits_error(run, expected)
    if run.ids != expected["generated_ids"].tolist():
        return f"generated {run.ids}"
    if not error <= LOGITS_TOLERANCE:
        return f"logits differ by {error:.1e}"
    if run.cache_lengths != expected["cache_lengths"].tolist():
        return f"cache lengths {run.cache_lengths}, not {expected['cache_lengths'].tolist()}"
    return None


def compare_inputs(run: Run, expected: dict[str, Tensor]) -> str | None:
    """Return what differs from the reference in the decoder's input or the inner pruning; None if nothing does."""
    positions = torch.cat([run.prefix.positions, run.suffix.positions], dim=1)
    # Apart from the text row, the last rows are those used for rotation.
    wanted = expected["lm_position_ids"].reshape(-1, positions.shape[1])[-len(positions) :]
    if not torch.equal(positions, wanted):
        return "positions differ"
    if "lm_inputs_embeds" in expected:
        embeddings = expected["lm_inputs_embeds"][0]
        if len(embeddings) != positions.shape[1]:
            return f"{positions.shape[1]} tokens, not {len(embeddings)}"
        if not torch.equal(run.prefix.embeddings, embeddings[: len(run.prefix.embeddings)]):
            return "embeddings differ"
    if "inner_keep_indices" in expected:
        if run.kept.tolist() != expected["inner_keep_indices"].tolist():
            return "other tokens are kept inside the decoder"
        inner = expected["inner_position_ids"].reshape(-1, len(run.kept))[-len(positions) :]
        if not torch.equal(positions[:, run.kept], inner):
            return "positions after the pruning differ"
    return None


def qwen2_5_vl_run(folder: Path, vector: Vector) -> Run:
    """Run the reference's prompt through this language side, with the recorded compressed tokens if there are any."""
    inputs = load_file(folder / "qwen2_5_vl_inputs.safetensors")
    model = qwen2_5_vl_model(folder)
    ids = inputs["input_ids"][0]
    video = (ids == 501).nonzero().flatten()
    before, after = ids[: int(video[0])].tolist(), ids[int(video[-1]) + 1 :].tolist()
    steps, rows, columns = inputs["video_grid_thw"][0].tolist()
    # Timestamps whose mean distance equals the seconds per step of the recorded run.
    times = np.arange(2 * steps) * float(inputs["second_per_grid_ts"]) / 2
    pruning = None
    if "compressed_tokens" in vector.tensors:
        tokens, indices = vector.tensors["compressed_tokens"], vector.tensors["kept_indices"]
        pruning = InnerPruningConfig(
            pruning_layer=vector.params["pruning_layer"], llm_retention_ratio=vector.params["llm_retention_ratio"]
        )
    else:
        vision = model.vision
        found = vision.encode_patches(inputs["pixel_values_videos"], (steps, rows, columns))  # type: ignore[attr-defined]
        tokens, indices = found.features.flatten(0, 1), torch.arange(len(video))
    assignment = torch.full((len(video),), -1)
    compressed = CompressedVideo(tokens, indices, assignment, (steps, rows, columns), times, (steps,))
    return run_prompt(model.language, tuple(before), tuple(after), compressed, pruning)


def check_qwen2_5_vl(folder: Path, vector: Vector) -> tuple[str | None, float]:
    """Check the language side on one file: return what differs, or None, and the largest difference of a logit."""
    run = qwen2_5_vl_run(folder, vector)
    problem = compare_inputs(run, vector.tensors) or compare_run(run, vector.tensors)
    return problem, logits_error(run, vector.tensors)


# By prefix of the file names.
LANGUAGE_CHECKS: dict[str, Callable[[Path, Vector], tuple[str | None, float]]] = {"qwen2_5_vl": check_qwen2_5_vl}


def run_paths(family: str, folder: Path) -> list[Path]:
    """Return a family's files that record a run, without its inputs and weights."""
    return [path for path in vector_paths(f"{family}_", folder) if not path.stem.endswith(("_inputs", "_weights"))]


def greedy(logits: Tensor) -> int:
    allowed = logits.clone()
    allowed[SUPPRESSED] = -torch.inf
    return int(allowed.argmax())
