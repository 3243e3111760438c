"""Pool sizes for every kind of cluster, without one."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.cluster.resources import Pool, Pools, clips_per_batch, plan_pools
from pipeline.errors import ClusterTooSmallError
from pipeline.resources_config import ResourcesConfig


def pools(num_cpus: float, gpus: tuple[int, ...] = (), *, encodes: bool = True, **resources: dict[str, Any]) -> Pools:
    """The pools of a job with the given resources."""
    config = ResourcesConfig.model_validate(resources)
    return plan_pools(config, cpus_per_node=(num_cpus,), gpus_per_node=gpus, encodes=encodes)


@pytest.mark.parametrize(
    ("num_cpus", "gpus", "decode", "encode", "answer"),
    [
        # No GPU: the model runs on CPUs it does not reserve, and decoding leaves it half of them.
        (1, (), 1, (1, 0.0), (1, 0.0)),
        (2, (), 1, (1, 0.0), (1, 0.0)),
        (16, (), 8, (1, 0.0), (1, 0.0)),
        # One GPU is shared.
        (2, (1,), 2, (1, 0.4), (1, 0.6)),
        (16, (1,), 16, (1, 0.4), (1, 0.6)),
        # Several: each actor its own, encode the smaller part.
        (8, (2,), 8, (1, 1.0), (1, 1.0)),
        (8, (1, 1), 8, (1, 1.0), (1, 1.0)),
        (8, (3,), 8, (1, 1.0), (2, 1.0)),
        (64, (8,), 64, (3, 1.0), (5, 1.0)),
        (64, (4, 4, 2), 64, (4, 1.0), (6, 1.0)),
    ],
)
def test_what_a_cluster_gets_by_default(
    num_cpus: float, gpus: tuple[int, ...], decode: int, encode: tuple[int, float], answer: tuple[int, float]
) -> None:
    """Every GPU is used, and model actors reserve no CPU they might wait for; without GPUs a trace, if it is left."""
    made = pools(num_cpus, gpus)
    trace = 0.0 if gpus or num_cpus == 1 else 0.01
    expected = (Pool(decode, 1.0, 0.0), Pool(encode[0], trace, encode[1]), Pool(answer[0], trace, answer[1]))
    assert (made["decode"], made["encode"], made["answer"]) == expected
    assert made["encode"].size * made["encode"].num_gpus + made["answer"].size * made[
        "answer"
    ].num_gpus == pytest.approx(sum(gpus))


@pytest.mark.parametrize(("gpus", "size", "share"), [((), 1, 0.0), ((1,), 1, 1.0), ((4, 4), 8, 1.0)])
def test_without_anything_to_encode_the_answer_pool_has_the_cluster(
    gpus: tuple[int, ...], size: int, share: float
) -> None:
    """And no encode pool starts."""
    made = pools(4, gpus, encodes=False)
    assert made.by_stage == {"answer": Pool(size, 0.0 if gpus else 0.01, share)}


def test_the_jobs_own_wishes_win() -> None:
    """All of them, for each pool by itself."""
    made = pools(
        8,
        (2,),
        decode={"concurrency": 3, "num_cpus": 2},
        encode={"concurrency": 2, "num_gpus": 0.25, "num_cpus": 0.5},
        answer={"concurrency": 3, "num_gpus": 0.5},
    )
    assert (made["decode"], made["encode"], made["answer"]) == (
        Pool(3, 2.0, 0.0),
        Pool(2, 0.5, 0.25),
        Pool(3, 0.0, 0.5),
    )


@pytest.mark.parametrize(("gpus", "asked", "bound"), [((), None, 4), ((1,), None, 4), ((8,), None, 8), ((8,), 1, 1)])
def test_decoded_clips_are_bounded_by_the_encoders_there_are(
    gpus: tuple[int, ...], asked: int | None, bound: int
) -> None:
    """Two for each encode actor and two more; the job's own number wins."""
    config = ResourcesConfig(max_decoded_clips=asked)
    assert plan_pools(config, cpus_per_node=(8,), gpus_per_node=gpus, encodes=True).max_decoded_clips == bound


@pytest.mark.parametrize(("cpus_each", "size"), [(0.5, 8), (1, 8), (2, 4), (3, 2), (8, 1)])
def test_decode_actors_fill_the_cpus(cpus_each: float, size: int) -> None:
    """As many as fit; one per CPU at most, however little each reserves."""
    assert pools(8, (1,), decode={"num_cpus": cpus_each})["decode"] == Pool(size, cpus_each, 0.0)


