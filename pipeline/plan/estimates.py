"""Estimates a run's work, time, cost and memory before it starts. Pure: plan, headers and rates in, numbers out."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from flashvid.engine.constants import MAX_BATCH_TOKENS
from flashvid.models import FramePreprocessor
from flashvid.models.footprint import Footprint
from pipeline.clip import Clip
from pipeline.cluster.resources import Pools, gpus_taken
from pipeline.config import JobConfig, SamplingConfig
from pipeline.plan.hardware import Hardware
from pipeline.plan.plan import Plan
from pipeline.video.packet_index import MAX_BYTES_OF_BLOCK, MAX_FRAMES_OF_BLOCK, VideoHeader

# Bytes of a token object without its tokens, measured on the demo's clips: three thumbnails, the row's other columns,
# and Parquet's own overhead.
_CLIP_OVERHEAD_BYTES = 20_000
# Compressed bytes per visual token of its index and its assignment.
_ASSIGNMENT_BYTES = 2
_ANSWER_BYTES = 500


@dataclass(frozen=True)
class ClipSize:
    """Holds the sizes of one clip.

    Attributes:
        frames: Sampled frames.
        visual_tokens: Visual tokens before compression.
        kept_tokens: Visual tokens after compression, at the job's retention ratio.
        frame_bytes: Bytes of the sampled frames after resizing.
    """

    frames: int
    visual_tokens: int
    kept_tokens: int
    frame_bytes: int


@dataclass(frozen=True)
class Work:
    """Counts the work that is left; a clip whose header was not read counts as the mean of the others.

    Attributes:
        clips_known: Clips to encode whose headers were read.
        frames: Frames to decode.
        visual_tokens: Visual tokens of the clips to encode, before compression.
        kept_tokens: Visual tokens of the clips to encode, after compression.
        answers: Answers to make.
        answers_retried: Answers among these that failed before.
        largest_clip: Clip with the most bytes of frames, of the clips whose headers were read; None if there is none.
        read_bytes: Bytes of video files to read.
        unsized_files: Files to read whose size is not known.
        write_bytes: Bytes of tokens and answers to write.
    """

    clips_known: int
    frames: int
    visual_tokens: int
    kept_tokens: int
    answers: int
    answers_retried: int
    largest_clip: ClipSize | None
    read_bytes: int
    unsized_files: int
    write_bytes: int


@dataclass(frozen=True)
class Rates:
    """Holds the throughput of one actor of each stage; None where it is unknown.

    Attributes:
        decode_frames_per_second: Frames sampled, decoded and resized per second.
        encode_frames_per_second: Frames encoded and compressed per second.
        answers_per_second: Answers per second; each question of a clip is one answer.
        measured_in: `run_id` of the runs that the rates were measured in; empty if the user gave all of them.
    """

    decode_frames_per_second: float | None = None
    encode_frames_per_second: float | None = None
    answers_per_second: float | None = None
    measured_in: tuple[str, ...] = ()


@dataclass(frozen=True)
class Duration:
    """Holds the time that a run takes, without the time to start Ray and load models.

    Attributes:
        stage_hours: Hours of each stage alone, on its whole pool, by stage; None where its rate is unknown.
        hours: Hours of the slowest stage, since stages work at the same time; None if any is unknown.
        gpu_hours: `hours` times the GPUs that the pools reserve; None if `hours` is unknown or they reserve no GPU.
        cost: `gpu_hours` times the price of a GPU hour; None if either is unknown.
    """

    stage_hours: Mapping[str, float | None]
    hours: float | None
    gpu_hours: float | None
    cost: float | None


@dataclass(frozen=True)
class ActorMemory:
    """Compares the memory that one actor of a pool needs with the memory available to it.

    Attributes:
        stage: decode, encode or answer.
        actors: Size of the pool.
        num_gpus: GPUs that each actor reserves.
        bytes_needed: Bytes of weights, frames and KV cache; activations are not counted.
        bytes_there: Bytes of its share of a GPU's memory, or what the other actors leave of the machine's; None if
            unknown.
    """

    stage: str
    actors: int
    num_gpus: float
    bytes_needed: int
    bytes_there: int | None

    @property
    def fits(self) -> bool | None:
        """Return whether the memory suffices; None if the memory available to the actor is unknown."""
        return None if self.bytes_there is None else self.bytes_needed <= self.bytes_there


def expected_frames(header: VideoHeader, clip: Clip, sampling: SamplingConfig) -> int | None:
    """Return how many frames `sample_frames` takes from a clip with a constant frame rate.

    Args:
        header: Header of the clip's file.
        clip: The clip, whose span is sampled.
        sampling: The job's sampling settings.

    Returns:
        Number of frames; None if the header has no frame rate and `sampling.num_frames` is not set.
    """
    if not header.fps:
        return sampling.num_frames
    end = header.duration_s if clip.end_s is None else min(clip.end_s, header.duration_s)
    present = max(1, round((end - (clip.start_s or 0.0)) * header.fps))
    if sampling.fps is None:
        return min(sampling.num_frames or 1, present)
    steps = math.floor((present - 1) / header.fps * sampling.fps) + 1
    return min(steps, sampling.max_frames, present)


def clip_size(header: VideoHeader, clip: Clip, job: JobConfig, preprocessor: FramePreprocessor) -> ClipSize | None:
    """Return the sizes of one clip; None if its number of frames is unknown (see `expected_frames`).

    Args:
        header: Header of the clip's file.
        clip: The clip.
        job: Job with the sampling and compression settings.
        preprocessor: Frame preprocessor of the model.

    Raises:
        InvalidFeaturesError: the model does not accept frames of this shape.
    """
    frames = expected_frames(header, clip, job.sampling)
    if frames is None:
        return None
    steps, rows, columns = preprocessor.token_grid(frames, header.height, header.width)
    height, width = preprocessor.for_video(frames).target_size(header.height, header.width)
    return ClipSize(
        frames=frames,
        visual_tokens=steps * rows * columns,
        kept_tokens=job.compression.clip_budget(steps, rows * columns),
        frame_bytes=frames * height * width * 3,
    )


def work(plan: Plan, sizes: Mapping[str, ClipSize], *, stored_token_bytes: int) -> Work:
    """Add up the work of a plan.

    Args:
        plan: The plan.
        sizes: Sizes of the clips to encode whose headers were read, by `clip_id`.
        stored_token_bytes: Bytes that one compressed token takes on storage.
    """
    known = [sizes[clip.clip_id] for clip in plan.to_encode if clip.clip_id in sizes]
    scale = len(plan.to_encode) / len(known) if known else 0.0
    kept = round(scale * sum(clip.kept_tokens for clip in known))
    visual = round(scale * sum(clip.visual_tokens for clip in known))
    files = {clip.source_id: clip.size_bytes for clip in plan.to_encode}
    clips, answers = (*plan.to_encode, *plan.cached), plan.counts.answers_planned
    return Work(
        clips_known=len(known),
        frames=round(scale * sum(clip.frames for clip in known)),
        visual_tokens=visual,
        kept_tokens=kept,
        answers=answers,
        answers_retried=sum(clip.attempt_of(question) > 1 for clip in clips for question in clip.question_ids),
        largest_clip=max(known, key=lambda clip: clip.frame_bytes, default=None),
        read_bytes=sum(size for size in files.values() if size is not None),
        unsized_files=sum(size is None for size in files.values()),
        write_bytes=kept * stored_token_bytes
        + visual * _ASSIGNMENT_BYTES
        + len(plan.to_encode) * _CLIP_OVERHEAD_BYTES
        + answers * _ANSWER_BYTES,
    )


def measured_rates(
    runs: Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]], model_identity: str, dtype: str | None
) -> Rates:
    """Return the mean rates of earlier runs with the same model and dtype, over all of these runs together.

    Args:
        runs: Start record and end record of each run.
        model_identity: `ModelSource.identity` of the job's model.
        dtype: `model.dtype` of the job.
    """
    wanted = {"model.identity": model_identity, "model.dtype": dtype}
    ends = [end for start, end in runs if {name: start["tokens_settings"].get(name) for name in wanted} == wanted]

    def rate(count: str, stage: str) -> float | None:
        did = [end for end in ends if end[count] and end["stage_seconds"].get(stage)]
        return sum(end[count] for end in did) / sum(end["stage_seconds"][stage] for end in did) if did else None

    rates = (rate("frames_decoded", "decode"), rate("frames_decoded", "encode"), rate("answers_new", "answer"))
    busy = tuple(end["run_id"] for end in ends if end["frames_decoded"] or end["answers_new"])
    return Rates(*rates, measured_in=busy)


def duration(todo: Work, rates: Rates, pools: Pools, *, num_gpus: int, gpu_hour_price: float | None) -> Duration:
    """Return the time and cost of the work; a pool that can grow counts at its minimum size.

    GPUs that no pool reserves are not billed. Where pools grow, nodes join only when they are needed, and more GPUs
    mean fewer hours.

    Args:
        todo: The work.
        rates: Rates of one actor of each stage.
        pools: The pools.
        num_gpus: GPUs of the cluster; 0 if the model runs on CPUs.
        gpu_hour_price: Price of a GPU hour, in any currency.
    """
    work_and_rate = {
        "decode": (todo.frames, rates.decode_frames_per_second),
        "encode": (todo.frames, rates.encode_frames_per_second),
        "answer": (todo.answers, rates.answers_per_second),
    }
    hours = {
        stage: 0.0 if not count else None if not rate else count / rate / pools[stage].size / 3600
        for stage, (count, rate) in work_and_rate.items()
    }
    known = [value for value in hours.values() if value is not None]
    slowest = max(known) if len(known) == len(hours) else None
    billed = min(num_gpus, gpus_taken(pools))
    gpu_hours = None if slowest is None or not billed else slowest * billed
    cost = None if gpu_hours is None or gpu_hour_price is None else gpu_hours * gpu_hour_price
    return Duration(hours, slowest, gpu_hours, cost)


def actor_memory(
    pools: Pools, takes: Footprint, hardware: Hardware, largest_clip: ClipSize | None, headers: Iterable[VideoHeader]
) -> tuple[ActorMemory, ...]:
    """Return, for each stage, the memory that an actor needs and the memory available to it.

    This is its reserved share of a GPU or, without one, what the other actors leave of the machine's memory.

    Args:
        pools: The pools.
        takes: Bytes of the model's weights and of its KV cache.
        hardware: Memory of a GPU, and of the machine for actors that reserve no GPU.
        largest_clip: Clip with the most bytes of frames; None if no header was read.
        headers: Headers of the files to decode.
    """
    frames = largest_clip.frame_bytes if largest_clip else 0
    pictures = [header.width * header.height * 3 for header in headers]
    raw = max((max(size, min(MAX_FRAMES_OF_BLOCK * size, MAX_BYTES_OF_BLOCK)) for size in pictures), default=0)
    cache = takes.cached_token * MAX_BATCH_TOKENS
    needs = {"decode": raw + frames, "encode": takes.vision + frames, "answer": takes.language + cache}
    actors = [(stage, pools[stage], needed) for stage, needed in needs.items() if stage in pools.by_stage]
    on_machine = sum(pool.size * needed for _, pool, needed in actors if not pool.num_gpus)

    def there(num_gpus: float, needed: int) -> int | None:
        if num_gpus:
            return None if hardware.gpu_bytes is None else int(hardware.gpu_bytes * num_gpus)
        return None if hardware.machine_bytes is None else hardware.machine_bytes - (on_machine - needed)

    return tuple(
        ActorMemory(stage, pool.size, pool.num_gpus, needed, there(pool.num_gpus, needed))
        for stage, pool, needed in actors
    )
