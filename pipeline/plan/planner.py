"""Planning a run: what is on storage is read once, shards are planned, new files are probed.

A small job is one shard, planned in this process, without Ray. A large one is many, each a Ray task; what they find
stays in Ray's object store until its clips are dealt out, and the driver holds numbers only.
"""

from __future__ import annotations

import pickle
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.exceptions import RayError

from pipeline.clip import Clip, Failure
from pipeline.cluster.connection import fatal_cause
from pipeline.inputs import QuestionTable, VideoTable
from pipeline.plan.plan import Plan, PlanCounts
from pipeline.plan.probe import Found, Probe, ProbeTable, probe_clips, probe_in_threads
from pipeline.plan.shards import ROWS_PER_SHARD, Snapshot, list_tokens, num_shards, plan_shard, survey
from pipeline.store.context import RunContext


@dataclass(frozen=True)
class Shard:
    """A shard's part of the plan, as the driver knows it.

    Attributes:
        held: The part itself, or where Ray keeps it, pickled and compressed.
        counts: Its numbers.
        num_unprobed: Length of `Plan.unprobed`.
    """

    held: Plan | ray.ObjectRef[bytes]
    counts: PlanCounts
    num_unprobed: int = 0

    def fetch(self) -> Plan:
        """The part itself."""
        if isinstance(self.held, Plan):
            return self.held
        found: Plan = pickle.loads(zlib.decompress(ray.get(self.held)))  # noqa: S301 - from a task of this run
        return found


@dataclass(frozen=True)
class RunPlan:
    """What a run has to do, shard by shard.

    Attributes:
        shards: The shards.
        changed: `video_id` of every row whose file was replaced since an earlier run.
    """

    shards: tuple[Shard, ...]
    changed: tuple[str, ...] = ()

    @classmethod
    def of(cls, plan: Plan) -> RunPlan:
        """A plan that is held in this process."""
        return cls((Shard(plan, plan.counts),))

    @property
    def counts(self) -> PlanCounts:
        """The numbers of all shards."""
        return sum((shard.counts for shard in self.shards), PlanCounts())


