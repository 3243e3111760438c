"""A large job on paper, by the estimates of `flashvid plan`: hours, cost, bytes, requests, and its bottleneck."""

import math
from collections.abc import Mapping

from jobs.lab.answers_model import LLAVA_7B
from jobs.lab.gpu_parts import DISPATCH_SECONDS, FRAMES, RETENTION, dispatched_seconds, gpu_seconds
from pipeline.cluster.resources import Pool, Pools, clips_per_batch, plan_pools
from pipeline.config import CommitConfig
from pipeline.plan import estimates
from pipeline.plan.probe import CLIPS_PER_TASK
from pipeline.plan.shards import ROWS_PER_SHARD, SHARDS_ON_STORAGE, num_shards
from pipeline.resources_config import ResourcesConfig
from pipeline.run.flow import SHARDS_AT_ONCE
from pipeline.store.ledger import OBJECTS_AT_ONCE

# The large job. Prices and sizes are assumptions, and are shown in the table.
_VIDEOS, _ASKED, _GPUS = 1_000_000, 20, 64
_CPUS_PER_GPU, _GPU_HOUR, _VIDEO_BYTES = 52, 3.0, 112_500_000
# The probe reads a file's packets, in ranges of s3fs' block size; decode then fetches the file.
_READS, _RANGE_BYTES = 2, 50 << 20
# A node of decode actors has 10 Gbit/s.
_NODE_CPUS, _NODE_BYTES_PER_SECOND = 64, 1.25e9
# A frame of a video with keyframes 8 s apart means decoding half of these 8 s: 125 frames, of which decord on one CPU
# decodes 640 a second (docs/decoding.md: 1,920 for 32).
_DECODE_RATE = 640 / 125
# Bytes that a cached token takes on storage, by `flashvid bench cache`.
_TOKEN_BYTES: Mapping[str, int] = {"bfloat16": 5597, "int8": 3253}
# CPU time of the driver for a clip, by `flashvid bench pipeline`; and what an object of answers takes (an assumption),
# of which it writes some at a time. Nothing else of a job is done by one process.
_DRIVER_SECONDS, _PUT_SECONDS = 0.019, 0.03
# Planning as many videos with ten questions, half of them answered, by `flashvid bench planning`; and the same process
# before it begins.
_PLANNING_SECONDS, _PLANNING_BYTES, _EMPTY_BYTES, _MEMORY_BYTES = 98.7, 1.20e9, 0.47e9, 8e9


def large_job(*, dispatched: bool = False) -> tuple[estimates.Work, estimates.Rates, Pools]:
    """Return what `flashvid plan` counts for the large job, and what it is given.

    Args:
        dispatched: Whether GPUs wait for Python where its operations take longer than their kernels.
    """
    visual = FRAMES * LLAVA_7B.frame_tokens
    kept = round(RETENTION * visual)
    todo = estimates.Work(
        clips_known=_VIDEOS,
        frames=_VIDEOS * FRAMES,
        visual_tokens=_VIDEOS * visual,
        kept_tokens=_VIDEOS * kept,
        answers=_VIDEOS * _ASKED,
        answers_retried=0,
        largest_clip=None,
        read_bytes=_VIDEOS * _READS * _VIDEO_BYTES,
        unsized_files=0,
        write_bytes=_VIDEOS * kept * _TOKEN_BYTES["bfloat16"],
    )
    seconds = (dispatched_seconds if dispatched else gpu_seconds)("C", _ASKED, together())
    encoded = seconds["encode"] + seconds["compress"]
    answered = seconds["prefix"] + seconds["questions"] + seconds["decode"]
    rates = estimates.Rates(_DECODE_RATE, FRAMES / encoded, _ASKED / answered)
    encode = max(1, round(_GPUS * encoded / (encoded + answered)))
    by_stage = {
        "decode": Pool(_CPUS_PER_GPU * _GPUS, 1, 0),
        "encode": Pool(encode, 0, 1),
        "answer": Pool(_GPUS - encode, 0, 1),
    }
    return todo, rates, Pools(by_stage, 2 * encode + 2)


