"""Plans a run: reads once what is on storage, plans each shard, and probes new files.

A small job is one shard, planned in this process without Ray. A large job has many shards, each planned by a Ray task.
Their plans stay in Ray's object store until a read task fetches the clips; the driver holds only counts.
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

from pipeline.clip import Clip, Failure
from pipeline.cluster.connection import fatal_errors_unwrapped
from pipeline.inputs import QuestionTable, VideoTable
from pipeline.inputs.allowed_roots import source_options
from pipeline.plan.plan import Plan, PlanCounts
from pipeline.plan.probe import Found, ProbeTable, probe_clips, probe_in_threads
from pipeline.plan.shards import ROWS_PER_SHARD, Length, Snapshot, list_tokens, num_shards, plan_shard, survey
from pipeline.store.context import RunContext
from pipeline.video.probing import Probe


@dataclass(frozen=True)
class Shard:
    """Holds a shard's plan, or the reference to it, and its counts.

    Attributes:
        held: The plan, or Ray's reference to the plan, pickled and compressed.
        counts: Counts of the plan.
        num_unprobed: Length of `Plan.unprobed`.
    """

    held: Plan | ray.ObjectRef[bytes]
    counts: PlanCounts
    num_unprobed: int = 0

    def fetch(self) -> Plan:
        """Return the shard's plan, from Ray's object store if it is there."""
        if isinstance(self.held, Plan):
            return self.held
        found: Plan = pickle.loads(zlib.decompress(ray.get(self.held)))  # noqa: S301 - from a task of this run
        return found


@dataclass(frozen=True)
class RunPlan:
    """Lists what a run has to do, shard by shard.

    Attributes:
        shards: The shards.
        changed: `video_id` of every row whose file was replaced since an earlier run.
    """

    shards: tuple[Shard, ...]
    changed: tuple[str, ...] = ()

    @classmethod
    def of(cls, plan: Plan) -> RunPlan:
        """Return a run plan of one shard, whose plan is held in this process."""
        return cls((Shard(plan, plan.counts),))

    @property
    def counts(self) -> PlanCounts:
        """Return the sum of the counts of all shards."""
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
        rows_per_shard: Approximate number of rows to plan at once.

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
        # Failures of files that could not be cut into windows, by `source_id`.
        self._uncut: dict[str, Failure] = {}
        self.num_probed = 0

    def plan(self, videos: VideoTable, questions: QuestionTable) -> RunPlan:
        """Return the work that is left to do.

        Raises:
            InputTableError: a row has no value in the job's `source_id_column`.
            QuestionChangedError: a `question_id` has answers to another text.
        """
        count = 1 if self._connect is None else num_shards(len(videos), self._rows_per_shard)
        if self._connect is not None and count > 1:
            self._on_ray = True
            self._connect()
        failed, committed = self._run.ledger.failure_table(), self._committed(count)
        snapshot: Any = Snapshot(self._run, questions, self._probes.lengths(), failed, committed)
        if self._on_ray:
            snapshot = ray.put(snapshot)
        surveyed = self._each(survey, [(rows, snapshot) for rows in videos.shards(count)])
        told = [self._fetch(numbers) for numbers, _ in surveyed]
        lengths = [self._measure(index, unknown) for index, (_, unknown) in enumerate(told)]
        tasks = [
            (self._on_ray, clips, index, count, snapshot, lengths[index]) for index, (_, clips) in enumerate(surveyed)
        ]
        shards = tuple(self._planned(*returned) for returned in self._each(_plan, tasks))
        return RunPlan(shards, tuple(video_id for changed, _ in told for video_id in changed))

    def probe(self, todo: RunPlan, at_most: int | None = None) -> RunPlan:
        """Probe new files, shard by shard, and return the plan without the clips that failed.

        Args:
            todo: The plan.
            at_most: Number of clips to probe per shard, spread evenly over it; the others stay in the plan. None probes
                all.
        """
        shards = (self._probe(index, shard, at_most) for index, shard in enumerate(todo.shards))
        return replace(todo, shards=tuple(shards))

    def _measure(self, index: int, unknown: Sequence[Clip]) -> dict[str, Length]:
        """Probe files and return their lengths, by `source_id`, so that they can be cut into windows.

        A file that can't be probed stays one clip, and `_probe` records this failure for it. Probing it again could
        succeed: the whole file would be answered as one clip, and a later run would answer its windows as well.
        """
        lengths: dict[str, Length] = {}
        for clip, result in self._probed(unknown, f"windows-{index:03d}"):
            if isinstance(result, Failure):
                self._uncut[clip.source_id] = result
            else:
                lengths[clip.source_id] = result.header.duration_s, result.header.num_frames
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
        """Probe files and commit the probes chunk by chunk, so that the run after a killed one does not repeat them."""
        if not clips:
            return
        job = self._run.job
        options = source_options(job.storage_options, job.allowed_roots)
        if self._connect is None:
            chunks: Iterable[list[Found]] = [probe_in_threads(clips, options, job.resources.decode)]
        else:
            self._connect()
            chunks = probe_clips(clips, options, job.resources.decode)
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
        # Copy the plan into an object that the driver owns. If a node were lost, Ray would repeat the task, and the
        # task would plan what is left by then.
        return Shard(ray.put(self._fetch(part)) if self._on_ray else part, counts, num_unprobed)

    def _committed(self, count: int) -> NDArray[np.bytes_]:
        if not self._run.job.keeps_tokens:
            return np.array([], dtype="S32")
        store = self._run.token_store()
        listed = self._each(list_tokens, [(store, index, count) for index in range(count)], num_returns=1)
        return np.concatenate([self._fetch(keys) for keys in listed])

    def _each(self, function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]], num_returns: int = 2) -> list[Any]:
        """Call a function for each shard, here or in Ray tasks, and return the results or Ray's references to them."""
        if not self._on_ray:
            return [function(*arguments) for arguments in tasks]
        remote = ray.remote(num_returns=num_returns)(function)
        return [remote.remote(*arguments) for arguments in tasks]

    def _fetch(self, held: Any) -> Any:  # noqa: ANN401 - see `_each`
        if not isinstance(held, ray.ObjectRef):
            return held
        with fatal_errors_unwrapped():
            return ray.get(held)


def _plan(packs: bool, *arguments: Any) -> tuple[Any, Plan | bytes]:  # noqa: ANN401
    """Plan a shard and return a summary for the driver, and the plan.

    If `packs`, the plan is pickled and compressed, so that the driver can pass it on without unpickling its clips.
    """
    part = plan_shard(*arguments)
    return (part.counts, part.failures, len(part.unprobed)), _packed(part) if packs else part


def _packed(part: Plan) -> bytes:
    # Half of a pickled plan is hexadecimal digits, which compress well.
    return zlib.compress(pickle.dumps(part), level=1)


def _spread(clips: Sequence[Clip], at_most: int | None) -> Sequence[Clip]:
    """Return at most `at_most` of the clips, spread evenly over them; all if it is None."""
    if at_most is None or len(clips) <= at_most:
        return clips
    return [clips[index] for index in np.linspace(0, len(clips) - 1, at_most).astype(int)]
