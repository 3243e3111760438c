"""What each visual token shows: dense targets, from the scene alone, for the vision side and for auxiliary heads."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jobs.lab.tiny_model.scenes import COLOURS, DIRECTIONS, FRAME_SIZE, FRAMES_PER_STEP, SHAPES, Scene, Thing

TOKEN_SIDE = 16
GRID = FRAME_SIZE // TOKEN_SIDE
TOKENS_PER_STEP = GRID * GRID
# "nothing" comes last in each of them.
COLOUR_NAMES = (*COLOURS, "nothing")
SHAPE_NAMES = (*SHAPES, "nothing")
MOTION_NAMES = (*DIRECTIONS, "nowhere", "nothing")
# What happens to a thing at a token, step by step.
EVENTS = ("nothing", "appears", "stays", "vanished")
# Pixels.
_ONE_PLACE = 12
_AXIS = (np.arange(GRID) + 0.5) * TOKEN_SIDE
_MIDDLES = np.stack(np.meshgrid(_AXIS, _AXIS), axis=-1).reshape(-1, 2)


@dataclass(frozen=True)
class TokenLabels:
    """Targets of `T` steps of `N` tokens, int64 unless said otherwise.

    Attributes:
        colour: `[T, N]` into `COLOUR_NAMES`.
        shape: `[T, N]` into `SHAPE_NAMES`.
        motion: `[T, N]` into `MOTION_NAMES`.
        centre: `[T, N]` float32, 1 where a thing's centre is.
        offset: `[T, N, 2]` float32, from the token's centre to that of its thing, in tokens.
        backdrop: `[T, N, 3]` float32, mean colour of the background, 0 to 1.
        event: `[T, N]` into `EVENTS`.
        count: `[T]` different things seen up to and including a step.
    """

    colour: NDArray[np.int64]
    shape: NDArray[np.int64]
    motion: NDArray[np.int64]
    centre: NDArray[np.float32]
    offset: NDArray[np.float32]
    backdrop: NDArray[np.float32]
    event: NDArray[np.int64]
    count: NDArray[np.int64]


def label_tokens(scene: Scene, frames: NDArray[np.int64] | None = None) -> TokenLabels:
    """Label every token of a clip.

    Args:
        scene: The scene.
        frames: Which frames are shown, two for each step; all when omitted.
    """
    pairs = (np.arange(scene.num_frames) if frames is None else frames).reshape(-1, FRAMES_PER_STEP)
    shape = (len(pairs), TOKENS_PER_STEP)
    colours = np.full(shape, len(COLOUR_NAMES) - 1)
    shapes = np.full(shape, len(SHAPE_NAMES) - 1)
    motions = np.full(shape, len(MOTION_NAMES) - 1)
    events = np.zeros(shape, dtype=np.int64)
    centres = np.zeros(shape, dtype=np.float32)
    offsets = np.zeros((*shape, 2), dtype=np.float32)
    count = np.zeros(len(pairs), dtype=np.int64)
    nearest = np.full(shape, np.inf)
    for thing in scene.things:
        seen, places = _sight(thing, pairs)
        in_any, in_both = seen[:, :1] | seen[:, 1:], seen[:, :1] & seen[:, 1:]
        steps = np.flatnonzero(in_any)
        if not steps.size:
            continue
        apart = places[:, :, None] - _MIDDLES
        distances = np.linalg.norm(apart, axis=-1)
        closer = distances.argmin(axis=1)[:, None]
        distance = np.take_along_axis(distances, closer, axis=1)[:, 0]
        # Even if a thing is thin at its ends, one token holds its middle.
        columns, rows = np.clip(places[:, 0] // TOKEN_SIDE, 0, GRID - 1).astype(int).T
        middle = (steps, (rows * GRID + columns)[steps])
        owned = distance < thing.radius + 1
        owned[middle] = True
        owned &= in_any & (distance < nearest)
        nearest[owned] = distance[owned]
        centres[middle] = 1
        colours[owned] = COLOUR_NAMES.index(thing.colour)
        shapes[owned] = SHAPE_NAMES.index(thing.shape)
        # A thing in one of two frames shows no motion.
        motions[owned] = len(MOTION_NAMES) - 1
        motions[owned & in_both] = MOTION_NAMES.index(thing.direction)
        offsets[owned] = np.take_along_axis(apart, closer[..., None], axis=1)[:, 0][owned] / TOKEN_SIDE
        events[owned] = EVENTS.index("stays")
        events[steps[0]][owned[steps[0]]] = EVENTS.index("appears")
        if steps[-1] + 1 < len(pairs):
            gone = owned[steps[-1]] & (events[steps[-1] + 1] == 0)
            events[steps[-1] + 1][gone] = EVENTS.index("vanished")
        count[steps[0] :] += 1
    backdrop = np.zeros((*shape, 3), dtype=np.float32)
    for stretch in scene.backdrops:
        here = (pairs[:, 0] >= stretch.first_step * FRAMES_PER_STEP) & (
            pairs[:, 0] < stretch.end_step * FRAMES_PER_STEP
        )
        backdrop[here] = np.array(stretch.colour) / 255
    return TokenLabels(colours, shapes, motions, centres, offsets, backdrop, events, count)


def _sight(thing: Thing, pairs: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Return in which frames a thing is seen `[T, 2]`, and where, for both frames of every step `[T, 2, 2]`."""
    centres = thing.centres()
    ages = pairs - thing.first_step * FRAMES_PER_STEP
    seen = (ages >= 0) & (ages < len(centres))
    places = centres[np.clip(ages, 0, len(centres) - 1)]
    # Seen in one frame, it is where it is there; a short way between two frames is one place.
    places[seen[:, 0] & ~seen[:, 1], 1] = places[seen[:, 0] & ~seen[:, 1], 0]
    places[seen[:, 1] & ~seen[:, 0], 0] = places[seen[:, 1] & ~seen[:, 0], 1]
    near = np.linalg.norm(places[:, 0] - places[:, 1], axis=-1) < _ONE_PLACE
    places[near] = places[near].mean(axis=1, keepdims=True)
    return seen, places
