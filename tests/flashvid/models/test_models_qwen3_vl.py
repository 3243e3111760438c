"""Qwen3-VL against transformers' model, reference vectors, and explicit computations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import Qwen3VLForConditionalGeneration
from transformers.models.qwen3_vl.modeling_qwen3_vl import apply_rotary_pos_emb_vision

from flashvid.config import CompressionConfig, InnerPruningConfig
from flashvid.errors import ConfigurationError, InvalidFeaturesError, ModelLoadError
from flashvid.models import CompressedVideo, GenerationConfig, VideoModel, VisualFeatures, load_model, resolve_model
from flashvid.models.qwen.qwen3_vl.language import Qwen3Language, step_seconds, texts_around_steps
from flashvid.models.qwen.qwen3_vl.vision import Qwen3Vision
from tests.oracles.reference import REFERENCE
from tests.oracles.reference_families import check_vector, load_case, run_vectors
from tests.support.embedded_model import TIMES, video
from tests.support.tiny_families import PeakMemory, change_config, change_weights, write_qwen3

E2E = REFERENCE / "e2e"
START, PAD, END = "<|vision_start|>", "<|video_pad|>", "<|vision_end|>"


@pytest.fixture(scope="module")
def stock_and_folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Qwen3VLForConditionalGeneration, Path]:
    """Write a Qwen3-VL as transformers does."""
    folder = tmp_path_factory.mktemp("qwen3") / "model"
    return write_qwen3(folder), folder


@pytest.fixture(scope="module")
def stock(stock_and_folder: tuple[Qwen3VLForConditionalGeneration, Path]) -> Qwen3VLForConditionalGeneration:
    """Return the stock model."""
    return stock_and_folder[0]


@pytest.fixture(scope="module")
def folder(stock_and_folder: tuple[Qwen3VLForConditionalGeneration, Path]) -> Path:
    """Return the directory of the model."""
    return stock_and_folder[1]


@pytest.fixture(scope="module")
def model(folder: Path) -> VideoModel:
    """Return our handle on the model."""
    return load_model(str(folder), device="cpu")


@pytest.fixture(scope="module")
def visual(model: VideoModel) -> VisualFeatures:
    """Return one encoded video of 3 steps."""
    return model.encode(video(0), TIMES)


@pytest.fixture(scope="module")
def compressed(model: VideoModel, visual: VisualFeatures) -> CompressedVideo:
    """Return the video with a quarter of its tokens."""
    return model.compress(visual, CompressionConfig(retention_ratio=0.25))


def patches(model: VideoModel) -> tuple[Tensor, tuple[int, int, int]]:
    """Return the video as the tower reads it."""
    vision = model.vision
    assert isinstance(vision, Qwen3Vision)
    preprocessor = vision._preprocessor
    return preprocessor.patches(preprocessor.resize(video(0)), torch.device("cpu"))


def language_of(model: VideoModel) -> Qwen3Language:
    """Return the language side with its type."""
    language = model.language
    assert isinstance(language, Qwen3Language)
    return language


@pytest.mark.skipif(not E2E.is_dir(), reason=f"reference vectors are not at {E2E}; set FLASHVID_REFERENCE")
def test_reference_vectors(tmp_path: Path) -> None:
    """From pixels to generated tokens, results match without compression and with both variants of the method."""
    case, vectors = load_case("qwen3_vl", E2E, tmp_path / "model"), run_vectors("qwen3_vl", E2E)
    assert [vector.name for vector in vectors] == [f"qwen3_vl_{run}" for run in ("plain", "r0.25_v1", "r0.25_v2")]
    for vector in vectors:
        assert check_vector(case, vector).problems == ()


def test_features_are_transformers_own(
    stock: Qwen3VLForConditionalGeneration, model: VideoModel, visual: VisualFeatures
) -> None:
    """Main and deepstack features match."""
    pixels, grid = patches(model)
    with torch.no_grad():
        expected = stock.model.visual(pixels, grid_thw=torch.tensor([grid]))
    steps, num_tokens, _ = visual.features.shape
    assert (steps, num_tokens) == (3, visual.grid_hw[0] * visual.grid_hw[1])
    assert visual.grid_thw == grid
    assert torch.allclose(visual.features.flatten(0, 1), expected.pooler_output, atol=1e-4)
    assert len(visual.deepstack) == 2
    for ours, theirs in zip(visual.deepstack, expected.deepstack_features, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)


def test_scores_are_the_last_blocks_softmax(
    stock: Qwen3VLForConditionalGeneration, model: VideoModel, visual: VisualFeatures
) -> None:
    """Scores of one step match whole attention matrices, averaged over heads, queries and a token's patches."""
    pixels, grid = patches(model)
    block = stock.model.visual.blocks[-1]
    seen: dict[str, Any] = {}
    hook = block.register_forward_pre_hook(lambda _, given, kept: seen.update(kept, hidden=given[0]), with_kwargs=True)
    with torch.no_grad():
        stock.model.visual(pixels, grid_thw=torch.tensor([grid]))
        qkv = block.attn.qkv(block.norm1(seen["hidden"])).reshape(len(pixels), 3, 2, 16)
        queries, keys = apply_rotary_pos_emb_vision(qkv[:, 0], qkv[:, 1], *seen["position_embeddings"])
    hook.remove()
    step = slice(grid[1] * grid[2], 2 * grid[1] * grid[2])
    received = sum((queries[step, head] @ keys[step, head].T / 4).softmax(dim=-1).mean(dim=0) / 2 for head in range(2))
    assert isinstance(received, Tensor)
    assert received.max() > 2 * received.min()
    assert torch.allclose(visual.scores[1], received.reshape(-1, 4).mean(dim=1), rtol=1e-4)
    assert torch.allclose(visual.scores.sum(dim=1), torch.full((3,), 0.25), atol=1e-6)


