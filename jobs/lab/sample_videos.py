"""Sample videos: frames written as a file, and generated clips."""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

Frames = Iterator[NDArray[np.uint8]]

_FPS = 12
_SEED = 20261123
_HEIGHT, _WIDTH, _BLOCK, _SCENE_FRAMES = 180, 320, 20, 16


def write_video(path: Path, frames: Iterable[NDArray[np.uint8]], *, fps: int = _FPS, codec: str = "libx264") -> None:
    """Encode frames as a video file.

    Args:
        path: The file to write; its suffix chooses the container.
        frames: uint8 `[H, W, 3]` RGB, even sides.
        fps: Frames per second.
        codec: A video encoder of PyAV's ffmpeg.

    Raises:
        ValueError: `codec` encodes something else.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(fps))
        if not isinstance(stream, av.VideoStream):
            raise ValueError(f"{codec} is not a video encoder")
        stream.pix_fmt = "yuv420p"
        for index, image in enumerate(frames):
            if index == 0:
                stream.height, stream.width = image.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))


def write_textures(path: Path, num_frames: int, number: int = 0) -> None:
    """Write a video of drifting blocks with a cut every 16 frames; each `number` gives another video."""
    write_video(path, _textures(num_frames, number))


def _textures(count: int, number: int) -> Frames:
    for index in range(count):
        random = np.random.default_rng([_SEED + number, index // _SCENE_FRAMES])
        coarse = random.uniform(0, 255, (_HEIGHT // _BLOCK, _WIDTH // _BLOCK, 3))
        scene: NDArray[np.float64] = coarse.repeat(_BLOCK, axis=0).repeat(_BLOCK, axis=1)
        yield np.roll(scene, 2 * (index % _SCENE_FRAMES), axis=1).astype(np.uint8)
