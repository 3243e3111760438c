"""`flashvid bench decode`: sampled frames per second, beside the ffmpeg program decoding the same file to nothing."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray

from jobs.bench.environment import describe_environment
from pipeline.config import DecodePoolConfig, SamplingConfig
from pipeline.decoders.process import DecodeProcess
from pipeline.decoding import DecodedClip, decode_clip
from pipeline.probing import read_probe

_SAMPLES = (32, 256)
_ROUNDS = 3


@dataclass(frozen=True)
class DecodeSpeed:
    """One way to decode one file.

    Attributes:
        decoder: ffmpeg, or a setting of `sampling.decoder`, or that in a process of its own as a run has it.
        num_frames: Sampled.
        seconds: Wall time, the best of some rounds.
    """

    decoder: str
    num_frames: int
    seconds: float

    @property
    def frames_per_second(self) -> float:
        """Sampled frames per second of wall time."""
        return self.num_frames / self.seconds


def bench_decode(video: Path, output: Path | None = None) -> list[DecodeSpeed]:
    """Measure, print a table, and write it to `decode.md` in `output`.

    Args:
        video: A local file.
        output: A folder, made if need be; None writes nothing.

    Raises:
        UnreadableVideoError: the file can't be decoded.
    """
    probe = read_probe(str(video))
    total = probe.header.num_frames
    limits = DecodePoolConfig()
    process = DecodeProcess(time_limit_s=limits.time_limit_s, memory_limit_gb=limits.memory_limit_gb)
    speeds = [DecodeSpeed("ffmpeg to null", total, _best(lambda: _ffmpeg(video)))]
    try:
        for num_frames in (*(count for count in _SAMPLES if count < total), total):
            for name in ("decord", "pyav") if probe.decoder == "decord" else ("pyav",):
                sampling = SamplingConfig.model_validate({"num_frames": num_frames, "decoder": name})
                speeds += [
                    _measured(name, decode_clip, video, sampling),
                    _measured(f"{name}, own process", process.decode_clip, video, sampling),
                ]
    finally:
        process.close()
    text = _report(video, probe.decoder, speeds)
    print(text)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        (output / "decode.md").write_text(text, encoding="utf-8")
    return speeds


def _measured(name: str, decode: Callable[..., DecodedClip], video: Path, sampling: SamplingConfig) -> DecodeSpeed:
    def work() -> None:
        decode(str(video), sampling, None, None, transform_for=lambda _: _thumbnails)

    return DecodeSpeed(name, sampling.num_frames or 0, _best(work))


def _thumbnails(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Next to nothing of the frames, at next to no cost: resizing is not what is measured."""
    return frames[:, ::32, ::32].copy()


def _ffmpeg(video: Path) -> None:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-threads", "1", "-i", str(video), "-f", "null", "-"]
    subprocess.run(command, check=True)  # noqa: S603 - a program of ours, a file of the caller's


def _best(work: Callable[[], None]) -> float:
    seconds = []
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def _report(video: Path, automatic: str, speeds: list[DecodeSpeed]) -> str:
    rows = "".join(
        f"| {speed.decoder} | {speed.num_frames} | {speed.seconds:.2f} | {speed.frames_per_second:.0f} |\n"
        for speed in speeds
    )
    return (
        f"{video.name} (auto: {automatic}), one thread each, best of {_ROUNDS}; "
        f"decord {version('decord')}, PyAV {version('av')}; {describe_environment()}.\n\n"
        f"| decoder | frames | seconds | frames per second |\n|---|---|---|---|\n{rows}"
    )
