"""LLaVA-OneVision and LLaVA-Video against transformers' model, reference vectors, and explicit computations."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import LlavaOnevisionForConditionalGeneration

from flashvid.config import CompressionConfig, InnerPruningConfig
from flashvid.engine.lm_input import SharedPrefix
from flashvid.errors import ConfigurationError, ModelLoadError
from flashvid.models import (
    CompressedVideo,
    GenerationConfig,
    VideoModel,
    VisualFeatures,
    load_model,
    load_preprocessor,
    resolve_model,
)
from flashvid.models.llava.language import LlavaLanguage, question_suffix, shared_prefix
from flashvid.models.llava.settings import LlavaSettings
from flashvid.models.llava.vision import LlavaVision, pool
from tests.oracles.reference import REFERENCE
from tests.oracles.reference_families import check_vector, load_case, run_vectors
from tests.support.embedded_model import TIMES, video
from tests.support.tiny_families import LAYOUTS, TEXT, PeakMemory, change_config, change_weights, write_llava

E2E = REFERENCE / "e2e"
NEWLINE = 99.0


@pytest.fixture(scope="module")
def stock_and_folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[LlavaOnevisionForConditionalGeneration, Path]:
    """Write a LLaVA-OneVision as transformers 5 does."""
    folder = tmp_path_factory.mktemp("llava") / "model"
    return write_llava(folder), folder


@pytest.fixture(scope="module")
def stock(
    stock_and_folder: tuple[LlavaOnevisionForConditionalGeneration, Path],
) -> LlavaOnevisionForConditionalGeneration:
    """Return the stock model."""
    return stock_and_folder[0]


@pytest.fixture(scope="module")
def folder(stock_and_folder: tuple[LlavaOnevisionForConditionalGeneration, Path]) -> Path:
    """Return the directory of the model."""
    return stock_and_folder[1]


@pytest.fixture(scope="module")
def model(folder: Path) -> VideoModel:
    """Return our handle on the model."""
    return load_model(str(folder), device="cpu")


@pytest.fixture(scope="module")
def visual(model: VideoModel) -> VisualFeatures:
    """Return one encoded video."""
    return model.encode(video(0), TIMES)


def pictures(folder: Path, count: int = 6) -> Tensor:
    """Return a video as the tower reads it, `[count, 3, 30, 30]`."""
    vision = load_model(str(folder), part="vision", device="cpu").vision
    assert isinstance(vision, LlavaVision)
    preprocessor = vision._preprocessor
    return preprocessor.pictures(preprocessor.resize(video(0, count)), torch.device("cpu"))


@pytest.mark.skipif(not E2E.is_dir(), reason=f"reference vectors are not at {E2E}; set FLASHVID_REFERENCE")
@pytest.mark.parametrize("family", ["llava_onevision", "llava_video"])
def test_reference_vectors(tmp_path: Path, family: str) -> None:
    """From pixels to generated tokens, results match without compression and with both variants of the method."""
    case, vectors = load_case(family, E2E, tmp_path / "model"), run_vectors(family, E2E)
    assert case.model.family == family
    assert [vector.name for vector in vectors] == [f"{family}_{run}" for run in ("plain", "r0.25_v1", "r0.25_v2")]
    for vector in vectors:
        assert check_vector(case, vector).problems == ()


def test_features_are_transformers_own(
    stock: LlavaOnevisionForConditionalGeneration, folder: Path, visual: VisualFeatures
) -> None:
    """Transformers appends the newline, which belongs to the prompt in this library."""
    with torch.no_grad():
        expected = stock.model.get_video_features(
            pictures(folder).unsqueeze(0), vision_feature_layer=-1, vision_feature_select_strategy="full"
        ).pooler_output
    assert visual.features.shape == (6, 64, 48)
    assert (visual.grid_thw, visual.grid_hw) == ((6, 8, 8), (8, 8))
    assert torch.allclose(visual.features.flatten(0, 1), expected.reshape(-1, 48)[: 6 * 64], atol=1e-4)


def test_scores_are_the_last_layers_softmax(
    stock: LlavaOnevisionForConditionalGeneration, folder: Path, visual: VisualFeatures
) -> None:
    """Scores of one frame match whole attention matrices, averaged over heads and queries, and pooled."""
    tower = stock.model.vision_tower
    with torch.no_grad():
        hidden = tower(pictures(folder), output_hidden_states=True).hidden_states[1][2]
        layer = tower.encoder.layers[1]
        normal = layer.layer_norm1(hidden)
        queries, keys = layer.self_attn.q_proj(normal), layer.self_attn.k_proj(normal)
    received = torch.zeros(225)
    for head in range(2):
        columns = slice(16 * head, 16 * head + 16)
        received += (queries[:, columns] @ keys[:, columns].T / 4).softmax(dim=-1).mean(dim=0) / 2
    assert torch.allclose(received.sum(), torch.tensor(1.0))
    assert received.max() > 2 * received.min()
    assert torch.allclose(visual.scores[2], pool(received.reshape(1, 225, 1), "bilinear").flatten(), rtol=1e-4)


def test_pooling_by_hand() -> None:
    """Of 3 x 3 patches, bilinear pooling reads fields 1.5 wide, and average pooling only the first whole field."""
    patches = torch.arange(9.0).reshape(1, 9, 1)
    assert torch.allclose(pool(patches, "bilinear").flatten(), torch.tensor([1.0, 2.5, 5.5, 7.0]))
    assert pool(patches, "average").flatten().tolist() == [2.0]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_checkpoints(tmp_path: Path, visual: VisualFeatures, layout: str) -> None:
    """Every layout gives the same values, and each part reads only its own tensors."""
    write_llava(tmp_path / "model", layout=layout)
    vision = load_model(str(tmp_path / "model"), part="vision", device="cpu")
    found = vision.encode(video(0), TIMES)
    assert torch.equal(found.features, visual.features)
    assert torch.equal(found.scores, visual.scores)
    language = load_model(str(tmp_path / "model"), part="language", device="cpu")
    read = {*vision.tensors_read, *language.tensors_read}
    assert len(read) == len(vision.tensors_read) + len(language.tensors_read)
    stored = set(resolve_model(str(tmp_path / "model")).checkpoint().files)
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in stored - read} == {"post_layernorm"}


def test_families_are_told_apart_by_pooling(tmp_path: Path) -> None:
    """The architecture is the same; average pooling makes 7 x 7 tokens of 15 x 15 patches."""
    for number, mode in enumerate(("average", "bilinear")):
        # A newline after every row identifies LLaVA-Video, whose published configuration says bilinear.
        folder = tmp_path / str(number)
        write_llava(folder, layout="original", mm_spatial_pool_mode=mode, mm_newline_position="grid")
        found = load_model(str(folder), part="vision", device="cpu")
        assert found.family == "llava_video"
        assert found.encode(video(0), TIMES).grid_thw == (6, 7, 7)
    others = {"force_sample": False, "add_time_instruction": False}
    write_llava(tmp_path / "other", layout="original", mm_newline_position="grid", **others)
    assert load_model(str(tmp_path / "other"), part="vision", device="cpu").family == "llava_onevision"


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_attention_implementations_agree(folder: Path, visual: VisualFeatures, implementation: str) -> None:
    """Scores are computed by this library with every implementation."""
    other = load_model(str(folder), part="vision", device="cpu", attn_implementation=implementation)
    assert isinstance(other.vision, LlavaVision)
    assert other.vision._encoder.config._attn_implementation == implementation
    found = other.encode(video(0), TIMES)
    assert torch.allclose(found.features, visual.features, atol=1e-4)
    assert torch.allclose(found.scores, visual.scores, atol=1e-7)


def test_half_precision(folder: Path, visual: VisualFeatures) -> None:
    """Features have the precision of the weights, scores are float32."""
    found = load_model(str(folder), part="vision", device="cpu", dtype="bfloat16").encode(video(0), TIMES)
    assert (found.features.dtype, found.scores.dtype) == (torch.bfloat16, torch.float32)
    assert torch.nn.functional.cosine_similarity(found.features.float(), visual.features, dim=-1).min() > 0.98


def test_a_long_video_is_encoded_block_by_block(model: VideoModel) -> None:
    """Frames in several blocks get the features and scores that each gets alone."""
    frames = video(3, count=37)
    whole = model.encode(frames, np.arange(37.0))
    for frame in (0, 15, 16, 36):
        alone = model.encode(frames[frame : frame + 1], np.zeros(1))
        assert torch.allclose(whole.features[frame], alone.features[0], atol=1e-4)
        assert torch.allclose(whole.scores[frame], alone.scores[0], atol=1e-7)


def test_memory_does_not_grow_with_the_video(model: VideoModel) -> None:
    """768 frames need at most 1.2 times as much as 64 frames, features and scores excluded."""
    peaks = []
    for count in (64, 768):
        frames = video(1, count, 30, 30)
        with PeakMemory() as memory:
            found = model.encode(frames, np.arange(float(count)))
        peaks.append(memory.peak - found.features.nbytes - found.scores.nbytes)
    assert 0 < peaks[1] <= 1.2 * peaks[0]


def test_a_full_prompt_gives_transformers_logits(
    stock: LlavaOnevisionForConditionalGeneration, folder: Path, model: VideoModel, visual: VisualFeatures
) -> None:
    """Without compression, our prefix and suffix give our decoder the logits of the stock model."""
    language = model.language
    assert isinstance(language, LlavaLanguage)
    compressed = model.compress(visual, None)
    ids = language.chat.around_video("What?", "Be brief.")
    prefix, suffix = language.prefix(ids[0], compressed), language.suffix(*ids, compressed)
    whole = [*ids[0], *[479] * (6 * 64 + 1), *ids[1]]
    with torch.no_grad():
        ours = language.decoder._model(
            inputs_embeds=torch.cat([prefix.embeddings, language.decoder.embed(suffix.ids)]).unsqueeze(0),
            position_ids=torch.cat([prefix.positions, suffix.positions], dim=1),
        ).last_hidden_state[0, -1]
        theirs = stock(input_ids=torch.tensor([whole]), pixel_values_videos=pictures(folder).unsqueeze(0)).logits[0, -1]
    assert torch.allclose(language.decoder._head @ ours, theirs, atol=1e-4)
    assert suffix.next_position == len(whole)


def test_answers_are_those_of_stock_generate(
    stock: LlavaOnevisionForConditionalGeneration, folder: Path, model: VideoModel, visual: VisualFeatures
) -> None:
    """Answers match without compression and with greedy decoding."""
    chat = model.language.chat
    (answer,) = model.answer(
        model.compress(visual, None), ["What?"], GenerationConfig(max_new_tokens=8, system_prompt="Be brief.")
    )
    before, after = chat.around_video("What?", "Be brief.")
    whole = [*before, *[479] * (6 * 64 + 1), *after]
    ids = stock.generate(
        input_ids=torch.tensor([whole]),
        attention_mask=torch.ones(1, len(whole), dtype=torch.int64),
        pixel_values_videos=pictures(folder).unsqueeze(0),
        max_new_tokens=8,
        do_sample=False,
        eos_token_id=sorted(chat.end_tokens),
    )[0, len(whole) :]
    assert answer.response == chat.decode(ids.tolist())
    assert answer.num_generated_tokens == len(ids)


@pytest.mark.parametrize("newlines", ["one_token", "frame", "no_token"])
def test_questions_together_and_alone(tmp_path: Path, newlines: str) -> None:
    """The video is prefilled once for all questions, with pruning inside the decoder."""
    write_llava(tmp_path / "model", layout="original", mm_newline_position=newlines)
    model = load_model(str(tmp_path / "model"), device="cpu")
    compressed = model.compress(model.encode(video(0), TIMES), CompressionConfig(retention_ratio=0.25))
    asked, short = ["What?", "How many?", "Why is that?"], GenerationConfig(max_new_tokens=6)
    pruning = InnerPruningConfig(pruning_layer=1, llm_retention_ratio=0.3)
    together = model.answer(compressed, asked, short, pruning=pruning)
    alone = [model.answer(compressed, [question], short, pruning=pruning)[0] for question in asked]
    assert [answer.response for answer in together] == [answer.response for answer in alone]
    # One of three layers runs before the pruning. A kept newline is not a visual token, but replaces one.
    num_video, num_newlines = len(compressed.tokens), 6 if newlines == "frame" else 0
    most = math.ceil((num_video + num_newlines) * 0.3)
    for answer in together:
        behind, rest = divmod(answer.token_layers.visual - num_video, 2)
        assert rest == 0
        assert most - num_newlines <= behind <= most


def kept(indices: list[int]) -> CompressedVideo:
    """Return tokens of 3 frames of 4 tokens, of width 2; the value of a token is its index."""
    return CompressedVideo(
        tokens=torch.tensor(indices, dtype=torch.float32).unsqueeze(1).expand(-1, 2),
        indices=torch.tensor(indices),
        assignment=torch.full((12,), -1),
        grid_thw=(3, 2, 2),
        frame_timestamps=np.arange(3.0),
        segment_lengths=(3,),
    )


def drawn(prefix: SharedPrefix) -> tuple[list[float], list[int], list[int]]:
    """Return the first column of a prefix's embeddings, and which places are visual and prunable."""
    return prefix.embeddings[:, 0].tolist(), prefix.is_visual.int().tolist(), prefix.is_prunable.int().tolist()


