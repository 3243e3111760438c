"""`flashvid bench cache`: bytes of a cached token, and how fast the token store writes and reads it.

CPU time of one thread shows our own work; wall time includes waiting for storage. The least of several turns counts.
Reads come from the page cache, so the disk is not measured.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch

from flashvid.models import CompressedVideo
from jobs.bench.cost import single_thread, spent
from jobs.bench.reports import describe_environment, markdown_table, publish
from jobs.bench.turns import ALL, Patience, take_turns, unsettled
from pipeline.clip import ClipIdentity
from pipeline.config import CacheDtype
from pipeline.store.keys import digest
from pipeline.store.storage import Storage
from pipeline.store.tokens import TokenStore

# A clip of LLaVA-OneVision-7B at a tenth: 32 x 196 tokens of width 3584, of which 628 are kept.
_STEPS, _SIDE, _WIDTH, _KEPT = 32, 14, 3584, 628
_PATIENCE, _QUICK = Patience(least=20, most=100, seconds=60), Patience(least=3, most=3)
# The kind that runs twice.
_CONTROL_KIND = "bfloat16"
_TIMED = ("write", "read", "write, CPU", "read, CPU")


@dataclass(frozen=True)
class CacheSpeed:
    """One kind of cache; MB are of the tokens in bfloat16, not of their bytes on storage.

    Attributes:
        kind: Dtype in the cache, or a rival's name.
        token_bytes: Bytes of a token on storage, everything counted.
        write_mb_per_second: By wall time.
        read_mb_per_second: By wall time.
        write_mb_per_cpu_second: By CPU time.
        read_mb_per_cpu_second: By CPU time.
        turns: Number of turns.
        control: Relative difference in CPU time of the kind that ran twice.
    """

    kind: str
    token_bytes: float
    write_mb_per_second: float
    read_mb_per_second: float
    write_mb_per_cpu_second: float
    read_mb_per_cpu_second: float
    turns: int
    control: float


class Kind(NamedTuple):
    """A way to keep tokens: writes and reads the object of a turn, and names its file."""

    write: Callable[[int], object]
    read: Callable[[int], object]
    file: Callable[[int], Path]


# Other kinds of cache to compare with, by name, for a folder and the clip that they keep.
Rivals = Callable[[Path, CompressedVideo], Mapping[str, Kind]]


def bench_cache(output: Path | None = None, *, quick: bool = False, rivals: Rivals | None = None) -> list[CacheSpeed]:
    """Measure, print a table, and write `cache.md` and `cache.csv` into a folder, if one is given."""
    speeds = measure_cache(_QUICK if quick else _PATIENCE, rivals)
    titles = "kind | bytes per token | relative to bfloat16 values | written, MB per CPU second"
    table = markdown_table(
        f"{titles} | read, MB per CPU second | written, MB/s | read, MB/s",
        (
            f"{speed.kind} | {speed.token_bytes:,.0f} | {speed.token_bytes / (2 * _WIDTH):.3f} "
            f"| {speed.write_mb_per_cpu_second:,.0f} | {speed.read_mb_per_cpu_second:,.0f} "
            f"| {speed.write_mb_per_second:,.0f} | {speed.read_mb_per_second:,.0f}"
            for speed in speeds
        ),
    )
    text = (
        f"# The cache\n\n{_KEPT} tokens of width {_WIDTH}, the least of {speeds[0].turns} turns; MB of bfloat16 "
        f"values; control ({_CONTROL_KIND} measured twice): {speeds[0].control:.1%}; {describe_environment()}.\n\n"
        f"{table}{unsettled(speeds[0].control)}"
    )
    publish(output, "cache", text, [asdict(speed) for speed in speeds])
    return speeds


def measure_cache(patience: Patience, rivals: Rivals | None = None) -> list[CacheSpeed]:
    """Write and read one clip's tokens in every kind, in turns, on one thread."""
    video = _video()
    megabytes = 2 * video.tokens.numel() / 1e6
    with single_thread(), TemporaryDirectory(prefix="flashvid-bench-") as folder:
        kinds = {
            **(rivals(Path(folder), video) if rivals else {}),
            _CONTROL_KIND: _stored(Path(folder) / "exact", video, None),
            "int8": _stored(Path(folder) / "int8", video, "int8"),
        }
        numbers, sizes = count(), {}

        def run(name: str) -> dict[str, float]:
            kind = kinds[name]
            # The first round is not timed: it sets the process's memory to what this kind needs.
            for _ in range(2):
                number = next(numbers)
                write, read = spent(partial(kind.write, number)), spent(partial(kind.read, number))
                sizes[name] = kind.file(number).stat().st_size
                kind.file(number).unlink()
            steps = dict(zip(_TIMED, (write.wall, read.wall, write.cpu, read.cpu), strict=True))
            return {ALL: write.cpu + read.cpu, **steps}

        turns = take_turns({name: partial(run, name) for name in kinds}, twice=[_CONTROL_KIND], patience=patience)
    control, speeds = turns.controls[_CONTROL_KIND], []
    for name, least in turns.least.items():
        write, read, write_cpu, read_cpu = (megabytes / least[step] for step in _TIMED)
        size, taken = sizes[name] / _KEPT, turns.number[name]
        speeds.append(CacheSpeed(name, size, write, read, write_cpu, read_cpu, taken, control))
    return speeds


def _stored(folder: Path, video: CompressedVideo, cache_dtype: CacheDtype | None) -> Kind:
    """Return the token store as a kind."""
    store = TokenStore(Storage(str(folder)), "0" * 16, cache_dtype)

    def write(turn: int) -> None:
        key = digest("cache", turn)
        store.commit(key, video, ClipIdentity(key, key, key, None, None), thumbnails=[], run_id="bench")

    def file(turn: int) -> Path:
        return folder / store.name(digest("cache", turn))

    return Kind(write, lambda turn: store.read(digest("cache", turn)), file)


def _video() -> CompressedVideo:
    """Return a clip of random values, which no codec can shrink."""
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
