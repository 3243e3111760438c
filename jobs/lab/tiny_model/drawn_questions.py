"""Questions about a scene, each with its one right answer."""

import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

from numpy.random import Generator

from jobs.lab.tiny_model.scenes import COLOURS, DIRECTIONS, SHAPES, Scene
from pipeline.inputs.prompts import question_prompt

PLURALS = {shape: shape + ("es" if shape == "cross" else "s") for shape in SHAPES}
# Wordings of each family. The first is the one the documentation shows; models must understand all.
WORDINGS: Mapping[str, tuple[str, ...]] = {
    "colour": ("What color is the {shape}?", "What is the color of the {shape}?", "Which color does the {shape} have?"),
    "shape": ("What shape is the {colour} object?", "What is the shape of the {colour} object?"),
    "count": ("How many {things} are there?", "How many {things} appear in the video?", "Count the {things}."),
    "exist": ("Is there {a_thing}?", "Does {a_thing} appear in the video?", "Can you see {a_thing}?"),
    "direction": (
        "Which way does the {thing} move?",
        "In which direction does the {thing} move?",
        "Where does the {thing} move?",
    ),
    "order": (
        "Which appears {place}, the {one} or the {other}?",
        "What appears {place}, the {one} or the {other}?",
        "What comes {place}, the {one} or the {other}?",
    ),
    "flash": ("What flashes briefly?", "Which object flashes briefly?", "What appears only briefly?"),
    "time": (
        "When does the {thing} appear?",
        "When does the {thing} come into view?",
        "When does the {thing} appear, at the start, in the middle or at the end?",
    ),
    "list": ("List all objects in alphabetical order.", "Name all objects in alphabetical order."),
}
# Any open question may be asked with options to choose from.
CHOICE = "choice"
FAMILIES = (*WORDINGS, CHOICE)
# Lists train counting; they are reported apart from the families, because one wrong word spoils a whole list.
OPEN_FAMILIES = tuple(family for family in WORDINGS if family != "list")
TIMES = ("start", "middle", "end")
_MOST_OPTIONS = 4
_SHAPE_WORDS = frozenset((*SHAPES, *PLURALS.values()))
_NAMES = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "colour": tuple(COLOURS),
    "shape": SHAPES,
    "count": tuple(str(number) for number in range(1, 7)),
    "exist": ("yes", "no"),
    "direction": (*DIRECTIONS, "nowhere"),
    "flash": (*_NAMES, "nothing"),
    "time": TIMES,
}
# Of a clip, by the middle of the step in which something appears; between two of them no question is asked.
_TIME_BANDS = {"start": (0.0, 0.28), "middle": (0.4, 0.6), "end": (0.7, 1.0)}


@dataclass(frozen=True)
class Question:
    """A question with its answer.

    Attributes:
        family: One of `FAMILIES`.
        text: The question's text.
        answer: The only right answer.
    """

    family: str
    text: str
    answer: str


def all_questions(scene: Scene, rng: Generator) -> list[Question]:
    """Return every question that has exactly one answer in this scene, each in a random wording."""
    return [Question(family, _worded(rng, family, slots), answer) for family, slots, answer in _facts(scene)]


def choose_questions(
    scene: Scene, rng: Generator, number: int, weights: Mapping[str, float] | None = None
) -> list[Question]:
    """Draw questions: a family, evenly or by weight, then a subject, then an answer, then a question.

    Drawing the answer before the question keeps "yes" as frequent as "no" however many absent things could be asked
    for, in questions about a colour as in those about a shape: neither can be guessed from how it is asked.
    """
    by_family: dict[str, dict[str, dict[str, list[dict[str, str]]]]] = {}
    for family, slots, answer in _facts(scene):
        kinds = by_family.setdefault(family, {})
        kinds.setdefault(_subject(slots), {}).setdefault(answer, []).append(slots)
    families = [family for family in FAMILIES if family in by_family]
    shares = [1.0 if weights is None else weights.get(family, 0.0) for family in families]
    total = sum(shares)
    chosen: list[Question] = []
    seen: set[tuple[int, str]] = set()
    # Few scenes have enough questions in every family; then a question is repeated.
    for place in rng.choice(len(families), size=20 * number, p=[share / total for share in shares]):
        kinds = by_family[families[place]]
        answers = kinds[list(kinds)[int(rng.integers(len(kinds)))]]
        answer = list(answers)[int(rng.integers(len(answers)))]
        slots = answers[answer][int(rng.integers(len(answers[answer])))]
        if (place, str(slots)) not in seen or rng.random() < 0.1:
            seen.add((place, str(slots)))
            chosen.append(Question(families[place], _worded(rng, families[place], slots), answer))
        if len(chosen) == number:
            break
    return chosen


