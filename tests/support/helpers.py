"""Small things that several unit tests build: clips, compressed videos, jobs, ffmpeg's own view of a file."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import torch
from numpy.typing import NDArray

from flashvid.models import CompressedVideo
from pipeline.clip import Clip
from pipeline.config import JobConfig
from pipeline.store.context import RunContext
from pipeline.store.fingerprint import fingerprints
from pipeline.store.keys import shard_of
from pipeline.store.storage import Storage


def job(**settings: Any) -> JobConfig:
    """A valid job that reads and writes nothing."""
    base = {"videos": "/data/videos", "questions": ["What?"], "output": "/data/out", "model": {"name": "tiny-random"}}
    return JobConfig.model_validate({**base, **settings})


def run_context(of_job: JobConfig, run_id: str = "run-1", model_identity: str = "model-1") -> RunContext:
    """A run of the job, of a model that nobody looks for."""
    storage = Storage(of_job.output, of_job.storage_options)
    return RunContext(of_job, fingerprints(of_job, model_identity), storage, run_id)


def clip(name: str = "a", **fields: Any) -> Clip:
    """A planned clip with every identity derived from one name."""
    defaults = {
        "clip_id": f"clip-{name}",
        "video_id": f"video-{name}",
        "content_key": f"{name}0key",
        "source_id": f"source-{name}",
        "video_path": f"/videos/{name}.mp4",
        "start_s": None,
        "end_s": None,
    }
    return Clip(**{**defaults, **fields})


def compressed_video(tokens: torch.Tensor, num_steps: int = 2) -> CompressedVideo:
    """A clip of `num_steps` steps of 2 x 4 tokens, of which the given `[M, D]` are kept, the first ones."""
    kept = len(tokens)
    assignment = torch.full((num_steps * 8,), -1, dtype=torch.int64)
    assignment[:kept] = torch.arange(kept)
    return CompressedVideo(
        tokens=tokens,
        indices=torch.arange(kept),
        assignment=assignment,
        grid_thw=(num_steps, 4, 8),
        frame_timestamps=np.array([0.0, 0.04, 1 / 3, 2.5]),
        segment_lengths=(1, num_steps - 1),
    )


@dataclass(frozen=True)
class FfmpegFrames:
    """Every frame of a file, as the ffmpeg binary decodes it.

    Attributes:
        pixels: uint8 `[num_frames, H, W, 3]`, RGB.
        times: `[num_frames]` seconds, exactly as the container has them.
    """

    pixels: NDArray[np.uint8]
    times: Sequence[Fraction]

    def nearest(self, frame: NDArray[np.uint8]) -> int:
        """The frame that looks most like the given one."""
        small = self.pixels[:, ::8, ::8].astype(np.int16) - frame[::8, ::8].astype(np.int16)
        return int(np.abs(small).mean(axis=(1, 2, 3)).argmin())


def ffmpeg(*arguments: str | Path) -> bytes:
    """Run the ffmpeg binary of imageio-ffmpeg; what it writes to stdout."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True).stdout


def ffmpeg_frames(path: Path) -> FfmpegFrames:
    """Decode a whole file with the ffmpeg binary, not through any of our libraries."""
    source = ("-copyts", "-i", path, "-map", "0:v:0", "-fps_mode", "passthrough")
    lines = ffmpeg(*source, "-f", "framecrc", "-").decode().splitlines()
    header = dict(line[1:].split(" 0: ", 1) for line in lines if line.startswith("#") and " 0: " in line)
    time_base, (width, height) = Fraction(header["tb"]), map(int, header["dimensions"].split("x"))
    rows = [line.split(",") for line in lines if not line.startswith("#")]
    raw = ffmpeg(*source, "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    pixels = np.frombuffer(raw, np.uint8).reshape(len(rows), height, width, 3)
    return FfmpegFrames(pixels, [int(row[2]) * time_base for row in rows])


def one_per_shard(number: int, prefix: str = "") -> list[str]:
    """So many names, sorted, each of which falls into a shard of its own behind the prefix."""
    names: dict[str, str] = {}
    for name in (f"{count:04}" for count in range(2000)):
        names.setdefault(shard_of(f"{prefix}{name}"), name)
    return sorted(names.values())[:number]
