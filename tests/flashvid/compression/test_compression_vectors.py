"""The reference vectors, to the last index."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from flashvid import CompressionConfig, compress
from tests.oracles.reference import GOLDEN, Vector, load_edge_cases, load_vector, needs_reference, vector_paths
from tests.oracles.reference_vectors import CHECKS, Check, main

FILES = [pytest.param(check, path, id=path.stem) for prefix, check in CHECKS.items() for path in vector_paths(prefix)]


@needs_reference
def test_vectors_of_every_kind_are_there() -> None:
    assert all(vector_paths(prefix) for prefix in CHECKS)


@needs_reference
@pytest.mark.parametrize(("check", "path"), FILES)
def test_vector(check: Callable[[Vector], Check], path: Path) -> None:
    outcome = check(load_vector(path))
    assert outcome.passed, str(outcome)


@needs_reference
@pytest.mark.parametrize("tensor", ["kept_indices", "kept_tokens", "segment_lengths"])
def test_a_wrong_vector_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str], tensor: str) -> None:
    path = tmp_path / next(GOLDEN.glob("comp_08*")).name
    shutil.copyfile(next(GOLDEN.glob("comp_08*")), path)
    assert main([str(tmp_path)]) == 0
    metadata = {"json": json.dumps(load_vector(path).metadata)}
    tensors = load_file(path)
    tensors[tensor][0] += 1
    save_file(tensors, path, metadata)
    assert main([str(tmp_path)]) == 1
    assert "MISS" in capsys.readouterr().out


@needs_reference
def test_broken_and_unknown_files_are_misses_and_stop_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, fastv = next(GOLDEN.glob("comp_08*")), next(GOLDEN.glob("fastv_02*"))
    shutil.copyfile(good, tmp_path / "comp_98.safetensors")
    shutil.copyfile(good, tmp_path / "compress_01.safetensors")
    (tmp_path / "comp_00.safetensors").write_bytes(good.read_bytes()[:-100])
    (tmp_path / "dpcknn_00.safetensors").write_bytes(b"")
    (tmp_path / "qwen3_vl_plain.safetensors").write_bytes(b"")
    metadata = {"json": json.dumps(load_vector(good).metadata)}
    tensors = load_file(good)
    save_file(
        {name: tensors[name] for name in tensors if name != "kept_tokens"}, tmp_path / "comp_01.safetensors", metadata
    )
    tensors["kept_tokens"][0] = torch.nan
    save_file(tensors, tmp_path / "comp_02.safetensors", metadata)
    metadata = {"json": json.dumps(load_vector(fastv).metadata)}
    for name in ("out_cache_position", "out_position_ids"):
        tensors = load_file(fastv)
        tensors[name].view(-1)[0] += 1
        save_file(tensors, tmp_path / f"fastv_{name}.safetensors", metadata)
    masked = next(path for path in vector_paths("comp_") if load_vector(path).metadata["tier"] == "masked")
    tensors = load_file(masked)
    tensors["frame_stable"].zero_()
    save_file(tensors, tmp_path / "comp_03.safetensors", {"json": json.dumps(load_vector(masked).metadata)})
    assert main([str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("1 of 10 files agree")
    assert [line.split()[1] for line in lines if line.startswith("ok")] == ["comp_98"]


def test_nothing_to_check_is_a_failure(tmp_path: Path) -> None:
    assert main([str(tmp_path)]) == 1


def edge_features(num_frames: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    scene = torch.randn(64, 64, generator=generator)
    features = scene + 0.3 * torch.randn(num_frames, 64, 64, generator=generator)
    return features, torch.rand(num_frames, 64, generator=generator).softmax(dim=-1)


def edge_case(name: str) -> dict[str, object]:
    return next(case for case in load_edge_cases() if case["name"] == name)


@needs_reference
@pytest.mark.parametrize(
    "name", ["all zeros", "identical tokens in frame", "one zero token", "one black frame", "one zero token v1"]
)
def test_zero_and_identical_features_repeat_as_in_the_reference(name: str) -> None:
    """The inputs of these cases are not published; the number of repeated indices does not depend on them."""
    case = edge_case(name)
    features, scores = edge_features()
    if name == "all zeros":
        features.zero_()
    elif name == "identical tokens in frame":
        features = features[:, :1].expand(8, 64, 64)
    elif name == "one black frame":
        features[3] = 0
    else:
        features[3, 17] = 0
    result = compress(features, scores, CompressionConfig(reference_compatible=True, **case["params"]))  # type: ignore[arg-type]
    assert len(result.indices) - len(set(result.indices.tolist())) == case["dup"]
    assert result.tokens.isfinite().all()


@needs_reference
@pytest.mark.parametrize(
    "name", ["r=1,exp=1 seg", "alpha=1.0", "alpha=0.0", "retention tiny", "thr=1.0 alpha=1", "1 frames", "2 frames"]
)
def test_edge_settings_keep_as_many_tokens_as_the_reference(name: str) -> None:
    case = edge_case(name)
    features, scores = edge_features(case["F"])  # type: ignore[arg-type]
    config = CompressionConfig(reference_compatible=True, **case["params"])  # type: ignore[arg-type]
    result = compress(features, scores, config)
    assert len(result.indices) == case["kept"]
    assert list(result.segment_lengths) == case["segs"]
    assert (config.n_select(64), config.n_merge(64)) == (case["nattn"], case["nsttm"])


@needs_reference
def test_a_transition_is_cut_twice_as_in_the_reference() -> None:
    case = edge_case("min_seg > frames with one natural cut")
    features, scores = edge_features(6)
    features[3:] = features[3:] - 2 * features.mean(dim=(0, 1))
    features[3] = features[3] + torch.linspace(-30, 30, 64)
    config = CompressionConfig(reference_compatible=True, **case["params"])  # type: ignore[arg-type]
    assert list(compress(features, scores, config).segment_lengths) == case["segs"]
