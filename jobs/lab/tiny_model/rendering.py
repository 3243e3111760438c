"""Scenes to frames, and frames through a codec."""

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from jobs.lab.sample_videos import write_video
from jobs.lab.tiny_model.scenes import COLOURS, FRAME_SIZE, FRAMES_PER_STEP, Backdrop, Scene, Thing

Frames = NDArray[np.uint8]


def render(scene: Scene, frames: NDArray[np.int64] | None = None) -> Frames:
    """Draw a clip, or some of its frames, `[F, 128, 128, 3]` RGB."""
    frames = np.arange(scene.num_frames) if frames is None else frames
    canvas = np.empty((len(frames), FRAME_SIZE, FRAME_SIZE, 3), dtype=np.float32)
    for backdrop in scene.backdrops:
        first, end = (step * FRAMES_PER_STEP for step in (backdrop.first_step, backdrop.end_step))
        here = (frames >= first) & (frames < end)
        if here.any():
            canvas[here] = _draw_backdrop(backdrop, frames[here])
    for thing in scene.things:
        centres = thing.centres()
        for image, place in zip(canvas, frames - thing.first_step * FRAMES_PER_STEP, strict=True):
            if 0 <= place < len(centres):
                _draw_thing(image, thing, centres[place])
    return np.clip(canvas, 0, 255).astype(np.uint8)


def write_clip(path: Path, scene: Scene) -> None:
    """Write a scene's clip as a video file."""
    write_video(path, iter(render(scene)), fps=scene.fps)


def through_codec(frames: Frames, rng: Generator) -> Frames:
    """Encode frames as h264 at some quality and decode them: training sees what a file's frames look like."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        options = {"crf": str(rng.integers(18, 29)), "preset": "veryfast", "threads": "1"}
        stream = container.add_stream("libx264", rate=Fraction(8), options=options)
        if not isinstance(stream, av.VideoStream):
            raise TypeError("libx264 is a video encoder")
        stream.pix_fmt = "yuv420p"
        stream.height, stream.width = frames.shape[1:3]
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    file.seek(0)
    with av.open(file, "r") as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def _draw_backdrop(backdrop: Backdrop, frames: NDArray[np.int64]) -> NDArray[np.float32]:
    """`[F, H, W, 3]`, or with ones where it broadcasts."""
    rng = np.random.default_rng(backdrop.seed)
    mean = np.array(backdrop.colour, dtype=np.float32)
    if backdrop.kind == "plain":
        return np.broadcast_to(mean, (1, 1, 1, 3))
    if backdrop.kind == "noise":
        # Its own numbers for every frame, whichever frames are drawn.
        noise = [np.random.default_rng([backdrop.seed, int(frame)]) for frame in frames]
        size = (FRAME_SIZE // 2, FRAME_SIZE // 2, 1)
        speckle = np.stack([source.integers(-16, 17, size, dtype=np.int8) for source in noise]).astype(np.float32)
        noisy: NDArray[np.float32] = mean + speckle.repeat(2, axis=1).repeat(2, axis=2)
        return noisy
    drift = rng.uniform(-2, 2, 2)
    if backdrop.kind == "waves":
        axis = np.arange(FRAME_SIZE, dtype=np.float32)
        wave = rng.uniform(0.04, 0.16, 2)
        phase = (drift @ wave * frames).astype(np.float32)[:, None, None]
        pattern = np.sin(axis[None, :, None] * np.float32(wave[1]) + axis * np.float32(wave[0]) + phase)
        waves: NDArray[np.float32] = mean + 18 * pattern[..., None]
        return waves
    coarse = rng.uniform(-22, 22, (8, 8, 3)).astype(np.float32)
    texture = mean + coarse.repeat(16, axis=0).repeat(16, axis=1)
    if backdrop.kind == "blocks":
        return texture[None]
    moves = (frames[:, None] * drift).astype(np.int64)
    return np.stack([np.roll(texture, (int(y), int(x)), axis=(0, 1)) for x, y in moves])


def _draw_thing(image: NDArray[np.float32], thing: Thing, centre: NDArray[np.float64]) -> None:
    left, top = np.maximum(0, np.floor(centre - thing.radius - 1)).astype(int)
    right, bottom = np.minimum(FRAME_SIZE, np.ceil(centre + thing.radius + 2)).astype(int)
    x = np.arange(left, right, dtype=np.float32) - np.float32(centre[0])
    y = np.arange(top, bottom, dtype=np.float32)[:, None] - np.float32(centre[1])
    # A pixel the outline passes through is covered in part.
    cover = np.clip(0.5 - _distance(thing.shape, x, y, thing.radius), 0, 1)[..., None]
    window = image[top:bottom, left:right]
    window += cover * (np.array(COLOURS[thing.colour], dtype=np.float32) - window)


def _distance(shape: str, x: NDArray[np.float32], y: NDArray[np.float32], radius: float) -> NDArray[Any]:
    """Return about how far outside a shape points are; negative inside."""
    across, along = np.abs(x), np.abs(y)
    distance: NDArray[Any]
    if shape == "circle":
        distance = np.hypot(x, y) - 0.95 * radius
    elif shape == "ring":
        distance = np.abs(np.hypot(x, y) - 0.75 * radius) - 0.25 * radius
    elif shape == "square":
        distance = np.maximum(across, along) - 0.82 * radius
    elif shape == "diamond":
        distance = (across + along) * 0.707 - 0.75 * radius
    elif shape == "triangle":
        distance = np.maximum(0.884 * across - 0.467 * (y + radius), y - 0.8 * radius)
    else:
        arm = 0.3 * radius
        distance = np.minimum(np.maximum(across - arm, along - radius), np.maximum(along - arm, across - radius))
    return distance
