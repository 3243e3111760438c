"""Decides how large each actor pool is and what its actors reserve. Pure: the cluster's size in, pool sizes out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal

from flashvid.engine.constants import CPU_DECODE_ROWS, GPU_DECODE_ROWS
from pipeline.errors import ClusterTooSmallError
from pipeline.resources_config import PoolConfig, ResourcesConfig

# Shares of encode and answer if there is a single GPU; its memory must hold both sides of the model.
_SHARED_ENCODE_GPU = 0.4
_SHARED_ANSWER_GPU = 0.6
_ROUNDING = 1e-9
# CPUs that an actor without GPUs reserves, so that Ray does not place it on a node without CPUs.
_PRESENCE = 0.01
# Minimum number of batches per answer actor while clips are encoded. A batch waits for its last clip, so the first one
# takes at most a sixteenth of the run to arrive.
_BATCHES_WHILE_ENCODING = 16


@dataclass(frozen=True)
class Pool:
    """Describes an actor pool: the number of actors, and what each reserves of its node.

    Attributes:
        size: Number of actors; the minimum, and the number at the start, if the pool can grow.
        num_cpus: CPUs that each actor reserves.
        num_gpus: GPUs that each actor reserves.
        max_size: Maximum number of actors; None if the pool does not grow.
    """

    size: int
    num_cpus: float
    num_gpus: float
    max_size: int | None = None

    @property
    def most(self) -> int:
        """Return the maximum number of actors."""
        return self.max_size or self.size


@dataclass(frozen=True)
class Pools:
    """Holds the actor pools of a run, and the bound that keeps video decoding from running ahead of encoding.

    Attributes:
        by_stage: Pool of each stage that the run starts, by stage name.
        max_decoded_clips: Maximum number of clips whose frames may be in memory at once.
    """

    by_stage: Mapping[str, Pool]
    max_decoded_clips: int

    def __getitem__(self, stage: str) -> Pool:
        return self.by_stage[stage]

    def of_one(self) -> Pools:
        """Return the pools with one actor each, for a run of one clip at a time."""
        alone = {stage: replace(pool, size=1, max_size=None) for stage, pool in self.by_stage.items()}
        return Pools(alone, max_decoded_clips=1)


def plan_pools(
    resources: ResourcesConfig,
    *,
    cpus_per_node: Sequence[float],
    gpus_per_node: Sequence[int],
    encodes: bool,
    stages: Iterable[str] = (),
) -> Pools:
    """Size the actor pools for a cluster.

    Defaults for settings that the job leaves open: GPU actors reserve no CPU, since actors with half a GPU could
    otherwise wait for CPUs forever. Encode and answer share a single GPU as 0.4 and 0.6; with several GPUs, each actor
    has its own. Without GPUs, they reserve 0.01 CPU, which keeps them off a head node without CPUs. They reserve none
    if not even that is free.

    Args:
        resources: Resource settings of the job.
        cpus_per_node: CPUs of each node that has CPUs.
        gpus_per_node: GPUs of each node that has GPUs.
        encodes: Whether any clip has to be decoded and encoded; if not, only the answer pool is sized.
        stages: Names of the run's stages. A stage without resource settings gets one actor that reserves nothing.

    Raises:
        ClusterTooSmallError: the pools can't all be placed; the message says what they reserve, what the cluster has,
            and which setting to change.
    """
    num_cpus, gpus = sum(cpus_per_node), sum(gpus_per_node)
    pools = _gpu_pools(resources, gpus, encodes)
    pools |= {stage: Pool(1, 0.0, 0.0) for stage in stages if not hasattr(resources, stage)}
    max_decoded_clips = resources.max_decoded_clips or 2
    if encodes:
        decode_cpus = 1.0 if resources.decode.num_cpus is None else resources.decode.num_cpus
        # Without GPUs, the model runs on the same CPUs: leave it half of them, and at least what its actors reserve.
        reserved_cpus = sum(pool.size * pool.num_cpus for pool in pools.values())
        spare_cpus = min(num_cpus if gpus else num_cpus / 2, num_cpus - reserved_cpus + _ROUNDING)
        # An actor's CPUs must be on one node, so remainders on several nodes do not add up to another actor.
        room = sum(int(node / max(decode_cpus, 1.0)) for node in cpus_per_node)
        least, most = _bounds(resources.decode, max(1, min(room, int(spare_cpus / max(decode_cpus, 1.0)))))
        pools = {"decode": Pool(least, num_cpus=decode_cpus, num_gpus=0.0, max_size=most), **pools}
        # Each encode actor works on one clip while one waits; two more even out long and short clips.
        max_decoded_clips = resources.max_decoded_clips or 2 * pools["encode"].most + 2
    _check(pools, cpus_per_node, gpus_per_node)
    if not gpus:
        present = {
            stage: pool if pool.num_cpus or stage == "decode" else replace(pool, num_cpus=_PRESENCE)
            for stage, pool in pools.items()
        }
        with suppress(ClusterTooSmallError):
            _check(present, cpus_per_node, gpus_per_node)
            pools = present
    return Pools(pools, max_decoded_clips)


def gpus_taken(pools: Pools) -> int:
    """Return how many GPUs of a single node the pools reserve when they start; a share of a GPU is on one device."""
    wishes = _each(pools.by_stage, "num_gpus")
    count = math.ceil(sum(wishes) - _ROUNDING)
    while not _gpus_fit(wishes, [count]):
        count += 1
    return count


def clips_per_batch(num_clips: int, num_answers: int, pool: Pool, *, encodes: bool) -> int:
    """Return how many clips an answer actor gets at a time.

    A decode step costs about the same for one question as for a full batch, so clips with few questions share a batch,
    but only while there are enough clips for every actor. While clips are still being encoded, a batch waits for its
    last clip; it is then a small share of all clips, so that the first answers come early.

    Args:
        num_clips: Clips of the plan.
        num_answers: Open questions of these clips.
        pool: The answer pool.
        encodes: Whether any of the clips has to be encoded.
    """
    rows = GPU_DECODE_ROWS if pool.num_gpus else CPU_DECODE_ROWS
    enough = rows * num_clips // max(1, num_answers)
    batches = pool.most * (_BATCHES_WHILE_ENCODING if encodes else 1)
    return max(1, min(enough, num_clips // batches))


def _gpu_pools(resources: ResourcesConfig, gpus: int, encodes: bool) -> dict[str, Pool]:
    if not encodes:
        return {"answer": _pool(resources.answer, size=max(1, gpus), num_gpus=1.0 if gpus else 0.0)}
    if gpus <= 1:
        sizes, shares = (1, 1), (_SHARED_ENCODE_GPU * gpus, _SHARED_ANSWER_GPU * gpus)
    else:
        # Rounded down for encode, since answering takes longer with several questions per clip.
        for_encode = max(1, int(gpus * _SHARED_ENCODE_GPU))
        sizes, shares = (for_encode, gpus - for_encode), (1.0, 1.0)
    return {
        "encode": _pool(resources.encode, size=sizes[0], num_gpus=shares[0]),
        "answer": _pool(resources.answer, size=sizes[1], num_gpus=shares[1]),
    }


def _pool(wish: PoolConfig, *, size: int, num_gpus: float) -> Pool:
    least, most = _bounds(wish, size)
    return Pool(
        least,
        num_cpus=wish.num_cpus or 0.0,
        num_gpus=num_gpus if wish.num_gpus is None else wish.num_gpus,
        max_size=most,
    )


def _bounds(wish: PoolConfig, size: int) -> tuple[int, int | None]:
    if isinstance(wish.concurrency, tuple):
        return wish.concurrency
    return wish.concurrency or size, None


def _check(pools: Mapping[str, Pool], cpus_per_node: Sequence[float], gpus_per_node: Sequence[int]) -> None:
    asked = ", ".join(
        f"{name} {pool.size} x ({pool.num_cpus:g} CPU, {pool.num_gpus:g} GPU)" for name, pool in pools.items()
    )
    each, num_cpus = _each(pools, "num_cpus"), sum(cpus_per_node)
    if sum(each) > num_cpus + _ROUNDING:
        raise ClusterTooSmallError(
            f"the pools reserve {sum(each):g} CPUs, but the cluster has {num_cpus:g} ({asked}); "
            "lower resources.*.concurrency or resources.*.num_cpus"
        )
    free = list(cpus_per_node)
    if not all(_place(wish, free) for wish in each):
        raise ClusterTooSmallError(
            f"the pools can't be placed on nodes of {', '.join(f'{node:g}' for node in cpus_per_node)} CPUs ({asked}); "
            "the CPUs of an actor must be on one node: lower resources.*.num_cpus or resources.*.concurrency"
        )
    if not _gpus_fit(_each(pools, "num_gpus"), gpus_per_node):
        fix = "lower resources.encode or resources.answer: concurrency, or num_gpus so that actors share a GPU"
        if not gpus_per_node:
            fix = "wait until a node with a GPU has joined, or remove resources.*.num_gpus from the job to run on CPUs"
        raise ClusterTooSmallError(f"the pools can't be placed on {sum(gpus_per_node)} GPUs ({asked}); {fix}")


def _each(pools: Mapping[str, Pool], what: Literal["num_cpus", "num_gpus"]) -> list[float]:
    """Return what each actor reserves of a resource, largest first, without actors that reserve none."""
    wishes = [getattr(pool, what) for pool in pools.values() for _ in range(pool.size)]
    return sorted(filter(None, wishes), reverse=True)


def _place(wish: float, free: list[float]) -> bool:
    """Subtract a wish from the first node or device with room for it, and return whether there is one."""
    place = next((i for i, left in enumerate(free) if left + _ROUNDING >= wish), None)
    if place is not None:
        free[place] -= wish
    return place is not None


def _gpus_fit(wishes: Sequence[float], gpus_per_node: Sequence[int]) -> bool:
    """Return whether the GPUs that the actors reserve fit the nodes, placed first fit, largest first.

    A share of a GPU is placed on one device, whole GPUs on one node.
    """
    nodes = [[1.0] * count for count in gpus_per_node]
    for wish in wishes:
        if wish > 1.0:
            node = next((node for node in nodes if node.count(1.0) >= wish), None)
            if node is None:
                return False
            for _ in range(int(wish)):
                node[node.index(1.0)] = 0.0
        elif not any(_place(wish, node) for node in nodes):
            return False
    return True
