"""Resizing and patching of frames, against the source of transformers' video processor.

The processor can't be imported without torchvision, so its two pure functions are taken from its file.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import math
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from flashvid.errors import ConfigurationError, InvalidFeaturesError, ModelLoadError
from flashvid.models import load_preprocessor, resolve_model
from flashvid.models.frames import move_frames, normalize
from flashvid.models.qwen.qwen_preprocess import QwenFramePreprocessor

# Settings of the published Qwen2.5-VL models.
PUBLISHED = QwenFramePreprocessor(14, 2, 2, min_pixels=56 * 56, max_pixels=28 * 28 * 1280)


@cache
def theirs(name: str, family: str = "qwen2_vl") -> Callable[..., Any]:
    """Return a function of one of transformers' video processors."""
    package = importlib.util.find_spec("transformers")
    assert package is not None
    assert package.origin is not None
    file = Path(package.origin).parent / "models" / family / f"video_processing_{family}.py"
    found: list[ast.stmt] = [
        node
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name == name
    ]
    assert len(found) == 1
    scope: dict[str, Any] = {"math": math, "torch": torch}
    exec(compile(ast.Module(found, type_ignores=[]), str(file), "exec"), scope)  # noqa: S102 - our own dependency
    function: Callable[..., Any] = scope[name]
    return function


def noise(count: int, height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Return random frames uint8 `[count, height, width, 3]`."""
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


@settings(max_examples=300, deadline=None)
@given(
    height=st.integers(1, 4000),
    width=st.integers(1, 4000),
    side=st.sampled_from([16, 28, 32]),
    bounds=st.tuples(st.integers(1, 2000), st.integers(1, 2000)),
)
def test_target_size_is_transformers_smart_resize(height: int, width: int, side: int, bounds: tuple[int, int]) -> None:
    """Sizes agree for all frames and bounds, and both refuse the same frames."""
    low, high = (bound * side * side for bound in sorted(bounds))
    ours = QwenFramePreprocessor(side // 2, 2, 2, min_pixels=low, max_pixels=high)
    if max(height, width) > 200 * min(height, width):
        with pytest.raises(InvalidFeaturesError, match=f"{width} x {height}"):
            ours.target_size(height, width)
    else:
        expected = theirs("smart_resize")(height, width, factor=side, min_pixels=low, max_pixels=high)
        assert ours.target_size(height, width) == expected


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (720, 1280, (728, 1288)),  # rounded to multiples of 28
        (1080, 1920, (728, 1316)),  # above the upper bound
        (20, 30, (56, 84)),  # below the lower bound
        (42, 70, (56, 56)),  # halves go to even: 1.5 to 2, 2.5 to 2
        (448, 448, (448, 448)),
    ],
)
def test_target_size_by_hand(height: int, width: int, expected: tuple[int, int]) -> None:
    """Sizes computed by hand guard against an error in both implementations."""
    assert PUBLISHED.target_size(height, width) == expected


def test_resize_is_bicubic_with_antialiasing_on_bytes() -> None:
    """Frames match what torchvision calls for uint8; read-only and strided input is not changed."""
    frames = noise(3, 180, 2 * 317)[:, :, ::2]
    frames.flags.writeable = False
    before = frames.copy()
    resized = PUBLISHED.resize(frames)
    assert resized.shape == (3, *PUBLISHED.target_size(180, 317), 3)
    assert resized.dtype == np.uint8
    assert resized.flags.c_contiguous
    for frame, result in zip(frames, resized, strict=True):
        channels_first = torch.from_numpy(frame.copy()).permute(2, 0, 1).unsqueeze(0)
        expected = functional.interpolate(
            channels_first, size=result.shape[:2], mode="bicubic", antialias=True, align_corners=False
        )
        assert np.array_equal(result, expected[0].permute(1, 2, 0).numpy())
    assert np.array_equal(frames, before)


def test_frames_of_the_right_size_are_not_touched() -> None:
    """Frames that the decode actor resized pass the encode actor as the same array."""
    frames = noise(2, 56, 84)
    assert PUBLISHED.resize(frames) is frames
    resized = PUBLISHED.resize(noise(2, 123, 457))
    assert PUBLISHED.resize(resized) is resized


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_patches_are_transformers_own(count: int) -> None:
    """Pixels follow the processor's fused formula and its function; odd numbers of frames repeat the last one."""
    frames = noise(count, 56, 84)
    patches, grid_thw = PUBLISHED.patches(frames, torch.device("cpu"))
    mean = torch.tensor(PUBLISHED.image_mean) * 255
    std = torch.tensor(PUBLISHED.image_std) * 255
    video = ((torch.from_numpy(frames).float() - mean) / std).permute(0, 3, 1, 2).unsqueeze(0)
    expected, *grid = theirs("patchify")(None, video, patch_size=14, merge_size=2, temporal_patch_size=2)
    assert grid_thw == tuple(grid) == (math.ceil(count / 2), 4, 6)
    assert patches.dtype == torch.float32
    assert torch.equal(patches, expected[0])


def test_patches_by_hand() -> None:
    """The order is by tokens, by rows inside a token, and by channel, frame, row and column inside a patch."""
    frames = noise(2, 56, 84)
    patches, _ = PUBLISHED.patches(frames, torch.device("cpu"))
    # Token 1 of the second row of tokens is the 5th; its lower left patch is its 3rd: patch row 3, patch column 2.
    value = patches[4 * 4 + 2].reshape(3, 2, 14, 14)[1, 0, 5, 6]
    pixel = float(frames[0, 3 * 14 + 5, 2 * 14 + 6, 1])
    assert value == pytest.approx((pixel / 255 - PUBLISHED.image_mean[1]) / PUBLISHED.image_std[1], abs=1e-5)


def test_the_embedded_model_makes_a_small_grid_of_an_hd_frame() -> None:
    """The grid has 6 x 11 tokens of 16 pixels; the bound is 80 tokens."""
    assert load_preprocessor("tiny-random").target_size(720, 1280) == (96, 176)


def model_directory(folder: Path, **files: object) -> Path:
    """Copy the embedded model with other JSON files; None leaves a file out."""
    shutil.copytree(resolve_model("tiny-random").path, folder)
    (folder / "preprocessor_config.json").unlink()
    for name, content in files.items():
        if content is not None:
            (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, (128 * 28 * 28, 768 * 28 * 28)),
        ({"preprocessor_config": {"min_pixels": 3136, "max_pixels": 12845056}}, (3136, 12845056)),
        ({"preprocessor_config": {"size": {"shortest_edge": 100, "longest_edge": 9000}}}, (100, 9000)),
        (
            {
                "preprocessor_config": {"min_pixels": 1, "max_pixels": 2},
                "video_preprocessor_config": {"size": {"shortest_edge": 100, "longest_edge": 9000}},
            },
            (100, 9000),
        ),
    ],
)
def test_bounds_come_from_the_model(tmp_path: Path, files: dict[str, object], expected: tuple[int, int]) -> None:
    """The file for videos comes first, then the one for images, in either spelling, then transformers' defaults."""
    preprocessor = load_preprocessor(str(model_directory(tmp_path / "model", **files)))
    assert isinstance(preprocessor, QwenFramePreprocessor)
    assert (preprocessor.min_pixels, preprocessor.max_pixels) == expected
    assert (preprocessor.patch_size, preprocessor.merge_size, preprocessor.temporal_patch_size) == (8, 2, 2)