def test_newlines_by_hand() -> None:
    """A newline after the video is not prunable; newlines after every frame, empty ones too, are."""
    before, newline = torch.tensor([[-1.0, -1.0], [-2.0, -2.0]]), torch.full((2,), NEWLINE)
    one = shared_prefix(before, kept([0, 3, 9]), newline, "one_token")
    assert drawn(one) == ([-1, -2, 0, 3, 9, NEWLINE], [0, 0, 1, 1, 1, 0], [0, 0, 1, 1, 1, 0])
    every = shared_prefix(before, kept([0, 3, 9]), newline, "frame")
    assert drawn(every)[0] == [-1, -2, 0, 3, NEWLINE, NEWLINE, 9, NEWLINE]
    assert drawn(every)[1:] == ([0, 0, 1, 1, 0, 0, 1, 0], [0, 0, 1, 1, 1, 1, 1, 1])
    assert drawn(shared_prefix(before, kept([0, 3]), newline, "no_token"))[0] == [-1, -2, 0, 3]
    # Positions are those of the shortened prompt, and continue in the question.
    assert every.positions.tolist() == [list(range(8))]
    suffix = question_suffix(2, (5, 6, 7), kept([0, 3, 9]), "frame")
    assert (suffix.ids, suffix.positions.tolist(), suffix.next_position) == ((5, 6, 7), [[8, 9, 10]], 11)
    assert question_suffix(2, (5,), kept([0, 3, 9]), "one_token").next_position == 7
    assert question_suffix(2, (5,), kept([0, 3, 9]), "no_token").next_position == 6


