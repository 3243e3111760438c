"""`flashvid bench decode`: sampled frames per second, beside the ffmpeg program decoding the same file to nothing."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray

from jobs.bench.cost import spent
from jobs.bench.environment import describe_environment
from jobs.bench.plots import plot_bars
from jobs.bench.reports import can_plot, write_report, write_rows
from jobs.bench.turns import ALL, Arm, Patience, take_turns, unsettled
from pipeline.clip import DecodedClip
from pipeline.config import DecodePoolConfig, SamplingConfig
from pipeline.plan.probe import Probe, read_probe
from pipeline.video.clip_frames import decode_clip
from pipeline.video.process import DecodeProcess

_SAMPLES = (32, 256)
PATIENCE = Patience(least=3, most=20, seconds=90)
QUICK = Patience(least=1, most=1)
_FFMPEG = "ffmpeg to null"
_WALL = "wall"


@dataclass(frozen=True)
class DecodeSpeed:
    """One way to decode one file.

    Attributes:
        decoder: ffmpeg, or a setting of `sampling.decoder`, or that in a process of its own as a run has it.
        num_frames: Sampled.
        seconds: Wall time, the least of all turns.
        cpu_seconds: CPU time, that of the process of its own included; likewise.
        turns: It took part in.
        control: By how much an arm that ran twice differed from itself: ffmpeg of itself, a decoder of all others.
    """

    decoder: str
    num_frames: int
    seconds: float
    cpu_seconds: float
    turns: int
    control: float

    @property
    def frames_per_second(self) -> float:
        """Sampled frames per second of wall time."""
        return self.num_frames / self.seconds

    @property
    def frames_per_cpu_second(self) -> float:
        """Sampled frames per second of CPU time."""
        return self.num_frames / self.cpu_seconds


def bench_decode(video: Path, output: Path | None = None, patience: Patience = PATIENCE) -> list[DecodeSpeed]:
    """Measure in turns, print a table, and write `decode.md`, `decode.csv` and `decode.png`.

    Args:
        video: A local file.
        output: A folder, made if need be; None writes nothing.
        patience: How long to go on for the controls.

    Raises:
        UnreadableVideoError: the file can't be decoded.
    """
    probe = read_probe(str(video))
    speeds = _measure(video, probe, patience)
    text = _report(video, probe.decoder, speeds)
    print(text)
    if output is not None:
        write_report(output, "decode", text)
        write_rows(output / "decode.csv", [{"video": video.name, **asdict(speed)} for speed in speeds])
        if can_plot():
            rates = {f"{speed.decoder}, {speed.num_frames} frames": speed.frames_per_cpu_second for speed in speeds}
            plot_bars(output / "decode.png", rates, "sampled frames per CPU second")
    return speeds


def _measure(video: Path, probe: Probe, patience: Patience) -> list[DecodeSpeed]:
    total, limits = probe.header.num_frames, DecodePoolConfig()
    process = DecodeProcess(time_limit_s=limits.time_limit_s, memory_limit_gb=limits.memory_limit_gb)

    def timed(action: Callable[[], object]) -> dict[str, float]:
        found = spent(action, process.pid)
        return {ALL: found.cpu, _WALL: found.wall}

    arms: dict[tuple[str, int], Arm] = {(_FFMPEG, total): partial(timed, partial(_ffmpeg, video))}
    for num_frames in (*(count for count in _SAMPLES if count < total), total):
        for name in ("decord", "pyav") if probe.decoder == "decord" else ("pyav",):
            sampling = SamplingConfig.model_validate({"num_frames": num_frames, "decoder": name})
            arms[name, num_frames] = partial(timed, partial(_decode, decode_clip, video, sampling))
            own = partial(_decode, process.decode_clip, video, sampling)
            arms[f"{name}, own process", num_frames] = partial(timed, own)
    try:
        # The child starts with its first clip, which is no part of decoding one.
        _decode(process.decode_clip, video, SamplingConfig(num_frames=1))
        names = {f"{decoder}, {num_frames}": (decoder, num_frames) for decoder, num_frames in arms}
        first, *_, last = names
        turns = take_turns({name: arms[names[name]] for name in names}, twice=[first, last], patience=patience)
    finally:
        process.close()
    return [
        DecodeSpeed(
            *names[name],
            seconds=turns.least[name][_WALL],
            cpu_seconds=turns.least[name][ALL],
            turns=turns.number[name],
            control=turns.controls[first if name == first else last],
        )
        for name in names
    ]


def _decode(decode: Callable[..., DecodedClip], video: Path, sampling: SamplingConfig) -> None:
    decode(str(video), sampling, None, None, transform_for=lambda _: _thumbnails)


def _thumbnails(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Next to nothing of the frames, at next to no cost: resizing is not what is measured."""
    return frames[:, ::32, ::32].copy()


def _ffmpeg(video: Path) -> None:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-threads", "1", "-i", str(video), "-f", "null", "-"]
    subprocess.run(command, check=True)  # noqa: S603 - a program of ours, a file of the caller's


def _report(video: Path, automatic: str, speeds: Sequence[DecodeSpeed]) -> str:
    rows = "".join(
        f"| {speed.decoder} | {speed.num_frames} | {speed.cpu_seconds:.2f} | {speed.frames_per_cpu_second:.0f} "
        f"| {speed.seconds:.2f} | {speed.frames_per_second:.0f} | {speed.control:.1%} |\n"
        for speed in speeds
    )
    controls = max(speed.control for speed in speeds)
    return (
        f"{video.name} (auto: {automatic}), one thread each, the least of {speeds[0].turns} turns; "
        f"decord {version('decord')}, PyAV {version('av')}; {describe_environment()}.\n\n"
        "| decoder | frames | CPU seconds | frames per CPU second | seconds | frames per second | control |\n"
        f"|---|---|---|---|---|---|---|\n{rows}{unsettled(controls)}"
    )
