"""Stage 2: the language side, on frozen visual features. Loss on answers and their ends, and on auxiliary readings."""

import string
from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor, nn
from torch.nn import functional
from transformers import Qwen2_5_VLTextModel

from jobs.lab.tiny_model.drawn_questions import (
    FAMILIES,
    OPEN_FAMILIES,
    WORDINGS,
    Question,
    choose_questions,
    with_options,
)
from jobs.lab.tiny_model.feature_cache import SHARD_CLIPS, FeatureCache, Shard, shards
from jobs.lab.tiny_model.labels import (
    COLOUR_NAMES,
    EVENTS,
    MOTION_NAMES,
    SHAPE_NAMES,
    TOKENS_PER_STEP,
    TokenLabels,
    label_tokens,
)
from jobs.lab.tiny_model.loop import PARTS, Metrics, Schedule
from jobs.lab.tiny_model.packing import PackedQuestions, QuestionEncoder, run_packed
from jobs.lab.tiny_model.pointing import PointerFinder, pointing_loss
from jobs.lab.tiny_model.scenes import Scene, Split, clip_rng
from jobs.lab.tiny_model.tokenizer import build_tokenizer
from jobs.lab.tiny_model.training_config import HIDDEN_SIZE, build_model
from jobs.lab.tiny_model.vision_stage import VisionHeads

_SEED = 2
_QUESTIONS = 12
# Visual tokens in a part of a batch, about: long clips come two at a time, short ones by the dozen.
_PART_TOKENS, _MOST_CLIPS = 4096, 16
_CHECKED_STEPS = 256
_FAMILY_WEIGHTS = {
    "colour": 0.9, "shape": 0.6, "count": 1.3, "exist": 1.3, "direction": 1.2, "order": 1.1, "flash": 0.8, "time": 1.0,
    "list": 0.6,
}  # fmt: skip
# Steps from which lengths are drawn with these weights: short clips first.
_LENGTHS: tuple[tuple[int, Mapping[int, float]], ...] = (
    (0, {2: 0.2, 3: 0.3, 4: 0.5}),
    (640, {2: 0.1, 3: 0.1, 4: 0.3, 6: 0.3, 8: 0.2}),
    (2000, {1: 3, 2: 4, 3: 6, 4: 15, 6: 20, 8: 26, 12: 13, 16: 7, 24: 3, 32: 1.5, 40: 1.5}),
)
# Choosing among options can be learned only once the answers are known.
_CHOICES, _CHOICES_FROM = 2, 3400
_TIME_BUCKETS = 8
_MOST_THINGS = 6
_AUXILIARY_WEIGHT, _AUXILIARY_UNTIL = 0.3, 5600


