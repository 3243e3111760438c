"""Clips to compress, and the time that an action takes."""

import ctypes
import math
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pyarrow as pa
import torch
from torch import Tensor

# A measurement of CPU time takes at least this long, and no action is taken to be shorter than a tick.
SHORTEST_SECONDS, _TICK_SECONDS = 0.02, 1e-6
SCENE_FRAMES = 16

Clip = tuple[Tensor, Tensor]


def drifting_clip(num_frames: int, num_tokens: int, width: int, seed: int = 0) -> Clip:
    """Scenes of 16 frames in which tokens move a little: `[T, N, D]` features and `[T, N]` scores, float32."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.empty(num_frames, num_tokens, width)
    for first in range(0, num_frames, SCENE_FRAMES):
        scene = torch.randn(num_tokens, width, generator=generator) + torch.randn(width, generator=generator)
        part = features[first : first + SCENE_FRAMES]
        part.normal_(generator=generator).mul_(0.45).add_(scene)
    return features, torch.rand(num_frames, num_tokens, generator=generator).softmax(dim=-1)


@contextmanager
def single_thread() -> Iterator[None]:
    """Run torch and Arrow on one thread: threads that wait for work take CPU time too."""
    before = ((torch.set_num_threads, torch.get_num_threads()), (pa.set_cpu_count, pa.cpu_count()))
    try:
        for set_threads, _ in before:
            set_threads(1)
        yield
    finally:
        for set_threads, number in before:
            set_threads(number)


def cpu_seconds(action: Callable[[], object]) -> float:
    """Run an action; return the CPU time of this process, system time included."""
    start = time.process_time()
    action()
    return time.process_time() - start


def runs_to_fill(seconds: float, action: Callable[[], object]) -> int:
    """Return how often to run an action to fill that much CPU time, by one run of it; at least once."""
    return max(1, math.ceil(seconds / max(cpu_seconds(action), _TICK_SECONDS)))


class Spent(NamedTuple):
    """Seconds of an action: CPU time of this process, its ended children and a named child; and wall time."""

    cpu: float
    wall: float


def spent(action: Callable[[], object], child: int | None = None) -> Spent:
    """Run an action once and return what it took.

    Args:
        action: What to run.
        child: Id of a process that works for it and stays alive.
    """
    cpu, wall = _cpu_so_far(child), time.perf_counter()
    action()
    return Spent(_cpu_so_far(child) - cpu, time.perf_counter() - wall)


def _cpu_so_far(child: int | None) -> float:
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = time.process_time() + ended.ru_utime + ended.ru_stime
    if child is None:
        return total
    # The process's CPU clock, which is finer than the ticks in /proc.
    clock = ctypes.c_int()
    if ctypes.CDLL(None).clock_getcpuclockid(child, ctypes.byref(clock)):
        raise ProcessLookupError(child)
    return total + time.clock_gettime(clock.value)
