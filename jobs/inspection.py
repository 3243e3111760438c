"""One clip to look at: its frames with the fate of every token, and the same in numbers."""

import colorsys
from contextlib import closing
from dataclasses import dataclass
from difflib import get_close_matches
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from flashvid.errors import ConfigurationError, PermanentError
from flashvid.models import CompressedVideo, load_preprocessor
from pipeline.config import JobConfig
from pipeline.errors import VideoNotFoundError
from pipeline.plan.probe import ProbeTable
from pipeline.resources_config import StagingConfig
from pipeline.store.keys import content_key
from pipeline.store.parquet import Row
from pipeline.store.results import Results
from pipeline.store.storage import Storage
from pipeline.store.tokens import TokenStore
from pipeline.video.process import DecodeProcess
from pipeline.video.staging import Staging

_CELL, _GAP, _LABEL = 24, 12, 18
# Width that the heading needs.
_LEAST_WIDTH = 760
_KEPT, _BACKGROUND, _TEXT = (255, 212, 0), (24, 26, 30), (225, 228, 232)
_TINT, _DARK = 0.55, 0.25
# Hues of neighbouring slots differ widely: the golden ratio's multiples fill a circle evenly.
_HUE_STEP = 0.61803398875


@dataclass(frozen=True)
class StepAccount:
    """The tokens of one temporal step.

    Attributes:
        start_s: Time of its first frame.
        segment: Its segment, counted from 0.
        kept: Tokens that were kept, with or without others merged into them.
        merged: Tokens that were merged into another token, of any step.
        dropped: Tokens that were dropped.
    """

    start_s: float
    segment: int
    kept: int
    merged: int
    dropped: int


@dataclass(frozen=True)
class ClipAccount:
    """The tokens of a clip.

    Attributes:
        steps: Every temporal step.
        rows: Rows of tokens in a step.
        columns: Columns of tokens in a step.
        segment_lengths: Temporal steps of each segment.
        kept: Tokens that were kept.
        total: All tokens.
        trees: Kept tokens that others were merged into.
        largest_tree: Tokens in the largest tree, including the kept one; 0 without any.
    """

    steps: tuple[StepAccount, ...]
    rows: int
    columns: int
    segment_lengths: tuple[int, ...]
    kept: int
    total: int
    trees: int
    largest_tree: int


class _Grid(NamedTuple):
    """Tokens by step: rows and columns; slot and whether kept, each `[T, N]`; and the sizes of the slots."""

    rows: int
    columns: int
    slots: NDArray[np.int64]
    kept: NDArray[np.bool_]
    sizes: NDArray[np.int64]


