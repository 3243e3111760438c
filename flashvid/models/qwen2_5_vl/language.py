"""The language side of Qwen2.5-VL: one prefill of the video, then one greedy answer per question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import DynamicCache, Qwen2_5_VLTextModel
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig

from flashvid.models.prompt import ChatPrompt
from flashvid.models.qwen2_5_vl.configs import load_configs, without_memory
from flashvid.models.qwen2_5_vl.family import is_tied, language_prefix, language_tensors
from flashvid.models.qwen2_5_vl.positions import prompt_positions, seconds_per_step
from flashvid.models.sources import ModelSource
from flashvid.models.types import Answer, CompressedVideo, FinishReason, GenerationConfig, LoadOptions
from flashvid.models.weights import Checkpoint


@dataclass(frozen=True, eq=False)
class Prompt:
    """One prompt as the model reads it, with M visual tokens instead of all T * N.

    Attributes:
        before: Token ids up to the video.
        after: Token ids behind it.
        positions: `[3, len(before) + M + len(after)]` int64, with gaps where tokens were removed.
        next_position: Of the first generated token: behind the prompt as if nothing had been removed.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    positions: Tensor
    next_position: int


class QwenLanguage:
    """Decoder, output head and tokenizer."""

    def __init__(
        self, decoder: Qwen2_5_VLTextModel, head: nn.Linear, vision: Qwen2_5_VLVisionConfig, chat: ChatPrompt
    ) -> None:
        self._decoder = decoder
        self._head = head.weight
        self._vision = vision
        self._chat = chat
        self.dtype = head.weight.dtype

    @classmethod
    def load(cls, source: ModelSource, checkpoint: Checkpoint, options: LoadOptions) -> Self:
        """Read the tokenizer and the tensors of the language side, and only those.

        Raises:
            ModelLoadError: a configuration or tensors that do not fit, an unusable tokenizer.
            ConfigurationError: an attention implementation that there is not.
        """
        vision, text = load_configs(source, options)
        chat = ChatPrompt.load(source.path, video_token="<|video_pad|>")  # noqa: S106 - no password
        decoder = without_memory(Qwen2_5_VLTextModel, text)
        stored = source.config()
        prefix, names = language_prefix(checkpoint.files), language_tensors(stored)
        checkpoint.fill(decoder, checkpoint.read(prefix, names, options.dtype, options.device), "language side")
        # Its frequencies are computed, not stored, so the module without memory has none.
        decoder.rotary_emb = type(decoder.rotary_emb)(cast("Any", text)).to(options.device)
        head = nn.Linear(text.hidden_size, text.vocab_size, bias=False, device="meta")
        if is_tied(stored):
            weight = {"weight": decoder.embed_tokens.weight}
        else:
            weight = checkpoint.read("lm_head.", ["weight"], options.dtype, options.device)
        checkpoint.fill(head, weight, "output head")
        return cls(cast("Qwen2_5_VLTextModel", decoder.train(False)), head, vision, chat)

    def answer(
        self, compressed: CompressedVideo, questions: Sequence[str], generation: GenerationConfig
    ) -> list[Answer]:
        """See `VideoModel.answer`."""
        texts = [self._chat.around_video(question, generation.system_prompt) for question in questions]
        prompts = [self.build_prompt(before, after, compressed) for before, after in texts]
        answers: dict[int, Answer] = {}
        # Only what stands up to the last visual token is shared, never more: what a question's answer is computed from
        # must not depend on which other questions came along.
        order = sorted(range(len(prompts)), key=lambda index: prompts[index].before)
        for _, group in groupby(order, key=lambda index: prompts[index].before):
            together = [*group]
            cache = self.prefill(prompts[together[0]], compressed.tokens)
            for index in together:
                answers[index] = self._generate(prompts[index], cache, generation)
        return [answers[index] for index in range(len(questions))]

    def build_prompt(self, before: tuple[int, ...], after: tuple[int, ...], compressed: CompressedVideo) -> Prompt:
        """Put token ids around a video and find every token's position.

        Args:
            before: Up to the video, its start token included.
            after: Behind the video, from its end token on.
            compressed: The video.
        """
        step_s = seconds_per_step(compressed.frame_timestamps, cast("int", self._vision.temporal_patch_size))
        positions = prompt_positions(
            len(before),
            compressed.grid_thw,
            len(after),
            merge_size=self._vision.spatial_merge_size,
            positions_per_step=step_s * self._vision.tokens_per_second,
        )
        # Kept tokens stay where they were in the uncompressed prompt: positions with gaps (spec 8).
        num_all = positions.shape[1]
        visual = compressed.indices.cpu() + len(before)
        kept = torch.cat([torch.arange(len(before)), visual, torch.arange(num_all - len(after), num_all)])
        return Prompt(before, after, positions[:, kept], int(positions.max()) + 1)

    def prefix_embeddings(self, prompt: Prompt, tokens: Tensor) -> Tensor:
        """What the decoder gets up to the last visual token, `[len(before) + M, D]`."""
        embedded = self._embed(prompt.before)
        return torch.cat([embedded, tokens.to(embedded)])

    def prefill(self, prompt: Prompt, tokens: Tensor) -> DynamicCache:
        """Run everything up to the last visual token (`tokens` `[M, D]`)."""
        cache = DynamicCache(config=self._decoder.config)
        embeddings = self.prefix_embeddings(prompt, tokens)
        self._forward(embeddings, prompt.positions[:, : len(embeddings)], cache)
        return cache

    def question_logits(self, prompt: Prompt, cache: DynamicCache) -> Tensor:
        """Run what stands behind the video on top of its prefill; `[V]`, for the first generated token."""
        positions = prompt.positions[:, prompt.positions.shape[1] - len(prompt.after) :]
        return self._forward(self._embed(prompt.after), positions, cache)

    def token_logits(self, token: int, position: int, cache: DynamicCache) -> Tensor:
        """Run one generated token; `[V]`, for the one after it."""
        return self._forward(self._embed([token]), torch.full((3, 1), position), cache)

    def _generate(self, prompt: Prompt, cache: DynamicCache, generation: GenerationConfig) -> Answer:
        """Answer one question on top of the shared prefill, and leave the cache as it was."""
        num_shared = cache.get_seq_length()
        logits = self.question_logits(prompt, cache)
        generated = [int(logits.argmax())]
        while generated[-1] not in self._chat.end_tokens and len(generated) < generation.max_new_tokens:
            logits = self.token_logits(generated[-1], prompt.next_position + len(generated) - 1, cache)
            generated.append(int(logits.argmax()))
        cache.crop(num_shared - cache.get_seq_length())
        finish_reason: FinishReason = "stop" if generated[-1] in self._chat.end_tokens else "length"
        return Answer(
            response=self._chat.decode(generated),
            finish_reason=finish_reason,
            num_visual_tokens=num_shared - len(prompt.before),
            num_prompt_tokens=num_shared + len(prompt.after),
            num_shared_tokens=num_shared,
            num_generated_tokens=len(generated),
        )

    @torch.no_grad()
    def _embed(self, ids: Sequence[int]) -> Tensor:
        embedded: Tensor = self._decoder.embed_tokens(torch.tensor(ids, dtype=torch.int64, device=self._head.device))
        return embedded

    @torch.no_grad()
    def _forward(self, embeddings: Tensor, positions: Tensor, cache: DynamicCache) -> Tensor:
        """`[L, D]` at positions `[3, L]`, on top of a cache that grows by L, to the last one's logits `[V]`."""
        output = self._decoder(
            inputs_embeds=embeddings.unsqueeze(0),
            position_ids=positions.unsqueeze(1).to(embeddings.device),
            past_key_values=cache,
            use_cache=True,
        )
        return functional.linear(output.last_hidden_state[0, -1], self._head)
