"""Names that other people's programs import: they stay importable, wherever the code behind them moves."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

import pytest

import flashvid
import flashvid.models

# As build 780b831 had them; there may be more.
EXPORTED: Mapping[str, frozenset[str]] = {
    "flashvid": frozenset({
        "CompressionConfig", "CompressionResult", "ConfigurationError", "FatalError", "FlashVidError",
        "InnerPruningConfig", "InvalidFeaturesError", "ModelLoadError", "PermanentError", "TransientError", "compress",
        "compress_stream",
    }),
    "flashvid.models": frozenset({
        "Answer", "ClipQuestions", "CompressedVideo", "FramePreprocessor", "GenerationConfig", "ModelSource",
        "ScoredText", "VideoModel", "VisualFeatures", "check_answering", "load_model", "load_preprocessor",
        "resolve_model",
    }),
}  # fmt: skip
IMPORTABLE: Mapping[str, frozenset[str]] = {
    **EXPORTED,
    "flashvid.config": frozenset({"CompressionConfig", "InnerPruningConfig"}),
    "flashvid.methods": frozenset({"METHODS"}),
    "flashvid.methods.method": frozenset({
        "CompressionMethod", "first_of_each_frame", "frame_budgets", "keep", "merge_into",
    }),
    "flashvid.presets": frozenset({"FASTV_PRUNING", "PRESETS", "Preset", "preset_named"}),
    "flashvid.quantisation": frozenset({"QuantisedTokens", "quantise"}),
    "flashvid.result": frozenset({"ClipFeatures", "CompressionResult", "Rows", "assemble", "widened"}),
    "flashvid.streaming": frozenset({"StreamedSegment", "compress_stream", "joined"}),
}  # fmt: skip
METHODS = frozenset({
    "adts", "attention_topk", "fastv", "fastvid", "flashvid", "random", "spatial_pooling", "tome", "tstm",
    "uniform_frames", "vidcom2", "visionzip",
})  # fmt: skip
PRESETS = frozenset({"llava_onevision", "llava_video", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_4b", "tiny"})


@pytest.mark.parametrize(("module", "name"), [(module, name) for module, names in IMPORTABLE.items() for name in names])
def test_a_name_can_be_imported(module: str, name: str) -> None:
    """`from module import name`, as other programs have it."""
    assert getattr(import_module(module), name) is not None


@pytest.mark.parametrize(
    ("module", "exported"), [("flashvid", flashvid.__all__), ("flashvid.models", flashvid.models.__all__)]
)
def test_all_lists_exactly_the_public_names(module: str, exported: list[str]) -> None:
    """A new public name is a decision, and is written down here; the lists are sorted."""
    assert frozenset(exported) == EXPORTED[module]
    assert exported == sorted(exported)


def test_one_name_is_one_object() -> None:
    """What is exported twice is the same class or function: `isinstance` and pickles work across both."""
    for one, other, names in (
        ("flashvid", "flashvid.config", {"CompressionConfig", "InnerPruningConfig"}),
        ("flashvid", "flashvid.result", {"CompressionResult"}),
        ("flashvid", "flashvid.streaming", {"compress_stream"}),
    ):
        for name in names:
            assert getattr(import_module(one), name) is getattr(import_module(other), name)


def test_methods_and_presets_go_by_their_names() -> None:
    """Job files name them."""
    assert set(import_module("flashvid.methods").METHODS) >= METHODS
    assert set(import_module("flashvid.presets").PRESETS) >= PRESETS
