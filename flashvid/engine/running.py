"""Answers that are being decoded: where each stands among those asked for, and which share slots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from flashvid.engine.kv_slots import KVSlots
from flashvid.engine.lm_input import QuestionSuffix
from flashvid.engine.sampling import TokenSampler
from flashvid.engine.types import TokenLayers


@dataclass(frozen=True)
class Place:
    """Where a prompt stands among those given: which group, which of its prompts."""

    group: int
    prompt: int


@dataclass(eq=False)
class Answering:
    """A prompt that is being answered; it changes, and only inside its batch."""

    place: Place
    suffix: QuestionSuffix
    sampler: TokenSampler
    prefill_work: TokenLayers
    ids: list[int]


@dataclass(eq=False)
class Together:
    """Prompts that are being answered in slots of the same tensors, one each."""

    answers: list[Answering]
    slots: KVSlots

    def leave(self, ended: Sequence[int]) -> None:
        """Leave these out; the last ones take their places."""
        for index in sorted(ended, reverse=True):
            self._drop(index)
            self.slots.leave(index)

    def take_grown(self) -> list[Self]:
        """Those whose slots are full, in larger ones of their own."""
        full = self.slots.full()
        if not full:
            return []
        answers = [[self.answers[index] for index in slots] for slots in full.values()]
        grown = [type(self)(own, slots) for own, slots in zip(answers, self.slots.take_grown(full), strict=True)]
        for index in sorted((index for slots in full.values() for index in slots), reverse=True):
            self._drop(index)
        return grown

    def _drop(self, index: int) -> None:
        """Out of the answers, as `KVSlots.leave` does it with slots: the last one takes its place."""
        self.answers[index] = self.answers[-1]
        self.answers.pop()


def joined(groups: Sequence[Together]) -> list[Together]:
    """Groups whose slots are of one size as one; the first ones take the others in."""
    by_size: dict[object, Together] = {}
    for group in groups:
        first = by_size.setdefault(group.slots.size, group)
        if first is not group:
            first.slots.join(group.slots)
            first.answers += group.answers
    return [*by_size.values()]
