"""The language side of Qwen2.5-VL: one prefill of the video, then one greedy answer per question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import DynamicCache, Qwen2_5_VLConfig, Qwen2_5_VLTextModel

from flashvid.errors import InvalidFeaturesError
from flashvid.models.prompt import ChatPrompt
from flashvid.models.qwen2_5_vl.positions import prompt_positions, seconds_per_step
from flashvid.models.sources import ModelSource
from flashvid.models.types import Answer, CompressedVideo, FinishReason, GenerationConfig

_SPECIAL_TOKENS = ("<|vision_start|>", "<|video_pad|>", "<|vision_end|>")


@dataclass(frozen=True)
class _Prompt:
    """One question's prompt as the model reads it, compressed.

    Attributes:
        question: Position in the caller's list.
        before: Token ids up to the video.
        after: Token ids behind it.
        positions: `[3, len(before) + M + len(after)]`.
        next_position: Of the first generated token: behind the prompt as if nothing had been removed.
    """

    question: int
    before: tuple[int, ...]
    after: tuple[int, ...]
    positions: Tensor
    next_position: int


class QwenLanguage:
    """Decoder, output head and tokenizer."""

    def __init__(
        self, decoder: Qwen2_5_VLTextModel, head: Tensor, config: Qwen2_5_VLConfig, prompt: ChatPrompt
    ) -> None:
        self._decoder = decoder
        self._head = head
        self._config = config
        self._prompt = prompt

    @classmethod
    def load(cls, source: ModelSource, *, dtype: torch.dtype | None, device: torch.device) -> Self:
        """Read the tokenizer and the tensors of the language side, and only those.

        Raises:
            ModelLoadError: tensors missing or not fitting, or a tokenizer without the special tokens.
        """
        config = Qwen2_5_VLConfig.from_pretrained(source.path)
        prompt = ChatPrompt.load(source.path, _SPECIAL_TOKENS, video_token="<|video_pad|>")
        checkpoint = source.checkpoint()
        # Checkpoints from before transformers 5 have the decoder directly under "model.".
        prefix = "model.language_model." if checkpoint.has_prefix("model.language_model.") else "model."
        with torch.device("meta"):
            decoder = Qwen2_5_VLTextModel(config.text_config)
        checkpoint.fill(decoder, checkpoint.read(prefix, dtype, device), "language side")
        # Its frequencies are computed, not stored, so the module without memory has none.
        decoder.rotary_emb = type(decoder.rotary_emb)(config.text_config).to(device)
        head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False, device="meta")
        tied = not checkpoint.has("lm_head.weight")
        weights = {"weight": decoder.embed_tokens.weight} if tied else checkpoint.read("lm_head.", dtype, device)
        checkpoint.fill(head, weights, "output head")
        return cls(decoder.eval(), head.weight, config, prompt)

    @torch.no_grad()
    def answer(
        self, compressed: CompressedVideo, questions: Sequence[str], generation: GenerationConfig
    ) -> list[Answer]:
        """See `VideoModel.answer`."""
        width = self._config.text_config.hidden_size
        if compressed.tokens.ndim != 2 or compressed.tokens.shape[1] != width:
            raise InvalidFeaturesError(f"tokens must be [M, {width}] for this model, not {list(compressed.tokens.shape)}")
        prompts = [self._build(i, question, compressed, generation) for i, question in enumerate(questions)]
        answers: dict[int, Answer] = {}
        # Only what stands up to the last visual token is shared, never more: what a question's answer is computed from
        # must not depend on which other questions came along.
        for before, group in groupby(sorted(prompts, key=lambda p: p.before), key=lambda p: p.before):
            shared = [*group]
            cache = self._prefill(before, compressed.tokens, shared[0].positions)
            for prompt in shared:
                answers[prompt.question] = self._generate(prompt, cache, generation)
        return [answers[index] for index in range(len(questions))]

    def _build(self, index: int, question: str, compressed: CompressedVideo, generation: GenerationConfig) -> _Prompt:
        before, after = self._prompt.around_video(question, generation.system_prompt)
        vision = self._config.vision_config
        step_s = seconds_per_step(compressed.frame_timestamps, vision.temporal_patch_size)
        positions = prompt_positions(
            len(before),
            compressed.grid_thw,
            len(after),
            merge_size=vision.spatial_merge_size,
            positions_per_step=step_s * vision.tokens_per_second,
        )
        text_after = positions.shape[1] - len(after)
        # Kept tokens stay where they were in the uncompressed prompt: positions with gaps (spec 8).
        kept = torch.cat(
            [
                torch.arange(len(before)),
                compressed.indices.cpu() + len(before),
                torch.arange(text_after, positions.shape[1]),
            ]
        )
        return _Prompt(index, before, after, positions[:, kept], int(positions.max()) + 1)

    def _prefill(self, before: Sequence[int], tokens: Tensor, positions: Tensor) -> DynamicCache:
        """Run everything up to the last visual token."""
        embedded = self._embed(before)
        embeds = torch.cat([embedded, tokens.to(embedded)])
        cache = DynamicCache(config=self._config.text_config)
        self._forward(embeds, positions[:, : len(embeds)], cache)
        return cache

    def _generate(self, prompt: _Prompt, cache: DynamicCache, generation: GenerationConfig) -> Answer:
        """Answer one question on top of the shared prefill, and leave the cache as it was."""
        num_shared = cache.get_seq_length()
        hidden = self._forward(self._embed(prompt.after), prompt.positions[:, num_shared:], cache)
        generated: list[int] = []
        finish_reason: FinishReason = "length"
        while True:
            token = int(functional.linear(hidden[-1], self._head).argmax())
            generated.append(token)
            if token in self._prompt.end_tokens:
                finish_reason = "stop"
                break
            if len(generated) == generation.max_new_tokens:
                break
            position = torch.full((3, 1), prompt.next_position + len(generated) - 1)
            hidden = self._forward(self._embed([token]), position, cache)
        cache.crop(num_shared - cache.get_seq_length())
        return Answer(
            response=self._prompt.decode(generated),
            finish_reason=finish_reason,
            num_visual_tokens=num_shared - len(prompt.before),
            num_prompt_tokens=num_shared + len(prompt.after),
            num_shared_tokens=num_shared,
            num_generated_tokens=len(generated),
        )

    def _embed(self, ids: Sequence[int]) -> Tensor:
        return self._decoder.embed_tokens(torch.tensor(ids, device=self._head.device))

    def _forward(self, embeds: Tensor, positions: Tensor, cache: DynamicCache) -> Tensor:
        """`[L, D]` at positions `[3, L]`, on top of a cache that grows by L, to last hidden states `[L, D]`."""
        output = self._decoder(
            inputs_embeds=embeds.unsqueeze(0),
            position_ids=positions.unsqueeze(1).to(embeds.device),
            past_key_values=cache,
            use_cache=True,
        )
        hidden: Tensor = output.last_hidden_state[0]
        return hidden