def _grid(video: CompressedVideo) -> _Grid:
    slots = video.assignment.numpy()
    kept = np.zeros(len(slots), dtype=bool)
    kept[video.indices.numpy()] = True
    # One slot at least, so that dropped tokens can be looked up where nothing was kept.
    sizes = np.bincount(slots[slots >= 0], minlength=max(1, len(video.indices)))
    steps, patch_rows, patch_columns = video.grid_thw
    merge = round((steps * patch_rows * patch_columns / len(slots)) ** 0.5)
    by_step = slots.reshape(steps, -1), kept.reshape(steps, -1)
    return _Grid(patch_rows // merge, patch_columns // merge, *by_step, sizes)


def account(video: CompressedVideo) -> ClipAccount:
    """Count what compression did to a clip."""
    grid = _grid(video)
    segments = np.repeat(np.arange(len(video.segment_lengths)), video.segment_lengths)
    steps = tuple(
        StepAccount(
            start_s=float(video.frame_timestamps[_first_frame(video, step)]),
            segment=int(segments[step]),
            kept=int(kept.sum()),
            merged=int(((slots >= 0) & ~kept).sum()),
            dropped=int((slots < 0).sum()),
        )
        for step, (slots, kept) in enumerate(zip(grid.slots, grid.kept, strict=True))
    )
    trees = grid.sizes[grid.sizes > 1]
    counts = len(video.indices), grid.slots.size, len(trees), int(trees.max(initial=0))
    return ClipAccount(steps, grid.rows, grid.columns, tuple(video.segment_lengths), *counts)


def contact_sheet(
    frames: NDArray[np.uint8], video: CompressedVideo, title: str, *, sheet_columns: int = 4, max_steps: int = 60
) -> Image.Image:
    """Draw the first frame of each temporal step with its tokens.

    Kept tokens are framed. Merged tokens have the colour of their tree, as does the kept token at its root. Dropped
    tokens are dark.

    Args:
        frames: uint8 `[F, H, W, 3]`, the encoded frames, at any size.
        video: The compressed clip.
        title: Heading of the sheet.
        sheet_columns: Frames in a row of the sheet.
        max_steps: The most steps to draw; with more, these are spread evenly.
    """
    counted, grid = account(video), _grid(video)
    steps = len(counted.steps)
    drawn = np.unique(np.linspace(0, steps - 1, min(steps, max_steps)).round().astype(int))
    width, height = grid.columns * _CELL, grid.rows * _CELL
    across = min(sheet_columns, len(drawn))
    down = -(-len(drawn) // across)
    size = max(across * (width + _GAP) + _GAP, _LEAST_WIDTH), 3 * _LABEL + down * (height + _LABEL + _GAP) + _GAP
    sheet = Image.new("RGB", size, _BACKGROUND)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    # The built-in font has only these characters; a path may hold others.
    shown = "".join(character if character.isascii() and character.isprintable() else "?" for character in title)
    pen.text((_GAP, 6), shown, fill=_TEXT, font=font)
    heading = (
        f"{counted.kept} of {counted.total} tokens kept (framed), {counted.trees} of them with others merged in "
        f"(colours; the largest of {counted.largest_tree}), {len(counted.segment_lengths)} segments; dark is dropped"
    )
    pen.text((_GAP, 6 + _LABEL), heading, fill=_TEXT, font=font)
    for number, step in enumerate(drawn):
        left = _GAP + number % across * (width + _GAP)
        top = 3 * _LABEL + number // across * (height + _LABEL + _GAP)
        picture = Image.fromarray(frames[_first_frame(video, step)]).resize((width, height), Image.Resampling.BICUBIC)
        sheet.paste(_with_tokens(picture, grid, step), (left, top + _LABEL))
        counts = counted.steps[step]
        label = f"{counts.start_s:.2f} s  segment {counts.segment + 1}  {counts.kept} kept"
        pen.text((left, top), label, fill=_TEXT, font=font)
    return sheet


def _with_tokens(picture: Image.Image, grid: _Grid, step: int) -> Image.Image:
    """Return a frame of `_CELL` pixels a token, with the fate of each token drawn over it."""
    slots = grid.slots[step]
    in_tree = (slots >= 0) & (grid.sizes[np.maximum(slots, 0)] > 1)
    strength = np.where(slots < 0, 1.0 - _DARK, np.where(in_tree, _TINT, 0.0))
    colours = np.array([colorsys.hsv_to_rgb(slot * _HUE_STEP % 1.0, 0.8, 1.0) for slot in slots])
    tint = np.where((slots < 0)[:, None], 0.0, 255 * colours)

    def spread(cells: NDArray[np.float64]) -> NDArray[np.float64]:
        return cells.reshape(grid.rows, grid.columns, -1).repeat(_CELL, axis=0).repeat(_CELL, axis=1)

    mixed = np.asarray(picture, dtype=np.float64) * (1.0 - spread(strength)) + spread(tint) * spread(strength)
    shown = Image.fromarray(mixed.round().astype(np.uint8))
    pen = ImageDraw.Draw(shown)
    for place in np.flatnonzero(grid.kept[step]):
        row, column = divmod(int(place), grid.columns)
        left, top = column * _CELL, row * _CELL
        pen.rectangle((left, top, left + _CELL - 1, top + _CELL - 1), outline=_KEPT, width=2)
    return shown


def _first_frame(video: CompressedVideo, step: int) -> int:
    frames = len(video.frame_timestamps)
    return min(step * -(-frames // video.grid_thw[0]), frames - 1)


def stored_clip(
    storage: Storage, results: Results, video_id: str, clip_id: str | None = None, video_path: str | None = None
) -> tuple[Row, NDArray[np.uint8], CompressedVideo]:
    """Return an answer about a clip, its frames, decoded again, and its compressed tokens.

    Args:
        storage: The output.
        results: The run's.
        video_id: The video.
        clip_id: Which clip; None if the video has one.
        video_path: The video's file; None for where it was probed.

    Raises:
        ConfigurationError: there is no such clip, or its tokens or its file are not there.
    """
    job = results.job
    clip = _clip(results, video_id, clip_id)
    # The output may have been copied since; its tokens were then copied too.
    root = Storage(job.cache, job.storage_options) if job.cache else storage
    key = content_key(clip["source_id"], clip["start_s"], clip["end_s"])
    try:
        compressed = TokenStore(root, results.record["tokens_fingerprint"]).read(key)
    except FileNotFoundError:
        raise ConfigurationError("the clip's tokens are not there", root.url) from None
    path = video_path or ProbeTable(storage).paths().get(clip["source_id"])
    if path is None:
        raise ConfigurationError(
            "the path of this video is not recorded, or holds a secret: give it with --video-path", video_id
        )
    frames = _frames(job, path, clip)
    if len(frames) != len(compressed.frame_timestamps):
        raise ConfigurationError("is not the file that was encoded: the number of sampled frames differs", path)
    return clip, frames, compressed


def _frames(job: JobConfig, path: str, clip: Row) -> NDArray[np.uint8]:
    """Decode the frames that were encoded. Raises ConfigurationError with the path."""
    model, sampling, span = job.model, job.effective_sampling, (clip["start_s"], clip["end_s"])
    limits = job.resources.decode
    sizes = {"min_pixels": sampling.min_pixels, "max_pixels": sampling.max_pixels}
    preprocessor = load_preprocessor(model.name, revision=model.revision, **sizes)
    try:
        with (
            closing(DecodeProcess(time_limit_s=limits.time_limit_s, memory_limit_gb=limits.memory_limit_gb)) as process,
            TemporaryDirectory() as folder,
            Staging(StagingConfig(directory=folder), job.storage_options).staged(path, path) as video,
        ):
            resize_for = preprocessor.for_video
            return process.decode_clip(
                video.path, sampling, *span, transform_for=lambda number: resize_for(number).resize
            ).frames
    except VideoNotFoundError:
        raise ConfigurationError("the video is not there any more: give its path with --video-path", path) from None
    except PermanentError as error:
        raise ConfigurationError(error.message, path) from None


def _clip(results: Results, video_id: str, clip_id: str | None) -> Row:
    """Return an answer about the clip. Raises ConfigurationError if there is none, or if several clips match."""
    answers = results.answers(("source_id",))
    found = {row["clip_id"]: row for row in answers if row["video_id"] == video_id}
    if not found:
        near = get_close_matches(video_id, {row["video_id"] for row in answers}, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigurationError(f"there is no answer about this video{hint}", f"video_id {video_id!r}")
    if clip_id is None and len(found) == 1:
        return next(iter(found.values()))
    if clip_id in found:
        return found[clip_id]
    ends = {name: "the end" if row["end_s"] is None else row["end_s"] for name, row in found.items()}
    spans = "".join(f"\n  {name}: {row['start_s'] or 0} s to {ends[name]}" for name, row in found.items())
    raise ConfigurationError(f"choose one of its clips with --clip-id:{spans}", f"video_id {video_id!r}")
