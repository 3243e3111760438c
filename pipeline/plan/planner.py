"""Planning a run: what is on storage is read once, shards are planned, new files are probed.

A small job is one shard, planned in this process, without Ray. A large one is many, each a Ray task; what they find
stays in Ray's object store until its clips are dealt out, and the driver holds numbers only.
"""

from __future__ import annotations

import pickle
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.exceptions import RayError

from pipeline.clip import Clip, Failure
from pipeline.cluster.connection import fatal_cause
from pipeline.config import JobConfig
from pipeline.inputs import QuestionTable, VideoTable
from pipeline.plan.history import PLAN_STAGE
from pipeline.plan.plan import Plan, PlanCounts
from pipeline.plan.probe import Probe, ProbeTable, probe_clips
from pipeline.plan.shards import (
    ROWS_PER_SHARD,
    ShardPlan,
    ShardSummary,
    Snapshot,
    list_tokens,
    num_shards,
    plan_shard,
    survey,
)
from pipeline.run.committer import Committer
from pipeline.store.fingerprint import Fingerprints
from pipeline.store.ledger import Ledger
from pipeline.store.storage import Storage
from pipeline.store.tokens import TokenStore


@dataclass(frozen=True)
class PlannedShard:
    """A shard's part of the plan.

    Attributes:
        summary: Its numbers.
        held: The part itself, or where Ray keeps it, pickled and compressed.
    """

    summary: ShardSummary
    held: ShardPlan | ray.ObjectRef[bytes]

    def fetch(self) -> ShardPlan:
        """The part itself."""
        if isinstance(self.held, ShardPlan):
            return self.held
        found: ShardPlan = pickle.loads(zlib.decompress(ray.get(self.held)))  # noqa: S301 - from a task of this run
        return found


@dataclass(frozen=True)
class RunPlan:
    """What a run has to do, shard by shard."""

    shards: tuple[PlannedShard, ...]

    @classmethod
    def of_one(cls, clip: Clip, *, is_cached: bool) -> RunPlan:
        """A plan of one clip, with or without committed tokens."""
        clips: tuple[tuple[Clip, ...], tuple[Clip, ...]] = ((), (clip,)) if is_cached else ((clip,), ())
        plan = Plan(*clips, (), 1, len(clip.question_ids), 0, 0)
        return cls((PlannedShard(ShardSummary(PlanCounts.of(plan)), ShardPlan(plan)),))

    @property
    def counts(self) -> PlanCounts:
        """The numbers of all shards."""
        return reduce(add, (shard.summary.counts for shard in self.shards), PlanCounts())

    @property
    def changed(self) -> tuple[str, ...]:
        """`video_id` of every row whose file was replaced since an earlier run."""
        return tuple(video_id for shard in self.shards for video_id in shard.summary.changed)


