"""Where question words should look: supervision of attention, for training alone.

One token in fifteen shows a thing, and attention that starts out even hears little of it: without this, words for
shapes found their tokens in none of 2,000 steps. In one head of the second layer a word is taught to look at the tokens
that show what it says ("circle", "red"), in one of the third at those of the thing that it completes ("red circle").
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from jobs.lab.tiny_model.drawn_questions import PLURALS
from jobs.lab.tiny_model.labels import COLOUR_NAMES, SHAPE_NAMES, TokenLabels
from jobs.lab.tiny_model.packing import PackedQuestions, PackedRun

_HEAD = 0
_WORD_LAYER, _THING_LAYER = 1, 2


@dataclass(frozen=True, eq=False)
class Pointers:
    """P words of questions that name something.

    Attributes:
        video: `[P]` int64: of which video's questions.
        place: `[P]` int64: which of their tokens.
        word: `[P, T * N]` bool: visual tokens that show what the word says.
        thing: `[P, T * N]` bool: those that show all that is said, a colour before a shape included.
    """

    video: Tensor
    place: Tensor
    word: Tensor
    thing: Tensor


class PointerFinder:
    """Finds named colours and shapes among token ids."""

    def __init__(self, vocabulary: Mapping[str, int]) -> None:
        size = max(vocabulary.values()) + 1
        self._colour, self._shape = torch.full((size,), -1), torch.full((size,), -1)
        for index, name in enumerate(COLOUR_NAMES[:-1]):
            self._colour[vocabulary[f"Ġ{name}"]] = index
        for index, name in enumerate(SHAPE_NAMES[:-1]):
            self._shape[[vocabulary[f"Ġ{name}"], vocabulary[f"Ġ{PLURALS[name]}"]]] = index

    def find(self, packed: PackedQuestions, labels: Sequence[TokenLabels]) -> Pointers:
        """Find the words of the questions, not of the answers, and what they name in the videos."""
        shown_colour, shown_shape = (
            torch.from_numpy(np.stack([getattr(label, name) for label in labels])).flatten(1)
            for name in ("colour", "shape")
        )
        colour, shape = self._colour[packed.ids], self._shape[packed.ids]
        named = ((colour >= 0) | (shape >= 0)) & (packed.targets < 0)
        video, place = named.nonzero().unbind(dim=-1)
        colour_here, shape_here = colour[video, place, None], shape[video, place, None]
        colour_before = torch.where(shape_here >= 0, colour[video, place - 1, None], -1)
        word = torch.where(colour_here >= 0, shown_colour[video] == colour_here, shown_shape[video] == shape_here)
        thing = word & ((colour_before < 0) | (shown_colour[video] == colour_before))
        return Pointers(video, place, word, thing)


def pointing_loss(run: PackedRun, pointers: Pointers) -> Tensor:
    """Return minus the log of the attention, among visual tokens, to the right ones; absent things do not count."""
    total = torch.zeros(())
    for layer, wanted in ((_WORD_LAYER, pointers.word), (_THING_LAYER, pointers.thing)):
        there = wanted.any(dim=-1)
        video, place = pointers.video[there], pointers.place[there]
        queries = run.queries[layer][video, _HEAD, place]
        keys = run.keys[layer][:, _HEAD]
        # By video, because all words of a video use its keys.
        logits = torch.cat([queries[video == index] @ one.T for index, one in enumerate(keys)]) / math.sqrt(
            queries.shape[-1]
        )
        sought = logits.masked_fill(~wanted[there], -torch.inf)
        total = total + (logits.logsumexp(dim=-1) - sought.logsumexp(dim=-1)).mean()
    return total
