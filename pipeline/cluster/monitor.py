"""Monitors a run's processes: the actors, the work done, the clips that kill processes, and the frames in memory.

One Ray actor per run holds one `RunMonitor`. It does not decide which work is done: if it is lost, the run ends early,
and the next run continues from what is committed.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

# Ray does not say when a pool shrinks, so an actor counts as working for this long after it ended a clip, and for this
# long after it began one.
_IDLE_S = 600.0
_LONGEST_CLIP_S = 3600.0


@dataclass(frozen=True)
class Worker:
    """Describes a process of a stage, as the process registered itself.

    Attributes:
        stage: Name of the stage.
        pid: Process id on its node.
        node_id: Ray's id of the node.
        cuda_visible_devices: GPUs that Ray pinned the process to; None if `CUDA_VISIBLE_DEVICES` is not set.
    """

    stage: str
    pid: int
    node_id: str
    cuda_visible_devices: str | None


@dataclass(frozen=True)
class Activity:
    """Summarises the work of a run so far.

    Attributes:
        workers: Every process that started, including restarted ones.
        counts: Counts of work by name (`frames_decoded`, `encoder_calls`, ...), including repeated work.
        seconds: Seconds of work by stage, summed over the stage's actors.
        max_decoded_clips: Maximum number of clips whose frames were in memory at once.
    """

    workers: tuple[Worker, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    max_decoded_clips: int = 0


class RunMonitor:
    """Counts the work of one run and bounds its clips in memory; `pipeline/run/run.py` wraps it in a Ray actor.

    Args:
        max_decoded_clips: Maximum number of clips whose frames may be in memory at once.
        clock: Function that returns the time in seconds.
    """

    def __init__(self, max_decoded_clips: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._bound = max_decoded_clips
        self._clock = clock
        self._counts_until: dict[str, dict[str, float]] = defaultdict(dict)
        self._admitted: set[str] = set()
        self._held: set[str] = set()
        self._most_held = 0
        self._begun: dict[tuple[str, str], int] = defaultdict(int)
        self._workers: list[Worker] = []
        self._counts: dict[str, int] = defaultdict(int)
        self._seconds: dict[str, float] = defaultdict(float)

    def register(self, worker: Worker) -> None:
        """Record a process that is ready to work."""
        self._workers.append(worker)

    def begin(self, clip_id: str, stage: str, actor_id: str = "") -> int:
        """Record that an actor of a stage is about to work on a clip.

        Returns:
            How often the stage began this clip before and did not end it; each time, its process died.
        """
        deaths = self._begun[clip_id, stage]
        self._begun[clip_id, stage] += 1
        self._counts_until[stage][actor_id] = self._clock() + _LONGEST_CLIP_S
        return deaths

    def begin_together(self, clip_ids: Sequence[str], stage: str, actor_id: str = "") -> bool:
        """Record that an actor of a stage is about to work on clips as one batch.

        Returns:
            Whether the clips may be processed as a batch. False, without a record, if the stage began one of them
            before and did not end it.
        """
        if any((clip_id, stage) in self._begun for clip_id in clip_ids):
            return False
        for clip_id in clip_ids:
            self.begin(clip_id, stage, actor_id)
        return True

    def end(self, clip_id: str, stage: str, counts: Mapping[str, int], seconds: float, actor_id: str = "") -> None:
        """Record the counts and the seconds of a stage's work on a clip that has succeeded or failed."""
        self._begun.pop((clip_id, stage), None)
        for name, count in counts.items():
            self._counts[name] += count
        self._seconds[stage] += seconds
        self._counts_until[stage][actor_id] = self._clock() + _IDLE_S

    def num_actors(self, stage: str) -> int:
        """Return how many actors of a stage work or worked recently; an actor that Ray restarted counts once."""
        now = self._clock()
        self._counts_until[stage] = {actor: until for actor, until in self._counts_until[stage].items() if until > now}
        return len(self._counts_until[stage])

    @property
    def num_held(self) -> int:
        """Return the number of clips whose frames are in memory."""
        return len(self._held)

    def admit(self, clip_id: str) -> bool:
        """Return whether a clip may have its frames in memory; the bound holds over all decode actors together.

        A clip that is already admitted is admitted again, for example if its frames were lost with a node.
        """
        if clip_id not in self._admitted and len(self._admitted) >= self._bound:
            return False
        self._admitted.add(clip_id)
        return True

    def hold(self, clip_id: str) -> None:
        """Record that a clip's frames are in memory, to compare the actual maximum with the bound."""
        self._held.add(clip_id)
        self._most_held = max(self._most_held, len(self._held))

    def release(self, clip_id: str) -> None:
        """Record that a clip's frames are no longer needed, which gives its place to another clip."""
        self._admitted.discard(clip_id)
        self._held.discard(clip_id)

    def activity(self) -> Activity:
        """Return a snapshot of the work so far."""
        return Activity(tuple(self._workers), dict(self._counts), dict(self._seconds), self._most_held)
