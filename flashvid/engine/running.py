"""Prompts, what is generated for them, and the answers that are being decoded, by the slots they share."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from flashvid.engine.kv_slots import KVSlots
from flashvid.engine.lm_input import QuestionSuffix, SharedPrefix
from flashvid.engine.sampling import TokenSampler
from flashvid.engine.types import FinishReason, TokenLayers


@dataclass(frozen=True, eq=False)
class Prompt:
    """One question as the decoder reads it.

    Attributes:
        suffix: The question's own part of the prompt.
        key: Name of its random stream.
        options: Token ids of continuations to score instead of generating one; at least one token each.
    """

    suffix: QuestionSuffix
    key: str
    options: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, eq=False)
class SharedPrompts:
    """Questions that share a prefix."""

    prefix: SharedPrefix
    prompts: tuple[Prompt, ...]


@dataclass(frozen=True)
class Generated:
    """What was generated for one prompt.

    Attributes:
        ids: Token ids, an end token included; empty if options were scored.
        finish_reason: Why it ended.
        token_layers: Work of the decoder.
        log_likelihoods: For each option, the log-likelihood of each of its tokens, given the tokens before it; None
            without options.
    """

    ids: tuple[int, ...]
    finish_reason: FinishReason
    token_layers: TokenLayers
    log_likelihoods: tuple[tuple[float, ...], ...] | None = None


@dataclass(eq=False)
class Answering:
    """A prompt that is being answered. Only its batch changes it.

    Attributes:
        place: Index of the prompt in its batch.
        prompt: The prompt.
        sampler: Chooses its tokens.
        prefill_work: Work of the prefill.
        ids: Tokens generated so far.
    """

    place: int
    prompt: Prompt
    sampler: TokenSampler
    prefill_work: TokenLayers
    ids: list[int]


@dataclass(eq=False)
class Together:
    """Prompts that are being answered in slots of the same tensors, one slot each."""

    answers: list[Answering]
    slots: KVSlots

    def leave(self, ended: Sequence[int]) -> None:
        """Remove these answers and their slots; the last ones take their places."""
        for index in sorted(ended, reverse=True):
            self._drop(index)
            self.slots.leave(index)

    def take_grown(self) -> list[Self]:
        """Move the answers whose slots are full into larger slots of their own, and return these."""
        full = self.slots.full()
        if not full:
            return []
        answers = [[self.answers[index] for index in slots] for slots in full.values()]
        grown = [type(self)(own, slots) for own, slots in zip(answers, self.slots.take_grown(full), strict=True)]
        for index in sorted((index for slots in full.values() for index in slots), reverse=True):
            self._drop(index)
        return grown

    def _drop(self, index: int) -> None:
        """Remove an answer in the order in which `KVSlots.leave` removes a slot: the last one takes its place."""
        self.answers[index] = self.answers[-1]
        self.answers.pop()


def joined(groups: Iterable[Together]) -> list[Together]:
    """Join groups whose slots have the same size into the first of them; groups without answers are left out."""
    by_size: dict[object, Together] = {}
    for group in groups:
        if not group.answers:
            continue
        first = by_size.setdefault(group.slots.size, group)
        if first is not group:
            first.slots.join(group.slots)
            first.answers += group.answers
    return [*by_size.values()]
