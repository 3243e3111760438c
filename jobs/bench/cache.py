"""`flashvid bench cache`: what a cached token takes, and how fast the token store writes and reads it.

Beside it a file of the bare values, written as durably: to a temporary name, fsync, rename. Wall time, since storage is
waited for; the least of several turns. Reads come from the page cache: what is measured is our own work, not the disk.
"""

from __future__ import annotations

import csv
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from flashvid.models import CompressedVideo
from jobs.bench.environment import describe_environment
from pipeline.config import CacheDtype
from pipeline.keys import digest
from pipeline.storage import Storage
from pipeline.token_store import ClipOrigin, TokenStore

# A clip of LLaVA-OneVision-7B at a tenth: 32 x 196 tokens of width 3584, of which 628 are left.
_STEPS, _SIDE, _WIDTH, _KEPT = 32, 14, 3584, 628
_TURNS, _QUICK_TURNS = 20, 3


@dataclass(frozen=True)
class CacheSpeed:
    """One kind of cache.

    Attributes:
        kind: Dtype in the cache, or the plain file.
        token_bytes: That a token takes on storage, everything counted.
        write_mb_per_second: Megabytes of the tokens in bfloat16, whatever they take on storage.
        read_mb_per_second: The same.
    """

    kind: str
    token_bytes: float
    write_mb_per_second: float
    read_mb_per_second: float


def bench_cache(output: Path | None = None, *, quick: bool = False) -> list[CacheSpeed]:
    """Measure, print a table, and write `cache.md` and `cache.csv`.

    Args:
        output: A folder, made if need be; None writes nothing.
        quick: Few turns.
    """
    speeds = measure_cache(_QUICK_TURNS if quick else _TURNS)
    rows = "".join(
        f"| {speed.kind} | {speed.token_bytes:,.0f} | {speed.token_bytes / (2 * _WIDTH):.3f} "
        f"| {speed.write_mb_per_second:,.0f} | {speed.read_mb_per_second:,.0f} |\n"
        for speed in speeds
    )
    text = (
        f"# The cache\n\n{_KEPT} tokens of width {_WIDTH}; {describe_environment()}.\n\n"
        "| kind | bytes per token | of bfloat16's values | written, MB/s of bfloat16 | read, MB/s of bfloat16 |\n"
        f"|---|---|---|---|---|\n{rows}"
    )
    print(text)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        (output / "cache.md").write_text(text, encoding="utf-8")
        with (output / "cache.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [*asdict(speeds[0])])
            writer.writeheader()
            writer.writerows(asdict(speed) for speed in speeds)
    return speeds


def measure_cache(turns: int) -> list[CacheSpeed]:
    """Write and read one clip's tokens in every kind, in turns."""
    video = _video()
    values = 2 * video.tokens.numel() / 1e6
    with TemporaryDirectory(prefix="flashvid-bench-") as folder:
        kinds: list[_Plain | _Stored] = [
            _Plain(Path(folder)),
            _Stored(Path(folder), "bfloat16", None),
            _Stored(Path(folder), "int8", "int8"),
        ]
        least = [[math.inf, math.inf] for _ in kinds]
        for turn in range(turns):
            for kind, times in zip(kinds, least, strict=True):
                times[0] = min(times[0], _seconds(lambda: kind.write(video, turn)))  # noqa: B023
                times[1] = min(times[1], _seconds(lambda: kind.read(turn)))  # noqa: B023
        return [
            CacheSpeed(kind.name, kind.bytes(0) / _KEPT, values / write, values / read)
            for kind, (write, read) in zip(kinds, least, strict=True)
        ]


class _Stored:
    """The token store."""

    def __init__(self, folder: Path, name: str, cache_dtype: CacheDtype | None) -> None:
        self.name = name
        self._storage = Storage(str(folder / name))
        self._store = TokenStore(self._storage, "0" * 16, cache_dtype)

    def write(self, video: CompressedVideo, turn: int) -> None:
        key = digest("cache", turn)
        self._store.commit(key, video, ClipOrigin(key, key, key, None, None), thumbnails=[], run_id="bench")

    def read(self, turn: int) -> None:
        self._store.read(digest("cache", turn))

    def bytes(self, turn: int) -> int:
        name = self._store.name(digest("cache", turn))
        return self._storage.sizes(name.rpartition("/")[0])[name]


class _Plain:
    """A file of the values alone."""

    name = "plain file"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, video: CompressedVideo, turn: int) -> None:
        temporary, final = self._folder / "temporary", self._folder / f"{turn}.bin"
        with temporary.open("wb") as file:
            file.write(video.tokens.view(torch.uint8).numpy().data)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(final)

    def read(self, turn: int) -> None:
        content = bytearray((self._folder / f"{turn}.bin").read_bytes())
        torch.frombuffer(content, dtype=torch.bfloat16).reshape(_KEPT, _WIDTH)

    def bytes(self, turn: int) -> int:
        return (self._folder / f"{turn}.bin").stat().st_size


def _video() -> CompressedVideo:
    """Values as random as a model's, which no codec makes smaller."""
    generator = torch.Generator().manual_seed(0)
    total = _STEPS * _SIDE**2
    indices = torch.randperm(total, generator=generator)[:_KEPT].sort().values
    return CompressedVideo(
        tokens=torch.randn(_KEPT, _WIDTH, generator=generator).bfloat16(),
        indices=indices,
        assignment=torch.randint(_KEPT, (total,), generator=generator),
        grid_thw=(_STEPS, _SIDE, _SIDE),
        frame_timestamps=np.arange(_STEPS, dtype=np.float64),
        segment_lengths=(_STEPS,),
    )


def _seconds(action: Callable[[], object]) -> float:
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun
