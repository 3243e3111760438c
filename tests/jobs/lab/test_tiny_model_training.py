"""How the `tiny` model is trained: packed questions, states that resume, workers that agree."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, distributed, nn

from flashvid.models import load_model
from jobs.lab.tiny_model import language_stage, vision_stage
from jobs.lab.tiny_model.drawn_questions import WORDINGS, Question, choose_questions
from jobs.lab.tiny_model.feature_cache import FeatureCache, Shard
from jobs.lab.tiny_model.labels import TOKENS_PER_STEP
from jobs.lab.tiny_model.language_stage import LanguageStage, answer_loss
from jobs.lab.tiny_model.loop import Metrics, Schedule, Stage, Worker, train
from jobs.lab.tiny_model.packing import PackedQuestions, QuestionEncoder, clip_positions, run_packed
from jobs.lab.tiny_model.progress import RunFolder
from jobs.lab.tiny_model.rendering import render
from jobs.lab.tiny_model.scenes import Scene, make_scene
from jobs.lab.tiny_model.tokenizer import build_tokenizer
from jobs.lab.tiny_model.training_config import build_model, write_tiny
from jobs.lab.tiny_model.vision_stage import VisionHeads, VisionStage


class _NoiseCache(FeatureCache):
    """Features that show nothing, from no file."""

    def read(self, shard: Shard, places: list[int]) -> Tensor:
        generator = torch.Generator().manual_seed(shard.number)
        return 0.25 * torch.randn(len(places), shard.steps * TOKENS_PER_STEP, 128, generator=generator)


def _questions(scene: Scene, number: int) -> list[Question]:
    return choose_questions(scene, np.random.default_rng(1), number)


@torch.no_grad()
def test_packed_questions_are_answered_as_separate_ones(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = build_model()
    language_stage._initialise(module.model.language_model)
    for parameter in module.parameters():
        parameter.copy_(parameter.bfloat16())
    write_tiny(tmp_path, {name: value for name, value in module.state_dict().items() if name != "lm_head.weight"})
    model = load_model(tmp_path, dtype="float32")
    scene = make_scene("train", 0, 3)
    video = model.compress(model.encode(render(scene), np.arange(6) / scene.fps), None)
    questions = _questions(scene, 6)

    decoder, encoder = module.model.language_model, QuestionEncoder(build_tokenizer())
    # Beside another video's longer questions, so that there is padding.
    packed = encoder.pack([questions, [questions[0]] * 5 + [Question("list", "Why? " * 40, "red")]])
    hidden = run_packed(decoder, torch.stack([video.tokens] * 2), packed, video.frame_timestamps).hidden
    packed = PackedQuestions(
        packed.before, *(part[:1] for part in (packed.ids, packed.targets, packed.question, packed.place))
    )
    hidden = hidden[:1]
    loss, _ = answer_loss(hidden, packed, decoder.embed_tokens.weight)

    losses, weights = [], []
    for question in questions:
        alone = encoder.pack([[question]])
        text = decoder.embed_tokens(torch.cat([alone.before, alone.ids[0]]))
        before = len(alone.before)
        whole = torch.cat([text[:before], video.tokens, text[before:]])
        positions = clip_positions(before, alone.ids.shape[-1], video.frame_timestamps)
        states = decoder(inputs_embeds=whole[None], position_ids=positions[:, None], use_cache=False)
        after = states.last_hidden_state[:, before + len(video.tokens) :]
        one, _ = answer_loss(after, alone, decoder.embed_tokens.weight)
        losses.append(one)
        weights.append(len(encoder.answer(question.answer)) ** 0.5)
    expected = sum(one * weight for one, weight in zip(losses, weights, strict=True)) / sum(weights)
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)

    # And both as the library computes them, with its own template and positions.
    for place, (question, answer) in enumerate(
        zip(questions, model.answer(video, [q.text for q in questions]), strict=True)
    ):
        last = (packed.question[0] == place).nonzero()[len(encoder.after(question.text)) - 1]
        token = int((hidden[0, last] @ decoder.embed_tokens.weight.T).argmax())
        first_word = build_tokenizer().decode([token]).strip()
        assert answer.response.startswith(first_word)


def _stages(kind: str, folder: Path) -> Stage:
    schedule = Schedule(steps=3, peak=1e-3, warmup=1, save_every=1, check_every=100)
    if kind == "vision":
        return VisionStage(schedule)
    torch.manual_seed(0)
    return LanguageStage(schedule, _NoiseCache(folder / "cache"), VisionHeads())


@pytest.mark.parametrize("kind", ["vision", "language"])
def test_interrupted_training_ends_like_undisturbed(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vision_stage, "_PART", 2)
    monkeypatch.setattr(vision_stage, "_CHECKED", 2)
    monkeypatch.setattr(language_stage, "_PART_TOKENS", 128)
    monkeypatch.setattr(language_stage, "_LENGTHS", ((0, {1: 1.0, 2: 1.0}),))
    monkeypatch.setattr(language_stage, "shards", lambda split: [Shard(split, 0, 1), Shard(split, 1, 2)])
    monkeypatch.setattr(language_stage, "_CHECKED_STEPS", 8)
    monkeypatch.setattr(language_stage, "_QUESTIONS", 3)
    undisturbed, interrupted = RunFolder(tmp_path / "a", kind), RunFolder(tmp_path / "b", kind)
    assert train(_stages(kind, tmp_path), undisturbed, Worker())
    while not train(_stages(kind, tmp_path), interrupted, Worker(), max_seconds=0):
        (tmp_path / "b" / f"{kind}.partial").write_bytes(b"of a process that was killed while it saved")
    ends = [folder.load() for folder in (undisturbed, interrupted)]
    assert ends[0] is not None
    assert ends[1] is not None
    assert ends[0]["step"] == ends[1]["step"] == 3
    for name, value in ends[0]["module"].items():
        assert torch.equal(value, ends[1]["module"][name]), name
    for name in ("a", "b"):
        assert len((tmp_path / name / f"{kind}.jsonl").read_text().splitlines()) == 3


class _Line:
    """A stage that takes no time: a line through numbers."""

    name = "line"
    schedule = Schedule(steps=20, peak=0.1, warmup=1, save_every=5, check_every=100)

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.module = nn.Linear(2, 1)

    def loss(self, step: int, part: int) -> tuple[Tensor, Metrics]:
        numbers = torch.randn(4, 2, generator=torch.Generator().manual_seed(2 * step + part))
        return (self.module(numbers)[:, 0] - numbers.sum(dim=1)).pow(2).mean(), {}

    def check(self) -> Metrics:
        return {}


def _train_line(rank: int, folder: Path) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    assert train(_Line(), RunFolder(folder, "two"), Worker(rank, 2))
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_workers_learn_what_one_does(tmp_path: Path) -> None:
    assert train(_Line(), RunFolder(tmp_path, "one"), Worker())
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_train_line, args=(rank, tmp_path)) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    one, two = (RunFolder(tmp_path, name).load() for name in ("one", "two"))
    assert one is not None
    assert two is not None
    for name, value in one["module"].items():
        assert torch.allclose(value, two["module"][name], atol=1e-6)


def test_people_type_questions_in_their_own_way() -> None:
    rng = np.random.default_rng(0)
    texts = {language_stage._as_people_type(rng, "Is there a red circle?") for _ in range(300)}
    assert {"is there a red circle?", "Is there a red circle", "Is there a red circle?"} < texts
    assert any(len(text.split()) == 6 for text in texts)


def test_every_family_has_a_weight() -> None:
    assert set(language_stage._FAMILY_WEIGHTS) == set(WORDINGS)