def together() -> int:
    """Return the clips that an answer actor of the large job gets at a time."""
    return clips_per_batch(_VIDEOS, _VIDEOS * _ASKED, Pool(_GPUS, 0, 1), encodes=True)


def default_pools() -> Pools:
    """Return the pools of a large job that sets none."""
    return plan_pools(ResourcesConfig(), cpus_per_node=[_CPUS_PER_GPU * _GPUS], gpus_per_node=[_GPUS], encodes=True)


def job_duration(pools: Pools | None = None, *, dispatched: bool = False) -> estimates.Duration:
    """Return how long the stages take, and what the GPUs cost.

    Args:
        pools: None for those of `large_job`.
        dispatched: As in `large_job`.
    """
    todo, rates, chosen = large_job(dispatched=dispatched)
    return estimates.duration(todo, rates, pools or chosen, num_gpus=_GPUS, gpu_hour_price=_GPU_HOUR)


def driver_hours() -> float:
    """Return the hours that one job's driver takes to pass all clips on."""
    return _VIDEOS * _DRIVER_SECONDS / 3600


def committing_hours(jobs: int) -> float:
    """Return the hours that each of several jobs' drivers waits for its objects of answers, as Ray passes clips on."""
    waits = math.ceil(_objects_per_commit(jobs) / OBJECTS_AT_ONCE)
    return _commits() / jobs * waits * _PUT_SECONDS / 3600


def probe_hours() -> float:
    """Return the hours of probing, in which the decode nodes read every file once before the stages begin."""
    nodes = _CPUS_PER_GPU * _GPUS / _NODE_CPUS
    return _VIDEOS * _VIDEO_BYTES / nodes / _NODE_BYTES_PER_SECOND / 3600


def answer_objects(jobs: int = 1) -> int:
    """Return about how many objects answers become: a commit writes one for each shard that its clips fall into.

    Args:
        jobs: Jobs among which the videos are divided.
    """
    return _commits() * _objects_per_commit(jobs)


def _commits() -> int:
    return _VIDEOS * _ASKED // CommitConfig().rows


