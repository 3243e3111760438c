"""Previews what a run of a job would do and take, without Ray and without the lease. Writes only probes."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from flashvid.errors import PermanentError
from flashvid.models import ModelSource, check_answering, load_preprocessor, resolve_model
from flashvid.models.footprint import footprint
from pipeline.clip import Clip, Failure
from pipeline.cluster.resources import plan_pools
from pipeline.config import JobConfig
from pipeline.errors import ClusterTooSmallError, SettingsChangedError
from pipeline.inputs.job_inputs import read_tables
from pipeline.plan import estimates
from pipeline.plan.hardware import Hardware
from pipeline.plan.planner import Planner
from pipeline.plan.probe import STAGE, ProbeTable
from pipeline.store.context import RunContext
from pipeline.store.fingerprint import Fingerprints
from pipeline.store.run_records import RunRecords
from pipeline.video.packet_index import VideoHeader


@dataclass(frozen=True)
class Preview:
    """Describes what a run would find and do.

    Attributes:
        clips_total: Clips of the job.
        clips_to_encode: Clips to decode, encode and answer.
        clips_cached: Clips to answer from committed tokens.
        clips_unusable: Number of clips whose row or file can't be used, by error type.
        answers_total: Answers that the finished job has.
        answers_done: Answers that are committed.
        answers_exhausted: Answers that a run would not retry.
        answers_unaskable: Answers whose question uses an empty column of the video's row.
        changed_sources: `video_id` of every video whose file was replaced since an earlier run.
        changed_settings: Why a run would be refused without `fork`; None if it would not.
        work: The work that is left.
        rates: Rates of one actor of each stage.
        duration: Time and cost of the work; None if the pools can't be placed.
        memory: Memory of each stage's actors; empty if the pools can't be placed.
        placement_problem: Why the pools can't be placed; None if they can.
        headers_read: New headers that this preview read and committed to `probes/`.
        notes: What the user should know about how the tables were read.
    """

    clips_total: int
    clips_to_encode: int
    clips_cached: int
    clips_unusable: Mapping[str, int]
    answers_total: int
    answers_done: int
    answers_exhausted: int
    answers_unaskable: int
    changed_sources: tuple[str, ...]
    changed_settings: str | None
    work: estimates.Work
    rates: estimates.Rates
    duration: estimates.Duration | None
    memory: tuple[estimates.ActorMemory, ...]
    placement_problem: str | None
    headers_read: int
    notes: tuple[str, ...] = ()


def preview(
    job: JobConfig,
    hardware: Hardware,
    *,
    given_rates: estimates.Rates | None = None,
    gpu_hour_price: float | None = None,
    max_probes: int = 1000,
) -> Preview:
    """Return what `pipeline.run.run.run` would do with a job.

    Reads the tables, stats every video, lists what is committed, reads the headers of new files, and commits these
    headers to `probes/` as a run would.

    Args:
        job: The job.
        hardware: Hardware that a run may use.
        given_rates: Rates that replace the measured ones where they are set.
        gpu_hour_price: Price of a GPU hour, in any currency.
        max_probes: Maximum number of headers to read. If there are more new files, the files to read are spread evenly
            over them, and each of the others counts as the mean. With `window_s`, every header is read, since the
            length of every video is needed.

    Raises:
        FatalError: the run would be refused. Changed settings and a cluster that is too small are reported instead.
    """
    model = resolve_model(job.model.name, job.model.revision)
    check_answering(model, job.generation, job.inner_pruning)
    tables, run = read_tables(job), RunContext.of(job, model)
    records = RunRecords(run.storage)
    unusable: dict[str, str] = {}

    def note(clip: Clip, failure: Failure) -> None:
        if failure.stage == STAGE:
            unusable[clip.clip_id] = failure.error_type

    planner = Planner(replace(run, run_id=f"{run.run_id}-plan"), on_failure=note)
    found = planner.probe(planner.plan(*tables), at_most=max_probes)
    (shard,) = found.shards
    todo = shard.fetch()
    headers = ProbeTable(run.storage).headers({clip.source_id for clip in todo.to_encode})
    sizes, refused = _sizes(todo.to_encode, headers, job, model)
    unusable.update(refused)
    todo = todo.without(refused)
    takes = footprint(model, job.model.dtype)
    token_bytes = takes.stored_token if job.cache_dtype is None else takes.quantised_token
    left = estimates.work(todo, sizes, stored_token_bytes=token_bytes if job.keeps_tokens else 0)
    measured = estimates.measured_rates(records.ended(), model.identity, job.model.dtype)
    rates = _rates(given_rates or estimates.Rates(), measured)
    counts = todo.counts
    lasts: estimates.Duration | None = None
    memory: tuple[estimates.ActorMemory, ...] = ()
    problem = None
    try:
        gpus = (hardware.num_gpus,) if hardware.num_gpus else ()
        pools = plan_pools(
            job.resources, cpus_per_node=(hardware.num_cpus,), gpus_per_node=gpus, encodes=bool(todo.to_encode)
        )
        lasts = estimates.duration(left, rates, pools, num_gpus=hardware.num_gpus, gpu_hour_price=gpu_hour_price)
        memory = estimates.actor_memory(pools, takes, hardware, left.largest_clip, headers.values())
    except ClusterTooSmallError as error:
        problem = error.message
    return Preview(
        clips_total=counts.clips_total,
        clips_to_encode=counts.clips_to_encode,
        clips_cached=counts.clips_cached,
        clips_unusable=dict(Counter(unusable.values()).most_common()),
        answers_total=counts.answers_total,
        answers_done=counts.answers_done,
        answers_exhausted=counts.answers_exhausted,
        answers_unaskable=counts.answers_unaskable,
        changed_sources=found.changed,
        changed_settings=_changed_settings(records, run.prints),
        work=left,
        rates=rates,
        duration=lasts,
        memory=memory,
        placement_problem=problem,
        headers_read=planner.num_probed,
        notes=(*tables[0].notes, *tables[1].notes),
    )


def _sizes(
    clips: Sequence[Clip], headers: Mapping[str, VideoHeader], job: JobConfig, model: ModelSource
) -> tuple[dict[str, estimates.ClipSize], dict[str, str]]:
    """Return two mappings by `clip_id`: sizes of clips with a header, and error types of clips the model refuses."""
    sampling = job.sampling
    preprocessor = load_preprocessor(model, min_pixels=sampling.min_pixels, max_pixels=sampling.max_pixels)
    sizes: dict[str, estimates.ClipSize] = {}
    refused: dict[str, str] = {}
    for clip in clips:
        if (header := headers.get(clip.source_id)) is None:
            continue
        try:
            size = estimates.clip_size(header, clip, job, preprocessor)
        except PermanentError as error:
            refused[clip.clip_id] = type(error).__name__
            continue
        if size is not None:
            sizes[clip.clip_id] = size
    return sizes, refused


def _rates(given: estimates.Rates, measured: estimates.Rates) -> estimates.Rates:
    """Return the given rates, with the measured ones where a rate is not given."""
    names = ("decode_frames_per_second", "encode_frames_per_second", "answers_per_second")
    missing = {name: getattr(measured, name) for name in names if not getattr(given, name)}
    return replace(given, **missing, measured_in=measured.measured_in if any(missing.values()) else ())


def _changed_settings(records: RunRecords, prints: Fingerprints) -> str | None:
    try:
        records.check_settings(prints, fork=False)
    except SettingsChangedError as error:
        return error.message
    return None