@pytest.mark.parametrize(
    ("gpus", "encode", "answer", "size"),
    [
        ((1,), {"num_cpus": 1}, {}, 7),
        ((1,), {"num_cpus": 1.5}, {"num_cpus": 1}, 5),
        ((4,), {"num_cpus": 1}, {"num_cpus": 2}, 1),  # 1 encode actor and 3 of answer
        ((1,), {"num_cpus": 0.1}, {"num_cpus": 0.9}, 7),
        ((), {"num_cpus": 2}, {}, 4),  # within the half that decode leaves
        ((), {"num_cpus": 6}, {}, 2),
    ],
)
def test_decode_leaves_the_cpus_that_model_actors_reserve(
    gpus: tuple[int, ...], encode: dict[str, Any], answer: dict[str, Any], size: int
) -> None:
    """A job that reserves CPUs for its models is not refused for want of the CPUs that decode would take."""
    assert pools(8, gpus, encode=encode, answer=answer)["decode"] == Pool(size, 1.0, 0.0)


@pytest.mark.parametrize(
    ("gpus", "encode", "answer"),
    [
        ((1,), {"concurrency": 2, "num_gpus": 0.25}, {"concurrency": 1, "num_gpus": 0.5}),
        ((1,), {"num_gpus": 1.0}, {"num_gpus": 0.0}),
        ((1,), {"num_gpus": 0.9}, {"num_gpus": 0.1}),  # 1 - 0.9 < 0.1 in binary
        ((2,), {"concurrency": 2, "num_gpus": 0.6}, {"concurrency": 2, "num_gpus": 0.4}),
        ((1, 1), {"concurrency": 2, "num_gpus": 0.6}, {"concurrency": 2, "num_gpus": 0.4}),
        ((1,), {"concurrency": 5, "num_gpus": 0.1}, {"concurrency": 5, "num_gpus": 0.1}),
        ((1, 3), {"concurrency": 1, "num_gpus": 2.0}, {"concurrency": 2, "num_gpus": 1.0}),
    ],
)
def test_shares_that_fit_are_accepted(gpus: tuple[int, ...], encode: dict[str, Any], answer: dict[str, Any]) -> None:
    """Shares of one device add up on it (ten tenths are one), whole ones stay on one node."""
    made = pools(4, gpus, encode=encode, answer=answer)
    assert (made["encode"].num_gpus, made["answer"].num_gpus) == (encode["num_gpus"], answer["num_gpus"])


@pytest.mark.parametrize(
    ("num_cpus", "gpus", "resources", "message"),
    [
        (2, (1,), {"encode": {"num_gpus": 1.0}}, r"can't be placed on 1 GPUs .*encode 1 x \(0 CPU, 1 GPU\)"),
        (2, (1,), {"encode": {"concurrency": 2}}, r"encode 2 x \(0 CPU, 0\.4 GPU\), answer 1 x \(0 CPU, 0\.6 GPU\)"),
        (2, (2,), {"answer": {"concurrency": 2}}, r"on 2 GPUs .*lower resources\.encode or resources\.answer"),
        # 1.8 of 2 GPUs, and yet no device has room for a third share of 0.6.
        (2, (2,), {"encode": {"concurrency": 2, "num_gpus": 0.6}, "answer": {"num_gpus": 0.6}}, "on 2 GPUs"),
        # Two whole devices exist, on two nodes.
        (2, (1, 1), {"encode": {"num_gpus": 2.0}, "answer": {"num_gpus": 0.0}}, "on 2 GPUs"),
        (2, (), {"encode": {"num_gpus": 0.5}}, r"can't be placed on 0 GPUs .*wait until a node with a GPU has joined"),
        (2, (), {"decode": {"concurrency": 3}}, r"reserve 3 CPUs, but the cluster has 2 .*lower resources\.\*\."),
        (2, (), {"encode": {"num_cpus": 1.5}}, r"reserve 2\.5 CPUs, but the cluster has 2"),
        (0.5, (), {}, r"reserve 1 CPUs, but the cluster has 0\.5"),
        (4, (1,), {"decode": {"num_cpus": 8}}, "reserve 8 CPUs, but the cluster has 4"),
    ],
)
def test_a_cluster_that_is_too_small_is_said_with_the_fix(
    num_cpus: float, gpus: tuple[int, ...], resources: dict[str, Any], message: str
) -> None:
    """Instead of a run that waits for ever: what is asked, what there is, what to change."""
    with pytest.raises(ClusterTooSmallError, match=message):
        pools(num_cpus, gpus, **resources)


