"""Golden results behind `fingerprint.VERSIONS`: code that changes results must change their fingerprint, too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from flashvid import CompressionConfig, compress
from flashvid.models import GenerationConfig, load_preprocessor, resolve_model
from flashvid.models.chat import ChatPrompt
from jobs.lab.sample_videos import write_video
from pipeline.config import SamplingConfig
from pipeline.inputs.prompts import question_prompt
from pipeline.store.fingerprint import VERSIONS
from pipeline.video.clip_frames import decode_clip

# The versions that the golden results below belong to.
GOLDEN_VERSIONS = {"decode": 2, "preprocess": 1, "compression": 3, "prompt": 2}

RESIZED_SHAPE = (2, 48, 96, 3)
RESIZED_COARSE = [
    [[60.0, 44.0, 90.2], [60.0, 134.0, 90.6], [185.0, 44.0, 90.4], [185.0, 134.0, 90.2]],
    [[90.2, 44.0, 60.0], [90.6, 134.0, 60.0], [90.4, 44.0, 185.0], [90.2, 134.0, 185.0]],
]
RESIZED_WEAVE = [70, 98, 125, 161, 159, 18, 25, 57]
PATCH_GRID = (1, 6, 12)
PATCH_MEANS = [-1.125, -1.048, -0.924, -0.845, -0.975, -0.895]
PATCH_PARTS = [-1.524, -0.487, -1.655, -1.655, -0.209, -1.219]
KEPT = [
    0, 3, 5, 10, 16, 18, 20, 24, 27, 29, 34, 45, 53, 55, 59, 66, 67, 69, 75, 77, 79, 83, 90, 91, 103, 104,
    106, 107, 114, 116, 120, 123, 129, 135, 138, 139, 144, 146, 147, 149, 153, 154, 175, 178, 179, 186, 187,
    189, 194, 200, 202, 209, 210, 212, 213, 214, 218, 220, 226, 227, 232, 242, 244, 246, 250, 256, 258, 265,
    266, 269, 272, 280, 284, 290, 293, 296, 298, 304, 308, 314, 319, 322, 328, 330, 340, 342, 347, 348, 354,
    361, 365, 368, 369, 371, 378, 380,
]  # fmt: skip
SEGMENTS = (2, 1, 1, 1, 1, 1, 1, 8)
# Of the first 24; the short ones are means of several tokens.
NORMS = [
    3.946, 1.076, 2.977, 3.995, 3.1, 3.701, 0.769, 1.076, 2.919, 2.518, 3.993, 3.179, 2.948, 0.954, 1.114,
    3.657, 3.477, 2.369, 3.015, 2.805, 2.118, 0.584, 3.459, 3.644,
]  # fmt: skip
ASSIGNED = 384
PROMPT_LENGTHS = (45, 107)


def changed(name: str) -> str:
    """What to do when a golden test fails."""
    return f"the behaviour of {name!r} changed: bump VERSIONS[{name!r}] and the golden result here together"


def coarse(frames: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Mean colour of each quarter of each frame, `[F, 4, 3]`."""
    height, width = frames.shape[1] // 2, frames.shape[2] // 2
    quarters = [frames[:, y : y + height, x : x + width] for y in (0, height) for x in (0, width)]
    return np.stack([quarter.mean(axis=(1, 2)) for quarter in quarters], axis=1)


@pytest.mark.parametrize("name", VERSIONS)
def test_the_golden_results_are_those_of_the_current_versions(name: str) -> None:
    """A version without a golden result, or a golden result of an older version, guards nothing."""
    assert VERSIONS[name] == GOLDEN_VERSIONS[name], changed(name)