def test_given_bounds_replace_the_models() -> None:
    """Frames are resized to fit the bounds; bounds that exclude each other are refused."""
    small = load_preprocessor("tiny-random", min_pixels=16 * 16, max_pixels=4 * 16 * 16)
    assert small.target_size(720, 1280) == (16, 32)
    with pytest.raises(ConfigurationError, match=r"min_pixels \(99999\) is above max_pixels \(20480\)"):
        load_preprocessor("tiny-random", min_pixels=99999)


def test_other_means_are_used(tmp_path: Path) -> None:
    """Models that were trained on other statistics name them in their file."""
    settings = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.5, 1.0]}
    preprocessor = load_preprocessor(str(model_directory(tmp_path / "model", preprocessor_config=settings)))
    assert isinstance(preprocessor, QwenFramePreprocessor)
    white = np.full((2, 16, 16, 3), 255, dtype=np.uint8)
    patches, _ = preprocessor.patches(white, torch.device("cpu"))
    channels = patches.reshape(4, 3, 2 * 8 * 8)
    assert torch.allclose(channels[:, 0], torch.tensor(2.0))
    assert torch.allclose(channels[:, 1], torch.tensor(1.0))
    assert torch.allclose(channels[:, 2], torch.tensor(0.5))


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    """The error is not a traceback of the JSON parser."""
    folder = model_directory(tmp_path / "model")
    (folder / "preprocessor_config.json").write_text("{")
    with pytest.raises(ModelLoadError, match=r"preprocessor_config\.json can't be read"):
        load_preprocessor(str(folder))


def test_frames_move_without_being_shared() -> None:
    """Read-only frames of another process arrive unchanged, in memory of their own."""
    frames = noise(3, 8, 6)
    given = frames.copy()
    given.flags.writeable = False
    moved = move_frames(given, torch.device("cpu"))
    assert moved.is_contiguous()
    assert np.array_equal(moved.numpy(), frames)
    moved.zero_()
    assert np.array_equal(given, frames)


def test_normalised_frames_are_those_of_arithmetic() -> None:
    """Values match the processors' formula to the bit, with channels first in memory."""
    frames, mean, std = noise(3, 8, 6), PUBLISHED.image_mean, PUBLISHED.image_std
    pixels = torch.from_numpy(frames.transpose(0, 3, 1, 2).astype(np.float32))
    scaled = [torch.tensor(values).view(3, 1, 1) * 255 for values in (mean, std)]
    found = normalize(frames, torch.device("cpu"), mean, std)
    assert found.is_contiguous()
    assert torch.equal(found, (pixels - scaled[0]) / scaled[1])


class _Copies(TorchFunctionMode):
    """Records the bytes and numbers of the host that are copied to a device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function; functions that make tensors of numbers count as copies, whatever their device."""
        out = func(*args, **(kwargs or {}))
        if not isinstance(out, torch.Tensor):
            return out
        crosses = any(isinstance(one, torch.Tensor) and one.device != out.device for one in args)
        if crosses or func in (torch.tensor, torch.as_tensor, torch.asarray, torch.from_numpy):
            self.found.append(f"{func.__name__} {out.dtype}")
        return out


def test_only_bytes_are_moved_to_the_device() -> None:
    """Only frames are copied: copies of mean and deviation would make the CPU wait for a GPU."""
    with _Copies() as copies:
        normalize(noise(3, 8, 6), torch.device("meta"), PUBLISHED.image_mean, PUBLISHED.image_std)
    assert copies.found == ["to torch.uint8"]
