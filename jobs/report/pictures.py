"""Pictures of clips for a report: a stored thumbnail, and the fate of the tokens of its moment."""

import base64
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.store.keys import content_key
from pipeline.store.parquet import Row
from pipeline.store.storage import Storage
from pipeline.store.tokens import TokenStore, read_token_columns

_COLUMNS = ["thumbnails", "frame_timestamps", "grid_thw", "indices", "assignment", "num_tokens"]
_READ_THREADS = 16


@dataclass(frozen=True)
class Pictures:
    """The pictures of a page, within its limits.

    Attributes:
        by_clip: By `clip_id`, as the page's script reads them.
        num_bytes: Their bytes in the page.
        left_out: Clips that were skipped because a limit was reached.
    """

    by_clip: Mapping[str, Mapping[str, Any]]
    num_bytes: int
    left_out: int


def take_pictures(
    tokens: Storage, fingerprint: str, clips: Sequence[Row], *, max_pictures: int, max_bytes: float
) -> Pictures:
    """Read the thumbnails of the first clips; a clip without stored tokens has none.

    Args:
        tokens: Where the compressed tokens are.
        fingerprint: The `tokens_fingerprint`.
        clips: One answer of each.
        max_pictures: The most clips to read.
        max_bytes: The most bytes of pictures in the page, in base64.
    """
    found: dict[str, Mapping[str, Any]] = {}
    num_bytes = 0
    with ThreadPoolExecutor(_READ_THREADS) as pool:
        # In groups: clips after max_bytes is reached are not read.
        for begin in range(0, min(len(clips), max_pictures), 4 * _READ_THREADS):
            some = clips[begin : min(begin + 4 * _READ_THREADS, max_pictures)]
            read = pool.map(lambda answer: _picture(tokens, fingerprint, answer), some)
            for number, (answer, picture) in enumerate(zip(some, read, strict=True), start=begin):
                if picture is None:
                    continue
                size = len(picture["jpeg"]) + len(picture["states"])
                if num_bytes + size > max_bytes:
                    return Pictures(found, num_bytes, len(clips) - number)
                found[answer["clip_id"]] = picture
                num_bytes += size
    return Pictures(found, num_bytes, max(0, len(clips) - max_pictures))


def _picture(tokens: Storage, fingerprint: str, answer: Row) -> Mapping[str, Any] | None:
    """Return the clip's middle thumbnail, with a digit for each token of its step: kept 2, merged 1, dropped 0."""
    key = content_key(answer["source_id"], answer["start_s"], answer["end_s"])
    row = read_token_columns(tokens, TokenStore(tokens, fingerprint).name(key), _COLUMNS)
    if row is None or not row["thumbnails"]:
        return None
    thumbnails, frames = len(row["thumbnails"]), len(row["frame_timestamps"])
    # `pipeline.stages.encode.thumbnails` chose these frames; with fewer than three, all of them.
    frame = int(np.linspace(0, frames - 1, thumbnails).round()[thumbnails // 2])
    steps, patch_rows, patch_columns = row["grid_thw"]
    step = min(frame // -(-frames // steps), steps - 1)
    per_step = len(row["assignment"]) // steps
    kept, assignment = set(row["indices"]), row["assignment"]
    places = range(step * per_step, (step + 1) * per_step)
    states = "".join("2" if place in kept else "1" if assignment[place] >= 0 else "0" for place in places)
    columns = patch_columns // round((patch_rows * patch_columns / per_step) ** 0.5)
    jpeg = base64.b64encode(row["thumbnails"][thumbnails // 2]).decode()
    before, after = len(assignment), row["num_tokens"]
    return {"jpeg": jpeg, "columns": columns, "states": states, "before": before, "after": after}
