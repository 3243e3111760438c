"""What a run of a job would do and take, without Ray and without a lease. Writes nothing but probes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from flashvid.engine.constants import MAX_BATCH_TOKENS
from flashvid.errors import PermanentError
from flashvid.models import ModelSource, check_answering, load_preprocessor, resolve_model
from flashvid.models.devices import usable_gpus
from flashvid.models.footprint import footprint
from pipeline.clip import Clip, Failure
from pipeline.cluster.resources import Pools, plan_pools
from pipeline.config import JobConfig
from pipeline.errors import ClusterTooSmallError, SettingsChangedError
from pipeline.inputs.job_inputs import JobInputs, read_inputs
from pipeline.plan.estimates import (
    ActorMemory,
    ClipSize,
    Duration,
    Rates,
    Work,
    actor_memory,
    clip_size,
    duration,
    measured_rates,
    work,
)
from pipeline.plan.plan import changed_sources, plan, whole_clip
from pipeline.plan.probe import STAGE, Probe, ProbeTable, probe_file
from pipeline.plan.windows import cut
from pipeline.store.fingerprint import Fingerprints, fingerprints
from pipeline.store.ledger import Ledger
from pipeline.store.run_records import RunRecords, new_run_id
from pipeline.store.storage import Storage
from pipeline.store.tokens import TokenStore

_PROBE_THREADS = 16


@dataclass(frozen=True)
class Hardware:
    """What a run may use.

    Attributes:
        num_cpus: CPUs.
        num_gpus: GPUs, on one node.
        gpu_bytes: Memory of one GPU; None if that is not known.
        machine_bytes: Memory of the machine; None if that is not known.
    """

    num_cpus: int
    num_gpus: int = 0
    gpu_bytes: int | None = None
    machine_bytes: int | None = None

    @classmethod
    def here(cls) -> Hardware:
        """This machine's."""
        import torch

        gpus = usable_gpus()
        return cls(
            num_cpus=os.cpu_count() or 1,
            num_gpus=gpus,
            gpu_bytes=torch.cuda.get_device_properties(0).total_memory if gpus else None,
            machine_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        )


@dataclass(frozen=True)
class Preview:
    """What a run would find and do.

    Attributes:
        clips_total: Clips of the job.
        clips_to_encode: Clips to decode, encode and answer.
        clips_cached: Clips to answer from the tokens that are there.
        clips_unusable: Clips of whose file or row the probe says that nothing can be made, and why, by reason.
        answers_total: Answers of the finished job.
        answers_done: Committed.
        answers_exhausted: Not tried again.
        changed_sources: Videos whose file was replaced since an earlier run.
        changed_settings: Why a run would be refused without `fork`; None if it would not.
        work: What is left to do.
        rates: How fast that goes.
        duration: How long it takes.
        memory: What the actors need; empty where the pools can't be placed.
        placement_problem: Why they can't; None if they can.
        headers_read: New headers that this preview read and committed to `probes/`.
    """

    clips_total: int
    clips_to_encode: int
    clips_cached: int
    clips_unusable: Mapping[str, int]
    answers_total: int
    answers_done: int
    answers_exhausted: int
    changed_sources: tuple[str, ...]
    changed_settings: str | None
    work: Work
    rates: Rates
    duration: Duration | None
    memory: tuple[ActorMemory, ...]
    placement_problem: str | None
    headers_read: int


def preview(
    job: JobConfig,
    hardware: Hardware,
    *,
    given_rates: Rates | None = None,
    gpu_hour_price: float | None = None,
    max_probes: int = 1000,
) -> Preview:
    """Say what `pipeline.run.run.run` would do with a job.

    Reads the tables, stats every video, lists what is committed, reads the headers of new files, and commits these to
    `probes/` as a run would.

    Args:
        job: The job.
        hardware: What a run may use.
        given_rates: These, where they are set, count instead of measured ones.
        gpu_hour_price: In any currency.
        max_probes: Headers to read at most; with more new files, so many spread over them, and the rest counts as
            their mean. Windows take the length of every video, and so all headers.

    Raises:
        FatalError: what would refuse the run, but for changed settings and too small a cluster, which are reported.
    """
    model = resolve_model(job.model.name, job.model.revision)
    check_answering(model, job.generation, job.inner_pruning)
    prints = fingerprints(job, model.identity)
    inputs = read_inputs(job)
    storage = Storage(job.output, job.storage_options)
    records, probes, ledger = RunRecords(storage), ProbeTable(storage), Ledger(storage, prints.answers)
    changed = changed_sources(inputs.videos, inputs.sources, _ids_by_path(probes))
    file_bytes = {source.source_id: source.size_bytes for source in inputs.sources}
    headers = _Headers(probes, job, file_bytes)
    if job.window_s is not None:
        inputs = _cut(inputs, headers, job.window_s, job.stride_s or job.window_s)
    todo = plan(
        inputs.videos,
        inputs.sources,
        inputs.questions,
        committed_tokens=_committed(job, prints),
        answered=ledger.answer_keys(),
        failed=ledger.failure_keys(),
        max_attempts=job.max_attempts,
    )
    headers.read(todo.to_encode, max_probes)
    sizes = headers.clip_sizes(todo.to_encode, model)
    todo = replace(todo, to_encode=tuple(clip for clip in todo.to_encode if clip.clip_id not in headers.unusable))
    takes = footprint(model, job.model.dtype)
    token_bytes = takes.stored_token if job.cache_dtype is None else takes.quantised_token
    if not job.keeps_tokens:
        token_bytes = 0
    left = work(todo, sizes, file_bytes, stored_token_bytes=token_bytes)
    rates = _rates(given_rates or Rates(), measured_rates(records.ended(), model.identity, job.model.dtype))
    pools = _pools(job, hardware, encodes=bool(todo.to_encode))
    return Preview(
        clips_total=todo.clips_total,
        clips_to_encode=len(todo.to_encode),
        clips_cached=len(todo.cached),
        clips_unusable=dict(Counter(headers.unusable.values()).most_common()),
        answers_total=todo.answers_total,
        answers_done=todo.answers_done,
        answers_exhausted=todo.answers_exhausted,
        changed_sources=tuple(changed),
        changed_settings=_changed_settings(records, prints),
        work=left,
        rates=rates,
        duration=duration(left, rates, pools, num_gpus=hardware.num_gpus, gpu_hour_price=gpu_hour_price)
        if isinstance(pools, Pools)
        else None,
        memory=actor_memory(
            pools,
            vision_bytes=takes.vision,
            language_bytes=takes.language,
            cache_bytes=takes.cached_token * MAX_BATCH_TOKENS,
            largest_clip=left.largest_clip,
            headers=list(headers.known.values()),
            gpu_bytes=hardware.gpu_bytes,
            machine_bytes=hardware.machine_bytes,
            encodes=bool(todo.to_encode),
        )
        if isinstance(pools, Pools)
        else (),
        placement_problem=None if isinstance(pools, Pools) else pools.message,
        headers_read=headers.newly_read,
    )


