"""Executes one run: plan, stream through Ray, commit. To resume, or after adding questions, run the job again."""

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from flashvid.models import check_answering, resolve_model
from flashvid.presets import preset_named
from pipeline.clip import ClipMessage
from pipeline.cluster.connection import ClusterSize, connected
from pipeline.cluster.monitor import Activity
from pipeline.cluster.resources import Pools, plan_pools
from pipeline.config import JobConfig
from pipeline.errors import TooManyFailuresError
from pipeline.inputs import QuestionTable, VideoTable
from pipeline.inputs.job_inputs import read_tables
from pipeline.plan.plan import Plan
from pipeline.plan.planner import Planner, RunPlan
from pipeline.printable import printable
from pipeline.run.committer import Committer
from pipeline.run.failure_limit import FailureLimit
from pipeline.run.flow import stream
from pipeline.run.log import RunLog
from pipeline.run.metrics import ObservedMonitor, RunMetrics
from pipeline.run.summary import Progress, RunSummary
from pipeline.stages import STAGES, StageSettings
from pipeline.store.cache_users import note_cache_user
from pipeline.store.context import RunContext
from pipeline.store.lease import Lease
from pipeline.store.run_records import RunRecords
from pipeline.store.storage import Storage

_TICK_S = 0.25


def run(
    job: JobConfig,
    *,
    fork: bool = False,
    address: str | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
    on_notice: Callable[[str], None] = lambda _: None,
    on_log: Callable[[str], object] = lambda _: None,
) -> RunSummary:
    """Bring a job's output up to date.

    Args:
        job: The job.
        fork: Whether to accept settings that are new to this output; their answers are kept apart from earlier ones.
        address: Address of the Ray cluster, as in `pipeline.cluster.connection.connected`.
        on_progress: Called a few times a second with the counts so far.
        on_notice: Called with each notice for the user, such as a replaced source or answers that are not retried.
        on_log: Called with each line of the run's log (`pipeline/run/log.py`).

    Raises:
        FatalError: bad input, changed settings without `fork`, a locked output, too many failures, or a cluster that is
            too small. What is committed is kept.
    """
    started = time.monotonic()
    model = resolve_model(job.model.name, job.model.revision)
    check_answering(model, job.generation, job.inner_pruning)
    if job.preset is not None and preset_named(job.preset).family != model.family:
        on_notice(f"preset {job.preset} was published for a model family other than this model's, {model.family}")
    # Pinned, so that actors load exactly the model that was fingerprinted, even if a branch moves while they start.
    pinned = job.model.model_copy(update={"revision": model.commit or job.model.revision})
    job = job.model_copy(update={"model": pinned})
    videos, questions = read_tables(job)
    for note in (*videos.notes, *questions.notes):
        on_notice(note)
    if job.limit is not None:
        on_notice(f"limit {job.limit}: only the first {len(videos)} videos")
    context = RunContext.of(job, model)
    storage = context.storage
    cache = storage if job.tokens_root == job.output else Storage(job.tokens_root, job.storage_options)
    for root in dict.fromkeys((storage, cache)):
        if not root.is_exclusive:
            on_notice(
                f"{root.url} has no conditional writes: do not start two runs at the same time, since each may "
                "overwrite the other's files (docs/guarantees.md, stores without conditional writes)"
            )
    records = RunRecords(storage)
    records.check_settings(context.prints, fork=fork)
    lease = Lease.acquire(storage, context.run_id)
    try:
        if cache is not storage:
            note_cache_user(cache, storage)
        records.start(context.run_id, job, context.prints)
        log = RunLog(context.run_id, on_log, on_notice)
        summary = _Run(context, lease, log, on_progress, started).execute(videos, questions, address)
        records.end(context.run_id, asdict(summary))
        log.ended(summary)
        return summary
    finally:
        lease.release()


