"""One clip to look at: its frames with what became of every token, and the same in numbers."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from flashvid.models import CompressedVideo

_CELL = 24
_GAP = 12
_LABEL = 18
# What the heading takes.
_LEAST_WIDTH = 760
_KEPT = (255, 212, 0)
_BACKGROUND = (24, 26, 30)
_TEXT = (225, 228, 232)
_TINT = 0.55
_DARK = 0.25
# Neighbouring slots get hues far apart: the golden ratio's multiples fill a circle evenly.
_HUE_STEP = 0.61803398875


@dataclass(frozen=True)
class StepAccount:
    """What became of the tokens of one temporal step.

    Attributes:
        start_s: Time of its first frame.
        segment: Which segment it is in, counted from 0.
        kept: Tokens that are there still, merged others in them or not.
        merged: Tokens that are part of another, of this step or an earlier or later one.
        dropped: Tokens that nothing is left of.
    """

    start_s: float
    segment: int
    kept: int
    merged: int
    dropped: int


@dataclass(frozen=True)
class ClipAccount:
    """What became of the tokens of a clip.

    Attributes:
        steps: Of every temporal step.
        rows: Of tokens in a step.
        columns: Of tokens in a step.
        segment_lengths: Temporal steps of each segment.
        kept: Tokens that are there still.
        total: All tokens.
        trees: Kept tokens that others were merged into.
        largest_tree: Tokens in the largest of these, itself included; 0 without any.
    """

    steps: tuple[StepAccount, ...]
    rows: int
    columns: int
    segment_lengths: tuple[int, ...]
    kept: int
    total: int
    trees: int
    largest_tree: int


def account(video: CompressedVideo) -> ClipAccount:
    """Count what compression did to a clip."""
    steps, rows, columns = _token_grid(video)
    assignment, kept = _by_step(video)
    sizes = np.bincount(assignment[assignment >= 0], minlength=len(video.indices))
    segments = np.repeat(np.arange(len(video.segment_lengths)), video.segment_lengths)
    merged = (assignment >= 0) & ~kept
    trees = sizes[sizes > 1]
    return ClipAccount(
        steps=tuple(
            StepAccount(
                start_s=float(video.frame_timestamps[_first_frame(video, step)]),
                segment=int(segments[step]),
                kept=int(kept[step].sum()),
                merged=int(merged[step].sum()),
                dropped=int((assignment[step] < 0).sum()),
            )
            for step in range(steps)
        ),
        rows=rows,
        columns=columns,
        segment_lengths=tuple(video.segment_lengths),
        kept=len(video.indices),
        total=assignment.size,
        trees=len(trees),
        largest_tree=int(trees.max(initial=0)),
    )


def contact_sheet(
    frames: NDArray[np.uint8], video: CompressedVideo, title: str, *, sheet_columns: int = 4, max_steps: int = 60
) -> Image.Image:
    """Draw the first frame of each temporal step with its tokens.

    Kept tokens are framed; merged ones have the colour of the tree they are in, the kept one at its root, too; what was
    dropped is dark.

    Args:
        frames: uint8 `[F, H, W, 3]`, those that were encoded, at any size.
        video: The compressed clip.
        title: Stands above.
        sheet_columns: Frames in a row of the sheet.
        max_steps: With more, so many are drawn, spread evenly.
    """
    counted = account(video)
    steps, rows, columns = _token_grid(video)
    drawn = np.unique(np.linspace(0, steps - 1, min(steps, max_steps)).round().astype(int))
    width, height = columns * _CELL, rows * _CELL
    sheet_columns = min(sheet_columns, len(drawn))
    sheet_rows = -(-len(drawn) // sheet_columns)
    sheet = Image.new(
        "RGB",
        (
            max(sheet_columns * (width + _GAP) + _GAP, _LEAST_WIDTH),
            3 * _LABEL + sheet_rows * (height + _LABEL + _GAP) + _GAP,
        ),
        _BACKGROUND,
    )
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    pen.text((_GAP, 6), _printable(title), fill=_TEXT, font=font)
    pen.text((_GAP, 6 + _LABEL), _heading(counted), fill=_TEXT, font=font)
    for number, step in enumerate(drawn):
        left = _GAP + number % sheet_columns * (width + _GAP)
        top = 3 * _LABEL + number // sheet_columns * (height + _LABEL + _GAP)
        picture = Image.fromarray(frames[_first_frame(video, step)]).resize((width, height), Image.Resampling.BICUBIC)
        sheet.paste(_with_tokens(picture, video, step), (left, top + _LABEL))
        step_counts = counted.steps[step]
        label = f"{step_counts.start_s:.2f} s  segment {step_counts.segment + 1}  {step_counts.kept} kept"
        pen.text((left, top), label, fill=_TEXT, font=font)
    return sheet


def _with_tokens(picture: Image.Image, video: CompressedVideo, step: int) -> Image.Image:
    """A frame at `_CELL` pixels a token, with what became of each."""
    assignment, kept = _by_step(video)
    sizes = np.bincount(assignment[assignment >= 0], minlength=len(video.indices))
    _, rows, columns = _token_grid(video)
    slots, is_kept = assignment[step], kept[step]
    in_tree = (slots >= 0) & (sizes[np.maximum(slots, 0)] > 1)
    colours = np.array([_colour(slot) for slot in slots], dtype=np.float64)
    strength = np.where(slots < 0, 1.0 - _DARK, np.where(in_tree, _TINT, 0.0))
    tint = np.where((slots < 0)[:, None], 0.0, colours)

    def spread(cells: NDArray[np.float64]) -> NDArray[np.float64]:
        grid = cells.reshape(rows, columns, -1)
        return grid.repeat(_CELL, axis=0).repeat(_CELL, axis=1)

    pixels = np.asarray(picture, dtype=np.float64)
    mixed = pixels * (1.0 - spread(strength)) + spread(tint) * spread(strength)
    shown = Image.fromarray(mixed.round().astype(np.uint8))
    pen = ImageDraw.Draw(shown)
    for place in np.flatnonzero(is_kept):
        row, column = divmod(int(place), columns)
        corner = (column * _CELL, row * _CELL)
        pen.rectangle((*corner, corner[0] + _CELL - 1, corner[1] + _CELL - 1), outline=_KEPT, width=2)
    return shown


def _heading(counted: ClipAccount) -> str:
    return (
        f"{counted.kept} of {counted.total} tokens kept (framed), {counted.trees} of them with others merged in "
        f"(colours; the largest of {counted.largest_tree}), {len(counted.segment_lengths)} segments; dark is dropped"
    )


def _printable(text: str) -> str:
    """One line of characters that the built-in font has; a path may hold any."""
    return "".join(character if character.isascii() and character.isprintable() else "?" for character in text)


def _colour(slot: int) -> Sequence[float]:
    return [255 * value for value in colorsys.hsv_to_rgb(slot * _HUE_STEP % 1.0, 0.8, 1.0)]


def _token_grid(video: CompressedVideo) -> tuple[int, int, int]:
    """Temporal steps, and rows and columns of tokens."""
    steps, patch_rows, patch_columns = video.grid_thw
    merge = round((steps * patch_rows * patch_columns / len(video.assignment)) ** 0.5)
    return steps, patch_rows // merge, patch_columns // merge


def _by_step(video: CompressedVideo) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """`[T, N]`: the slot of every token, and whether it is the one that was kept."""
    assignment = video.assignment.numpy()
    kept = np.zeros(len(assignment), dtype=bool)
    kept[video.indices.numpy()] = True
    steps = video.grid_thw[0]
    return assignment.reshape(steps, -1), kept.reshape(steps, -1)


def _first_frame(video: CompressedVideo, step: int) -> int:
    frames = len(video.frame_timestamps)
    return min(step * -(-frames // video.grid_thw[0]), frames - 1)