def test_deepstack_features_are_gathered(visual: VisualFeatures, compressed: CompressedVideo) -> None:
    """They are taken at the kept indices, neither merged nor averaged."""
    assert len(compressed.deepstack) == 2
    for kept, whole in zip(compressed.deepstack, visual.deepstack, strict=True):
        assert torch.equal(kept, whole[compressed.indices])


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_attention_implementations_agree(folder: Path, visual: VisualFeatures, implementation: str) -> None:
    """Scores are computed by this library with every implementation."""
    other = load_model(str(folder), part="vision", device="cpu", attn_implementation=implementation)
    assert isinstance(other.vision, Qwen3Vision)
    assert other.vision._tower.config._attn_implementation == implementation
    found = other.encode(video(0), TIMES)
    assert torch.allclose(found.features, visual.features, atol=1e-4)
    assert torch.allclose(found.scores, visual.scores, atol=1e-7)


def test_a_long_video_is_encoded_block_by_block(folder: Path) -> None:
    """Steps in several blocks get the features and scores that each gets alone."""
    model = load_model(str(folder), part="vision", device="cpu", min_pixels=32 * 48, max_pixels=32 * 48)
    vision = model.vision
    assert isinstance(vision, Qwen3Vision)
    frames = video(3, 39, 32, 48)
    whole = model.encode(frames, np.arange(39.0))
    assert whole.grid_thw == (20, 4, 6)
    for step in (0, 15, 16, 19):
        pixels, grid = vision._preprocessor.patches(frames[2 * step : 2 * step + 2], torch.device("cpu"))
        alone = vision.encode_patches(pixels, grid)
        assert torch.allclose(whole.features[step], alone.features[0], atol=1e-4)
        assert torch.allclose(whole.scores[step], alone.scores[0], atol=1e-7)
        for level, part in zip(whole.deepstack, alone.deepstack, strict=True):
            assert torch.allclose(level[step * 6 : step * 6 + 6], part[0], atol=1e-4)