class _Run:
    """Plans and executes a run that holds the lease."""

    def __init__(
        self, context: RunContext, lease: Lease, log: RunLog, on_progress: Callable[[Progress], None], started: float
    ) -> None:
        self._context = context
        self._log = log
        self._on_progress = on_progress
        self._started = started
        self._metrics = RunMetrics(context.run_id)
        self._limit = FailureLimit(context.job)
        self._committer = Committer(
            context.ledger, lease, context.job.commit, on_commit=self._committed, on_failure=self._limit.note
        )

    def execute(self, videos: VideoTable, questions: QuestionTable, address: str | None) -> RunSummary:
        try:
            return self._execute(videos, questions, address)
        except TooManyFailuresError:
            self._committer.flush()
            raise

    def _execute(self, videos: VideoTable, questions: QuestionTable, address: str | None) -> RunSummary:
        with ExitStack() as stack:
            planner = Planner(
                self._context,
                on_failure=self._committer.add_failure,
                tick=self._committer.tick,
                connect=lambda: stack.enter_context(connected(address)),
            )
            todo = planner.plan(videos, questions)
            self._limit.planned(todo.counts.clips_planned)
            if todo.changed:
                self._log.notice(
                    "video files changed since an earlier run; their clips are planned again, video_id: "
                    f"{printable(', '.join(todo.changed))}"
                )
            if exhausted := todo.counts.answers_exhausted:
                self._log.notice(
                    f"not retried: {exhausted} answers whose clip or question failed before; "
                    "fix their input or use flashvid retry"
                )
            if unaskable := todo.counts.answers_unaskable:
                self._log.notice(
                    f"not asked: {unaskable} questions that use an empty column of their video's row; fill the column, "
                    "or do not ask them of these videos"
                )
            todo = planner.probe(todo)
            self._committer.flush()
            self._log.planned(todo.counts)
            activity = Activity()
            if todo.counts.answers_planned:
                activity = self._stream(todo, questions, stack.enter_context(connected(address)))
        summary = self._summary(todo, activity)
        if summary.clips_sampled_down:
            self._log.notice(
                f"{summary.clips_sampled_down} clips are longer than sampling.max_frames at sampling.fps, so their "
                "frames are spread evenly; set window_s to cut videos into shorter clips"
            )
        return summary

    def _stream(self, todo: RunPlan, questions: QuestionTable, size: ClusterSize) -> Activity:
        planned = todo.counts
        pools = plan_pools(
            self._context.job.resources,
            cpus_per_node=size.cpus_per_node,
            gpus_per_node=size.gpus_per_node,
            encodes=planned.clips_to_encode > 0,
            stages=[stage.name for stage in STAGES],
        )
        self._metrics.started(planned)
        # On the driver's node, so that the monitor is not lost with any other node.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        actor: Any = ray.remote(num_cpus=0)(ObservedMonitor)
        monitor = actor.options(scheduling_strategy=here).remote(pools, RunMetrics(self._context.run_id))
        settings = StageSettings(self._context, monitor, ray.put(questions))
        clips = answers = 0
        failures = self._committer.failures_committed
        try:
            for message in _paced(self._outcomes(todo, pools, settings)):
                if message is not None:
                    self._committer.add(message)
                    self._log.clip(message)
                    clips += 1
                    answers += len(message.answers)
                    failures += len(message.failures)
                self._committer.tick()
                progress = Progress(
                    clips_done=clips,
                    clips_planned=planned.clips_planned,
                    answers_done=answers,
                    answers_planned=planned.answers_planned,
                    failures=failures,
                    seconds=time.monotonic() - self._started,
                )
                self._metrics.progressed(progress, self._context.storage.take_traffic())
                self._on_progress(progress)
            activity: Activity = ray.get(monitor.activity.remote())
        except BaseException:
            # Keep what has been answered, also when the user interrupts the run; do not wait if storage is unavailable.
            self._committer.flush(patience_s=0)
            raise
        else:
            self._committer.flush()
        finally:
            # The actors hold handles of the monitor, so Ray would keep it as long as the cluster exists.
            ray.kill(monitor)
        return activity

    def _outcomes(self, todo: RunPlan, pools: Pools, settings: StageSettings) -> Iterator[ClipMessage]:
        """Yield clips as they are done; clips suspected of killing processes come last, each in a separate flow."""
        suspects = []
        for message in stream(todo, pools, settings, STAGES):
            if message.is_suspected:
                suspects.append(message.clip)
            else:
                yield message
        tokens, settings = self._context.token_store(), replace(settings, alone=True)
        for clip in suspects:
            self._log.notice(f"video_id {clip.video_id!r}: its processes died twice; the clip is retried alone")
            is_cached = self._context.job.keeps_tokens and tokens.has(clip.content_key)
            alone = Plan((), (clip,)) if is_cached else Plan((clip,))
            yield from stream(RunPlan.of(alone), pools.of_one(), settings, STAGES)

    def _committed(self, num_answers: int, failures: Sequence[Mapping[str, Any]]) -> None:
        self._metrics.committed(num_answers, failures)
        self._log.committed(num_answers, failures)

    def _summary(self, todo: RunPlan, activity: Activity) -> RunSummary:
        planned, prints = todo.counts, self._context.prints
        counted = ("clips_decoded", "frames_decoded", "clips_sampled_down", "encoder_calls", "visual_tokens_before",
                   "visual_tokens_after", "visual_token_layers_before", "visual_token_layers_after")  # fmt: skip
        return RunSummary(
            run_id=self._context.run_id,
            output=self._context.job.output,
            answers_fingerprint=prints.answers,
            tokens_fingerprint=prints.tokens,
            clips_total=planned.clips_total,
            clips_planned=planned.clips_planned,
            cache_hits=planned.clips_cached,
            **{name: activity.counts.get(name, 0) for name in counted},
            retention_ratio=self._context.job.compression.retention_ratio,
            answers_total=planned.answers_total,
            answers_before=planned.answers_done,
            answers_new=self._committer.answers_committed,
            failures_new=self._committer.failures_committed,
            answers_exhausted=planned.answers_exhausted,
            answers_unaskable=planned.answers_unaskable,
            changed_sources=todo.changed,
            max_decoded_clips=activity.max_decoded_clips,
            stage_seconds=activity.seconds,
            seconds=time.monotonic() - self._started,
            workers=activity.workers,
        )


def _paced(outcomes: Iterator[ClipMessage]) -> Iterator[ClipMessage | None]:
    """Yield the outcomes as they come, and None after each `_TICK_S` seconds without one.

    Commits and the lease depend on the time, even while one clip takes minutes, so the blocking iterator runs in a
    thread.
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