def test_the_original_prompt(tmp_path: Path) -> None:
    """Original models use the conversation of the original code, whatever template the tokenizer has."""
    write_llava(tmp_path / "model", layout="original")
    language = load_model(str(tmp_path / "model"), part="language", device="cpu").language
    assert isinstance(language, LlavaLanguage)
    before, after = language.chat.around_video("What <image> is this?", "You are a helpful assistant.")
    decode = language.chat._tokenizer.decode
    assert decode(before) == "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    assert decode(after) == "\nWhat < image> is this?<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("layout", "changes", "message"),
    [
        ("original", {"mm_spatial_pool_mode": "max"}, "mm_spatial_pool_mode max is not supported"),
        ("original", {"mm_projector_type": "linear"}, "mm_projector_type linear is not supported"),
        ("original", {"mm_newline_position": "row"}, "mm_newline_position row is not one of"),
        ("original", {"add_faster_video": True}, "add_faster_video is not supported"),
        ("original", {"vision_config": None, "mm_vision_tower": "openai/clip"}, "mm_vision_tower openai/clip"),
        ("original", {"hidden_size": None}, "lacks hidden_size of the language side"),
        ("original", {"architectures": ["LlavaLlamaForCausalLM"]}, "LlavaLlamaForCausalLM is not supported"),
        ("transformers 5", {"text_config": None}, "lacks vision_config or text_config"),
        ("transformers 5", {"vision_feature_layer": [1, 2]}, "vision_feature_layer must be one number"),
        ("transformers 5", {"vision_feature_layer": -4}, "vision_feature_layer -4 is not one of 2 layers"),
        ("transformers 5", {"vision_feature_select_strategy": "default"}, "must be full"),
        ("transformers 5", {"text_config": {"model_type": "llama", **TEXT}}, "with llama is not supported"),
    ],
)
def test_configurations_that_are_refused(tmp_path: Path, layout: str, changes: dict[str, Any], message: str) -> None:
    """Each case is refused before weights are read, with its cause."""
    write_llava(tmp_path / "model", layout=layout, **changes)
    with pytest.raises(ModelLoadError, match=message):
        resolve_model(str(tmp_path / "model"))


