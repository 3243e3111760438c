"""The Ray cluster a run works on: the one given, the one already connected, or one of its own on this machine."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import ray
from ray.exceptions import RayError

from flashvid.errors import FatalError
from flashvid.models.devices import usable_gpus
from pipeline.errors import ClusterUnreachableError

_CONNECT_SECONDS = 10.0


@dataclass(frozen=True)
class ClusterSize:
    """What the cluster has, node by node."""

    cpus_per_node: tuple[float, ...]
    gpus_per_node: tuple[int, ...]

    @property
    def num_cpus(self) -> float:
        """CPUs of all nodes."""
        return sum(self.cpus_per_node)


@contextmanager
def connected(address: str | None = None) -> Iterator[ClusterSize]:
    """Connect to Ray for the duration of a run.

    Args:
        address: A cluster's address; None for the connection there is, then `RAY_ADDRESS`, then a Ray of our own on
            this machine, which ends with the run.

    Raises:
        ClusterUnreachableError: nothing answers at the address.
    """
    ours = not ray.is_initialized()
    if ours:
        target = address or os.environ.get("RAY_ADDRESS") or "local"
        # Explicit, since ray.init and the job tools disagree about the default. A Ray of our own listens on this
        # machine only and without a dashboard.
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
        # On a cluster, Ray Data has an actor collect what it is used for, unless told otherwise.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        if target == "local":
            # Ray's C++ side reports routine matters as errors on the terminal; its log files keep what matters.
            os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        _check_reachable(target)
        # What goes wrong there is raised, too; a run that is interrupted would have its threads print tracebacks.
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        try:
            ray.init(
                address=target,
                logging_level=logging.ERROR,
                log_to_driver=False,
                include_dashboard=False if target == "local" else None,
                # Ray counts what the driver shows, also where torch can't use it: then everything runs on the CPU.
                num_gpus=0 if target == "local" and not usable_gpus() else None,
            )
        except ConnectionError as error:
            raise ClusterUnreachableError(str(error).splitlines()[0], f"Ray at {target}") from None
    try:
        yield _size()
    finally:
        if ours:
            ray.shutdown()


def _check_reachable(target: str) -> None:
    """Ray itself asks an address that does not answer for more than a minute, and then ends the process."""
    host, colon, port = target.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return  # "local" or "auto"
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        reason = f"no answer ({error.strerror or error}): is the cluster up, and the address right?"
        raise ClusterUnreachableError(reason, target) from None


def _size() -> ClusterSize:
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    return ClusterSize(
        cpus_per_node=tuple(node["CPU"] for node in nodes if node.get("CPU")),
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
