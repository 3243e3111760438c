"""Ten times the frames for the same tokens, measured on short events.

The same clip is seen as N frames with all their tokens, and as 10 N frames with a tenth of them.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

from flashvid import CompressionConfig
from jobs.lab.arms import METHOD_ARMS
from jobs.lab.measurement import Measurement
from jobs.lab.tiny_model.clips import ClipQuestions, held_out_clips
from jobs.lab.tiny_model.rendering import write_clip
from jobs.lab.worker import ask, load, loaded
from pipeline.config import SamplingConfig
from pipeline.video.clip_frames import decode_clip

_STEPS = 40
_FRAMES_PER_STEP = 2
_FACTOR = 10
_FAMILIES = ("flash",)
FIRST_LONG_CLIP = 4_000_000
_METHODS = ("flashvid", "attention_topk")
FEW_FRAMES = f"{_STEPS * _FRAMES_PER_STEP // _FACTOR} frames, full tokens"


@dataclass(frozen=True)
class View:
    """One way to sample and compress a clip.

    Attributes:
        name: In the table.
        num_frames: Sampled, evenly over the clip.
        config: Of the compression; None keeps every token.
    """

    name: str
    num_frames: int
    config: CompressionConfig | None

    @property
    def retention(self) -> float:
        """As a fraction."""
        return self.config.retention_ratio if self.config else 1.0


def views() -> tuple[View, ...]:
    """Return the views: few frames with all tokens, ten times the frames with a tenth of them, and with all."""
    many = _STEPS * _FRAMES_PER_STEP
    configs = {arm.name: arm.config for arm in METHOD_ARMS if arm.name in _METHODS and arm.config is not None}
    compressed = (
        View(f"{many} frames, {name}", many, config.model_copy(update={"retention_ratio": 1 / _FACTOR}))
        for name, config in configs.items()
    )
    return (View(FEW_FRAMES, many // _FACTOR, None), *compressed, View(f"{many} frames, full tokens", many, None))


def measure_views(model: str, num_clips: int, *, workers: int) -> Iterator[list[Measurement]]:
    """Ask about the flash in every view of long clips; yield one list per clip."""
    clips = held_out_clips(num_clips, first_clip=FIRST_LONG_CLIP, lengths={_STEPS: 1.0}, families=_FAMILIES)
    work = partial(_measure_clip, shown=views())
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=load, initargs=(model,)) as executor:
        yield from executor.map(work, [*enumerate(clips)])


def _measure_clip(numbered: tuple[int, ClipQuestions], *, shown: Sequence[View]) -> list[Measurement]:
    index, (scene, questions) = numbered
    # One question: the other wordings of its only family ask the same.
    questions = questions[:1]
    measured: list[Measurement] = []
    with TemporaryDirectory(prefix="flashvid-bench-") as folder:
        path = Path(folder) / "clip.mp4"
        write_clip(path, scene)
        for num_frames in sorted({view.num_frames for view in shown}):
            clip = decode_clip(str(path), SamplingConfig(num_frames=num_frames), None, None)
            visual = loaded().encode(clip.frames, clip.frame_timestamps)
            for view in shown:
                if view.num_frames == num_frames:
                    video = loaded().compress(visual, view.config)
                    measured += ask(video, view.name, view.retention, index, questions)
    return measured