def test_tensors_that_do_not_fit(tmp_path: Path) -> None:
    """Missing and unexpected tensors, and tensors of another shape, are named with their part."""
    folder = tmp_path / "model"
    write_llava(folder)
    change_weights(folder, lambda weights: weights.pop("image_newline"))
    with pytest.raises(ModelLoadError, match="the weights lack image_newline"):
        resolve_model(str(folder))
    change_weights(folder, lambda weights: weights.update({"image_newline": torch.ones(48)}))
    extra = {"vision_tower.encoder.layers.2.layer_norm1.weight": torch.ones(32)}
    change_weights(folder, lambda weights: weights.update(extra))
    with pytest.raises(ModelLoadError, match=r"there are unexpected tensors: .*encoder\.layers\.2\.layer_norm1"):
        load_model(str(folder), part="vision", device="cpu")
    change_weights(folder, lambda weights: weights.pop(next(iter(extra))))
    change_weights(folder, lambda weights: weights.update({"language_model.model.norm.weight": torch.ones(3)}))
    with pytest.raises(ModelLoadError, match=r"the weights of the decoder do not fit: size mismatch for norm\.weight"):
        load_model(str(folder), part="language", device="cpu")


def test_a_feature_layer_before_the_last(tmp_path: Path, visual: VisualFeatures) -> None:
    """Layers after it are neither run nor read."""
    write_llava(tmp_path / "model", vision_feature_layer=-2)
    found = load_model(str(tmp_path / "model"), part="vision", device="cpu")
    assert not any(".layers.1." in name for name in found.tensors_read)
    assert not torch.allclose(found.encode(video(0), TIMES).features, visual.features, atol=1e-2)


