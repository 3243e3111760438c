"""How large each pool is and what its actors reserve. Pure: the cluster's size in, pool sizes out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal

from flashvid.engine.constants import CPU_DECODE_ROWS, GPU_DECODE_ROWS
from pipeline.config import PoolConfig, ResourcesConfig
from pipeline.errors import ClusterTooSmallError

# On a single GPU, encode and answer share it; both models' halves must fit its memory together.
_SHARED_ENCODE_GPU = 0.4
_SHARED_ANSWER_GPU = 0.6
_ROUNDING = 1e-9
# CPUs: enough for Ray not to take a node without any.
_PRESENCE = 0.01
# Of each answer actor, at least: it waits for its first one for no longer than a sixteenth of the run.
_BATCHES_WHILE_ENCODING = 16


@dataclass(frozen=True)
class Pool:
    """A pool of actors: what each reserves of its node, and how many there are.

    Attributes:
        size: Actors; where the pool grows, those that it starts with and never goes below.
        num_cpus: Of each.
        num_gpus: Of each.
        max_size: What the pool may grow to; None if it does not.
    """

    size: int
    num_cpus: float
    num_gpus: float
    max_size: int | None = None

    @property
    def most(self) -> int:
        """The most actors that there can be."""
        return self.max_size or self.size


@dataclass(frozen=True)
class Pools:
    """The pools of a run, and the bound that keeps decoding from running ahead of encoding.

    Attributes:
        by_stage: The pool of each stage that the run starts, by its name.
        max_decoded_clips: Clips whose frames may be in memory at once.
    """

    by_stage: Mapping[str, Pool]
    max_decoded_clips: int

    def __getitem__(self, stage: str) -> Pool:
        return self.by_stage[stage]

    def of_one(self) -> Pools:
        """One actor of each kind."""
        alone = {stage: replace(pool, size=1, max_size=None) for stage, pool in self.by_stage.items()}
        return Pools(alone, max_decoded_clips=1)


def plan_pools(
    resources: ResourcesConfig,
    *,
    num_cpus: float,
    gpus_per_node: Sequence[int],
    encodes: bool,
    cpus_per_node: Sequence[float] = (),
    stages: Iterable[str] = (),
) -> Pools:
    """Size the pools for a cluster.

    What the job leaves open: GPU actors reserve no CPU (else half-GPU actors wait for CPUs for ever); on one GPU encode
    and answer share it 0.4 / 0.6, on several each actor has its own. Without GPUs they reserve next to nothing, which
    keeps them off a head that has no CPUs to give, unless not even that is left.

    Args:
        resources: The job's wishes.
        num_cpus: CPUs of the cluster.
        gpus_per_node: GPUs of each node that has some.
        encodes: Whether anything has to be decoded and encoded; else only the answer pool counts.
        cpus_per_node: CPUs of each node; without, they count as one node's.
        stages: Names of the run's stages. One that the job has no resources for is one actor that reserves nothing.

    Raises:
        ClusterTooSmallError: the pools can't all be placed; says what is asked, what there is, and what to change.
    """
    gpus, nodes = sum(gpus_per_node), cpus_per_node or (num_cpus,)
    pools = _gpu_pools(resources, gpus, encodes)
    pools |= {stage: Pool(1, 0.0, 0.0) for stage in stages if not hasattr(resources, stage)}
    max_decoded_clips = resources.max_decoded_clips or 2
    if encodes:
        decode_cpus = 1.0 if resources.decode.num_cpus is None else resources.decode.num_cpus
        # Without GPUs the model runs on the same CPUs: leave it half of them, and always what its actors reserve.
        reserved_cpus = sum(pool.size * pool.num_cpus for pool in pools.values())
        spare_cpus = min(num_cpus if gpus else num_cpus / 2, num_cpus - reserved_cpus + _ROUNDING)
        # An actor's CPUs are on one node: what is left over on several makes no further one.
        room = sum(int(node / max(decode_cpus, 1.0)) for node in nodes)
        least, most = _bounds(resources.decode, max(1, min(room, int(spare_cpus / max(decode_cpus, 1.0)))))
        pools = {"decode": Pool(least, num_cpus=decode_cpus, num_gpus=0.0, max_size=most), **pools}
        # One clip in each encode actor's hands and one waiting for it; a little more to even out long and short ones.
        max_decoded_clips = resources.max_decoded_clips or 2 * pools["encode"].most + 2
    _check(pools, nodes, gpus_per_node)
    if not gpus:
        present = {
            stage: pool if pool.num_cpus or stage == "decode" else replace(pool, num_cpus=_PRESENCE)
            for stage, pool in pools.items()
        }
        with suppress(ClusterTooSmallError):
            _check(present, nodes, gpus_per_node)
            pools = present
    return Pools(pools, max_decoded_clips)


def gpus_taken(pools: Pools) -> int:
    """GPUs that the pools reserve when they start, on one node; actors with a share of a GPU have it on one."""
    wishes = _each(pools.by_stage, "num_gpus")
    count = math.ceil(sum(wishes) - _ROUNDING)
    while not _gpus_fit(wishes, [count]):
        count += 1
    return count


def clips_per_batch(num_clips: int, num_answers: int, pool: Pool, *, encodes: bool) -> int:
    """How many clips an answer actor gets at a time.

    A step of the decoder costs about the same for one question as for all its rows, so clips with few questions share a
    batch; but no actor goes without while others have several clips. Where clips are still to be encoded, a batch
    waits for its last one, and is a small share of them all: the first answers are not long in coming.

    Args:
        num_clips: Clips of the plan.
        num_answers: Their open questions.
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
        # Rounded down for encode: answering is the longer half at several questions a clip.
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
            f"the pools reserve {sum(each):g} CPUs and the cluster has {num_cpus:g} ({asked}); "
            "lower resources.*.concurrency or resources.*.num_cpus"
        )
    if not _cpus_fit(each, cpus_per_node):
        raise ClusterTooSmallError(
            f"the pools can't be placed on nodes of {', '.join(f'{node:g}' for node in cpus_per_node)} CPUs ({asked}); "
            "an actor's CPUs have to be on one node: lower resources.*.num_cpus or resources.*.concurrency"
        )
    if not _gpus_fit(_each(pools, "num_gpus"), gpus_per_node):
        fix = "lower resources.encode or resources.answer: concurrency, or num_gpus so that actors share a GPU"
        if not gpus_per_node:
            fix = "wait until a node with one has joined, or leave resources.*.num_gpus out to run on CPUs"
        raise ClusterTooSmallError(f"the pools can't be placed on {sum(gpus_per_node)} GPUs ({asked}); {fix}")


def _each(pools: Mapping[str, Pool], what: Literal["num_cpus", "num_gpus"]) -> list[float]:
    """What every actor reserves that reserves some of it, the largest first."""
    wishes = [getattr(pool, what) for pool in pools.values() for _ in range(pool.size)]
    return sorted(filter(None, wishes), reverse=True)


def _place(wish: float, free: list[float]) -> bool:
    """Take a wish from the first node, or device, that has room for it; False if there is none."""
    place = next((i for i, left in enumerate(free) if left + _ROUNDING >= wish), None)
    if place is not None:
        free[place] -= wish
    return place is not None


def _cpus_fit(wishes: Sequence[float], cpus_per_node: Sequence[float]) -> bool:
    """First fit, largest first."""
    free = list(cpus_per_node)
    return all(_place(wish, free) for wish in wishes)


def _gpus_fit(wishes: Sequence[float], gpus_per_node: Sequence[int]) -> bool:
    """First fit, largest first: shares inside one device, whole devices inside one node."""
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
