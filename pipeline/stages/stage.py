"""Defines the base class of the stages, which reports to the monitor and turns errors into rows of `failures/`."""

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa
import ray
from ray.exceptions import RayActorError

from flashvid.errors import FatalError
from flashvid.models import ModelSource
from pipeline.clip import ClipMessage, Failure
from pipeline.cluster.connection import raise_if_fatal
from pipeline.cluster.monitor import Worker
from pipeline.cluster.node_model import model_on_this_node
from pipeline.cluster.resources import Pool
from pipeline.config import JobConfig
from pipeline.errors import MonitorLostError, PoisonClipError, SuspectedClipError
from pipeline.inputs import QuestionTable
from pipeline.plan.plan import PlanCounts
from pipeline.store.context import RunContext

# A process may die for a reason other than its clip, such as a preempted node. Two deaths in a row suggest the clip.
_DEATHS_ALLOWED = 2


@dataclass(frozen=True)
class StageSettings:
    """Holds the constructor argument of every actor of a run.

    Attributes:
        run: The run.
        monitor: Handle of the run's `RunMonitor` actor.
        questions: Reference to the job's questions in Ray's object store.
        alone: Whether the actors work on one clip only, which is suspected of killing its processes.
    """

    run: RunContext
    monitor: Any
    questions: ray.ObjectRef[QuestionTable]
    alone: bool = False

    def model(self, *, weights: bool = True) -> ModelSource:
        """Return the run's model on this node (`model_on_this_node`); without `weights`, none are fetched or read."""
        return model_on_this_node(self.run.job.model, self.run.prints.model_identity if weights else None)


class Stage(ABC):
    """Processes clips in a stateful Ray Data actor and returns the same clips, one at a time or in batches.

    A subclass listed in `pipeline.stages.STAGES` is a stage of every run. It takes the pool of its name from `Pools`:
    the one that the job's `resources` describe, or a single actor that reserves nothing.

    Attributes:
        name: Name of the stage, such as decode.
        makes_tokens: Whether clips that have committed tokens skip it.
        counted: What `process` counts, with a description: each name is a metric (see `pipeline.run.metrics`).
        waited_s: Seconds that the current clip waited for other clips; they do not count as this stage's work.
        actor_id: Ray's id of the actor, which stays the same when Ray restarts the actor.
    """

    name: ClassVar[str]
    makes_tokens: ClassVar[bool] = False
    counted: ClassVar[Mapping[str, str]] = {}
    actor_id: str = ""

    def __init__(self, settings: StageSettings) -> None:
        self.settings = settings
        self.tokens = settings.run.token_store()
        self.waited_s = 0.0

    @property
    def job(self) -> JobConfig:
        """Return the run's job."""
        return self.settings.run.job

    @classmethod
    def batch_size(cls, planned: PlanCounts, pool: Pool) -> int:  # noqa: ARG003 - used by stages that take batches
        """Return how many clips an actor gets at a time.

        Args:
            planned: Counts of the run's plan.
            pool: Pool of the stage.
        """
        return 1

    @abstractmethod
    def process(self, message: ClipMessage) -> tuple[ClipMessage, Mapping[str, int]]:
        """Do the stage's work on a clip that has not failed.

        Returns:
            The clip for the next stage, and counts of the work by the names in `counted`.
        """

    def process_together(self, messages: Sequence[ClipMessage]) -> list[tuple[ClipMessage, Mapping[str, int]]]:
        """Do the stage's work on several clips that have not failed.

        An error in one clip may be raised for all of them; the caller then processes each clip alone.

        Returns:
            For each clip, what `process` returns.
        """
        return [self.process(message) for message in messages]

    def after(self, message: ClipMessage) -> None:  # noqa: B027 - most stages have nothing to do here
        """Clean up after a clip; called with the outcome of every clip, including failed ones."""

    def announce(self) -> None:
        """Register this process with the monitor; a subclass calls it last in its constructor."""
        context = ray.get_runtime_context()
        self.actor_id = context.get_actor_id() or ""
        gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
        self.tell("register", Worker(self.name, os.getpid(), context.get_node_id(), gpus))

    def end(self, clip_id: str, counts: Mapping[str, int], seconds: float) -> None:
        """Report the counts, the storage traffic and the seconds of a clip to the monitor."""
        self.tell("end", clip_id, self.name, {**counts, **self.tokens.take_traffic()}, seconds, self.actor_id)

    def tell(self, method: str, *arguments: object) -> Any:  # noqa: ANN401 - the return value of the method
        """Call a method of the run's monitor and wait for its reply.

        Raises:
            MonitorLostError: the monitor's process has died.
        """
        try:
            return ray.get(getattr(self.settings.monitor, method).remote(*arguments))
        except RayActorError as error:
            raise MonitorLostError(
                f"the run's monitor has died, so the run ends; committed answers are kept; start the run again: {error}"
            ) from None

    def __call__(self, block: pa.Table) -> pa.Table:
        """Process a table of clips, one per row, and return their outcomes in the same order."""
        messages = ClipMessage.each_of(block)
        todo = [message for message in messages if not message.has_failed]
        attempted = iter(self._attempt_together(todo) if len(todo) > 1 else map(self._attempt, todo))
        outcomes = [message if message.has_failed else next(attempted) for message in messages]
        for outcome in outcomes:
            self.after(outcome)
        return pa.concat_tables([outcome.to_table() for outcome in outcomes])

    def _attempt_together(self, messages: Sequence[ClipMessage]) -> Iterable[ClipMessage]:
        """Process clips as one batch or, if that fails, one by one, so that a failing clip does not fail the others."""
        clip_ids = [message.clip.clip_id for message in messages]
        # A clip that was begun and never ended may have killed its process. Only clips tried alone show which one did.
        if not self.tell("begin_together", clip_ids, self.name, self.actor_id):
            return map(self._attempt, messages)
        started = time.perf_counter()
        try:
            done = self.process_together(messages)
        except FatalError:
            raise
        except Exception:  # noqa: BLE001 - raised again by the clip at fault, alone
            for clip_id in clip_ids:
                self.end(clip_id, {}, 0.0)
            return map(self._attempt, messages)
        seconds = (time.perf_counter() - started) / len(messages)
        for clip_id, (_, counts) in zip(clip_ids, done, strict=True):
            self.end(clip_id, counts, seconds)
        return [outcome for outcome, _ in done]

    def _attempt(self, message: ClipMessage) -> ClipMessage:
        clip_id = message.clip.clip_id
        deaths = self.tell("begin", clip_id, self.name, self.actor_id)
        started, self.waited_s = time.perf_counter(), 0.0
        counts: Mapping[str, int] = {}
        try:
            if deaths >= _DEATHS_ALLOWED:
                error = PoisonClipError if self.settings.alone else SuspectedClipError
                raise error(f"{deaths} {self.name} processes died on this clip; check the video and the nodes' memory")
            outcome, counts = self.process(message)
        except Exception as error:  # noqa: BLE001 - becomes a row of failures/ with its traceback
            raise_if_fatal(error)
            outcome = message.failed(Failure.of(error, self.name))
        self.end(clip_id, counts, time.perf_counter() - started - self.waited_s)
        return outcome