def test_pools_that_start_nothing_need_no_room() -> None:
    """With nothing to encode, decode's and encode's wishes count for nothing."""
    wishes = {"decode": {"concurrency": 50}, "encode": {"num_gpus": 4.0}}
    with pytest.raises(ClusterTooSmallError):
        pools(2, (1,), **wishes)
    assert pools(2, (1,), encodes=False, **wishes)["answer"] == Pool(1, 0.0, 1.0)
    with pytest.raises(ClusterTooSmallError, match=r"\(answer 2 x \(0 CPU, 1 GPU\)\)"):
        pools(2, (1,), encodes=False, answer={"concurrency": 2})


@pytest.mark.parametrize(
    ("num_clips", "num_answers", "num_actors", "expected", "while_encoding"),
    [
        (1000, 1000, 1, 16, 16),  # one question each fills a batch with 16 clips
        (100, 300, 2, 5, 3),
        (1000, 3000, 2, 5, 5),
        (100, 1600, 1, 1, 1),
        (100, 5000, 1, 1, 1),  # one clip is more than a batch
        (4, 4, 2, 2, 1),  # every actor gets some
        (3, 3, 4, 1, 1),
        (1, 1, 1, 1, 1),
    ],
)
def test_clips_with_few_questions_share_a_batch(
    num_clips: int, num_answers: int, num_actors: int, expected: int, while_encoding: int
) -> None:
    """Until it is full, but not at the cost of an idle actor, nor of a first answer that comes late."""
    pool = Pool(num_actors, 0.0, 0.0)
    assert clips_per_batch(num_clips, num_answers, pool, encodes=False) == expected
    assert clips_per_batch(num_clips, num_answers, pool, encodes=True) == while_encoding


@pytest.mark.parametrize(("questions", "expected"), [(1, 64), (4, 16), (20, 3), (33, 1), (200, 1)])
def test_a_gpu_answers_more_at_a_time(questions: int, expected: int) -> None:
    """Never one more clip than its rows hold."""
    assert clips_per_batch(1000, 1000 * questions, Pool(1, 0.0, 0.6), encodes=False) == expected


def test_a_pool_may_grow() -> None:
    """Between two bounds, of which the lower one has to fit; what is held in memory goes by the upper one."""
    made = pools(
        4,
        (1,),
        decode={"concurrency": [1, 8]},
        encode={"concurrency": [1, 3], "num_gpus": 0.3},
        answer={"num_gpus": 0.6},
    )
    assert made["decode"] == Pool(1, 1.0, 0.0, max_size=8)
    assert made["encode"] == Pool(1, 0.0, 0.3, max_size=3)
    assert (made["encode"].most, made["answer"].most, made.max_decoded_clips) == (3, 1, 8)
    assert made.of_one()["decode"] == Pool(1, 1.0, 0.0)
    with pytest.raises(ClusterTooSmallError):
        pools(4, (1,), decode={"concurrency": [5, 8]})
    for wrong in ([3, 2], [0, 2], [1, 2, 3]):
        with pytest.raises(ValidationError):
            ResourcesConfig.model_validate({"decode": {"concurrency": wrong}})


@pytest.mark.parametrize(
    ("nodes", "fits"), [((8.0,), True), ((4.0, 4.0), True), ((2.0,) * 4, False), ((5.0, 3.0), False)]
)
def test_an_actors_cpus_are_on_one_node(nodes: tuple[float, ...], fits: bool) -> None:
    """Two that want four each, on eight CPUs."""
    config = ResourcesConfig.model_validate({"decode": {"concurrency": 2, "num_cpus": 4}})

    def plan() -> Pools:
        return plan_pools(config, cpus_per_node=nodes, gpus_per_node=(), encodes=True)

    if fits:
        assert plan()["decode"].size == 2
    else:
        with pytest.raises(ClusterTooSmallError, match="must be on one node"):
            plan()
