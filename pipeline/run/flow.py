"""The Ray graph of a run: one Ray Data execution over stateful actor pools.

    clips without tokens ─► decode ─► encode ─┐
                                              ├─► answer ─► the driver
    clips with tokens ────────────────────────┘

Each read task deals out one shard of the plan, one clip per block, so that no pool waits for a neighbour's clip, except
where clips with few questions are answered as one batch. What back-pressure Ray Data applies to bytes is joined by a
bound on clips: `RunMonitor.admit`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal

import pyarrow as pa
import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext, Dataset, Datasource, ReadTask
from ray.data.block import BlockMetadata
from ray.exceptions import RayError

from pipeline.clip import Clip, ClipMessage
from pipeline.cluster.connection import fatal_cause
from pipeline.cluster.resources import Pool, Pools, clips_per_batch
from pipeline.inputs import QuestionTable
from pipeline.plan.plan import shards
from pipeline.plan.planner import PlannedShard, RunPlan
from pipeline.plan.shards import ShardPlan
from pipeline.stages import AnswerStage, DecodeStage, EncodeStage, StageSettings
from pipeline.stages.stage import Stage

_MAX_SHARDS = 64
SHARDS_AT_ONCE = 2
# Decode, encode, answer.
StageClasses = tuple[type[Stage], type[Stage], type[Stage]]
STAGES: StageClasses = (DecodeStage, EncodeStage, AnswerStage)


@dataclass(frozen=True)
class _Deal:
    """Clips that one read task deals out."""

    num_clips: int
    clips: Callable[[], Sequence[Clip]]


class PlanSource(Datasource):
    """The planned clips as a Ray Data source: one read task per shard, one clip per block."""

    def __init__(self, deals: Sequence[_Deal]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._deals = deals

    def estimate_inmemory_data_size(self) -> int | None:
        """Unknown to Ray; the clips are small."""
        return None

    def get_read_tasks(
        self,
        parallelism: int,  # noqa: ARG002 - one task per shard, whatever Ray would prefer
        per_task_row_limit: int | None = None,  # noqa: ARG002
        data_context: DataContext | None = None,  # noqa: ARG002
    ) -> list[ReadTask]:
        """One task per shard."""
        return [_read_task(deal) for deal in self._deals]


def _read_task(deal: _Deal) -> ReadTask:
    def blocks() -> Iterator[pa.Table]:
        for clip in deal.clips():
            yield ClipMessage(clip).to_table()

    metadata = BlockMetadata(num_rows=deal.num_clips, size_bytes=None, input_files=None, exec_stats=None)
    return ReadTask(blocks, metadata)


def _deals(plan: RunPlan, kind: Literal["to_encode", "cached"]) -> list[_Deal]:
    """One per planned shard; what was planned in this process is one shard, and dealt out in several."""
    deals = []
    for shard in plan.shards:
        if isinstance(shard.held, ShardPlan):
            clips: tuple[Clip, ...] = getattr(shard.held.plan, kind)
            deals += [_Deal(len(dealt), partial(tuple, dealt)) for dealt in shards(clips, _MAX_SHARDS)]
        elif count := getattr(shard.summary.counts, f"clips_{kind}"):
            deals.append(_Deal(count, partial(_fetch, shard, kind)))
    return deals


def _fetch(shard: PlannedShard, kind: str) -> tuple[Clip, ...]:
    clips: tuple[Clip, ...] = getattr(shard.fetch().plan, kind)
    return clips


def stream(
    plan: RunPlan,
    pools: Pools,
    settings: StageSettings,
    questions: QuestionTable,
    stages: StageClasses = STAGES,
) -> Iterator[ClipMessage]:
    """Execute a plan, yielding each clip's outcome as it is ready, in no particular order.

    Args:
        plan: What to do.
        pools: Of how many actors.
        settings: What every actor is given.
        questions: What the answer actors are given besides.
        stages: What does it; others than ours measure what the graph itself costs.

    Raises:
        FatalError: raised inside a stage: the run can't go on.
    """
    with _data_context():
        outcomes = _graph(plan, pools, settings, ray.put(questions), stages)
    try:
        for block in outcomes.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            yield from ClipMessage.each_of(block)
    except RayError as error:
        # Ray wraps what a stage raised; the cause says what to do.
        if (fatal := fatal_cause(error)) is not None:
            raise fatal from error
        raise


def _graph(
    plan: RunPlan,
    pools: Pools,
    settings: StageSettings,
    questions: ray.ObjectRef[QuestionTable],
    stages: StageClasses,
) -> Dataset:
    counts, sources, (decode, encode, answer) = plan.counts, [], stages
    encodes = counts.clips_to_encode > 0
    if encodes:
        decoded = _stage(_source(_deals(plan, "to_encode")), decode, pools.decode, settings)
        sources.append(_stage(decoded, encode, pools.encode, settings))
    if counts.clips_cached:
        sources.append(_source(_deals(plan, "cached")))
    first, *others = sources
    joined: Dataset = first.union(*others) if others else first
    together = clips_per_batch(counts.clips_planned, counts.answers_planned, pools.answer, encodes=encodes)
    return _stage(joined, answer, pools.answer, settings, questions, batch_size=together)


def _source(deals: Sequence[_Deal]) -> Dataset:
    # A read task waits for nothing: reserving a CPU would only make it compete with the decode actors. Without one,
    # nothing but this bound keeps Ray from starting a process for every shard at once.
    dataset: Dataset = ray.data.read_datasource(
        PlanSource(deals),
        num_cpus=0,
        concurrency=min(SHARDS_AT_ONCE, len(deals)),  # Ray warns of more than there are
        override_num_blocks=len(deals),
    )
    return dataset


def _stage(
    source: Dataset,
    stage: type[Stage],
    pool: Pool,
    *arguments: object,
    batch_size: int = 1,
) -> Dataset:
    mapped: Dataset = source.map_batches(
        stage,
        fn_constructor_args=arguments,
        batch_size=batch_size,
        batch_format="pyarrow",
        zero_copy_batch=True,
        compute=ActorPoolStrategy(size=pool.size)
        if pool.max_size is None
        else ActorPoolStrategy(min_size=pool.size, max_size=pool.max_size),
        num_cpus=pool.num_cpus,
        num_gpus=pool.num_gpus,
    )
    return mapped


@contextmanager
def _data_context() -> Iterator[None]:
    """Ray Data settings for the datasets made inside; the caller's are untouched."""
    ours = DataContext.get_current().copy()
    ours.target_max_block_size = 1  # bytes: every clip is a block of its own
    ours.enable_progress_bars = False
    ours.execution_options.preserve_order = False
    with DataContext.current(ours):
        yield
