"""Many questions after one video: packed sequences, their positions and mask, and the decoder run over them.

The video is computed once for all of its questions. Each question sees the video and itself, at the positions it has
when it is asked alone, so that nothing but speed depends on packing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional
from transformers import Qwen2_5_VLTextModel
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLDecoderLayer, apply_rotary_pos_emb

from flashvid.models.qwen.qwen2_5_vl.language import prompt_positions, seconds_per_step
from jobs.lab.tiny_model.drawn_questions import Question
from jobs.lab.tiny_model.labels import GRID
from jobs.lab.tiny_model.scenes import FRAMES_PER_STEP
from jobs.lab.tiny_model.tokenizer import SYSTEM_PROMPT
from jobs.lab.tiny_model.training_config import MERGE_SIZE, TOKENS_PER_SECOND

_IGNORED = -100


@dataclass(frozen=True)
class PackedQuestions:
    """The text of a batch: `B` videos with the tokens of `Q` questions each, answers included, one after the other.

    Attributes:
        before: `[P]` ids up to the video, the same for all.
        ids: `[B, S]` ids after the video, padded at the end.
        targets: `[B, S]` the id each token should be followed by, -100 where that is not learned.
        question: `[B, S]` which of its video's questions a token belongs to; Q where there is only padding.
        place: `[B, S]` how far from its question's beginning.
    """

    before: Tensor
    ids: Tensor
    targets: Tensor
    question: Tensor
    place: Tensor


class QuestionEncoder:
    """Questions and answers to ids, as the chat template renders them."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        vocabulary = tokenizer.get_vocab()
        self._end, self._padding = vocabulary["<|im_end|>"], vocabulary["<|endoftext|>"]
        self.before = self._ids(f"<|im_start|>system\n {SYSTEM_PROMPT}<|im_end|>\n<|im_start|>user\n<|vision_start|>")

    def after(self, text: str) -> list[int]:
        """Return the ids between the video and the answer."""
        return self._ids(f"<|vision_end|> {text}<|im_end|>\n<|im_start|>assistant\n")

    def answer(self, text: str) -> list[int]:
        """Return the ids of an answer with its end."""
        return [*self._ids(f" {text}"), self._end]

    def pack(self, videos: Sequence[Sequence[Question]]) -> PackedQuestions:
        """Concatenate the questions of each of several videos, equally many for each."""
        encoded = [[(self.after(asked.text), self.answer(asked.answer)) for asked in video] for video in videos]
        # The end itself is only predicted, never read.
        lengths = [[len(prompt) + len(answer) - 1 for prompt, answer in video] for video in encoded]
        size = (len(videos), max(map(sum, lengths)))
        ids, targets = torch.full(size, self._padding), torch.full(size, _IGNORED)
        question, place = torch.full(size, len(videos[0])), torch.zeros(size, dtype=torch.int64)
        for row, video in enumerate(encoded):
            first = 0
            for number, (prompt, answer) in enumerate(video):
                whole = torch.tensor([*prompt, *answer])
                span = slice(first, first + len(whole) - 1)
                ids[row, span] = whole[:-1]
                targets[row, first + len(prompt) - 1 : span.stop] = whole[len(prompt) :]
                question[row, span] = number
                place[row, span] = torch.arange(len(whole) - 1)
                first = span.stop
        return PackedQuestions(torch.tensor(self.before), ids, targets, question, place)

    def _ids(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids


def clip_positions(num_before: int, num_after: int, frame_timestamps: NDArray[np.float64]) -> Tensor:
    """Return the positions `[3, L]` of text, a whole clip and text, as in inference."""
    steps = -(-len(frame_timestamps) // FRAMES_PER_STEP)
    step_s = seconds_per_step(frame_timestamps, FRAMES_PER_STEP)
    grid_thw = (steps, GRID * MERGE_SIZE, GRID * MERGE_SIZE)
    per_step = step_s * TOKENS_PER_SECOND
    return prompt_positions(num_before, grid_thw, num_after, merge_size=MERGE_SIZE, positions_per_step=per_step)


def question_mask(prefix: int, packed: PackedQuestions) -> Tensor:
    """Return the mask of question tokens: they see the prefix and their question so far.

    `[B, 1, S, prefix + S]`, 0 or -infinity.
    """
    same = packed.question[:, :, None] == packed.question[:, None, :]
    own = torch.zeros(same.shape).masked_fill(~same.tril(), -torch.inf)
    return functional.pad(own, (prefix, 0))[:, None]


@dataclass(frozen=True, eq=False)
class PackedRun:
    """The decoder's states for packed questions.

    Attributes:
        hidden: `[B, S, D]`, final states of the questions' tokens.
        visual: States of the visual tokens after every layer but the last, whose output is not used; `[B, T * N, D]`.
        queries: Of the questions' tokens in every layer, `[B, H, S, d]`.
        keys: Of the visual tokens in every layer, `[B, H, T * N, d]`.
    """

    hidden: Tensor
    visual: list[Tensor]
    queries: list[Tensor]
    keys: list[Tensor]


def run_packed(
    decoder: Qwen2_5_VLTextModel, features: Tensor, packed: PackedQuestions, frame_timestamps: NDArray[np.float64]
) -> PackedRun:
    """Run the decoder over packed questions.

    Args:
        decoder: The language side.
        features: `[B, T * N, D]`, every visual token.
        packed: Questions about each of the videos.
        frame_timestamps: Of the videos, `[F]`.
    """
    before = decoder.embed_tokens(packed.before).expand(len(features), -1, -1)
    video = slice(before.shape[1], before.shape[1] + features.shape[1])
    hidden = torch.cat([before, features, decoder.embed_tokens(packed.ids)], dim=1)
    positions = clip_positions(video.start, 1, frame_timestamps)[:, None].expand(-1, len(features), -1)
    # Every question starts where it would if it were the only one.
    positions = torch.cat([positions[..., :-1], positions[..., -1:] + packed.place], dim=-1)
    rotary = decoder.rotary_emb(hidden, positions)
    mask = question_mask(video.stop, packed)
    run = PackedRun(hidden, [], [], [])
    for layer in (cast("Qwen2_5_VLDecoderLayer", layer) for layer in decoder.layers):
        is_last = len(run.queries) + 1 == len(decoder.layers)
        hidden, queries, keys = _run_layer(layer, hidden, video.stop, rotary, mask, questions_only=is_last)
        run.queries.append(queries)
        run.keys.append(keys[:, :, video])
        if not is_last:
            run.visual.append(hidden[:, video])
    return replace(run, hidden=decoder.norm(hidden))


def _run_layer(
    layer: Qwen2_5_VLDecoderLayer,
    hidden: Tensor,
    prefix: int,
    rotary: tuple[Tensor, Tensor],
    mask: Tensor,
    *,
    questions_only: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """One decoder layer: its output (with `questions_only`, that of the questions), their queries, and all keys."""
    attention = layer.self_attn
    normed = layer.input_layernorm(hidden)

    def heads(projected: Tensor) -> Tensor:
        return projected.view(*projected.shape[:2], -1, attention.head_dim).transpose(1, 2)

    queries, keys = apply_rotary_pos_emb(heads(attention.q_proj(normed)), heads(attention.k_proj(normed)), *rotary)
    values = heads(attention.v_proj(normed))
    asking = queries[:, :, prefix:]
    attended = functional.scaled_dot_product_attention(asking, keys, values, attn_mask=mask)
    if questions_only:
        hidden = hidden[:, prefix:]
    else:
        first, first_keys, first_values = (part[:, :, :prefix] for part in (queries, keys, values))
        video = functional.scaled_dot_product_attention(first, first_keys, first_values, is_causal=True)
        attended = torch.cat([video, attended], dim=2)
    hidden = hidden + attention.o_proj(attended.transpose(1, 2).flatten(2))
    return hidden + layer.mlp(layer.post_attention_layernorm(hidden)), asking, keys