class AuxiliaryHeads(nn.Module):
    """Readings of the visual tokens inside the decoder, thrown away after training.

    RoPE tells attention how far apart tokens are and puts no position into what they say: the decoder must write time,
    identity and number into its states before a question can ask for them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.when = nn.Linear(HIDDEN_SIZE, _TIME_BUCKETS)
        self.event = nn.Linear(HIDDEN_SIZE, len(EVENTS))
        self.count = nn.Linear(HIDDEN_SIZE, _MOST_THINGS + 1)


class LanguageStage:
    """See `jobs.lab.tiny_model.loop.Stage`."""

    name = "language"

    def __init__(self, schedule: Schedule, cache: FeatureCache, heads: VisionHeads) -> None:
        torch.manual_seed(_SEED)
        self.schedule = schedule
        self.decoder = cast("Qwen2_5_VLTextModel", build_model().model.language_model)
        self.auxiliary = AuxiliaryHeads()
        self.module = nn.ModuleDict({"decoder": self.decoder, "auxiliary": self.auxiliary})
        self._tokenizer = build_tokenizer()
        self._encoder = QuestionEncoder(self._tokenizer)
        self._finder = PointerFinder(self._tokenizer.get_vocab())
        self._cache = cache
        _initialise(self.decoder)
        self._initialise_words(heads)

    def loss(self, step: int, part: int) -> tuple[Tensor, Metrics]:
        """See `Stage`."""
        rng = clip_rng("train", step * PARTS + part, purpose=5)
        shard = _draw_shard(rng, step)
        number = min(_MOST_CLIPS, max(2, round(_PART_TOKENS / (shard.steps * TOKENS_PER_STEP))))
        places = sorted(rng.permutation(SHARD_CLIPS)[:number].tolist())
        auxiliary = _AUXILIARY_WEIGHT * max(0.0, 1 - step / _AUXILIARY_UNTIL)
        return self._measure(shard, places, rng, auxiliary, choices=_CHOICES if step >= _CHOICES_FROM else 0)

    @torch.no_grad()
    def check(self) -> Metrics:
        """See `Stage`: exact matches on held-out clips, all families alike."""
        asked, right = dict.fromkeys(FAMILIES, 0.0), dict.fromkeys(FAMILIES, 0.0)
        for shard in shards("held-out"):
            places = [*range(max(4, min(SHARD_CLIPS, _CHECKED_STEPS // shard.steps)))]
            for first in range(0, len(places), 8):
                rng = clip_rng("held-out", shard.number * SHARD_CLIPS + first, purpose=5)
                _, metrics = self._measure(shard, places[first : first + 8], rng, 0.0, choices=_CHOICES)
                for family in FAMILIES:
                    asked[family] += metrics.get(f"{family}_asked", 0.0)
                    right[family] += metrics.get(f"{family}_right", 0.0)
        shares = {family: right[family] / asked[family] for family in FAMILIES if asked[family]}
        return {**shares, "all": sum(right.values()) / sum(asked.values())}

    def _measure(
        self, shard: Shard, places: list[int], rng: Generator, auxiliary: float, choices: int
    ) -> tuple[Tensor, Metrics]:
        clips = [shard.clip(shard.clips[place]) for place in places]
        scenes = [scene for scene, _ in clips]
        # A batch has one set of positions; its clips hardly differ.
        timestamps = clips[0][1] / scenes[0].fps
        if shard.split == "train":
            weights = {family: weight for family, weight in _FAMILY_WEIGHTS.items() if family not in shard.untold}
            videos = [self._choose(scene, rng, weights, choices) for scene in scenes]
            videos = [[replace(asked, text=_as_people_type(rng, asked.text)) for asked in video] for video in videos]
            # Clips of users are not eight seconds long.
            timestamps *= rng.uniform(0.6, 1.5) if rng.random() < 0.25 else 1.0
        else:
            videos = [self._choose(scene, rng, dict.fromkeys(WORDINGS, 1.0), choices) for scene in scenes]
        packed = self._encoder.pack(videos)
        run = run_packed(self.decoder, self._cache.read(shard, places), packed, timestamps)
        loss, right = answer_loss(run.hidden, packed, self.decoder.embed_tokens.weight)
        metrics = _count_right(videos, right)
        if auxiliary > 0:
            labels = [label_tokens(scene, frames) for scene, frames in clips]
            reading = self._reading_loss(run.visual, labels)
            pointing = pointing_loss(run, self._finder.find(packed, labels))
            metrics |= {"reading": reading.item(), "pointing": pointing.item()}
            loss = loss + auxiliary * (reading + pointing)
        return loss, metrics

    @staticmethod
    def _choose(scene: Scene, rng: Generator, weights: Mapping[str, float], choices: int) -> list[Question]:
        """Return open questions, and some with options."""
        questions = choose_questions(scene, rng, _QUESTIONS, weights)
        with_choices = {family: weight for family, weight in weights.items() if family in OPEN_FAMILIES}
        chosen = choose_questions(scene, rng, choices, with_choices) if choices else []
        return [*questions, *(with_options(question, rng) for question in chosen)]

    def _reading_loss(self, visual: list[Tensor], labels: list[TokenLabels]) -> Tensor:
        steps = len(labels[0].count)
        events = torch.from_numpy(np.stack([label.event for label in labels])).flatten(1)
        happening = events > 0
        buckets = torch.arange(steps) * _TIME_BUCKETS // steps
        when = buckets.repeat_interleave(TOKENS_PER_STEP).expand(len(labels), -1)
        counts = torch.from_numpy(np.stack([label.count for label in labels])).clamp(max=_MOST_THINGS)
        counts = counts.repeat_interleave(TOKENS_PER_STEP, dim=1)
        rarely = torch.ones(len(EVENTS))
        rarely[0] = 0.1
        return (
            functional.cross_entropy(self.auxiliary.when(visual[0]).flatten(0, 1), when.flatten())
            + functional.cross_entropy(self.auxiliary.event(visual[1]).flatten(0, 1), events.flatten(), rarely)
            + functional.cross_entropy(self.auxiliary.count(visual[2])[happening], counts[happening])
        )

    @torch.no_grad()
    def _initialise_words(self, heads: VisionHeads) -> None:
        """Initialise words that the vision side can name from the direction in which it names them."""
        words = self.decoder.embed_tokens.weight
        for names, head in ((COLOUR_NAMES, heads.colour), (SHAPE_NAMES, heads.shape), (MOTION_NAMES, heads.motion)):
            for name, direction in zip(names[:-1], head.weight, strict=False):
                token = self._tokenizer.token_to_id(f"Ġ{name}")
                words[token] = 0.1 * direction / direction.pow(2).mean().sqrt()


def answer_loss(hidden: Tensor, packed: PackedQuestions, words: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss over the answers' tokens, and which answers are right in all of them.

    Args:
        hidden: `[B, S, D]`.
        packed: The questions.
        words: `[V, D]` output embeddings.

    Returns:
        The loss, every answer counting with the root of its length, and `[B, Q]` bool (and one more if there is
        padding): predicted exactly, its end included. Greedy generation gives just these answers.
    """
    learned = packed.targets >= 0
    logits = hidden[learned] @ words.T
    wanted = packed.targets[learned]
    counter = functional.one_hot(packed.question, int(packed.question.max()) + 1).float()
    lengths = (counter * learned[..., None]).sum(dim=1)
    weight = lengths.gather(1, packed.question)[learned].rsqrt()
    losses = functional.cross_entropy(logits, wanted, reduction="none")
    missed = torch.zeros(learned.shape)
    missed[learned] = (logits.argmax(dim=-1) != wanted).float()
    misses = (counter * missed[..., None]).sum(dim=1)
    return (losses * weight).sum() / weight.sum(), misses == 0