def test_decode(tmp_path: Path) -> None:
    """Which frames are taken, when they are, and what colours they have."""
    path = tmp_path / "clip.mp4"
    images = [np.zeros((64, 96, 3), dtype=np.uint8) for _ in range(23)]
    for index, image in enumerate(images):
        image[:32, :48] = (200, 40, 10 * index)
        image[:32, 48:] = (10 * index, 200, 40)
        image[32:, :48] = (40, 10 * index, 200)
        image[32:, 48:] = 5 * index
    write_video(path, iter(images), fps=10)
    decoded = decode_clip(str(path), SamplingConfig(num_frames=5), None, None)
    np.testing.assert_allclose(
        decoded.frame_timestamps, [0.0, 0.5, 1.1, 1.6, 2.2], atol=1e-3, err_msg=changed("decode")
    )
    # The drawn colours of frames 0, 5, 11, 16 and 22, within what h264 does to them.
    golden = [
        [[200, 40, 10 * i], [10 * i, 200, 40], [40, 10 * i, 200], [5 * i, 5 * i, 5 * i]] for i in (0, 5, 11, 16, 22)
    ]
    np.testing.assert_allclose(coarse(decoded.frames), golden, atol=5, err_msg=changed("decode"))
    stepped = decode_clip(str(path), SamplingConfig(fps=2.0, max_frames=4), 0.25, 2.0)
    np.testing.assert_allclose(stepped.frame_timestamps, [0.3, 0.8, 1.3, 1.8], atol=1e-3, err_msg=changed("decode"))


def test_preprocess() -> None:
    """Target size, resized pixels and the order of the patches."""
    rows, columns = np.mgrid[:50, :90]
    planes = [rows * 5, columns * 2, (rows + columns) % 7 * 30]
    frames = np.stack([np.stack(planes, axis=-1), np.stack(planes[::-1], axis=-1)]).astype(np.uint8)
    preprocessor = load_preprocessor("tiny-random")
    resized = preprocessor.resize(frames)
    assert resized.shape == RESIZED_SHAPE, changed("preprocess")
    np.testing.assert_allclose(coarse(resized), RESIZED_COARSE, atol=0.3, err_msg=changed("preprocess"))
    # The weave of one pixel's width shows the filter: other filters leave more or less of it.
    np.testing.assert_allclose(resized[0, 20, 40:48, 2], RESIZED_WEAVE, atol=1.01, err_msg=changed("preprocess"))
    patches, grid = preprocessor.patches(resized, torch.device("cpu"))
    assert grid == PATCH_GRID, changed("preprocess")
    np.testing.assert_allclose(patches[:6].mean(dim=1).numpy(), PATCH_MEANS, atol=0.01, err_msg=changed("preprocess"))
    # Inside a patch: three channels of two frames of 64 pixels.
    parts = patches[0].reshape(6, 64).mean(dim=1).numpy()
    np.testing.assert_allclose(parts, PATCH_PARTS, atol=0.01, err_msg=changed("preprocess"))


def test_compression() -> None:
    """Which tokens are kept of a fixed random video, and what they become, with event relevance."""
    generator = torch.Generator().manual_seed(20260131)
    scene = torch.randn(2, 24, 8, generator=generator).repeat_interleave(8, dim=0)
    features = scene + 0.3 * torch.randn(16, 24, 8, generator=generator)
    scores = torch.rand(16, 24, generator=generator)
    config = CompressionConfig(token_selection_method="attn_div_v2")  # noqa: S106 - no password
    result = compress(features, scores, config)
    assert result.indices.tolist() == KEPT, changed("compression")
    assert result.segment_lengths == SEGMENTS, changed("compression")
    np.testing.assert_allclose(result.tokens.norm(dim=1)[:24].numpy(), NORMS, atol=2e-3, err_msg=changed("compression"))
    assert int((result.assignment >= 0).sum()) == ASSIGNED, changed("compression")


def test_prompt() -> None:
    """The user's turn, and the whole prompt as the embedded model reads it."""
    open_question = question_prompt("What happens?", None)
    assert open_question == "What happens?", changed("prompt")
    choice = question_prompt("Which colour?", ["red", "blue"])
    assert choice == (
        "Which colour?\nA. red\nB. blue\nAnswer with the option's letter from the given choices directly."
    ), changed("prompt")

    chat = ChatPrompt.load(resolve_model("tiny-random").path, video_token="<|video_pad|>")  # noqa: S106 - no password
    text = chat.render("Is <|video_pad|> a word?", GenerationConfig().system_prompt)
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|video_pad|><|vision_end|>Is < |video_pad|> a word?<|im_end|>\n"
        "<|im_start|>assistant\n"
    ), changed("prompt")
    before, after = chat.around_video(choice, GenerationConfig().system_prompt)
    assert (len(before), len(after)) == PROMPT_LENGTHS, changed("prompt")
