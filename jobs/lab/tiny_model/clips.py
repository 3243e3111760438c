"""Held-out clips with their questions: for evaluation, benchmarks and the demo, each from its own seeds."""

from collections.abc import Iterator, Mapping, Sequence

from jobs.lab.tiny_model.drawn_questions import OPEN_FAMILIES, Question, choose_questions, with_options
from jobs.lab.tiny_model.scenes import Scene, clip_rng, make_scene

ClipQuestions = tuple[Scene, list[Question]]

_QUESTIONS_PER_CLIP, _CHOICES_PER_CLIP = 8, 1


def held_out_clips(
    number: int, *, first_clip: int, lengths: Mapping[int, float], families: Sequence[str] = ()
) -> Iterator[ClipQuestions]:
    """Yield held-out scenes with at most eight different questions each, always the same.

    Args:
        number: Number of clips.
        first_clip: Index of the first, which is part of its seed.
        lengths: Steps of a clip, with the share of clips of that length.
        families: Families of the questions; if empty, open ones, lists and one with options.
    """
    for index in range(first_clip, first_clip + number):
        rng = clip_rng("held-out", index, purpose=6)
        scene = make_scene("held-out", index, int(rng.choice([*lengths], p=[*lengths.values()])))
        weights = dict.fromkeys(families or (*OPEN_FAMILIES, "list"), 1.0)
        questions = choose_questions(scene, rng, _QUESTIONS_PER_CLIP, weights)
        if not families:
            choices = choose_questions(scene, rng, _CHOICES_PER_CLIP, dict.fromkeys(OPEN_FAMILIES, 1.0))
            questions += [with_options(question, rng) for question in choices]
        # A scene with little to ask about may repeat a question, which is for training; here each counts once.
        yield scene, list({question.text: question for question in questions}.values())