def _objects_per_commit(jobs: int) -> int:
    planned = num_shards(_VIDEOS // jobs, ROWS_PER_SHARD)
    together = min(SHARDS_AT_ONCE, planned) * SHARDS_ON_STORAGE // planned
    return min(together, CommitConfig().rows // _ASKED)


def large_job_table() -> str:
    """Return a table of hours, bytes, requests and cost of the large job."""
    todo, _, pools = large_job()
    lasts, python = job_duration(), job_duration(dispatched=True)
    default = default_pools()
    unasked = job_duration(default)
    assert lasts.hours is not None  # noqa: S101 - every rate is given
    assert lasts.cost is not None  # noqa: S101
    assert unasked.hours is not None  # noqa: S101
    assert unasked.cost is not None  # noqa: S101
    clips_per_second, drivers = _VIDEOS / lasts.hours / 3600, math.ceil(driver_hours() / lasts.hours)
    slowest = max(lasts.stage_hours, key=lambda stage: lasts.stage_hours[stage] or 0.0)
    rows = {
        "actors": f"{pools['decode'].size:,} decode ({_CPUS_PER_GPU} CPUs a GPU), {pools['encode'].size} encode, "
        f"{pools['answer'].size} answer, {together()} clips at a time",
        "without `concurrency` of encode and answer": f"{default['encode'].size} encode, "
        f"{default['answer'].size} answer: {unasked.hours:.2f} hours, ${unasked.cost:,.0f}",
        "hours, stage by stage": _stages(lasts),
        "where Python dispatches": f"{_stages(python)}; {DISPATCH_SECONDS * 1e6:g} microseconds an operation (above)",
        "probe, before the stages": f"{probe_hours():.2f} hours: {_NODE_BYTES_PER_SECOND * 8 / 1e9:g} Gbit/s for each "
        f"{_NODE_CPUS} CPUs of decode; GPUs that an autoscaler adds come behind it",
        "hours": f"{lasts.hours:.2f}, {clips_per_second:,.0f} clips a second; the slowest stage is {slowest}",
        "hours of one job": f"{driver_hours():.1f}: its driver takes {_DRIVER_SECONDS * 1e3:g} ms of CPU a clip and "
        f"passes on {1 / _DRIVER_SECONDS:,.0f} a second",
        f"hours of {drivers} jobs": f"{max(lasts.hours, driver_hours() / drivers, committing_hours(drivers)):.2f}: "
        f"each has a part of the videos table, all have one cache; answers are {answer_objects(drivers):,} objects, "
        f"{_PUT_SECONDS * 1e3:g} ms each and {OBJECTS_AT_ONCE} at once: {committing_hours(drivers) * 60:.0f} minutes",
        "cost": f"${lasts.cost:,.0f} at ${_GPU_HOUR:g} a GPU hour, and {todo.frames / _DECODE_RATE / 3600:,.0f} CPU "
        f"hours of decoding; in one job, whose GPUs wait for its driver, ${driver_hours() * _GPUS * _GPU_HOUR:,.0f}; "
        f"GPUs that wait for the probe, too: ${probe_hours() * _GPUS * _GPU_HOUR:,.0f} more",
        "read": f"{todo.read_bytes / 1e12:,.0f} TB of video ({_VIDEO_BYTES / 1e6:g} MB each, 1.5 Mbit/s; by the probe "
        f"before the run, and by decode, {_VIDEOS * _VIDEO_BYTES / lasts.hours / 3600 / 1e9:,.1f} GB/s)",
        "tokens written": ", ".join(
            f"{todo.kept_tokens * size / 1e12:.2f} TB in {kind}" for kind, size in _TOKEN_BYTES.items()
        ),
        "requests": f"{(1 + math.ceil(_VIDEO_BYTES / _RANGE_BYTES)) * _VIDEOS / 1e6:.0f} million GET of videos, "
        f"{2 * _VIDEOS / 1e6:.0f} million HEAD, "
        f"{_VIDEOS / 1e6:.0f} million PUT and {_VIDEOS / 1e6:.0f} million GET of tokens, "
        f"{_VIDEOS // CLIPS_PER_TASK:,} PUT of probes, about {answer_objects():,} PUT of answers in one job and "
        f"{answer_objects(drivers):,} in {drivers}",
        "planning": _planning(),
        "asked again, warm": f"{_hours('D'):.2f} hours of {_GPUS} GPUs, without their drivers'",
        "with all tokens, one prefill a video": f"{_hours('B'):.2f} hours of {_GPUS} GPUs",
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def _stages(lasts: estimates.Duration) -> str:
    return ", ".join(f"{stage} {hours:.2f}" for stage, hours in lasts.stage_hours.items())


def _planning() -> str:
    """Describe what planning takes and its limit: a driver holds its plan in memory."""
    video_bytes = (_PLANNING_BYTES - _EMPTY_BYTES) / _VIDEOS
    most = (_MEMORY_BYTES - _EMPTY_BYTES) / video_bytes
    minutes = most / _VIDEOS * _PLANNING_SECONDS / 60
    return (
        f"{_PLANNING_SECONDS:g} s and {_PLANNING_BYTES / 1e9:.2f} GB of the driver (10 questions, half of them "
        f"answered), {video_bytes:,.0f} bytes a video: {_MEMORY_BYTES / 1e9:g} GB are full with {most / 1e6:.0f} "
        f"million videos, after {minutes:.0f} minutes"
    )


def _hours(arm: str) -> float:
    """Return the hours that all GPUs together take in an arm of `bench answers`."""
    return _VIDEOS * sum(gpu_seconds(arm, _ASKED, together()).values()) / _GPUS / 3600