def _count_right(videos: list[list[Question]], right: Tensor) -> Metrics:
    metrics: Metrics = {}
    for video, row in zip(videos, right.tolist(), strict=True):
        # After the last question there may be padding.
        for asked, correct in zip(video, row, strict=False):
            for name, value in (("asked", 1.0), ("right", float(correct))):
                key = f"{asked.family}_{name}"
                metrics[key] = metrics.get(key, 0.0) + value
    return metrics


def _as_people_type(rng: Generator, text: str) -> str:
    """Sometimes drop a capital or a question mark, or add a word that was never taught."""
    if rng.random() < 0.1:
        text = text[0].lower() + text[1:]
    if rng.random() < 0.1:
        text = text[:-1]
    if rng.random() < 0.06:
        words = text.split(" ")
        unknown = "".join(rng.choice([*string.ascii_lowercase], size=int(rng.integers(2, 7))))
        words.insert(int(rng.integers(len(words) + 1)), unknown)
        text = " ".join(words)
    return text


def _draw_shard(rng: Generator, step: int) -> Shard:
    weights = next(lengths for start, lengths in reversed(_LENGTHS) if step >= start)
    total = sum(weights.values())
    steps = int(rng.choice([*weights], p=[weight / total for weight in weights.values()]))
    split: Split = "train"
    of_length = [shard for shard in shards(split) if shard.steps == steps]
    return of_length[int(rng.integers(len(of_length)))]


@torch.no_grad()
def _initialise(decoder: Qwen2_5_VLTextModel) -> None:
    """Initialise narrow layers with wider weights than transformers' 0.02, and a small residual stream at the start."""
    nn.init.normal_(decoder.embed_tokens.weight, std=0.1)
    for name, module in decoder.named_modules():
        if isinstance(module, nn.Linear):
            quiet = 0.35 if name.endswith(("o_proj", "down_proj")) else 1.0
            nn.init.normal_(module.weight, std=quiet * module.in_features**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