def test_memory_does_not_grow_with_the_video(folder: Path) -> None:
    """768 frames need at most 1.2 times as much as 64 frames of the same size, features and scores excluded."""
    model = load_model(str(folder), part="vision", device="cpu", min_pixels=32 * 48, max_pixels=32 * 48)
    peaks = []
    for count in (64, 768):
        frames = video(1, count, 32, 48)
        with PeakMemory() as memory:
            found = model.encode(frames, np.arange(float(count)))
        assert found.grid_thw == (count // 2, 4, 6)
        result = [found.features, found.scores, *found.deepstack]
        peaks.append(memory.peak - sum(part.nbytes for part in result))
    assert 0 < peaks[1] <= 1.2 * peaks[0]


def test_a_full_prompt_gives_transformers_positions_and_logits(
    stock: Qwen3VLForConditionalGeneration, model: VideoModel, visual: VisualFeatures
) -> None:
    """Without compression, our prefix and suffix give our decoder the logits of the stock model."""
    language, everything = language_of(model), model.compress(visual, None)
    ids = language.chat.around_video("What?", "Be brief.")
    prefix, suffix = language.prefix(ids[0], everything), language.suffix(*ids, everything)
    texts = language._texts(*ids, everything)
    video_id = stock.config.video_token_id
    whole = list(texts[0])
    for text in texts[1:]:
        whole += [video_id] * visual.features.shape[1] + list(text)
    kinds = torch.tensor([[2 if token == video_id else 0 for token in whole]])
    pixels, grid = patches(model)
    positions = torch.cat([prefix.positions, suffix.positions], dim=1)
    expected, _ = stock.model.get_rope_index(
        torch.tensor([whole]), mm_token_type_ids=kinds, video_grid_thw=torch.tensor([grid])
    )
    assert torch.equal(positions, expected[:, 0])
    assert suffix.next_position == int(expected.max()) + 1
    with torch.no_grad():
        ours = language.decoder._model(
            inputs_embeds=torch.cat([prefix.embeddings, language.decoder.embed(suffix.ids)]).unsqueeze(0),
            position_ids=positions.unsqueeze(1),
            visual_pos_masks=torch.cat([prefix.is_visual, torch.zeros(len(suffix.ids), dtype=torch.bool)]).unsqueeze(0),
            deepstack_visual_embeds=list(prefix.deepstack),
        ).last_hidden_state[0, -1]
        theirs = stock(
            input_ids=torch.tensor([whole]),
            pixel_values_videos=pixels,
            video_grid_thw=torch.tensor([grid]),
            mm_token_type_ids=kinds,
        ).logits[0, -1]
    assert torch.allclose(language.decoder._head @ ours, theirs, atol=1e-4)


def test_the_prompt_in_words(model: VideoModel, compressed: CompressedVideo) -> None:
    """Each step follows its time, between markers that replace those of the template."""
    language = language_of(model)
    texts = language._texts(*language.chat.around_video("What is <|video_pad|>?", "Be brief."), compressed)
    words = PAD.join(language.chat._tokenizer.decode(text) for text in texts)
    steps = "".join(f"<{second} seconds>{START}{PAD}{END}" for second in ("0.2", "1.2", "2.2"))
    assert words == (
        f"<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n{steps}What is < |video_pad|>?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_times_of_steps() -> None:
    """A time is the mean of a step's first and last frame; an incomplete step repeats its last frame."""
    assert step_seconds(np.array([0.0, 1.0, 4.0, 8.0, 9.0]), 3) == [0.5, 6.0, 9.0]
    assert step_seconds(np.array([3.0]), 1) == [3.0]


def test_markers_stay_unless_the_reference_is_asked_for(model: VideoModel, compressed: CompressedVideo) -> None:
    """Without markers positions have gaps; text, times and visual tokens are the same."""
    language = language_of(model)
    ids = language.chat.around_video("What?", "Be brief.")
    ours = language.prefix(ids[0], compressed)
    reference = language.reference_compatible()
    theirs = reference.prefix(ids[0], compressed)
    start, end = language.decoder.embed([ids[0][-1], ids[1][0]])
    is_marker = (ours.embeddings == start).all(dim=1) | (ours.embeddings == end).all(dim=1)
    assert int(is_marker.sum()) == 3 + 2
    assert torch.equal(theirs.embeddings, ours.embeddings[~is_marker])
    assert torch.equal(theirs.positions, ours.positions[:, ~is_marker])
    assert torch.equal(theirs.is_visual, ours.is_visual[~is_marker])
    suffix = language.suffix(*ids, compressed)
    dropped = reference.suffix(*ids, compressed)
    assert dropped.ids == suffix.ids[1:]
    assert torch.equal(dropped.positions, suffix.positions[:, 1:])
    assert dropped.next_position == suffix.next_position


def test_the_references_prompt_through_the_handle(
    stock: Qwen3VLForConditionalGeneration, model: VideoModel, visual: VisualFeatures, compressed: CompressedVideo
) -> None:
    """The answer is that of the stock decoder to a prompt without markers; an uncompressed video keeps them."""
    settings = GenerationConfig(max_new_tokens=6, system_prompt="Be brief.")
    reference = settings.model_copy(update={"reference_compatible": True})
    (plain,) = model.answer(compressed, ["What?"], settings)
    (answer,) = model.answer(compressed, ["What?"], reference)
    assert answer.num_prompt_tokens == plain.num_prompt_tokens - 2 * 3

    language = language_of(model)
    ids = language.chat.around_video("What?", "Be brief.")
    prefix, suffix = language.prefix(ids[0], compressed), language.suffix(*ids, compressed)
    embed = stock.model.language_model.embed_tokens
    embeddings = torch.cat([prefix.embeddings, embed(torch.tensor(suffix.ids))]).detach()
    markers = embed(torch.tensor([ids[0][-1], ids[1][0]])).detach()
    stays = ~(embeddings.unsqueeze(1) == markers).all(dim=2).any(dim=1)
    positions = torch.cat([prefix.positions, suffix.positions], dim=1)[:, stays]
    is_visual = torch.cat([prefix.is_visual, torch.zeros(len(suffix.ids), dtype=torch.bool)])[stays]
    embeddings, generated = embeddings[stays], list[int]()
    for place in range(answer.num_generated_tokens):
        with torch.no_grad():
            states = stock.model.language_model(
                inputs_embeds=embeddings.unsqueeze(0),
                position_ids=positions.unsqueeze(1),
                visual_pos_masks=is_visual.unsqueeze(0),
                deepstack_visual_embeds=list(prefix.deepstack),
            ).last_hidden_state[0, -1]
            generated.append(int(stock.lm_head(states).argmax()))
            embeddings = torch.cat([embeddings, embed(torch.tensor(generated[-1:]))])
        positions = torch.cat([positions, torch.full((3, 1), suffix.next_position + place)], dim=1)
        is_visual = torch.cat([is_visual, torch.zeros(1, dtype=torch.bool)])
    assert answer.response == language.chat.decode(generated)

    everything = model.compress(visual, None)
    assert model.answer(everything, ["What?"], reference) == model.answer(everything, ["What?"], settings)


def test_a_step_of_which_nothing_is_left_keeps_its_time(model: VideoModel, compressed: CompressedVideo) -> None:
    """If it is the last step, its text ends the prefix; only visual tokens may be pruned."""
    language = language_of(model)
    some = CompressedVideo(
        compressed.tokens[:2],
        torch.tensor([1, 2]),
        compressed.assignment,
        compressed.grid_thw,
        compressed.frame_timestamps,
        compressed.segment_lengths,
        tuple(level[:2] for level in compressed.deepstack),
    )
    ids = language.chat.around_video("What?", "Be brief.")
    prefix, texts = language.prefix(ids[0], some), language._texts(*ids, some)
    assert len(prefix.embeddings) == sum(map(len, texts[:-1])) + 2
    assert int(prefix.is_visual.sum()) == 2
    assert not prefix.is_visual[-1]
    assert torch.equal(prefix.is_prunable, prefix.is_visual)


def test_of_two_tokens_with_one_place_the_second_stands_there_twice(
    model: VideoModel, compressed: CompressedVideo
) -> None:
    """The published implementation does the same with repeated indices."""
    indices = torch.tensor([3, 3, 5])
    twice = replace(
        compressed,
        tokens=compressed.tokens[:3],
        indices=indices,
        deepstack=tuple(level[:3] for level in compressed.deepstack),
    )
    prefix = language_of(model).prefix((1, 2), twice)
    assert torch.equal(prefix.embeddings[prefix.is_visual], compressed.tokens[[1, 1, 2]])
    visual = prefix.positions[:, prefix.is_visual]
    assert torch.equal(visual[:, 0], visual[:, 1])


def test_texts_around_steps_by_hand() -> None:
    """The template's markers become those of the first and the last step; missing markers are added."""
    expected = [(1, 7, 90), (91, 8, 90), (91, 2)]
    assert texts_around_steps((1, 90), (91, 2), [(7,), (8,)], start=90, end=91) == expected
    assert texts_around_steps((1,), (2,), [(7,), (8,)], start=90, end=91) == expected


def test_deepstack_features_must_be_there(model: VideoModel, compressed: CompressedVideo) -> None:
    """Answers about a video without its deepstack features would be silently wrong."""
    with pytest.raises(InvalidFeaturesError, match="features of 2 deepstack layers, not 0"):
        language_of(model).prefix((1, 2), replace(compressed, deepstack=()))


def test_a_tied_head_is_the_embedding(tmp_path: Path) -> None:
    """Small models do not store a head."""
    write_qwen3(tmp_path / "model", tied=True)
    language = language_of(load_model(str(tmp_path / "model"), part="language", device="cpu"))
    assert language.decoder._head.data_ptr() == language.decoder._model.embed_tokens.weight.data_ptr()


def test_each_part_reads_only_its_tensors(folder: Path) -> None:
    """Together the parts read every tensor once."""
    vision = load_model(str(folder), part="vision", device="cpu")
    language = load_model(str(folder), part="language", device="cpu")
    assert all(name.startswith("model.visual.") for name in vision.tensors_read)
    stored = resolve_model(str(folder)).checkpoint().files
    assert sorted([*vision.tensors_read, *language.tensors_read]) == sorted(stored)


def test_answers_are_those_of_stock_generate(
    stock: Qwen3VLForConditionalGeneration, model: VideoModel, visual: VisualFeatures
) -> None:
    """Answers match without compression and with greedy decoding."""
    language, everything = language_of(model), model.compress(visual, None)
    (answer,) = model.answer(everything, ["What?"], GenerationConfig(max_new_tokens=8, system_prompt="Be brief."))
    texts = language._texts(*language.chat.around_video("What?", "Be brief."), everything)
    video_id = stock.config.video_token_id
    whole = [*texts[0], *(token for text in texts[1:] for token in (*[video_id] * visual.features.shape[1], *text))]
    pixels, grid = patches(model)
    ids = stock.generate(
        input_ids=torch.tensor([whole]),
        attention_mask=torch.ones(1, len(whole), dtype=torch.int64),
        pixel_values_videos=pixels,
        video_grid_thw=torch.tensor([grid]),
        mm_token_type_ids=torch.tensor([[2 if token == video_id else 0 for token in whole]]),
        max_new_tokens=8,
        do_sample=False,
        eos_token_id=sorted(language.chat.end_tokens),
    )[0, len(whole) :]
    assert answer.response == language.chat.decode(ids.tolist())
    assert answer.num_generated_tokens == len(ids)


def test_questions_together_and_alone(model: VideoModel, compressed: CompressedVideo) -> None:
    """The video is prefilled once for all questions; pruning must come after the deepstack layers."""
    asked, short = ["What?", "How many?", "Why is that?"], GenerationConfig(max_new_tokens=6)
    pruning = InnerPruningConfig(pruning_layer=2, llm_retention_ratio=0.3)
    together = model.answer(compressed, asked, short, pruning=pruning)
    alone = [model.answer(compressed, [question], short, pruning=pruning)[0] for question in asked]
    assert [answer.response for answer in together] == [answer.response for answer in alone]
    with pytest.raises(
        ConfigurationError,
        match="pruning_layer 1 is too early: this model adds visual features after its first 2 layers",
    ):
        model.answer(compressed, asked, short, pruning=InnerPruningConfig(pruning_layer=1, llm_retention_ratio=0.3))


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    """Configurations and tensors are refused with their cause."""
    folder = tmp_path / "model"
    write_qwen3(folder)
    vision = resolve_model(str(folder)).config()["vision_config"]
    change_config(folder, vision_config={**vision, "deepstack_visual_indexes": [0, 7]})
    with pytest.raises(ModelLoadError, match=r"deepstack_visual_indexes \[0, 7\] are not all below the depth of 3"):
        resolve_model(str(folder))
    change_config(folder, vision_config=vision)
    change_weights(folder, lambda weights: weights.update({"model.visual.blocks.3.norm1.weight": torch.ones(32)}))
    with pytest.raises(ModelLoadError, match=r"there are unexpected tensors: .*blocks\.3\.norm1\.weight"):
        load_model(str(folder), part="vision", device="cpu")
    change_weights(folder, lambda weights: weights.pop("model.visual.deepstack_merger_list.1.norm.bias"))
    with pytest.raises(ModelLoadError, match=r"the weights lack model\.visual\.deepstack_merger_list\.1\.norm\.bias"):
        resolve_model(str(folder))
