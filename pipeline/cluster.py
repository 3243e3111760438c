"""The Ray cluster a run works on: the one given, the one already connected, or one of its own on this machine."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import ray
from ray.exceptions import RayError

from flashvid.errors import FatalError


@dataclass(frozen=True)
class ClusterSize:
    """What the cluster has."""

    num_cpus: float
    gpus_per_node: tuple[int, ...]


@contextmanager
def connected(address: str | None = None) -> Iterator[ClusterSize]:
    """Connect to Ray for the duration of a run.

    Args:
        address: A cluster's address; None for the connection there is, then `RAY_ADDRESS`, then a Ray of our own on
            this machine, which ends with the run.
    """
    ours = not ray.is_initialized()
    if ours:
        target = address or os.environ.get("RAY_ADDRESS") or "local"
        # Explicit, since ray.init and the job tools disagree about the default. A Ray of our own listens on this
        # machine only and without a dashboard.
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
        if target == "local":
            # Ray's C++ side reports routine matters as errors on the terminal; its log files keep what matters.
            os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        ray.init(
            address=target,
            logging_level=logging.ERROR,
            log_to_driver=False,
            include_dashboard=False if target == "local" else None,
        )
    try:
        yield _size()
    finally:
        if ours:
            ray.shutdown()


def _size() -> ClusterSize:
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    return ClusterSize(
        num_cpus=sum(node.get("CPU", 0.0) for node in nodes),
        gpus_per_node=tuple(int(node["GPU"]) for node in nodes if node.get("GPU")),
    )


def fatal_cause(error: BaseException) -> FatalError | None:
    """What a task or an actor raised to stop the run, out of what Ray wrapped around it."""
    seen: BaseException | None = error
    while seen is not None:
        # What Ray raises for a task is of its cause's class, too, but with a traceback for a message.
        if isinstance(seen, FatalError) and not isinstance(seen, RayError):
            return seen
        seen = getattr(seen, "cause", None) or seen.__cause__
    return None
