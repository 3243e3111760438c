"""One run: plan, stream through Ray, commit. Resuming is the same run again; so is a longer questions table."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import Any

import ray

from flashvid.models import check_answering, resolve_model
from flashvid.presets import preset_named
from pipeline.cluster import ClusterSize, connected
from pipeline.committer import Committer
from pipeline.config import JobConfig
from pipeline.fingerprint import Fingerprints, fingerprints
from pipeline.flow import stream
from pipeline.job_inputs import JobInputs, read_inputs
from pipeline.lease import Lease
from pipeline.ledger import Ledger
from pipeline.messages import ClipMessage, Failure
from pipeline.metrics import ObservedMonitor, RunMetrics
from pipeline.monitor import Activity
from pipeline.planning import PLAN_STAGE, Plan, changed_sources, plan, whole_clip
from pipeline.probing import Probe, ProbeTable, probe_clips
from pipeline.resources import plan_pools
from pipeline.run_records import RunRecords, new_run_id
from pipeline.stages import StageSettings
from pipeline.storage import Storage
from pipeline.summary import Progress, RunSummary
from pipeline.token_store import TokenStore
from pipeline.windows import cut

_TICK_S = 0.25


def run(
    job: JobConfig,
    *,
    fork: bool = False,
    address: str | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
    on_notice: Callable[[str], None] = lambda _: None,
) -> RunSummary:
    """Bring a job's output up to date.

    Args:
        job: The job.
        fork: Go on with settings that this output has not seen, beside the earlier answers.
        address: Ray cluster; see `pipeline.cluster.connected`.
        on_progress: Called a few times a second with the counts so far.
        on_notice: Called with sentences a person should see (a replaced source, what is not tried again).

    Raises:
        FatalError: bad input, settings that are refused, a locked output, a cluster that is too small. What is
            committed stays.
    """
    started = time.monotonic()
    model = resolve_model(job.model.name, job.model.revision)
    check_answering(model, job.generation, job.inner_pruning)
    prints = fingerprints(job, model.identity)
    if job.preset is not None and preset_named(job.preset).family != model.family:
        on_notice(f"preset {job.preset} was published for another family than this model's, {model.family}")
    # Actors load exactly what was fingerprinted, also when a branch moves while they start.
    pinned = job.model.model_copy(update={"revision": model.commit or job.model.revision})
    job = job.model_copy(update={"model": pinned})
    inputs = read_inputs(job)
    storage = Storage(job.output, job.storage_options)
    for root in {job.output: storage, job.tokens_root: Storage(job.tokens_root, job.storage_options)}.values():
        if not root.is_exclusive:
            on_notice(
                f"{root.url} has no conditional writes: two runs at the same time may write over each other "
                "(docs/guarantees.md, stores without conditional writes)"
            )
    records = RunRecords(storage)
    records.check_settings(prints, fork=fork)
    lease = Lease.acquire(storage, new_run_id())
    try:
        records.start(lease.run_id, job, prints)
        summary = _Run(job, prints, inputs, storage, lease, on_progress, on_notice, started).execute(address)
        records.end(lease.run_id, asdict(summary))
        return summary
    finally:
        lease.release()


class _Run:
    """A run that holds the lease."""

    def __init__(
        self,
        job: JobConfig,
        prints: Fingerprints,
        inputs: JobInputs,
        storage: Storage,
        lease: Lease,
        on_progress: Callable[[Progress], None],
        on_notice: Callable[[str], None],
        started: float,
    ) -> None:
        self._job = job
        self._prints = prints
        self._inputs = inputs
        self._lease = lease
        self._on_progress = on_progress
        self._on_notice = on_notice
        self._started = started
        self._ledger = Ledger(storage, prints.answers)
        self._probes = ProbeTable(storage)
        # Files that could not be cut into windows, by `source_id`.
        self._uncut: dict[str, Failure] = {}
        self._storage = storage
        self._metrics = RunMetrics(lease.run_id)
        self._committer = Committer(self._ledger, lease, job.commit, on_commit=self._metrics.committed)

    def execute(self, address: str | None) -> RunSummary:
        probed = self._probes.source_ids_by_path()
        changed = changed_sources(self._inputs.videos, self._inputs.sources, probed)
        if changed:
            self._on_notice(f"source changed since an earlier run, planned again: {', '.join(changed)}")
        known: frozenset[str] = frozenset().union(*probed.values())
        with ExitStack() as stack:
            if self._job.window_s is not None:
                known |= self._cut_into_windows(self._job.window_s, lambda: stack.enter_context(connected(address)))
            return self._execute(address, known, tuple(changed))

    def _execute(self, address: str | None, known: frozenset[str], changed: tuple[str, ...]) -> RunSummary:
        todo = self._plan()
        if todo.answers_exhausted:
            self._on_notice(f"not tried again: {todo.answers_exhausted} answers whose clip or question failed before")
        for failure in todo.failures:
            self._committer.add_failure(failure.clip, Failure.of(failure.error, PLAN_STAGE, failure.question_id))
        activity = Activity()
        if todo.answers_planned:
            with connected(address) as size:
                todo = self._probe(todo, known)
                if todo.answers_planned:
                    activity = self._stream(todo, size)
        self._committer.flush()
        summary = self._summary(todo, activity, changed)
        if summary.clips_sampled_down:
            self._on_notice(
                f"{summary.clips_sampled_down} clips are longer than sampling.max_frames at sampling.fps: "
                "their frames are spread evenly; window_s cuts videos into clips"
            )
        return summary

    def _cut_into_windows(self, window_s: float, connect: Callable[[], object]) -> frozenset[str]:
        """Make a row of every window of the job's videos; files of unknown length are probed for it.

        Returns:
            Every `source_id` that was probed. One that can't be stays whole, and fails as every clip does: tried again
            at once, it might be answered as one clip beside the windows that a later run cuts.
        """
        inputs, durations = self._inputs, self._probes.durations()
        unknown = {
            source.source_id: whole_clip(replace(video, start_s=None, end_s=None), source)
            for video, source in zip(inputs.videos, inputs.sources, strict=True)
            if source.exists and video.problem is None and source.source_id not in durations
        }
        if unknown:
            connect()
        sizes = {source.source_id: source.size_bytes for source in inputs.sources}
        for number, results in enumerate(probe_clips([*unknown.values()], self._job.storage_options)):
            found = [(clip, probe) for clip, probe in results if isinstance(probe, Probe)]
            self._uncut.update((clip.source_id, result) for clip, result in results if isinstance(result, Failure))
            durations.update((clip.source_id, probe.header.duration_s) for clip, probe in found)
            self._probes.append(found, sizes, f"{self._lease.run_id}-windows-{number:05d}")
        videos, sources = cut(
            inputs.videos,
            inputs.sources,
            durations,
            window_s=window_s,
            stride_s=self._job.stride_s or window_s,
        )
        self._inputs = replace(inputs, videos=videos, sources=sources)
        return frozenset(unknown) & durations.keys()

    def _plan(self) -> Plan:
        store = TokenStore(Storage(self._job.tokens_root, self._job.storage_options), self._prints.tokens)
        return plan(
            self._inputs.videos,
            self._inputs.sources,
            self._inputs.questions,
            committed_tokens=store.committed(),
            answered=self._ledger.answer_keys(),
            failed=self._ledger.failure_keys(),
            max_attempts=self._job.max_attempts,
        )

    def _probe(self, todo: Plan, known: frozenset[str]) -> Plan:
        """Read the packets of new files; clips whose file is no video fail here and leave the plan."""
        new = [clip for clip in todo.to_encode if clip.problem is not None or clip.source_id not in known]
        failed = {clip.clip_id for clip in new if clip.source_id in self._uncut}
        for clip in new:
            if clip.clip_id in failed:
                self._committer.add_failure(clip, self._uncut[clip.source_id])
        new = [clip for clip in new if clip.clip_id not in failed]
        sizes = {source.source_id: source.size_bytes for source in self._inputs.sources}
        for number, results in enumerate(probe_clips(new, self._job.storage_options)):
            found = []
            for clip, result in results:
                if isinstance(result, Failure):
                    self._committer.add_failure(clip, result)
                    failed.add(clip.clip_id)
                else:
                    found.append((clip, result))
            # Chunk by chunk: a run that is killed here does not read these files again.
            self._probes.append(found, sizes, f"{self._lease.run_id}-{number:05d}")
            self._committer.flush()
        return replace(todo, to_encode=tuple(clip for clip in todo.to_encode if clip.clip_id not in failed))

    def _stream(self, todo: Plan, size: ClusterSize) -> Activity:
        pools = plan_pools(
            self._job.resources,
            num_cpus=size.num_cpus,
            gpus_per_node=size.gpus_per_node,
            encodes=bool(todo.to_encode),
        )
        self._metrics.started(todo, pools)
        observed = RunMetrics(self._lease.run_id)
        monitor: Any = ray.remote(num_cpus=0)(ObservedMonitor).remote(pools.max_decoded_clips, observed)
        settings = StageSettings(self._job, self._lease.run_id, self._prints.tokens, monitor)
        clips = answers = 0
        failures = self._committer.failures_committed
        try:
            for message in _paced(stream(todo, pools, settings, self._inputs.questions)):
                if message is not None:
                    self._committer.add(message)
                    clips += 1
                    answers += len(message.answers)
                    failures += len(message.failures)
                self._committer.tick()
                progress = Progress(
                    clips_done=clips,
                    clips_planned=len(todo.to_encode) + len(todo.cached),
                    answers_done=answers,
                    answers_planned=todo.answers_planned,
                    failures=failures,
                    seconds=time.monotonic() - self._started,
                )
                self._metrics.progressed(progress, self._storage.take_traffic())
                self._on_progress(progress)
        finally:
            # Also when the run is interrupted: what has been answered is kept.
            self._committer.flush()
        activity: Activity = ray.get(monitor.activity.remote())
        # Its handles travelled to the actors, so Ray would keep it as long as the cluster lives.
        ray.kill(monitor)
        return activity

    def _summary(self, todo: Plan, activity: Activity, changed: tuple[str, ...]) -> RunSummary:
        counts = activity.counts
        return RunSummary(
            run_id=self._lease.run_id,
            output=self._job.output,
            answers_fingerprint=self._prints.answers,
            tokens_fingerprint=self._prints.tokens,
            clips_total=todo.clips_total,
            clips_planned=len(todo.to_encode) + len(todo.cached),
            cache_hits=len(todo.cached),
            clips_decoded=counts.get("clips_decoded", 0),
            frames_decoded=counts.get("frames_decoded", 0),
            clips_sampled_down=counts.get("clips_sampled_down", 0),
            encoder_calls=counts.get("encoder_calls", 0),
            visual_tokens_before=counts.get("visual_tokens_before", 0),
            visual_tokens_after=counts.get("visual_tokens_after", 0),
            visual_token_layers_before=counts.get("visual_token_layers_before", 0),
            visual_token_layers_after=counts.get("visual_token_layers_after", 0),
            retention_ratio=self._job.compression.retention_ratio,
            answers_total=todo.answers_total,
            answers_before=todo.answers_done,
            answers_new=self._committer.answers_committed,
            failures_new=self._committer.failures_committed,
            answers_exhausted=todo.answers_exhausted,
            changed_sources=changed,
            max_decoded_clips=activity.max_decoded_clips,
            stage_seconds=activity.seconds,
            seconds=time.monotonic() - self._started,
            workers=activity.workers,
        )


def _paced(outcomes: Iterator[ClipMessage]) -> Iterator[ClipMessage | None]:
    """The outcomes as they come, and None whenever a quarter of a second brings none.

    Commits and the lease go by the clock, also while one clip takes minutes; so the blocking iterator runs in a thread.
    """
    results: queue.Queue[ClipMessage | BaseException | None] = queue.Queue(maxsize=16)

    def drain() -> None:
        try:
            for outcome in outcomes:
                results.put(outcome)
            results.put(None)
        except BaseException as error:  # noqa: BLE001 - raised again in the consumer
            results.put(error)

    threading.Thread(target=drain, name="outcomes", daemon=True).start()
    while True:
        try:
            item = results.get(timeout=_TICK_S)
        except queue.Empty:
            yield None
            continue
        if item is None:
            return
        if isinstance(item, BaseException):
            raise item
        yield item
