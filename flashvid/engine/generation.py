"""Prompts to generated tokens with continuous batching: requests join a batch, decode together, and leave at the end.

What is generated for a request is bit-identical whatever its batch, on one machine with one number of threads: a prefix
is prefilled alone, the matmuls of questions and decode steps have row counts that give the same bits (row_sizes.py),
and attention runs over each sequence alone, at a size that follows from its own length.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import torch
from torch import Tensor

from flashvid.config import InnerPruningConfig
from flashvid.engine.decoder import Decoder
from flashvid.engine.generation_config import GenerationConfig
from flashvid.engine.json_grammar import JsonGrammar
from flashvid.engine.kv_cache import KVCache
from flashvid.engine.kv_slots import grown_size
from flashvid.engine.prefill import PrefilledPrefix, padded_length, prefill_prefix, prefill_questions
from flashvid.engine.running import Answering, Generated, Prompt, SharedPrompts, Together, joined
from flashvid.engine.sampling import TokenSampler
from flashvid.engine.types import TokenLayers

# Largest share of the answers still running when others are admitted. With a quarter of the rows free, one pass over
# the weights is shared by enough new questions, and few rows wait for it.
_REFILL_BELOW = 0.75
# Admissions after running out of memory until larger batches are tried again; doubled each time that fails.
_REFILLS_TO_RECOVER = 64


@dataclass(frozen=True)
class Ending:
    """What ends an answer, besides its length.

    Attributes:
        tokens: Ids that end it.
        texts: Texts that end it once it contains one of them.
        decode: Converts token ids to text, special tokens and outer blanks included.
    """

    tokens: frozenset[int]
    texts: tuple[str, ...]
    decode: Callable[[Sequence[int]], str]

    def reached(self, ids: Sequence[int]) -> bool:
        """Return whether these ids are a whole answer."""
        if ids[-1] in self.tokens:
            return True
        text = self.decode(ids) if self.texts else ""
        return any(stop in text for stop in self.texts)


@dataclass(eq=False)
class Batch:
    """Answers prompts; lives for one call.

    Attributes:
        decoder: Runs the prompts.
        groups: Prompts by prefix; the prefix is run once for a group.
        generation: How tokens are chosen, and the largest number of them.
        ending: What ends an answer.
        pruning: Pruning inside the decoder; None for none.
        grammar: What every generated answer must satisfy; None for free text.
        max_batch_tokens: Limit on the tokens in all caches together, those not generated yet included. A single prompt
            that exceeds it is run alone. Slots of ended answers are kept for a while, up to a third more.
    """

    decoder: Decoder
    groups: Sequence[SharedPrompts]
    generation: GenerationConfig
    ending: Ending
    pruning: InnerPruningConfig | None = field(default=None, kw_only=True)
    grammar: JsonGrammar | None = field(default=None, kw_only=True)
    max_batch_tokens: int = field(kw_only=True)

    def __post_init__(self) -> None:
        """Queue every prompt."""
        self._prompts = [(group, prompt) for group in self.groups for prompt in group.prompts]
        self._waiting = deque(range(len(self._prompts)))
        self._running: list[Together] = []
        self._done: dict[int, Generated] = {}
        self._shared: tuple[SharedPrompts, PrefilledPrefix] | None = None
        self._max_sequences = self.decoder.decode_rows.most
        # Answers that were running after questions were last admitted.
        self._most_running = 0
        # Admissions since memory ran out, and after how many of them more answers at a time are tried.
        self._refills, self._patience = 0, _REFILLS_TO_RECOVER

    def run(self) -> list[list[Generated]]:
        """Answer everything: one `Generated` per prompt, in the order given.

        Raises:
            torch.cuda.OutOfMemoryError: Not even one prompt fits.
            ConfigurationError: The JSON of an answer cannot be continued.
        """
        while self._waiting or self._running:
            attempted = 0
            try:
                while self._has_rows():
                    running, admitted = len(self._answering()), list[int]()
                    while places := self._admissible(admitted):
                        attempted = len(self._answering()) + len(places)
                        self._admit(places)
                        admitted += places
                    if not admitted:
                        break
                    # Answers that ended with their first token count: their rows are free.
                    self._most_running = running + len(admitted)
                    self._recover()
                attempted = len(self._answering())
                self._step()
            except torch.cuda.OutOfMemoryError:
                if attempted < 2:
                    raise
                self._start_again(attempted // 2)
        done = iter([self._done[place] for place in range(len(self._prompts))])
        return [[next(done) for _ in group.prompts] for group in self.groups]

    def _answering(self) -> list[Answering]:
        return [answering for together in self._running for answering in together.answers]

    def _has_rows(self) -> bool:
        """Return whether enough answers have ended for others to begin.

        A question that took the first free row would be prefilled alone, and read all weights for itself.
        """
        return len(self._answering()) <= self._most_running * _REFILL_BELOW

    def _admissible(self, admitted: Sequence[int]) -> list[int]:
        """Return the next waiting prompts of one prefix that fit; at least one if nothing is running.

        Args:
            admitted: Prompts admitted just now. One that ended with its first token does not free its row yet.
        """
        found: list[int] = []
        running = {*(answering.place for answering in self._answering()), *admitted}
        for place in self._waiting:
            group, others = self._prompts[place][0], [*running, *found]
            tokens = len(group.prefix.embeddings) + sum(map(self._num_tokens, [*others, place]))
            if others and (len(others) >= self._max_sequences or tokens > self.max_batch_tokens):
                break
            if found and group is not self._prompts[found[0]][0]:
                break
            found.append(place)
        return found

    def _num_tokens(self, place: int) -> int:
        """Return the tokens that a prompt's slot has room for, or may grow to."""
        group, prompt = self._prompts[place]
        shared = len(group.prefix.embeddings)
        whole = shared + len(prompt.suffix.ids) + self.generation.max_new_tokens
        return grown_size(shared + padded_length(prompt.suffix), whole)

    def _admit(self, places: Sequence[int]) -> None:
        """Prefill the first waiting prompts, which share a prefix, and choose first tokens or score options."""
        shared = self._prefix(self._prompts[places[0]][0])
        suffixes = [self._prompts[place][1].suffix for place in places]
        begun = []
        for batch in prefill_questions(self.decoder, shared, suffixes, self.pruning):
            together = Together([], batch.slots)
            for slot, run in enumerate(batch.prompts):
                place = places[run.question]
                prompt = self._prompts[place][1]
                work = TokenLayers(shared.token_layers, run.token_layers, 0, run.visual_token_layers)
                json = self.grammar.begin() if self.grammar is not None else None
                answering = Answering(place, prompt, TokenSampler(self.generation, prompt.key, json), work, [])
                together.answers.append(answering)
                if prompt.options:
                    scores = _score_options(self.decoder, prompt, batch.slots.cache(slot), run.logits)
                    generated = sum(len(option) - 1 for option in prompt.options) * self.decoder.num_layers
                    self._done[place] = Generated((), "choice", replace(work, generated=generated), scores)
                else:
                    self._append(answering, answering.sampler.choose(run.logits))
            self._drop_ended(together)
            begun.append(together)
        self._running = joined([*self._running, *begun])
        # Last: without memory for their slots, the prompts are still waiting.
        for _ in places:
            self._waiting.popleft()

    def _prefix(self, group: SharedPrompts) -> PrefilledPrefix:
        if self._shared is None or self._shared[0] is not group:
            self._shared = None  # so that two prefixes are never in memory at once
            self._shared = (group, prefill_prefix(self.decoder, group.prefix, self.pruning))
        return self._shared[1]

    def _step(self) -> None:
        """Decode one more token of every running answer; answers that end leave."""
        if not self._running:
            return
        self._running = joined([*self._running, *(grown for group in self._running for grown in group.take_grown())])
        answers = self._answering()
        logits = self.decoder.step(
            [answering.ids[-1] for answering in answers],
            [answering.prompt.suffix.next_position + len(answering.ids) - 1 for answering in answers],
            [together.slots for together in self._running],
        )
        for answering, token in zip(answers, self._choose(answers, logits), strict=True):
            self._append(answering, token)
        for together in self._running:
            self._drop_ended(together)
        self._running = joined(self._running)

    def _choose(self, answers: Sequence[Answering], logits: Tensor) -> list[int]:
        if self.generation.temperature == 0 and self.grammar is None:
            # One call for all answers, so that Python waits for a GPU once a step, not once an answer.
            return cast("list[int]", logits.argmax(dim=-1).tolist())
        return [answering.sampler.choose(row) for answering, row in zip(answers, logits, strict=True)]

    def _append(self, answering: Answering, token: int) -> None:
        """Add a token to an answer, and record the result if the answer has ended."""
        answering.ids.append(token)
        num_tokens = len(answering.ids)
        ended = self.ending.reached(answering.ids) or answering.sampler.is_complete
        if ended or num_tokens >= self.generation.max_new_tokens:
            work = replace(answering.prefill_work, generated=(num_tokens - 1) * self.decoder.num_layers)
            self._done[answering.place] = Generated(tuple(answering.ids), "stop" if ended else "length", work)

    def _drop_ended(self, together: Together) -> None:
        together.leave([index for index, answering in enumerate(together.answers) if answering.place in self._done])

    def _start_again(self, max_sequences: int) -> None:
        """Restart everything unfinished after running out of memory, fewer answers at a time.

        A step that failed half-way has left caches whose layers do not agree, so none is kept. An answer that is
        started again comes out the same.
        """
        self._max_sequences, self._refills = max_sequences, 0
        self._patience *= 2
        # From what is done, since an answer that failed half-way may be in two groups or in none.
        self._waiting = deque(place for place in range(len(self._prompts)) if place not in self._done)
        self._running, self._shared, self._most_running = [], None, 0

    def _recover(self) -> None:
        """Try twice as many answers again after some refills: another process may have taken the memory."""
        self._refills += 1
        if self._refills == self._patience and self._max_sequences < self.decoder.decode_rows.most:
            self._max_sequences, self._refills = min(2 * self._max_sequences, self.decoder.decode_rows.most), 0


def _score_options(decoder: Decoder, prompt: Prompt, cache: KVCache, first: Tensor) -> tuple[tuple[float, ...], ...]:
    """Return the log-likelihoods of each option's tokens, given the prompt and the option's tokens before.

    Options are run one by one, so that an option's score does not depend on the others.

    Args:
        decoder: The decoder that ran the prompt.
        prompt: The prompt and its options.
        cache: The prompt's cache; not changed.
        first: `[V]`: logits of the token after the prompt.
    """
    scores = []
    for option in prompt.options:
        positions = torch.arange(len(option) - 1).unsqueeze(0) + prompt.suffix.next_position
        hidden, _ = decoder.forward(decoder.embed(option[:-1]), positions, cache.fork(), range(decoder.num_layers))
        logits = torch.cat([first.unsqueeze(0), decoder.logits(hidden)])
        chosen = torch.tensor(option, device=logits.device).unsqueeze(1)
        scores.append(tuple(logits.double().log_softmax(dim=-1).gather(1, chosen).flatten().tolist()))
    return tuple(scores)
