"""Builds and executes the Ray graph of a run: one Ray Data execution over stateful actor pools.

    clips without tokens ─► decode ─► encode ─┐
                                              ├─► answer ─► the driver
    clips with tokens ────────────────────────┘

Each read task yields the clips of one shard of the plan, one clip per block, so that no clip waits for another one,
except where clips with few questions are answered as one batch. Ray Data's back-pressure bounds bytes;
`RunMonitor.admit` also bounds clips.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial, reduce
from typing import Literal

import pyarrow as pa
import ray.data
from ray.data import ActorPoolStrategy, DataContext, Dataset, Datasource, ReadTask
from ray.data.block import BlockMetadata

from pipeline.clip import Clip, ClipMessage
from pipeline.cluster.connection import fatal_errors_unwrapped
from pipeline.cluster.resources import Pools
from pipeline.plan.plan import Plan, deal
from pipeline.plan.planner import RunPlan, Shard
from pipeline.stages import STAGES, Stage, StageSettings

_MAX_SHARDS = 64
SHARDS_AT_ONCE = 2


class PlanSource(Datasource):
    """Provides the planned clips to Ray Data: one read task per shard, one clip per block."""

    def __init__(self, tasks: list[ReadTask]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._tasks = tasks

    def estimate_inmemory_data_size(self) -> int | None:
        """Return None, since the size is unknown; clips without frames are small."""
        return None

    def get_read_tasks(
        self,
        parallelism: int,  # noqa: ARG002 - always one task per shard
        per_task_row_limit: int | None = None,  # noqa: ARG002
        data_context: DataContext | None = None,  # noqa: ARG002
    ) -> list[ReadTask]:
        """Return one task per shard."""
        return self._tasks


def _read_task(num_clips: int, clips: Callable[[], Sequence[Clip]]) -> ReadTask:
    def blocks() -> Iterator[pa.Table]:
        for clip in clips():
            yield ClipMessage(clip).to_table()

    return ReadTask(blocks, BlockMetadata(num_rows=num_clips, size_bytes=None, input_files=None, exec_stats=None))


def _source(plan: RunPlan, kind: Literal["to_encode", "cached"]) -> Dataset:
    """Return a dataset with one read task per shard; a shard planned in this process is split over several tasks."""
    tasks = []
    for shard in plan.shards:
        if isinstance(shard.held, Plan):
            parts = deal(getattr(shard.held, kind), _MAX_SHARDS)
            tasks += [_read_task(len(clips), partial(tuple, clips)) for clips in parts]
        elif count := getattr(shard.counts, f"clips_{kind}"):
            tasks.append(_read_task(count, partial(_fetch, shard, kind)))
    # A read task does little work, and a reserved CPU would only be taken from the decode actors. Since it reserves
    # none, only `concurrency` keeps Ray from starting a process for every shard at once.
    dataset: Dataset = ray.data.read_datasource(
        PlanSource(tasks),
        num_cpus=0,
        concurrency=min(SHARDS_AT_ONCE, len(tasks)),  # Ray warns if it exceeds the number of tasks
        override_num_blocks=len(tasks),
    )
    return dataset


def _fetch(shard: Shard, kind: str) -> tuple[Clip, ...]:
    clips: tuple[Clip, ...] = getattr(shard.fetch(), kind)
    return clips


def stream(
    plan: RunPlan, pools: Pools, settings: StageSettings, stages: Sequence[type[Stage]] = STAGES
) -> Iterator[ClipMessage]:
    """Execute a plan, yielding each clip's outcome as it is ready, in no particular order.

    Args:
        plan: The plan.
        pools: Actor pools of the stages.
        settings: Constructor argument of every actor.
        stages: Stages to execute; benchmarks pass others to measure the cost of the graph itself.

    Raises:
        FatalError: a stage raised it to end the run.
    """
    with _data_context():
        outcomes = _graph(plan, pools, settings, stages)
    with fatal_errors_unwrapped():
        for block in outcomes.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            yield from ClipMessage.each_of(block)


def _graph(plan: RunPlan, pools: Pools, settings: StageSettings, stages: Sequence[type[Stage]]) -> Dataset:
    planned = plan.counts
    sources: list[Dataset] = []

    def through(source: Dataset, stage: type[Stage]) -> Dataset:
        pool = pools[stage.name]
        mapped: Dataset = source.map_batches(
            stage,
            fn_constructor_args=(settings,),
            batch_size=stage.batch_size(planned, pool),
            batch_format="pyarrow",
            zero_copy_batch=True,
            compute=ActorPoolStrategy(min_size=pool.size, max_size=pool.most),
            num_cpus=pool.num_cpus,
            num_gpus=pool.num_gpus,
        )
        return mapped

    if planned.clips_to_encode:
        making = (stage for stage in stages if stage.makes_tokens)
        sources.append(reduce(through, making, _source(plan, "to_encode")))
    if planned.clips_cached:
        sources.append(_source(plan, "cached"))
    first, *others = sources
    joined = first.union(*others) if others else first
    return reduce(through, (stage for stage in stages if not stage.makes_tokens), joined)


@contextmanager
def _data_context() -> Iterator[None]:
    """Apply this module's Ray Data settings to datasets made inside; the caller's settings are unchanged."""
    ours = DataContext.get_current().copy()
    ours.target_max_block_size = 1  # in bytes, so that each clip becomes a separate block
    # Otherwise Ray wraps the error of a stage in one that loses it when it is sent to this process.
    ours.raise_original_map_exception = True
    ours.enable_progress_bars = False
    ours.execution_options.preserve_order = False
    with DataContext.current(ours):
        yield