def test_the_published_tower_needs_no_configuration() -> None:
    """It has 27 layers, of which 26 are used, and 27 x 27 patches, which make 14 x 14 or 13 x 13 tokens."""
    config = {"architectures": ["LlavaQwenForCausalLM"], "mm_vision_tower": "google/siglip-so400m-patch14-384", **TEXT}
    onevision = LlavaSettings.parse(config)
    assert (onevision.vision["num_hidden_layers"], onevision.patch_grid, onevision.token_grid) == (26, 27, 14)
    assert LlavaSettings.parse({**config, "mm_spatial_pool_mode": "average"}).token_grid == 13


def test_frames_have_one_size(tmp_path: Path, folder: Path) -> None:
    """Frames of any size become the tower's square; bounds of the area and other sizes are refused."""
    preprocessor = load_preprocessor(str(folder))
    assert preprocessor.target_size(720, 1280) == (30, 30)
    resized = preprocessor.resize(video(0))
    assert resized.shape == (6, 30, 30, 3)
    assert preprocessor.resize(resized) is resized
    with pytest.raises(ConfigurationError, match="LLaVA, whose frames have one size"):
        load_preprocessor(str(folder), max_pixels=10000)
    write_llava(tmp_path / "model")
    change_config(tmp_path / "model")
    (tmp_path / "model" / "preprocessor_config.json").write_text('{"size": {"height": 384, "width": 384}}')
    with pytest.raises(ModelLoadError, match="frames of 384 x 384 do not fit a tower for 30 x 30"):
        load_preprocessor(str(tmp_path / "model"))


def test_compression_of_a_video(model: VideoModel, visual: VisualFeatures) -> None:
    """The tokens are those of `flashvid.compress` on projected and pooled features."""
    compressed = model.compress(visual, CompressionConfig(retention_ratio=0.25))
    assert 6 * 16 <= len(compressed.tokens) <= 6 * 17
    assert compressed.deepstack == ()