class Planner:
    """Plans one run.

    Args:
        job: The job.
        prints: Its fingerprints.
        storage: Its output.
        videos: Its rows.
        questions: Its questions.
        run_id: Names the probes that are committed.
        committer: Takes what fails before a stage has begun, and keeps the lease alive.
        connect: Makes sure that this process is connected to Ray; called before the first task.
        rows_per_shard: Rows that are planned at once, about.
    """

    def __init__(
        self,
        job: JobConfig,
        prints: Fingerprints,
        storage: Storage,
        videos: VideoTable,
        questions: QuestionTable,
        *,
        run_id: str,
        committer: Committer,
        connect: Callable[[], object],
        rows_per_shard: int = ROWS_PER_SHARD,
    ) -> None:
        self._job = job
        self._prints = prints
        self._questions = questions
        self._run_id = run_id
        self._committer = committer
        self._connect = connect
        self._ledger = Ledger(storage, prints.answers)
        self._probes = ProbeTable(storage)
        self._rows = videos.shards(num_shards(len(videos), rows_per_shard))
        self._on_ray = len(self._rows) > 1
        # Files that could not be cut into windows, by `source_id`.
        self._uncut: dict[str, Failure] = {}

    def plan(self) -> RunPlan:
        """Decide what is left to do.

        Raises:
            FatalError: input that stops the run; see `survey` and `plan_shard`.
        """
        if self._on_ray:
            self._connect()
        count = len(self._rows)
        probed = self._shared(self._probes.lengths())
        surveyed = self._each(survey, [(rows, self._job, probed) for rows in self._rows], num_returns=2)
        lengths = [self._measure(index, self._fetch(unknown)) for index, (unknown, _) in enumerate(surveyed)]
        failed, committed = self._ledger.failure_table(), self._committed()
        snapshot = self._shared(Snapshot(self._job, self._prints, self._questions, failed, committed))
        tasks = [(found, index, count, snapshot, lengths[index]) for index, (_, found) in enumerate(surveyed)]
        planned = self._each(_plan_for_ray if self._on_ray else plan_shard, tasks, num_returns=2)
        return RunPlan(tuple(self._planned(*returned) for returned in planned))

    def probe(self, todo: RunPlan) -> RunPlan:
        """Read the packets of new files, shard by shard; clips whose file is no video fail here and leave the plan."""
        if any(shard.summary.num_unprobed for shard in todo.shards):
            self._connect()
        return RunPlan(tuple(self._probe(index, shard) for index, shard in enumerate(todo.shards)))

    def _measure(self, index: int, unknown: Sequence[Clip]) -> dict[str, float]:
        """Probe files for their seconds, by `source_id`, so that they can be cut into windows.

        One that can't be probed stays whole, and fails as every clip does: tried again at once, it might be answered as
        one clip beside the windows that a later run cuts.
        """
        lengths: dict[str, float] = {}
        if unknown:
            self._connect()
        for results in self._probed(unknown, f"windows-{index:03d}"):
            self._uncut.update((clip.source_id, result) for clip, result in results if isinstance(result, Failure))
            lengths.update(
                (clip.source_id, result.header.duration_s) for clip, result in results if isinstance(result, Probe)
            )
            self._committer.tick()
        return lengths

    def _probe(self, index: int, shard: PlannedShard) -> PlannedShard:
        if not shard.summary.num_unprobed:
            return shard
        part = shard.fetch()
        failed = {clip.clip_id for clip in part.unprobed if clip.source_id in self._uncut}
        for clip in part.unprobed:
            if clip.clip_id in failed:
                self._committer.add_failure(clip, self._uncut[clip.source_id])
        new = [clip for clip in part.unprobed if clip.clip_id not in failed]
        for results in self._probed(new, f"{index:03d}"):
            for clip, result in results:
                if isinstance(result, Failure):
                    self._committer.add_failure(clip, result)
                    failed.add(clip.clip_id)
            self._committer.flush()
        left = replace(part.plan, to_encode=tuple(clip for clip in part.plan.to_encode if clip.clip_id not in failed))
        summary = replace(shard.summary, counts=PlanCounts.of(left), num_unprobed=0)
        return PlannedShard(summary, ray.put(_packed(ShardPlan(left))) if self._on_ray else ShardPlan(left))

    def _probed(self, clips: Sequence[Clip], part: str) -> Iterator[list[tuple[Clip, Probe | Failure]]]:
        """Probe files, and commit what is found chunk by chunk: a run that is killed does not read these again."""
        for number, results in enumerate(probe_clips(clips, self._job.storage_options, self._job.resources.decode)):
            found = [(clip, result) for clip, result in results if isinstance(result, Probe)]
            self._probes.append(found, f"{self._run_id}-{part}-{number:05d}")
            yield results

    def _planned(self, summary: Any, part: Any) -> PlannedShard:  # noqa: ANN401 - see `_each`
        told: ShardSummary = self._fetch(summary)
        for failure in told.failures:
            self._committer.add_failure(failure.clip, Failure.of(failure.error, PLAN_STAGE, failure.question_id))
        self._committer.tick()
        # The driver's own copy: were a node lost and the task repeated, it would plan what is left by then.
        return PlannedShard(told, ray.put(self._fetch(part)) if self._on_ray else part)

    def _committed(self) -> NDArray[np.bytes_]:
        if not self._job.keeps_tokens:
            return np.array([], dtype="S32")
        store = TokenStore(Storage(self._job.tokens_root, self._job.storage_options), self._prints.tokens)
        count = len(self._rows)
        listed = self._each(list_tokens, [(store, index, count) for index in range(count)], num_returns=1)
        return np.concatenate([self._fetch(keys) for keys in listed])

    def _each(self, function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]], *, num_returns: int) -> list[Any]:
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


def _plan_for_ray(*arguments: Any) -> tuple[ShardSummary, bytes]:  # noqa: ANN401 - of `plan_shard`
    """Packed, the driver can pass a part on without making objects of it."""
    summary, part = plan_shard(*arguments)
    return summary, _packed(part)


def _packed(part: ShardPlan) -> bytes:
    # Half of it are hexadecimal digits.
    return zlib.compress(pickle.dumps(part), level=1)
