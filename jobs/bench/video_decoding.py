"""`flashvid bench decode`: sampled frames per second, compared with the ffmpeg program decoding the same file."""

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from shutil import which

from jobs.bench.cost import spent
from jobs.bench.reports import describe_environment, markdown_table, publish
from jobs.bench.turns import ALL, Arm, Patience, take_turns, unsettled
from pipeline.clip import DecodedClip
from pipeline.config import SamplingConfig
from pipeline.resources_config import DecodePoolConfig
from pipeline.video.clip_frames import decode_clip
from pipeline.video.probing import Probe, read_probe
from pipeline.video.process import DecodeProcess

_SAMPLES = (32, 256)
PATIENCE = Patience(least=3, most=20, seconds=90)
QUICK = Patience(least=1, most=1)
_WALL = "wall"


@dataclass(frozen=True)
class DecodeSpeed:
    """One way to decode one file.

    Attributes:
        decoder: ffmpeg, or a value of `sampling.decoder`, or that in a process of its own as in a run.
        num_frames: Frames sampled.
        seconds: Wall time, the least of all turns.
        cpu_seconds: CPU time, the least of all turns; that of the process of its own included.
        turns: Number of turns.
        control: Relative difference of an arm that ran twice: of ffmpeg for itself, of a decoder for all others.
    """

    decoder: str
    num_frames: int
    seconds: float
    cpu_seconds: float
    turns: int
    control: float


def bench_decode(video: Path, output: Path | None = None, patience: Patience = PATIENCE) -> list[DecodeSpeed]:
    """Measure in turns, print a table, and write `decode.md` and `decode.csv`.

    Args:
        video: A local file.
        output: A folder, created if it is missing; None writes nothing.
        patience: How long to go on for the controls.

    Raises:
        UnreadableVideoError: the file can't be decoded.
    """
    probe = read_probe(str(video))
    speeds = _measure(video, probe, patience)
    rows = [{"video": video.name, **asdict(speed)} for speed in speeds]
    publish(output, "decode", _report(video, probe.decoder, speeds), rows)
    return speeds


def _measure(video: Path, probe: Probe, patience: Patience) -> list[DecodeSpeed]:
    total, limits = probe.header.num_frames, DecodePoolConfig()
    process = DecodeProcess(time_limit_s=limits.time_limit_s, memory_limit_gb=limits.memory_limit_gb)

    def timed(action: Callable[[], object]) -> dict[str, float]:
        found = spent(action, process.pid)
        return {ALL: found.cpu, _WALL: found.wall}

    arms: dict[tuple[str, int], Arm] = {}
    # The program of the package imageio-ffmpeg, or else of the PATH.
    program = import_module("imageio_ffmpeg").get_ffmpeg_exe() if find_spec("imageio_ffmpeg") else which("ffmpeg")
    if program is not None:
        command = [program, "-v", "error", "-threads", "1", "-i", str(video), "-f", "null", "-"]
        arms["ffmpeg to null", total] = partial(timed, partial(subprocess.run, command, check=True))
    for num_frames in (*(count for count in _SAMPLES if count < total), total):
        for name in ("decord", "pyav") if probe.decoder == "decord" else ("pyav",):
            sampling = SamplingConfig.model_validate({"num_frames": num_frames, "decoder": name})
            for way, decode in ((name, decode_clip), (f"{name}, own process", process.decode_clip)):
                arms[way, num_frames] = partial(timed, partial(_decode, decode, video, sampling))
    names = {f"{decoder}, {num_frames}": (decoder, num_frames) for decoder, num_frames in arms}
    first, *_, last = names
    try:
        # The child starts with its first clip, which is not part of decoding one.
        _decode(process.decode_clip, video, SamplingConfig(num_frames=1))
        turns = take_turns({name: arms[names[name]] for name in names}, twice=[first, last], patience=patience)
    finally:
        process.close()
    speeds = []
    for name, least in turns.least.items():
        control, taken = turns.controls[first if name == first else last], turns.number[name]
        speeds.append(DecodeSpeed(*names[name], least[_WALL], least[ALL], taken, control))
    return speeds


def _decode(decode: Callable[..., DecodedClip], video: Path, sampling: SamplingConfig) -> None:
    # Take a few pixels, at almost no cost: resizing is not measured.
    decode(str(video), sampling, None, None, transform_for=lambda _: lambda frames: frames[:, ::32, ::32].copy())


def _report(video: Path, automatic: str, speeds: Sequence[DecodeSpeed]) -> str:
    table = markdown_table(
        "decoder | frames | CPU seconds | frames per CPU second | seconds | frames per second | control",
        (
            f"{speed.decoder} | {speed.num_frames} | {speed.cpu_seconds:.2f} "
            f"| {speed.num_frames / speed.cpu_seconds:.0f} | {speed.seconds:.2f} "
            f"| {speed.num_frames / speed.seconds:.0f} | {speed.control:.1%}"
            for speed in speeds
        ),
    )
    return (
        f"{video.name} (auto: {automatic}), one thread each, the least of {speeds[0].turns} turns; "
        f"decord {version('decord')}, PyAV {version('av')}; {describe_environment()}.\n\n"
        f"{table}{unsettled(max(speed.control for speed in speeds))}"
    )
