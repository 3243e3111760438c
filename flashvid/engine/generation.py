"""Prompts to generated tokens, many at a time: questions join a batch, decode together, and leave it when they end.

What is generated for a question does not depend on which others are in the batch, bit for bit on one machine with one
number of threads: a prefix is prefilled alone, the matrix products of questions and of decoding steps have numbers of
rows that give the same bits (row_sizes.py), and attention runs over each sequence by itself, at a size that follows
from its own length.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from flashvid.config import InnerPruningConfig
from flashvid.engine.decoder import Decoder
from flashvid.engine.generation_config import GenerationConfig
from flashvid.engine.json_grammar import JsonGrammar
from flashvid.engine.kv_slots import grown_size
from flashvid.engine.lm_input import QuestionSuffix, SharedPrefix
from flashvid.engine.option_scores import score_options
from flashvid.engine.prefill import PrefilledPrefix, padded_length, prefill_prefix, prefill_questions
from flashvid.engine.running import Answering, Place, Together, joined
from flashvid.engine.sampling import TokenSampler
from flashvid.engine.types import FinishReason, TokenLayers

# Share of the answers that are still running when others begin. At a quarter of the rows a pass over the weights for
# new questions costs each of them little, and rows that wait for it are few.
_REFILL_BELOW = 0.75
# After running out of memory, until more answers at a time are tried again; twice as many each time that fails.
_REFILLS_TO_RECOVER = 64


@dataclass(frozen=True, eq=False)
class Prompt:
    """One question as the decoder reads it.

    Attributes:
        suffix: Its own part of the prompt.
        key: Names its random stream.
        options: Token ids of continuations to score instead of generating one; each at least one token.
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
        ids: Token ids, an end token included; none if options were scored.
        finish_reason: Why it ended.
        token_layers: What the decoder did for it.
        log_likelihoods: If there were options, for each the log-likelihood of its tokens, given those before them.
    """

    ids: tuple[int, ...]
    finish_reason: FinishReason
    token_layers: TokenLayers
    log_likelihoods: tuple[tuple[float, ...], ...] | None = None


@dataclass(frozen=True)
class Ending:
    """What ends an answer, besides its length.

    Attributes:
        tokens: Ids that do.
        texts: Texts that do, once an answer contains one.
        decode: Token ids to text, special tokens and outer blanks included.
    """

    tokens: frozenset[int]
    texts: tuple[str, ...]
    decode: Callable[[Sequence[int]], str]

    def reached(self, ids: Sequence[int]) -> bool:
        """Whether these ids are a whole answer."""
        if ids[-1] in self.tokens:
            return True
        if not self.texts:
            return False
        text = self.decode(ids)
        return any(stop in text for stop in self.texts)


class Batch:
    """Answers prompts; lives for one call."""

    def __init__(
        self,
        decoder: Decoder,
        groups: Sequence[SharedPrompts],
        generation: GenerationConfig,
        ending: Ending,
        *,
        pruning: InnerPruningConfig | None = None,
        grammar: JsonGrammar | None = None,
        max_batch_tokens: int,
    ) -> None:
        """Take prompts and settings.

        Args:
            decoder: Runs them.
            groups: Prompts by prefix; the prefix is run once for a group.
            generation: How tokens are chosen and how many at most.
            ending: What ends an answer.
            pruning: Inside the decoder; None for none.
            grammar: What every generated answer must be; None leaves them free.
            max_batch_tokens: Bound of the tokens in all caches together, those not generated yet included. A single
                prompt that exceeds it is run alone. Slots that answers have left are kept for a while, up to a third
                more.
        """
        self._decoder = decoder
        self._groups = groups
        self._generation = generation
        self._ending = ending
        self._pruning = pruning
        self._grammar = grammar
        self._max_batch_tokens = max_batch_tokens
        self._max_sequences = decoder.decode_rows.most
        # Those that were being answered when questions were admitted last.
        self._most_running = 0
        # Times that questions were admitted since memory ran out, and after how many more at a time are tried.
        self._refills, self._patience = 0, _REFILLS_TO_RECOVER
        self._waiting = deque(self._places())
        self._running: list[Together] = []
        self._shared: tuple[int, PrefilledPrefix] | None = None
        self._done: dict[Place, Generated] = {}

    def run(self) -> list[list[Generated]]:
        """Answer everything: one `Generated` per prompt, in the order given.

        Raises:
            torch.cuda.OutOfMemoryError: not even one prompt fits.
            ConfigurationError: the JSON of an answer can't be continued.
        """
        while self._waiting or self._running:
            attempted = 0
            try:
                while self._has_rows():
                    running, admitted = len(self._answering()), list[Place]()
                    while places := self._admissible(admitted):
                        attempted = len(self._answering()) + len(places)
                        self._admit(places)
                        admitted += places
                    if not admitted:
                        break
                    # With those that ended at once: their rows are free.
                    self._most_running = running + len(admitted)
                    self._recover()
                attempted = len(self._answering())
                self._step()
            except torch.cuda.OutOfMemoryError:
                if attempted < 2:
                    raise
                self._start_again(attempted // 2)
        done = iter([self._done[place] for place in self._places()])
        return [[next(done) for _ in group.prompts] for group in self._groups]

    def _places(self) -> list[Place]:
        """Of all prompts, in the order given."""
        return [Place(g, p) for g, group in enumerate(self._groups) for p in range(len(group.prompts))]

    def _answering(self) -> list[Answering]:
        return [answering for together in self._running for answering in together.answers]

    def _has_rows(self) -> bool:
        """Whether enough answers have ended for others to begin.

        A question that took the first row that is free would be prefilled alone, and read all weights for itself.
        """
        return len(self._answering()) <= self._most_running * _REFILL_BELOW

    def _admissible(self, admitted: Sequence[Place]) -> list[Place]:
        """The next waiting prompts of one prefix that there is room for; one at least if nothing is running.

        Args:
            admitted: Just now. One that has ended with its first token makes no room for another yet.
        """
        found: list[Place] = []
        running = {*(answering.place for answering in self._answering()), *admitted}
        for place in self._waiting:
            others = [*running, *found]
            tokens = len(self._groups[place.group].prefix.embeddings) + sum(map(self._num_tokens, [*others, place]))
            if others and (len(others) >= self._max_sequences or tokens > self._max_batch_tokens):
                break
            if found and place.group != found[0].group:
                break
            found.append(place)
        return found

    def _num_tokens(self, place: Place) -> int:
        """Tokens that a prompt's slot has room for, or may come to hold."""
        group = self._groups[place.group]
        shared, suffix = len(group.prefix.embeddings), group.prompts[place.prompt].suffix
        whole = shared + len(suffix.ids) + self._generation.max_new_tokens
        return grown_size(shared + padded_length(suffix), whole)

    def _admit(self, places: Sequence[Place]) -> None:
        """Prefill the first waiting prompts, which share a prefix, and choose first tokens or score options."""
        group = places[0].group
        prompts, shared = [self._groups[group].prompts[place.prompt] for place in places], self._prefix(group)
        suffixes = [prompt.suffix for prompt in prompts]
        begun = []
        for group_of_prompts in prefill_questions(self._decoder, shared, suffixes, self._pruning):
            together, ended = Together([], group_of_prompts.slots), []
            for slot, run in enumerate(group_of_prompts.prompts):
                place, prompt = places[run.question], prompts[run.question]
                work = TokenLayers(shared.token_layers, run.token_layers, 0, run.visual_token_layers)
                json = self._grammar.begin() if self._grammar is not None else None
                answering = Answering(place, prompt.suffix, TokenSampler(self._generation, prompt.key, json), work, [])
                together.answers.append(answering)
                if prompt.options:
                    scores = score_options(
                        self._decoder, prompt.suffix, prompt.options, group_of_prompts.slots.cache(slot), run.logits
                    )
                    generated = sum(len(option) - 1 for option in prompt.options) * self._decoder.num_layers
                    self._done[place] = Generated((), "choice", replace(work, generated=generated), scores)
                    ended.append(slot)
                else:
                    answering.ids.append(answering.sampler.choose(run.logits))
                    if self._finish(answering):
                        ended.append(slot)
            together.leave(ended)
            begun.append(together)
        self._running = joined([together for together in (*self._running, *begun) if together.answers])
        # Not before: without memory for their slots they are still waiting.
        for _ in places:
            self._waiting.popleft()

    def _prefix(self, group: int) -> PrefilledPrefix:
        if self._shared is None or self._shared[0] != group:
            self._shared = None  # so that never two of them are in memory
            self._shared = (group, prefill_prefix(self._decoder, self._groups[group].prefix, self._pruning))
        return self._shared[1]

    def _step(self) -> None:
        """One more token for every running answer; those that end leave."""
        if not self._running:
            return
        grown = [larger for together in self._running for larger in together.take_grown()]
        if grown:
            self._running = joined([together for together in (*self._running, *grown) if together.answers])
        answers = self._answering()
        logits = self._decoder.step(
            [answering.ids[-1] for answering in answers],
            [answering.suffix.next_position + len(answering.ids) - 1 for answering in answers],
            [together.slots for together in self._running],
        )
        for answering, token in zip(answers, self._choose(answers, logits), strict=True):
            answering.ids.append(token)
        for together in self._running:
            together.leave([i for i, answering in enumerate(together.answers) if self._finish(answering)])
        self._running = [together for together in self._running if together.answers]

    def _choose(self, answers: Sequence[Answering], logits: Tensor) -> list[int]:
        if self._generation.temperature == 0 and self._grammar is None:
            # All at once: a GPU is waited for once a step, and not once an answer.
            return cast("list[int]", logits.argmax(dim=-1).tolist())
        return [answering.sampler.choose(row) for answering, row in zip(answers, logits, strict=True)]

    def _finish(self, answering: Answering) -> bool:
        """Whether it has ended; then its result is noted."""
        ids = answering.ids
        ended = self._ending.reached(ids) or answering.sampler.is_complete
        if not ended and len(ids) < self._generation.max_new_tokens:
            return False
        work = replace(answering.prefill_work, generated=(len(ids) - 1) * self._decoder.num_layers)
        self._done[answering.place] = Generated(tuple(ids), "stop" if ended else "length", work)
        return True

    def _start_again(self, max_sequences: int) -> None:
        """After running out of memory: everything unfinished from its beginning, fewer at a time.

        A step that failed half-way has left caches whose layers do not agree, so none is kept. Started again, an
        answer comes out the same.
        """
        self._max_sequences, self._refills = max_sequences, 0
        self._patience *= 2
        # Out of what is done, since what failed half-way may stand in two places or in none.
        self._waiting = deque(place for place in self._places() if place not in self._done)
        self._running, self._shared, self._most_running = [], None, 0

    def _recover(self) -> None:
        """What took the memory may have been another process: after some refills twice as many are tried again."""
        self._refills += 1
        if self._refills == self._patience and self._max_sequences < self._decoder.decode_rows.most:
            self._max_sequences, self._refills = min(2 * self._max_sequences, self._decoder.decode_rows.most), 0
