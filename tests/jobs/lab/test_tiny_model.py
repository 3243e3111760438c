"""The generated clips and questions behind the `tiny` model, and its tokenizer."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest

from flashvid.models.chat import ChatPrompt
from jobs.lab.tiny_model.drawn_questions import (
    OPEN_FAMILIES,
    PLURALS,
    Question,
    all_questions,
    choose_questions,
    with_options,
)
from jobs.lab.tiny_model.evaluate import judge, through_file
from jobs.lab.tiny_model.feature_cache import Shard
from jobs.lab.tiny_model.labels import COLOUR_NAMES, TOKENS_PER_STEP, label_tokens
from jobs.lab.tiny_model.model_files import write_tokenizer
from jobs.lab.tiny_model.packing import QuestionEncoder
from jobs.lab.tiny_model.rendering import render, through_codec, write_clip
from jobs.lab.tiny_model.scenes import COLOURS, LENGTHS, SHAPES, Scene, clip_rng, make_crowd, make_scene
from jobs.lab.tiny_model.tokenizer import CHAT_TEMPLATE, build_tokenizer

_SCENES = [make_scene("train", index, steps) for index in range(12) for steps in LENGTHS]


# Scenes and frames


def test_a_seed_gives_one_clip() -> None:
    assert make_scene("train", 5, 8) == make_scene("train", 5, 8)
    assert np.array_equal(render(make_scene("train", 5, 8)), render(make_scene("train", 5, 8)))
    assert make_crowd("train", 5) == make_crowd("train", 5)


def test_splits_share_no_clip() -> None:
    train_clips = {repr(make_scene("train", index, 8)) for index in range(100)}
    held_out = {repr(make_scene("held-out", index, 8)) for index in range(100)}
    assert len(train_clips) == len(held_out) == 100
    assert not train_clips & held_out
    numbers = {split: clip_rng(split, 7).integers(2**62) for split in ("train", "held-out")}
    assert numbers["train"] != numbers["held-out"]


def test_some_frames_are_those_of_all() -> None:
    for index in range(8):
        scene = make_scene("train", index, 8)
        assert np.array_equal(render(scene, np.array([3, 4, 11])), render(scene)[[3, 4, 11]])


@pytest.mark.parametrize("steps", LENGTHS)
def test_things_stay_in_sight_and_apart(steps: int) -> None:
    for scene in (scene for scene in _SCENES if scene.steps == steps):
        names = [thing.name for thing in scene.things]
        assert len(set(names)) == len(names) > 0
        for frame in range(scene.num_frames):
            here = [
                (thing.radius, thing.centres()[frame - 2 * thing.first_step])
                for thing in scene.things
                if 2 * thing.first_step <= frame < 2 * thing.end_step
            ]
            for index, (radius, centre) in enumerate(here):
                assert (centre > radius).all()
                assert (centre < 128 - radius).all()
                assert all(math.dist(centre, other) > radius + wide for wide, other in here[:index])
        for thing in scene.things:
            assert thing.direction == "nowhere" or max(map(abs, thing.velocity)) > 1
            stretch = next(part for part in scene.backdrops if part.first_step <= thing.first_step < part.end_step)
            assert thing.end_step <= stretch.end_step


@pytest.mark.parametrize("steps", [steps for steps in LENGTHS if steps >= 3])
def test_what_flashes_is_shorter_than_everything_else(steps: int) -> None:
    scenes = [make_scene("train", index, steps) for index in range(60)]
    assert any(scene.flash for scene in scenes)
    for scene in scenes:
        lives = {thing.name: thing.end_step - thing.first_step for thing in scene.things}
        if scene.flash:
            flash = lives.pop(scene.flash.name)
            assert flash <= (2 if steps >= 24 else 1)
            assert 0 < scene.flash.first_step < scene.flash.end_step < steps
        assert all(life >= (5 if steps >= 24 else 2) for life in lives.values())


def test_tokens_are_labelled_with_what_is_there() -> None:
    scene = next(scene for scene in _SCENES if scene.steps == 8 and scene.flash)
    labels, frames = label_tokens(scene), render(scene)
    for thing in scene.things:
        if thing.shape == "ring":  # of which the middle is background
            continue
        for offset, (x, y) in enumerate(thing.centres()):
            frame = 2 * thing.first_step + offset
            assert np.abs(frames[frame, int(y), int(x)].astype(int) - COLOURS[thing.colour]).max() <= 1
    # As many centres in a step as there are things, each in a token of its colour.
    for step in range(scene.steps):
        here = [thing for thing in scene.things if thing.first_step <= step < thing.end_step]
        found = np.flatnonzero(labels.centre[step])
        assert sorted(COLOUR_NAMES[label] for label in labels.colour[step, found]) == sorted(t.colour for t in here)
    assert labels.count.tolist() == [
        sum(thing.first_step <= step for thing in scene.things) for step in range(scene.steps)
    ]


def test_frames_survive_the_codec(tmp_path: Path) -> None:
    scene = make_scene("held-out", 3, 4)
    frames = render(scene)
    write_clip(tmp_path / "clip.mp4", scene)
    clip = through_file(scene, tmp_path / "clip.mp4")
    assert np.allclose(clip.frame_timestamps, np.arange(scene.num_frames) / scene.fps, atol=1e-4)
    for decoded in (clip.frames, through_codec(frames, np.random.default_rng(0))):
        assert decoded.shape == frames.shape
        assert np.abs(decoded.astype(int) - frames.astype(int)).mean() < 12


# Questions


def _oracle(scene: Scene, question: Question) -> str:  # noqa: PLR0911 - one for each family
    """The answer, from a table of what is in sight in each frame."""
    sights = [
        {thing.name for thing in scene.things if 2 * thing.first_step <= frame < 2 * thing.end_step}
        for frame in range(scene.num_frames)
    ]
    first_seen = {name: frame for frame, names in reversed([*enumerate(sights)]) for name in names}
    frames_seen = {name: sum(name in names for names in sights) for name in first_seen}
    text = question.text
    asked = [name for name in (f"{colour} {shape}" for colour in COLOURS for shape in SHAPES) if name in text]
    words = re.findall(r"[a-z]+", text)
    colours = [word for word in words if word in COLOURS]
    shapes = [shape for shape in SHAPES if shape in words or PLURALS[shape] in words]
    matching = [name for name in first_seen if all(word in name.split() for word in colours + shapes)]
    match question.family:
        case "colour" | "shape":
            (name,) = matching
            return name.split()[question.family == "shape"]
        case "count":
            return str(len(matching))
        case "exist":
            return "yes" if matching else "no"
        case "direction":
            (thing,) = [thing for thing in scene.things if thing.name == asked[0]]
            (x, y), (later_x, later_y) = thing.centres()[[0, -1]]
            if (x, y) == (later_x, later_y):
                return "nowhere"
            horizontal, vertical = ("right" if later_x > x else "left"), ("down" if later_y > y else "up")
            return horizontal if abs(later_x - x) > abs(later_y - y) else vertical
        case "order":
            choose = min if "first" in words else max
            assert first_seen[asked[0]] != first_seen[asked[1]]
            return choose(asked, key=lambda name: first_seen[name])
        case "flash":
            brief = [name for name, number in frames_seen.items() if number <= (4 if scene.steps >= 24 else 2)]
            assert len(brief) <= 1
            return brief[0] if brief else "nothing"
        case "time":
            share = (first_seen[asked[0]] + 1) / scene.num_frames
            assert not 0.28 < share < 0.4
            assert not 0.6 < share < 0.7
            return "start" if share < 1 / 3 else "middle" if share < 2 / 3 else "end"
        case _:
            return ", ".join(sorted(first_seen))


def test_answers_are_right() -> None:
    asked = 0
    for scene in _SCENES:
        for question in all_questions(scene, np.random.default_rng(0)):
            assert question.answer == _oracle(scene, question), (question, scene)
            asked += 1
    assert asked > 2000


def test_chosen_questions_cover_every_family_evenly() -> None:
    rng = np.random.default_rng(0)
    scenes = [make_scene("train", index, 8) for index in range(200)]
    chosen = [question for scene in scenes for question in choose_questions(scene, rng, 8)]
    assert len(chosen) == 1600
    for family in OPEN_FAMILIES:
        assert 0.05 < np.mean([question.family == family for question in chosen]) < 0.2
    asked = [question for question in chosen if question.family == "exist"]
    for kind in ("object", *SHAPES):
        answers = [question.answer == "yes" for question in asked if kind in question.text]
        assert 0.3 < np.mean(answers) < 0.7, kind


def test_options_hold_the_answer_under_its_letter() -> None:
    rng = np.random.default_rng(0)
    letters = []
    for scene in _SCENES:
        for question in choose_questions(scene, rng, 8, dict.fromkeys(OPEN_FAMILIES, 1.0)):
            choice = with_options(question, rng)
            text, *lines, _ = choice.text.split("\n")
            assert text == question.text
            options = dict(line.split(". ") for line in lines)
            assert len({*options.values()}) == len(options) >= 2
            assert options[choice.answer] == question.answer
            letters.append(choice.answer)
    assert all(letters.count(letter) > 0.1 * len(letters) for letter in "ABCD")


def test_an_answer_that_goes_on_is_right_at_first_only() -> None:
    question = Question("order", "?", "red circle")
    assert judge(question, 8, "red circle").exact
    assert not judge(question, 8, "red circles").first
    verdict = judge(question, 8, "red circle, blue ring")
    assert verdict.first
    assert not verdict.exact


# Tokenizer


def test_any_text_comes_back_from_the_tokenizer() -> None:
    tokenizer = build_tokenizer()
    for text in (
        " Which way does the red circle move?",
        "Ist da ein Kreis?\n 日本 🎬",
        " What\tabout\u00a0this",
        "x" * 50,
    ):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_taught_words_are_one_token() -> None:
    tokenizer = build_tokenizer()
    for scene in _SCENES[:40]:
        for question in all_questions(scene, np.random.default_rng(0)):
            pieces = re.findall(r"\w+|[^\w\s]", f"{question.text} {question.answer}")
            assert len(tokenizer.encode(f" {question.text} {question.answer}").ids) == len(pieces)


def test_training_reads_prompts_as_the_pipeline_writes_them(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, build_tokenizer(), CHAT_TEMPLATE)
    encoder = QuestionEncoder(build_tokenizer())
    chat = ChatPrompt.load(tmp_path, video_token="<|video_pad|>")  # noqa: S106 - no password
    before, after = chat.around_video("What flashes briefly?", "You are a helpful assistant.")
    assert [*before] == encoder.before
    assert [*after] == encoder.after("What flashes briefly?")
    *answer, end = encoder.answer("red circle")
    assert chat.decode(answer) == "red circle"
    assert end in chat.end_tokens


def test_every_sampling_shows_what_is_asked_about() -> None:
    for sampling in ("all", "shifted", "sparse"):
        for number in range(3):
            shard = Shard("train", number, 8, sampling)
            for clip in shard.clips:
                scene, frames = shard.clip(clip)
                labels = label_tokens(scene, frames)
                assert labels.colour.shape == (8, TOKENS_PER_STEP)
                assert labels.count[-1] == len(scene.things)
                shown = {COLOUR_NAMES[label] for label in labels.colour.flatten()} - {"nothing"}
                assert shown == {thing.colour for thing in scene.things}
                assert sampling != "sparse" or "time" in shard.untold
