"""Clips that are answered as one batch, by the stage itself: what it does with the model, and no Ray around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from torch import Tensor

from flashvid.engine.kv_slots import KVSlots
from flashvid.models import CompressedVideo, VideoModel
from pipeline.clip import ClipMessage
from pipeline.cluster.monitor import RunMonitor
from pipeline.inputs import Question, QuestionTable
from pipeline.stages import AnswerStage, StageSettings
from pipeline.store.storage import Storage
from pipeline.store.tokens import TokenStore
from tests.support.embedded_model import QUARTER, TIMES, video
from tests.support.helpers import clip, job, run_context

NAMES = ("a", "b", "c")
ASKED = {
    "a": (Question("1", "What happens here?"), Question("2", "Which one?", options=("red", "blue"))),
    "b": (Question("1", "What happens here?"),),
    "c": (Question("1", "How many objects are there?"),),
}


class Answerer(AnswerStage):
    """The stage in this process, with the real monitor, tokens and model."""

    def __init__(self, model: VideoModel, tokens: TokenStore, **settings: Any) -> None:
        self.monitor = RunMonitor(1)
        self.settings = StageSettings(run_context(job(**settings)), self.monitor, None)
        self.tokens = tokens
        self.waited_s = 0.0
        self._model = model
        self._questions = QuestionTable(
            replace(question, video_id=f"video-{name}") for name, asked in ASKED.items() for question in asked
        )

    def tell(self, method: str, *arguments: object) -> Any:
        """Call the monitor directly."""
        return getattr(self.monitor, method)(*arguments)

    def work(self, names: Sequence[str]) -> dict[str, ClipMessage]:
        """Clips that arrive as one block."""
        messages = [
            ClipMessage(clip(name, question_ids=tuple(question.question_id for question in ASKED[name])))
            for name in names
        ]
        outcomes = ClipMessage.each_of(self(pa.concat_tables([message.to_table() for message in messages])))
        return dict(zip(names, outcomes, strict=True))


@pytest.fixture(scope="module")
def videos(model: VideoModel) -> list[CompressedVideo]:
    """Three clips."""
    return [model.compress(model.encode(video(seed), TIMES), QUARTER) for seed in range(3)]


@pytest.fixture
def tokens(videos: list[CompressedVideo], tmp_path: Path) -> TokenStore:
    """Their committed tokens."""
    store = TokenStore(Storage(str(tmp_path)), "0123456789abcdef")
    for name, compressed in zip(NAMES, videos, strict=True):
        planned = clip(name)
        store.commit(planned.content_key, compressed, planned, thumbnails=[], run_id="run")
    store.take_traffic()  # was ours, not the stage's
    return store


@pytest.fixture
def steps(model: VideoModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many answers each step of the decoder continued."""
    seen: list[int] = []
    step = model.language.decoder.step

    def noted(ids: Sequence[int], positions: Sequence[int], batches: Sequence[KVSlots]) -> Tensor:
        seen.append(len(ids))
        return step(ids, positions, batches)

    monkeypatch.setattr(model.language.decoder, "step", noted)
    return seen


def rows(outcome: ClipMessage) -> list[dict[str, object]]:
    """Answers without the time they took."""
    return [{name: value for name, value in row.items() if name != "answer_seconds"} for row in outcome.answers]


@pytest.mark.parametrize(
    "settings",
    [
        {"generation": {"max_new_tokens": 8}},
        {"generation": {"max_new_tokens": 8, "temperature": 9.0}},
        {
            "generation": {"max_new_tokens": 8, "choice": "likelihood"},
            "inner_pruning": {"pruning_layer": 1, "llm_retention_ratio": 0.3},
        },
    ],
    ids=["greedy", "drawn", "likelihood, pruned"],
)
def test_together_is_one_by_one(
    model: VideoModel, tokens: TokenStore, steps: list[int], settings: dict[str, Any]
) -> None:
    """Every column of every row, scores to the last bit; in fewer steps, with the same counts."""
    answerer = Answerer(model, tokens, **settings)
    together, steps_together = answerer.work(NAMES), len(steps)
    assert max(steps) > max(len(asked) for asked in ASKED.values())
    alone = Answerer(model, tokens, **settings)
    for name in NAMES:
        (outcome,) = alone.work([name]).values()
        assert rows(together[name]) == rows(outcome)
        assert len(outcome.answers) == len(ASKED[name])
    assert steps_together < len(steps) - steps_together
    assert answerer.monitor.activity().counts == alone.monitor.activity().counts


def test_a_damaged_clip_costs_no_other(model: VideoModel, tokens: TokenStore, tmp_path: Path) -> None:
    """It alone fails, with the error that says so, and its tokens move away, so that the next run makes them again."""
    (tmp_path / tokens.name(clip("b").content_key)).write_bytes(b"nothing")
    outcomes = Answerer(model, tokens).work(NAMES)
    assert {name: [failure.error_type for failure in outcome.failures] for name, outcome in outcomes.items()} == {
        "a": [],
        "b": ["CorruptTokensError"],
        "c": [],
    }
    assert [len(outcome.answers) for outcome in outcomes.values()] == [2, 0, 1]
    assert [tokens.has(clip(name).content_key) for name in NAMES] == [True, False, True]
    assert (tmp_path / "quarantine" / tokens.name(clip("b").content_key)).read_bytes() == b"nothing"


def test_a_question_that_fails_costs_no_other(
    model: VideoModel, tokens: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of its own clip and of others."""
    embed = model.language.chat.around_video

    def fragile(question: str, *arguments: Any) -> Any:
        if "Which one?" in question:
            raise RuntimeError("injected")
        return embed(question, *arguments)

    monkeypatch.setattr(model.language.chat, "around_video", fragile)
    outcomes = Answerer(model, tokens).work(NAMES)
    assert [[failure.question_id for failure in outcome.failures] for outcome in outcomes.values()] == [["2"], [], []]
    assert [len(outcome.answers) for outcome in outcomes.values()] == [1, 1, 1]


def test_out_of_memory_halves_a_batch_of_clips(
    model: VideoModel, tokens: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, inside the model; nobody fails and the answers are the same."""
    settings: dict[str, Any] = {"generation": {"max_new_tokens": 8}}
    expected = Answerer(model, tokens, **settings).work(NAMES)
    step = model.language.decoder.step
    sizes: list[int] = []

    def narrow(ids: Sequence[int], positions: Sequence[int], batches: Sequence[KVSlots]) -> Tensor:
        sizes.append(len(ids))
        if len(ids) > 2:
            raise torch.cuda.OutOfMemoryError("injected")
        return step(ids, positions, batches)

    monkeypatch.setattr(model.language.decoder, "step", narrow)
    outcomes = Answerer(model, tokens, **settings).work(NAMES)
    assert (sizes[0], max(sizes[1:])) == (4, 2)
    for name in NAMES:
        assert outcomes[name].failures == ()
        assert rows(outcomes[name]) == rows(expected[name])
