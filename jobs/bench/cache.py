"""`flashvid bench cache`: what a cached token takes, and how fast the token store writes and reads it.

Beside it a file of the bare values, written as durably: to a temporary name, fsync, rename, fsync of the folder. CPU
time of one thread, which is our own work, and wall time, since storage is waited for; the least of several turns, in
which each kind is measured once and one of them twice, for the control. Reads come from the page cache: it is not the
disk that is measured.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from flashvid.models import CompressedVideo
from jobs.bench.cost import single_thread, spent
from jobs.bench.environment import describe_environment
from jobs.bench.plots import plot_bars
from jobs.bench.reports import can_plot, write_report, write_rows
from jobs.bench.turns import ALL, Patience, take_turns, unsettled
from pipeline.clip import ClipIdentity
from pipeline.config import CacheDtype
from pipeline.store.keys import digest
from pipeline.store.storage import Storage
from pipeline.store.tokens import TokenStore

# A clip of LLaVA-OneVision-7B at a tenth: 32 x 196 tokens of width 3584, of which 628 are left.
_STEPS, _SIDE, _WIDTH, _KEPT = 32, 14, 3584, 628
_PATIENCE, _QUICK = Patience(least=20, most=100, seconds=60), Patience(least=3, most=3)
# The kind that runs twice.
_CONTROL_KIND = "bfloat16"


@dataclass(frozen=True)
class CacheSpeed:
    """One kind of cache.

    Attributes:
        kind: Dtype in the cache, or the plain file.
        token_bytes: That a token takes on storage, everything counted.
        write_mb_per_second: Megabytes of the tokens in bfloat16, whatever they take on storage.
        read_mb_per_second: The same.
        write_mb_per_cpu_second: Of CPU time.
        read_mb_per_cpu_second: Of CPU time.
        turns: Measured.
        control: By how much the kind that ran twice differed from itself in CPU time.
    """

    kind: str
    token_bytes: float
    write_mb_per_second: float
    read_mb_per_second: float
    write_mb_per_cpu_second: float
    read_mb_per_cpu_second: float
    turns: int
    control: float


def bench_cache(output: Path | None = None, *, quick: bool = False) -> list[CacheSpeed]:
    """Measure, print a table, and write `cache.md`, `cache.csv` and `cache.png`.

    Args:
        output: A folder, made if need be; None writes nothing.
        quick: Few turns.
    """
    speeds = measure_cache(_QUICK if quick else _PATIENCE)
    rows = "".join(
        f"| {speed.kind} | {speed.token_bytes:,.0f} | {speed.token_bytes / (2 * _WIDTH):.3f} "
        f"| {speed.write_mb_per_cpu_second:,.0f} | {speed.read_mb_per_cpu_second:,.0f} "
        f"| {speed.write_mb_per_second:,.0f} | {speed.read_mb_per_second:,.0f} |\n"
        for speed in speeds
    )
    text = (
        f"# The cache\n\n{_KEPT} tokens of width {_WIDTH}, the least of {speeds[0].turns} turns; MB are of bfloat16's "
        f"values; control, {_CONTROL_KIND} beside itself: {speeds[0].control:.1%}; {describe_environment()}.\n\n"
        "| kind | bytes per token | of bfloat16's values | written, MB per CPU second | read, MB per CPU second "
        f"| written, MB/s | read, MB/s |\n|---|---|---|---|---|---|---|\n{rows}{unsettled(speeds[0].control)}"
    )
    print(text)
    if output is not None:
        write_report(output, "cache", text)
        write_rows(output / "cache.csv", [asdict(speed) for speed in speeds])
        if can_plot():
            rates = {f"{speed.kind}, written": speed.write_mb_per_cpu_second for speed in speeds}
            rates |= {f"{speed.kind}, read": speed.read_mb_per_cpu_second for speed in speeds}
            plot_bars(output / "cache.png", rates, "MB of bfloat16's values per CPU second")
    return speeds


def measure_cache(patience: Patience) -> list[CacheSpeed]:
    """Write and read one clip's tokens in every kind, in turns, with one thread."""
    video = _video()
    values = 2 * video.tokens.numel() / 1e6
    with single_thread(), TemporaryDirectory(prefix="flashvid-bench-") as folder:
        kinds = {
            kind.name: kind
            for kind in (
                _Plain(Path(folder)),
                _Stored(Path(folder), _CONTROL_KIND, None),
                _Stored(Path(folder), "int8", "int8"),
            )
        }
        numbers, sizes = count(), {}

        def run(name: str) -> dict[str, float]:
            kind = kinds[name]
            # Once without the clock: what memory the process holds is then this kind's doing, and not the last one's.
            for _ in range(2):
                number = next(numbers)
                write, read = spent(partial(kind.write, video, number)), spent(partial(kind.read, number))
                sizes[name] = kind.take_away(number)
            steps = {"write": write.wall, "read": read.wall, "write, CPU": write.cpu, "read, CPU": read.cpu}
            return {ALL: write.cpu + read.cpu, **steps}

        arms = {name: partial(run, name) for name in kinds}
        turns = take_turns(arms, twice=[_CONTROL_KIND], patience=patience)
        return [
            CacheSpeed(
                name,
                sizes[name] / _KEPT,
                values / least["write"],
                values / least["read"],
                values / least["write, CPU"],
                values / least["read, CPU"],
                turns=turns.number[name],
                control=turns.controls[_CONTROL_KIND],
            )
            for name, least in turns.least.items()
        ]


class _Stored:
    """The token store."""

    def __init__(self, folder: Path, name: str, cache_dtype: CacheDtype | None) -> None:
        self.name = name
        self._folder = folder / name
        self._store = TokenStore(Storage(str(self._folder)), "0" * 16, cache_dtype)

    def write(self, video: CompressedVideo, turn: int) -> None:
        key = digest("cache", turn)
        self._store.commit(key, video, ClipIdentity(key, key, key, None, None), thumbnails=[], run_id="bench")

    def read(self, turn: int) -> None:
        self._store.read(digest("cache", turn))

    def take_away(self, turn: int) -> int:
        return _take_away(self._folder / self._store.name(digest("cache", turn)))


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
        folder = os.open(self._folder, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)

    def read(self, turn: int) -> None:
        values = np.fromfile(self._folder / f"{turn}.bin", dtype=np.int16)
        torch.from_numpy(values).view(torch.bfloat16).reshape(_KEPT, _WIDTH)

    def take_away(self, turn: int) -> int:
        return _take_away(self._folder / f"{turn}.bin")


def _take_away(path: Path) -> int:
    """Delete a file; its size."""
    size = path.stat().st_size
    path.unlink()
    return size


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
