"""What a run will take, told before it is started. Pure: the plan, what headers say, and rates in; numbers out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flashvid.models import FramePreprocessor
from pipeline.clip import Clip
from pipeline.cluster.resources import Pools, gpus_taken
from pipeline.config import JobConfig, SamplingConfig
from pipeline.plan.plan import Plan
from pipeline.video.packet_index import VideoHeader

# Measured on the demo's clips: three thumbnails, the row's other columns, Parquet's own.
_CLIP_OVERHEAD_BYTES = 20_000
# An index and an assignment per visual token, compressed.
_ASSIGNMENT_BYTES = 2
_ANSWER_BYTES = 500
# `frame_blocks` has so many frames of the file's own size in memory at once.
_FRAMES_OF_BLOCK = 16
_BYTES_OF_BLOCK = 128 << 20


@dataclass(frozen=True)
class ClipSize:
    """What becomes of one clip.

    Attributes:
        frames: Sampled.
        visual_tokens: All of them.
        kept_tokens: At the asked retention.
        frame_bytes: Of the frames once they are resized.
    """

    frames: int
    visual_tokens: int
    kept_tokens: int
    frame_bytes: int


@dataclass(frozen=True)
class Work:
    """What is left to do. Clips whose header nobody has read count as the mean of the others.

    Attributes:
        clips_known: Clips to encode whose headers were read.
        frames: To decode.
        visual_tokens: Of the clips to encode, uncompressed.
        kept_tokens: And at the asked retention.
        answers: To make.
        answers_retried: Of these, failed before, and tried again.
        largest_clip: The largest of the clips known; None if there is none.
        read_bytes: Of video files.
        unsized_files: Files whose size is not known.
        write_bytes: Of tokens and answers.
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
    """How fast one actor of each stage works; None where nobody knows.

    Attributes:
        decode_frames_per_second: Frames sampled, decoded and resized.
        encode_frames_per_second: Frames encoded and compressed.
        answers_per_second: Answers, several questions of a clip counted each.
        measured_in: `run_id` of the runs that they were measured in; empty if a person gave them.
    """

    decode_frames_per_second: float | None = None
    encode_frames_per_second: float | None = None
    answers_per_second: float | None = None
    measured_in: tuple[str, ...] = ()


@dataclass(frozen=True)
class Duration:
    """How long a run takes, without starting Ray and loading models.

    Attributes:
        stage_hours: Of each stage alone, on its whole pool; None where its rate is not known.
        hours: The slowest stage's, since they work at the same time.
        gpu_hours: `hours` on every GPU that the pools reserve.
        cost: At the given price of a GPU hour.
    """

    stage_hours: Mapping[str, float | None]
    hours: float | None
    gpu_hours: float | None
    cost: float | None


@dataclass(frozen=True)
class ActorMemory:
    """What one actor of a pool needs.

    Attributes:
        stage: decode, encode or answer.
        actors: Size of the pool.
        num_gpus: What each reserves.
        bytes_needed: Weights, and what the stage holds beside them; activations are not counted.
        bytes_there: Its share of a GPU's memory, or of the machine's; None if that is not known.
    """

    stage: str
    actors: int
    num_gpus: float
    bytes_needed: int
    bytes_there: int | None

    @property
    def fits(self) -> bool | None:
        """Whether there is room; None if nobody knows."""
        return None if self.bytes_there is None else self.bytes_needed <= self.bytes_there


def expected_frames(header: VideoHeader, clip: Clip, sampling: SamplingConfig) -> int | None:
    """How many frames `sample_frames` will take of a clip with a constant frame rate; None if the header can't tell.

    Args:
        header: What the file's header says.
        clip: Whose span counts.
        sampling: `num_frames`, or `fps` with `max_frames`.
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
    """What becomes of one clip; None if its header does not say how many frames it has.

    Args:
        header: What the file's header says.
        clip: The clip.
        job: Its sampling and compression.
        preprocessor: The model's.

    Raises:
        InvalidFeaturesError: frames of a shape that the model does not take.
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
    """Add up what a plan has to do.

    Args:
        plan: The plan.
        sizes: By `clip_id`, of the clips to encode whose headers were read.
        stored_token_bytes: Of one compressed token.
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
    """What earlier runs of the same model in the same precision show, all of them together.

    Args:
        runs: Each run's record as it was started and as it ended.
        model_identity: See `pipeline.store.fingerprint.fingerprints`.
        dtype: Of the job.
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
    """How long the work takes on pools of a given size; those that grow count at their least.

    GPUs that no pool reserves are not billed: where pools grow, nodes come when they are needed, and hours become fewer
    as GPUs become more.

    Args:
        todo: The work.
        rates: Of one actor.
        pools: Their sizes.
        num_gpus: Of the cluster; 0 where the model runs on CPUs.
        gpu_hour_price: In any currency.
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
    pools: Pools,
    *,
    vision_bytes: int,
    language_bytes: int,
    cache_bytes: int,
    largest_clip: ClipSize | None,
    headers: Sequence[VideoHeader],
    gpu_bytes: int | None,
    machine_bytes: int | None,
) -> tuple[ActorMemory, ...]:
    """What each actor needs beside what there is: its reserved share of a GPU, or what the others leave of the machine.

    Args:
        pools: Their sizes and shares.
        vision_bytes: Weights of the vision side.
        language_bytes: Weights of the language side.
        cache_bytes: Keys and values of a full batch.
        largest_clip: The clip with the most bytes of frames.
        headers: Of the files to decode.
        gpu_bytes: Memory of one GPU.
        machine_bytes: Memory of the machine, for actors that reserve no GPU.
    """
    frames = largest_clip.frame_bytes if largest_clip else 0
    pictures = [header.width * header.height * 3 for header in headers]
    raw = max((max(size, min(_FRAMES_OF_BLOCK * size, _BYTES_OF_BLOCK)) for size in pictures), default=0)
    needs = {"decode": raw + frames, "encode": vision_bytes + frames, "answer": language_bytes + cache_bytes}
    actors = [(stage, pools[stage], needed) for stage, needed in needs.items() if stage in pools.by_stage]
    on_machine = sum(pool.size * needed for _, pool, needed in actors if not pool.num_gpus)

    def there(num_gpus: float, needed: int) -> int | None:
        if num_gpus:
            return None if gpu_bytes is None else int(gpu_bytes * num_gpus)
        return None if machine_bytes is None else machine_bytes - (on_machine - needed)

    return tuple(
        ActorMemory(stage, pool.size, pool.num_gpus, needed, there(pool.num_gpus, needed))
        for stage, pool, needed in actors
    )
