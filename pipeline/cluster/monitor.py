"""The run's bookkeeping among its processes: who works, what was done, which clips kill, how many frames are held.

A single Ray actor per run holds one `RunMonitor`. Nothing that decides whether work is done lives here: losing it ends
the run early, and the next one goes on from what is committed.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

# Pools shrink in silence: for so long an actor counts after a clip that it ended, and after one that it began.
_IDLE_S = 600.0
_LONGEST_CLIP_S = 3600.0


@dataclass(frozen=True)
class Worker:
    """A stage's process, as it announced itself.

    Attributes:
        stage: decode, encode or answer.
        pid: Process id on its node.
        node_id: Ray's id of the node.
        cuda_visible_devices: The GPUs Ray pinned it to; None where it asked for none.
    """

    stage: str
    pid: int
    node_id: str
    cuda_visible_devices: str | None


@dataclass(frozen=True)
class Activity:
    """A snapshot of the run.

    Attributes:
        workers: Every process that started, restarted ones included.
        counts: Work done, by name (`frames_decoded`, `encoder_calls`, ...), retried work included.
        seconds: Time spent per stage, summed over its actors.
        max_decoded_clips: The most clips whose frames were in memory at once.
    """

    workers: tuple[Worker, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    max_decoded_clips: int = 0


class RunMonitor:
    """Bookkeeping of one run; plain Python, wrapped in a Ray actor by `pipeline.run.run`."""

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
        """Note a process that is ready to work."""
        self._workers.append(worker)

    def begin(self, clip_id: str, stage: str, actor_id: str = "") -> int:
        """Note a clip before it is touched, and by whom.

        Returns:
            How often the stage began this clip before without ending it: each time its process died.
        """
        deaths = self._begun[clip_id, stage]
        self._begun[clip_id, stage] += 1
        self._counts_until[stage][actor_id] = self._clock() + _LONGEST_CLIP_S
        return deaths

    def begin_together(self, clip_ids: Sequence[str], stage: str, actor_id: str = "") -> bool:
        """Note clips before they are touched as one batch.

        Returns:
            False, and nothing is noted, if the stage began one of them before without ending it.
        """
        if any((clip_id, stage) in self._begun for clip_id in clip_ids):
            return False
        for clip_id in clip_ids:
            self.begin(clip_id, stage, actor_id)
        return True

    def end(self, clip_id: str, stage: str, counts: Mapping[str, int], seconds: float, actor_id: str = "") -> None:
        """Note what a stage did for a clip, whether it worked or failed."""
        self._begun.pop((clip_id, stage), None)
        for name, count in counts.items():
            self._counts[name] += count
        self._seconds[stage] += seconds
        self._counts_until[stage][actor_id] = self._clock() + _IDLE_S

    def num_actors(self, stage: str) -> int:
        """Actors of a stage that work, or did lately; one that Ray has restarted is the same."""
        now = self._clock()
        self._counts_until[stage] = {actor: until for actor, until in self._counts_until[stage].items() if until > now}
        return len(self._counts_until[stage])

    @property
    def num_held(self) -> int:
        """Clips whose frames are in memory."""
        return len(self._held)

    def admit(self, clip_id: str) -> bool:
        """Ask to hold a clip's frames in memory; the bound holds over all decode actors together.

        A clip that is admitted already (its frames were lost with a node, say) is admitted again.
        """
        if clip_id not in self._admitted and len(self._admitted) >= self._bound:
            return False
        self._admitted.add(clip_id)
        return True

    def hold(self, clip_id: str) -> None:
        """A clip's frames are in memory: what really happens, to be held against the bound."""
        self._held.add(clip_id)
        self._most_held = max(self._most_held, len(self._held))

    def release(self, clip_id: str) -> None:
        """A clip's frames are no longer needed."""
        self._admitted.discard(clip_id)
        self._held.discard(clip_id)

    def activity(self) -> Activity:
        """What happened so far."""
        return Activity(tuple(self._workers), dict(self._counts), dict(self._seconds), self._most_held)