def _subject(slots: Mapping[str, str]) -> str:
    """Return what a question names: colours, shapes, both or neither."""
    words = " ".join(slots.values()).split()
    named = (("colour", any(word in COLOURS for word in words)), ("shape", any(word in _SHAPE_WORDS for word in words)))
    return " and ".join(name for name, is_named in named if is_named)


def with_options(question: Question, rng: Generator) -> Question:
    """Ask an open question as multiple choice, in the pipeline's own form: the answer is a letter."""
    options = _options(question)
    wrong = [option for option in options if option != question.answer]
    drawn = [question.answer, *rng.permutation(wrong)[: _MOST_OPTIONS - 1].tolist()]
    shown = [drawn[place] for place in rng.permutation(len(drawn))]
    return Question(CHOICE, question_prompt(question.text, shown), string.ascii_uppercase[shown.index(question.answer)])


def time_band(step: int, steps: int) -> str | None:
    """Return where in a clip a step is; None if it is ambiguous."""
    middle = (step + 0.5) / steps
    return next((name for name, (low, high) in _TIME_BANDS.items() if low <= middle <= high), None)


def _worded(rng: Generator, family: str, slots: Mapping[str, str]) -> str:
    wordings = WORDINGS[family]
    return wordings[int(rng.integers(len(wordings)))].format(**slots)


def _options(question: Question) -> tuple[str, ...]:
    """Return the possible answers."""
    if question.family == "order":
        return tuple(name for name in _NAMES if f"{name} " in question.text or f"{name}?" in question.text)
    return _OPTIONS[question.family]


_Fact = tuple[str, dict[str, str], str]


def _facts(scene: Scene) -> Iterator[_Fact]:
    """Yield family, the words for its wording, and answer."""
    yield from _about_attributes(scene)
    yield from _about_numbers(scene)
    yield from _about_presence(scene)
    for thing in scene.things:
        if not thing.brief:
            yield "direction", {"thing": thing.name}, thing.direction
    yield from _about_order(scene)
    if scene.steps >= 3:
        yield "flash", {}, scene.flash.name if scene.flash else "nothing"
    if scene.steps >= 6:
        for thing in scene.things:
            band = time_band(thing.first_step, scene.steps)
            if band is not None:
                yield "time", {"thing": thing.name}, band
    if scene.things:
        yield "list", {}, ", ".join(sorted(thing.name for thing in scene.things))


def _about_attributes(scene: Scene) -> Iterator[_Fact]:
    for thing in scene.things:
        if sum(other.shape == thing.shape for other in scene.things) == 1:
            yield "colour", {"shape": thing.shape}, thing.colour
        if sum(other.colour == thing.colour for other in scene.things) == 1:
            yield "shape", {"colour": thing.colour}, thing.shape


def _about_numbers(scene: Scene) -> Iterator[_Fact]:
    yield "count", {"things": "objects"}, str(len(scene.things))
    for colour in sorted({thing.colour for thing in scene.things}):
        number = sum(thing.colour == colour for thing in scene.things)
        yield "count", {"things": f"{colour} objects"}, str(number)
    for shape in sorted({thing.shape for thing in scene.things}):
        number = sum(thing.shape == shape for thing in scene.things)
        yield "count", {"things": PLURALS[shape]}, str(number)


def _about_presence(scene: Scene) -> Iterator[_Fact]:
    names = {thing.name for thing in scene.things}
    colours = {thing.colour for thing in scene.things}
    shapes = {thing.shape for thing in scene.things}
    for colour in COLOURS:
        yield "exist", {"a_thing": _with_article(f"{colour} object")}, _yes(colour in colours)
    for shape in SHAPES:
        yield "exist", {"a_thing": _with_article(shape)}, _yes(shape in shapes)
    for colour in COLOURS:
        for shape in SHAPES:
            # Questions about absent pairs name one half that is present: others would be easy.
            if colour in colours or shape in shapes:
                name = f"{colour} {shape}"
                yield "exist", {"a_thing": _with_article(name)}, _yes(name in names)


def _about_order(scene: Scene) -> Iterator[_Fact]:
    gap = max(1, scene.steps // 8)
    for one, other in combinations(scene.things, 2):
        if abs(one.first_step - other.first_step) < gap:
            continue
        earlier, later = sorted((one, other), key=lambda thing: thing.first_step)
        for first, second in ((one, other), (other, one)):
            slots = {"one": first.name, "other": second.name}
            yield "order", {"place": "first", **slots}, earlier.name
            yield "order", {"place": "last", **slots}, later.name


def _with_article(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _yes(fact: bool) -> str:
    return "yes" if fact else "no"
