"""Scenes: what happens in a generated clip, drawn from a seed, before it is rendered.

Time is counted in steps (the model's temporal patches, two frames each); things come and go between steps.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

FRAME_SIZE = 128
FRAMES_PER_STEP = 2
SHAPES = ("circle", "square", "triangle", "cross", "ring", "diamond")
COLOURS = {
    "red": (225, 30, 30),
    "green": (30, 175, 45),
    "blue": (40, 70, 235),
    "yellow": (240, 225, 40),
    "purple": (170, 40, 200),
    "orange": (250, 135, 20),
    "cyan": (40, 220, 225),
    "white": (245, 245, 245),
}
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
# Every clip of eight steps or more lasts eight seconds at these lengths and a whole number of frames per second.
LENGTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 40)
_SECONDS = 8

Split = Literal["train", "held-out"]
BackdropKind = Literal["plain", "blocks", "scrolling", "waves", "noise"]
_BACKDROPS: tuple[BackdropKind, ...] = ("plain", "blocks", "scrolling", "waves", "noise")
_SPLITS: tuple[Split, ...] = ("train", "held-out")
_SALT = 20261124
# Slower motion than about a pixel a frame can't be told from none after a codec.
_MIN_SPEED, _MAX_SPEED = 1.3, 5.0
_MARGIN = 2


@dataclass(frozen=True)
class Thing:
    """A coloured shape; no two in a clip share both colour and shape.

    Attributes:
        colour: One of `COLOURS`.
        shape: One of `SHAPES`.
        radius: Pixels from its centre to its farthest point, about.
        first_step: When it appears.
        end_step: When it is gone.
        start: x and y of its centre in its first frame.
        velocity: Pixels per frame, along one axis or zero.
        brief: Whether it is there only for a moment.
    """

    colour: str
    shape: str
    radius: float
    first_step: int
    end_step: int
    start: tuple[float, float]
    velocity: tuple[float, float]
    brief: bool = False

    @property
    def name(self) -> str:
        """Its name in questions and answers."""
        return f"{self.colour} {self.shape}"

    @property
    def direction(self) -> str:
        """The direction of its motion; "nowhere" if it stands still."""
        moving = [name for name, axis in DIRECTIONS.items() if np.dot(axis, self.velocity) > 0]
        return moving[0] if moving else "nowhere"

    def centres(self) -> NDArray[np.float64]:
        """Return its centre in each of its frames, `[frames, 2]`."""
        frames = np.arange((self.end_step - self.first_step) * FRAMES_PER_STEP)
        centres: NDArray[np.float64] = np.array(self.start) + frames[:, None] * np.array(self.velocity)
        return centres


@dataclass(frozen=True)
class Backdrop:
    """The background of the things until the next cut.

    Attributes:
        kind: How it is drawn.
        colour: Its mean RGB, 0 to 255.
        seed: Seed of its texture.
        first_step: Where it begins.
        end_step: Where the next one does, or the clip ends.
    """

    kind: BackdropKind
    colour: tuple[float, float, float]
    seed: int
    first_step: int
    end_step: int


@dataclass(frozen=True)
class Scene:
    """All of a clip.

    Attributes:
        steps: Temporal steps T; the clip has two frames for each.
        things: In no particular order.
        backdrops: One per stretch between cuts, in order.
    """

    steps: int
    things: tuple[Thing, ...]
    backdrops: tuple[Backdrop, ...]

    @property
    def num_frames(self) -> int:
        """Number of frames of the clip."""
        return self.steps * FRAMES_PER_STEP

    @property
    def fps(self) -> int:
        """Frames per second of its file: about eight seconds for any length."""
        return max(1, round(self.num_frames / _SECONDS))

    @property
    def flash(self) -> Thing | None:
        """The thing that is there only for a moment."""
        return next((thing for thing in self.things if thing.brief), None)


def clip_rng(split: Split, index: int, purpose: int = 0) -> Generator:
    """Return the random numbers of one clip: the split is part of the seed, so no clip is in both."""
    return np.random.default_rng([_SALT, _SPLITS.index(split), index, purpose])


def make_scene(split: Split, index: int, steps: int) -> Scene:
    """Draw the scene of a clip."""
    rng = clip_rng(split, index)
    borders = _cuts(rng, steps)
    backdrops = tuple(_backdrop(rng, first, end) for first, end in pairwise(borders))
    things: list[Thing] = []
    for _ in range(int(rng.integers(1, 6))):
        stretch = backdrops[int(rng.integers(len(backdrops)))]
        first, end = _lifetime(rng, stretch.first_step, stretch.end_step, steps)
        _place(rng, things, first, end, brief=False)
    if steps >= 3 and rng.random() < 0.6:
        first = int(rng.integers(1, steps - 1))
        # In long clips a moment may last two steps, but never over a cut.
        longer = steps >= 24 and first + 2 < steps and first + 1 not in borders and rng.random() < 0.5
        _place(rng, things, first, first + 1 + longer, brief=True)
    return Scene(steps, tuple(things), backdrops)


def make_crowd(split: Split, index: int) -> Scene:
    """Draw a single step full of things, on a jittered grid: much to see in few pixels."""
    rng = clip_rng(split, index, purpose=1)
    things = []
    for cell in rng.permutation(9)[: rng.integers(3, 10)]:
        centre = (np.array([cell % 3, cell // 3]) + 0.5) * FRAME_SIZE / 3 + rng.uniform(-7, 7, 2)
        velocity = _velocity(rng, _MAX_SPEED)
        start = centre - np.array(velocity) / 2
        radius = float(rng.uniform(10, 14))
        colour, shape = str(rng.choice(list(COLOURS))), str(rng.choice(SHAPES))
        things.append(Thing(colour, shape, radius, 0, 1, (float(start[0]), float(start[1])), velocity))
    return Scene(1, tuple(things), (_backdrop(rng, 0, 1),))


def _cuts(rng: Generator, steps: int) -> list[int]:
    """Return the steps at which stretches between cuts begin, and the end; none is short enough for a flash."""
    shortest = 5 if steps >= 24 else 3
    wanted = 0 if steps < 6 else int(rng.choice(3 if steps >= 12 else 2, p=(0.55, 0.3, 0.15) if steps >= 12 else None))
    borders = [0, steps]
    for cut in rng.permutation(np.arange(shortest, steps - shortest + 1)) if steps >= 6 else ():
        if len(borders) < wanted + 2 and min(abs(cut - border) for border in borders) >= shortest:
            borders.append(int(cut))
    return sorted(borders)


def _backdrop(rng: Generator, first: int, end: int) -> Backdrop:
    # Dark and of little colour, so that every thing stands out.
    colour = rng.uniform(35, 105) + rng.uniform(-18, 18, 3)
    kind = _BACKDROPS[int(rng.integers(len(_BACKDROPS)))]
    mean = (float(colour[0]), float(colour[1]), float(colour[2]))
    return Backdrop(kind, mean, int(rng.integers(2**31)), first, end)


def _lifetime(rng: Generator, first: int, end: int, steps: int) -> tuple[int, int]:
    """Draw when a thing is there, within a stretch: long enough not to be taken for a flash."""
    shortest = min(3, steps) if steps < 24 else max(5, steps // 5)
    late = rng.random() < 0.5 and end - first >= 4
    begin = int(rng.integers(first + 1, end - 1)) if late else first
    if rng.random() < 0.25 and end - begin > shortest:
        end = int(rng.integers(begin + shortest, end))
    # The last thing of a long clip may come as late as in a short one, unless it would pass for a flash.
    if steps >= 24 and end - begin < 5:
        begin = max(first, end - 5)
    return begin, end


def _place(rng: Generator, things: list[Thing], first: int, end: int, *, brief: bool) -> None:
    """Add a thing where it meets no other; leave it out if there is no room."""
    name = _unused_name(rng, things)
    for _ in range(40):
        radius = float(rng.uniform(10, 14))
        room = FRAME_SIZE - 2 * (radius + _MARGIN)
        frames = (end - first) * FRAMES_PER_STEP
        top_speed = min(_MAX_SPEED, room / (frames - 1))
        velocity = (0.0, 0.0) if brief or top_speed < _MIN_SPEED else _velocity(rng, top_speed)
        travel = np.array(velocity) * (frames - 1)
        low = radius + _MARGIN + np.maximum(0, -travel)
        high = FRAME_SIZE - radius - _MARGIN - np.maximum(0, travel)
        x, y = rng.uniform(low, high)
        thing = Thing(*name, radius, first, end, (float(x), float(y)), velocity, brief)
        if not any(_meet(thing, other) for other in things):
            things.append(thing)
            return


def _velocity(rng: Generator, top_speed: float) -> tuple[float, float]:
    if rng.random() < 0.3:
        return (0.0, 0.0)
    axis = tuple(DIRECTIONS.values())[int(rng.integers(4))]
    speed = float(rng.uniform(_MIN_SPEED, top_speed))
    return (axis[0] * speed, axis[1] * speed)


def _unused_name(rng: Generator, things: list[Thing]) -> tuple[str, str]:
    """Return an unused colour and shape; one of them is often another thing's, which makes questions harder."""
    used = {(thing.colour, thing.shape) for thing in things}
    while True:
        colour, shape = str(rng.choice(list(COLOURS))), str(rng.choice(SHAPES))
        if things and rng.random() < 0.35:
            other = things[int(rng.integers(len(things)))]
            colour, shape = (other.colour, shape) if rng.random() < 0.5 else (colour, other.shape)
        if (colour, shape) not in used:
            return colour, shape


def _meet(one: Thing, other: Thing) -> bool:
    """Return whether two things touch in any frame."""
    first, end = max(one.first_step, other.first_step), min(one.end_step, other.end_step)
    if first >= end:
        return False
    spans = [
        thing.centres()[(first - thing.first_step) * FRAMES_PER_STEP : (end - thing.first_step) * FRAMES_PER_STEP]
        for thing in (one, other)
    ]
    gap = np.linalg.norm(spans[0] - spans[1], axis=1).min()
    return bool(gap < one.radius + other.radius + 1)
