"""Videos that tests share: drawn and encoded by us, and natural clips where a package carries some."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jobs.demo import natural_clips
from jobs.lab.sample_videos import Frames, write_video

_HEIGHT, _WIDTH, _FPS = 192, 320, 12
_RED, _GREEN, _BLUE, _WHITE = (220, 40, 40), (40, 180, 70), (50, 80, 220), (240, 240, 240)


def make_sample_videos(folder: Path) -> list[Path]:
    """Write the samples that are not there yet.

    Returns:
        Paths of all samples, sorted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in _DRAWN.items():
        target = folder / f"{name}.mp4"
        if not target.exists():
            partial = target.with_suffix(".partial.mp4")
            write_video(partial, draw(), fps=_FPS)
            partial.rename(target)
    for clip in natural_clips():
        target = folder / clip.name
        if not target.exists():
            shutil.copyfile(clip, target)
    return sorted(path for path in folder.glob("*.mp4") if ".partial" not in path.name)


def _texture(seed: int) -> NDArray[np.float64]:
    """A soft random background, `[H, W, 3]` in 0..1."""
    coarse = np.random.default_rng(seed).uniform(0.2, 0.6, (_HEIGHT // 16, _WIDTH // 16, 3))
    return coarse.repeat(16, axis=0).repeat(16, axis=1)


def _disc(image: NDArray[np.float64], x: float, y: float, radius: float, colour: tuple[int, int, int]) -> None:
    rows, columns = np.ogrid[:_HEIGHT, :_WIDTH]
    image[(columns - x) ** 2 + (rows - y) ** 2 <= radius**2] = np.array(colour) / 255


def _box(image: NDArray[np.float64], x: float, y: float, side: float, colour: tuple[int, int, int]) -> None:
    top, left = int(y - side / 2), int(x - side / 2)
    image[max(top, 0) : top + int(side), max(left, 0) : left + int(side)] = np.array(colour) / 255


def _moving_disc() -> Frames:
    for step in range(6 * _FPS):
        image = _texture(1).copy()
        _disc(image, 30 + 3.5 * step, 96, 24, _RED)
        yield _pixels(image)


def _three_boxes() -> Frames:
    for step in range(5 * _FPS):
        image = _texture(2).copy()
        for index, colour in enumerate((_GREEN, _BLUE, _WHITE)):
            _box(image, 70 + 90 * index, 96 + 20 * np.sin(step / 8 + index), 44, colour)
        yield _pixels(image)


def _scene_cuts() -> Frames:
    for scene, colour in enumerate((_RED, _GREEN, _BLUE, _WHITE)):
        for step in range(2 * _FPS):
            image = _texture(10 + scene).copy()
            _disc(image, 60 + 50 * scene, 40 + 4 * step, 20, colour)
            yield _pixels(image)


def _short_flash() -> Frames:
    for step in range(6 * _FPS):
        image = _texture(3).copy()
        if 40 <= step < 46:
            _box(image, 160, 96, 80, _WHITE)
        yield _pixels(image)


def _pixels(image: NDArray[np.float64]) -> NDArray[np.uint8]:
    return (image * 255).round().astype(np.uint8)


_DRAWN: dict[str, Callable[[], Frames]] = {
    "moving_red_disc": _moving_disc,
    "three_boxes": _three_boxes,
    "scene_cuts": _scene_cuts,
    "short_flash": _short_flash,
}