class _Headers:
    """What is known of the job's files."""

    def __init__(self, probes: ProbeTable, job: JobConfig, file_bytes: Mapping[str, int | None]) -> None:
        self._probes = probes
        self._job = job
        self._file_bytes = file_bytes
        self.known = probes.headers(file_bytes.keys())
        self.unusable: dict[str, str] = {}
        self.newly_read = 0

    def read(self, clips: Sequence[Clip], limit: int | None = None) -> None:
        """Read the headers that nobody has read, up to a limit, and commit them."""
        new = [clip for clip in clips if clip.problem is not None or clip.source_id not in self.known]
        if limit is not None and len(new) > limit:
            new = [new[index] for index in np.linspace(0, len(new) - 1, limit).astype(int)]
        with ThreadPoolExecutor(_PROBE_THREADS) as pool:
            found = list(zip(new, pool.map(self._probe, new), strict=True))
        probed = [(clip, result) for clip, result in found if isinstance(result, Probe)]
        self.unusable.update((clip.clip_id, result.error_type) for clip, result in found if isinstance(result, Failure))
        self.newly_read += len(probed)
        self.known.update((clip.source_id, probe.header) for clip, probe in probed)
        self._probes.append(probed, f"{new_run_id()}-plan")

    def _probe(self, clip: Clip) -> Probe | Failure:
        try:
            return probe_file(clip, self._job.storage_options)
        except Exception as error:  # noqa: BLE001 - a run makes a row of failures/ of it
            return Failure.of(error, STAGE)

    def clip_sizes(self, clips: Sequence[Clip], model: ModelSource) -> dict[str, ClipSize]:
        """Sizes by `clip_id`; a file that the model takes no frames of is unusable."""
        sampling = self._job.sampling
        preprocessor = load_preprocessor(model, min_pixels=sampling.min_pixels, max_pixels=sampling.max_pixels)
        sizes = {}
        for clip in clips:
            header = self.known.get(clip.source_id)
            if header is None or clip.clip_id in self.unusable:
                continue
            try:
                size = clip_size(header, clip, self._job, preprocessor)
            except PermanentError as error:
                self.unusable[clip.clip_id] = type(error).__name__
                continue
            if size is not None:
                sizes[clip.clip_id] = size
        return sizes


def _committed(job: JobConfig, prints: Fingerprints) -> frozenset[str]:
    if not job.keeps_tokens:
        return frozenset()
    return TokenStore(Storage(job.tokens_root, job.storage_options), prints.tokens).committed()


def _ids_by_path(probes: ProbeTable) -> dict[str, set[str]]:
    """Every `source_id` probed, by `video_path`."""
    known: dict[str, set[str]] = {}
    for row in probes.lengths().to_pylist():
        known.setdefault(row["video_path"], set()).add(row["source_id"])
    return known


def _cut(inputs: JobInputs, headers: _Headers, window_s: float, stride_s: float) -> JobInputs:
    """A row for every window; that takes the length of every video."""
    whole = {
        source.source_id: whole_clip(replace(video, start_s=None, end_s=None), source)
        for video, source in zip(inputs.videos, inputs.sources, strict=True)
        if source.exists and video.problem is None
    }
    headers.read([*whole.values()])
    durations = {source_id: header.duration_s for source_id, header in headers.known.items()}
    videos, sources = cut(inputs.videos, inputs.sources, durations, window_s=window_s, stride_s=stride_s)
    return replace(inputs, videos=videos, sources=sources)


def _rates(given: Rates, measured: Rates) -> Rates:
    """What is given, and what was measured where nothing is."""
    names = ("decode_frames_per_second", "encode_frames_per_second", "answers_per_second")
    chosen = {name: getattr(given, name) or getattr(measured, name) for name in names}
    uses_measured = any(getattr(given, name) is None and getattr(measured, name) is not None for name in names)
    return Rates(**chosen, measured_in=measured.measured_in if uses_measured else ())


def _pools(job: JobConfig, hardware: Hardware, *, encodes: bool) -> Pools | ClusterTooSmallError:
    gpus = (hardware.num_gpus,) if hardware.num_gpus else ()
    try:
        return plan_pools(job.resources, num_cpus=hardware.num_cpus, gpus_per_node=gpus, encodes=encodes)
    except ClusterTooSmallError as error:
        return error


def _changed_settings(records: RunRecords, prints: Fingerprints) -> str | None:
    try:
        records.check_settings(prints, fork=False)
    except SettingsChangedError as error:
        return error.message
    return None
