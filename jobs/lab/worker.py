"""A measuring process: it holds one model, and asks it questions."""

import math
from collections.abc import Sequence

import torch

from flashvid import InnerPruningConfig
from flashvid.models import CompressedVideo, GenerationConfig, VideoModel, load_model
from jobs.lab.measurement import Measurement
from jobs.lab.tiny_model.drawn_questions import Question
from jobs.lab.tiny_model.evaluate import judge

_LONGEST_ANSWER = 12
# The process exists only for this model; see `load`.
_MODELS: list[VideoModel] = []


def load(model: str) -> None:
    """Load the model into this process, and use one thread."""
    torch.set_num_threads(1)
    _MODELS[:] = [load_model(model, dtype="float32")]


def loaded() -> VideoModel:
    """Return the model of this process."""
    return _MODELS[0]


def ask(
    video: CompressedVideo,
    method: str,
    retention: float,
    clip: int,
    questions: Sequence[Question],
    pruning: InnerPruningConfig | None = None,
) -> list[Measurement]:
    """Ask a clip's questions and judge the answers.

    Args:
        video: The compressed clip.
        method: For the table.
        retention: For the table.
        clip: For the table.
        questions: With their right answers.
        pruning: Pruning inside the decoder; None for none.
    """
    generation = GenerationConfig(max_new_tokens=_LONGEST_ANSWER)
    answers = loaded().answer(video, [question.text for question in questions], generation, pruning=pruning)
    verdicts = [
        judge(question, video.grid_thw[0], answer.response) for question, answer in zip(questions, answers, strict=True)
    ]
    tokens = tokens_per_layer(len(video.tokens), pruning, loaded().language.decoder.num_layers)
    return [
        Measurement(method, retention, clip, number, verdict.question.family, tokens, verdict.exact, verdict.first)
        for number, verdict in enumerate(verdicts)
    ]


def tokens_per_layer(tokens: int, pruning: InnerPruningConfig | None, num_layers: int) -> float:
    """Return the visual tokens in the decoder, averaged over its layers."""
    if pruning is None or not pruning.prunes(num_layers):
        return float(tokens)
    behind = math.ceil(tokens * pruning.llm_retention_ratio)
    return (tokens * pruning.pruning_layer + behind * (num_layers - pruning.pruning_layer)) / num_layers