class Planner:
    """Plans one run.

    Args:
        run: The run.
        on_failure: Called with each clip, or question of a clip, that fails before the first stage; may raise to stop
            the run.
        tick: Called after each shard and each chunk of probed files.
        connect: Connects this process to Ray, if it is not connected yet; called before tasks are started. None keeps
            everything in this process: the job is one shard, and files are probed in threads, without limits.
        rows_per_shard: Rows that are planned at once, about.

    Attributes:
        num_probed: Files whose packets were read.
    """

    def __init__(
        self,
        run: RunContext,
        *,
        on_failure: Callable[[Clip, Failure], object],
        tick: Callable[[], object] = lambda: None,
        connect: Callable[[], object] | None = None,
        rows_per_shard: int = ROWS_PER_SHARD,
    ) -> None:
        self._run = run
        self._on_failure = on_failure
        self._tick = tick
        self._connect = connect
        self._rows_per_shard = rows_per_shard
        self._probes = ProbeTable(run.storage)
        self._on_ray = False
        # Files that could not be cut into windows, by `source_id`.
        self._uncut: dict[str, Failure] = {}
        self.num_probed = 0

    def plan(self, videos: VideoTable, questions: QuestionTable) -> RunPlan:
        """Decide what is left to do.

        Raises:
            FatalError: input that stops the run; see `survey` and `plan_shard`.
        """
        count = 1 if self._connect is None else num_shards(len(videos), self._rows_per_shard)
        if self._connect is not None and count > 1:
            self._on_ray = True
            self._connect()
        failed, committed = self._run.ledger.failure_table(), self._committed(count)
        snapshot = self._shared(Snapshot(self._run, questions, self._probes.lengths(), failed, committed))
        surveyed = self._each(survey, [(rows, snapshot) for rows in videos.shards(count)])
        told = [self._fetch(numbers) for numbers, _ in surveyed]
        lengths = [self._measure(index, unknown) for index, (_, unknown) in enumerate(told)]
        tasks = [
            (self._on_ray, clips, index, count, snapshot, lengths[index]) for index, (_, clips) in enumerate(surveyed)
        ]
        shards = tuple(self._planned(*returned) for returned in self._each(_plan, tasks))
        return RunPlan(shards, tuple(video_id for changed, _ in told for video_id in changed))

    def probe(self, todo: RunPlan, at_most: int | None = None) -> RunPlan:
        """Read the packets of new files, shard by shard; clips whose file is no video fail here and leave the plan.

        Args:
            todo: The plan.
            at_most: Of each shard only so many files, spread over them, are read; the others stay in the plan.
        """
        shards = (self._probe(index, shard, at_most) for index, shard in enumerate(todo.shards))
        return replace(todo, shards=tuple(shards))

    def _measure(self, index: int, unknown: Sequence[Clip]) -> dict[str, float]:
        """Probe files for their seconds, by `source_id`, so that they can be cut into windows.

        One that can't be probed stays whole, and fails as every clip does: tried again at once, it might be answered as
        one clip beside the windows that a later run cuts.
        """
        lengths: dict[str, float] = {}
        for clip, result in self._probed(unknown, f"windows-{index:03d}"):
            if isinstance(result, Failure):
                self._uncut[clip.source_id] = result
            else:
                lengths[clip.source_id] = result.header.duration_s
        return lengths

    def _probe(self, index: int, shard: Shard, at_most: int | None) -> Shard:
        if not shard.num_unprobed:
            return shard
        part = shard.fetch()
        failed: set[str] = set()
        new = _spread(part.unprobed, at_most)
        uncut = [(clip, self._uncut[clip.source_id]) for clip in new if clip.source_id in self._uncut]
        probed = self._probed([clip for clip in new if clip.source_id not in self._uncut], f"{index:03d}")
        for clip, result in chain(uncut, probed):
            if isinstance(result, Failure):
                self._on_failure(clip, result)
                failed.add(clip.clip_id)
        left = part.without(failed)
        return Shard(ray.put(_packed(left)) if self._on_ray else left, left.counts)

    def _probed(self, clips: Sequence[Clip], part: str) -> Iterator[Found]:
        """Probe files, and commit what is found chunk by chunk: a run that is killed does not read these again."""
        if not clips:
            return
        job = self._run.job
        if self._connect is None:
            chunks: Iterable[list[Found]] = [probe_in_threads(clips, job.storage_options)]
        else:
            self._connect()
            chunks = probe_clips(clips, job.storage_options, job.resources.decode)
        for number, chunk in enumerate(chunks):
            found = [(clip, result) for clip, result in chunk if isinstance(result, Probe)]
            self.num_probed += len(found)
            self._probes.append(found, f"{self._run.run_id}-{part}-{number:05d}")
            yield from chunk
            self._tick()

    def _planned(self, told: Any, part: Any) -> Shard:  # noqa: ANN401 - see `_each`
        counts, failures, num_unprobed = self._fetch(told)
        for clip, failure in failures:
            self._on_failure(clip, failure)
        self._tick()
        # The driver's own copy: were a node lost and the task repeated, it would plan what is left by then.
        return Shard(ray.put(self._fetch(part)) if self._on_ray else part, counts, num_unprobed)

    def _committed(self, count: int) -> NDArray[np.bytes_]:
        if not self._run.job.keeps_tokens:
            return np.array([], dtype="S32")
        store = self._run.token_store()
        listed = self._each(list_tokens, [(store, index, count) for index in range(count)], num_returns=1)
        return np.concatenate([self._fetch(keys) for keys in listed])

    def _each(self, function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]], num_returns: int = 2) -> list[Any]:
        """Call a function for each shard, here or in Ray tasks: what it returns, or where Ray keeps that."""
        if not self._on_ray:
            return [function(*arguments) for arguments in tasks]
        remote = ray.remote(num_returns=num_returns)(function)
        return [remote.remote(*arguments) for arguments in tasks]

    def _shared(self, value: object) -> Any:  # noqa: ANN401 - the value, or where Ray keeps it
        return ray.put(value) if self._on_ray else value

    def _fetch(self, held: Any) -> Any:  # noqa: ANN401 - see `_each`
        if not isinstance(held, ray.ObjectRef):
            return held
        try:
            return ray.get(held)
        except RayError as error:
            # Ray wraps what a task raised; the cause says what to do.
            if (fatal := fatal_cause(error)) is not None:
                raise fatal from error
            raise


def _plan(packs: bool, *arguments: Any) -> tuple[Any, Plan | bytes]:  # noqa: ANN401
    """`plan_shard`, and what the driver is told of it; packed, it can pass a part on without making objects of it."""
    part = plan_shard(*arguments)
    return (part.counts, part.failures, len(part.unprobed)), _packed(part) if packs else part


def _packed(part: Plan) -> bytes:
    # Half of it are hexadecimal digits.
    return zlib.compress(pickle.dumps(part), level=1)


def _spread(clips: Sequence[Clip], at_most: int | None) -> Sequence[Clip]:
    """So many of the clips, or all."""
    if at_most is None or len(clips) <= at_most:
        return clips
    return [clips[index] for index in np.linspace(0, len(clips) - 1, at_most).astype(int)]
