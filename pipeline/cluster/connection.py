"""Connects a run to a Ray cluster: the given one, the one already connected, or a new one on this machine."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass

import ray
from ray.exceptions import ObjectStoreFullError, OutOfDiskError, RayError

from flashvid.errors import FatalError, FlashVidError, first_line
from pipeline.cluster.local_ray import changed_environment, local_ray, loopback_kept, ray_defaults
from pipeline.errors import FULL_NUMBERS, ClusterUnreachableError, DiskError

_CONNECT_SECONDS = 10.0
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclass(frozen=True)
class ClusterSize:
    """Holds the CPUs and GPUs of the cluster, node by node."""

    cpus_per_node: tuple[float, ...]
    gpus_per_node: tuple[int, ...]


@contextmanager
def connected(address: str | None = None) -> Iterator[ClusterSize]:
    """Connect to Ray for the duration of a run, and yield the size of the cluster.

    At the end, the environment of this process is as it was before.

    Args:
        address: Address of a cluster. None takes the existing connection, else `RAY_ADDRESS`, else starts Ray on this
            machine for the duration of the run.

    Raises:
        ClusterUnreachableError: the address does not answer.
    """
    if ray.is_initialized():
        yield _size()
        return
    target = address or os.environ.get("RAY_ADDRESS") or "local"
    # Ray Data also raises its errors, and its threads would print tracebacks when a run is interrupted.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    with ExitStack() as stack:
        try:
            stack.enter_context(local_ray() if target == "local" else _attached(target))
        except ConnectionError as error:
            raise ClusterUnreachableError(str(error).splitlines()[0], f"Ray at {target}") from None
        yield _size()


@contextmanager
def _attached(target: str) -> Iterator[None]:
    """Connect to a cluster that exists.

    Raises:
        ClusterUnreachableError: the address does not answer.
        ConnectionError: what answers there is not Ray.
    """
    _check_reachable(target)
    # Explicit, since ray.init and Ray's job tools have different defaults.
    with changed_environment(ray_defaults(RAY_AUTH_MODE="disabled")):
        # A Ray that listens only on 127.0.0.1 is not found under another address of this machine.
        with loopback_kept() if _host(target) in _LOOPBACK else nullcontext():
            ray.init(address=target, logging_level=logging.ERROR, log_to_driver=False)
        try:
            yield
        finally:
            ray.shutdown()


def _host(target: str) -> str:
    return target.removeprefix("ray://").rpartition(":")[0].strip("[]")


def _check_reachable(target: str) -> None:
    """Check that an address accepts connections, since Ray would retry for over a minute and then end the process.

    Raises:
        ClusterUnreachableError: the address does not answer within `_CONNECT_SECONDS`.
    """
    host, colon, port = target.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return  # "local" or "auto"
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        reason = f"no answer ({error.strerror or error}); check that the cluster is up and that the address is right"
        raise ClusterUnreachableError(reason, target) from None


def _size() -> ClusterSize:
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    return ClusterSize(
        cpus_per_node=tuple(node["CPU"] for node in nodes if node.get("CPU")),
        gpus_per_node=tuple(int(node["GPU"]) for node in nodes if node.get("GPU")),
    )


@contextmanager
def fatal_errors_unwrapped() -> Iterator[None]:
    """Raise the `FatalError` of a task or actor itself: Ray wraps it, but its message is the one for the user."""
    try:
        yield
    except RayError as error:
        if (fatal := fatal_cause(error)) is not None:
            raise fatal from error
        raise


def raise_if_fatal(error: BaseException) -> None:
    """Raise the `FatalError` behind an error, as `fatal_cause` finds it, if there is one."""
    fatal = fatal_cause(error)
    if fatal is error:
        raise error
    if fatal is not None:
        raise fatal from error


def fatal_cause(error: BaseException) -> FatalError | None:
    """Return the `FatalError` behind an error, unwrapped from Ray's errors; None if there is none.

    A full or read-only disk counts as one, whichever library met it.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ObjectStoreFullError | OutOfDiskError):
            return DiskError(f"Ray's object store is full, in memory and on disk: {first_line(seen)}")
        # Ray's error for a task is also an instance of its cause's class, but its message is a traceback.
        if isinstance(seen, FlashVidError) and not isinstance(seen, RayError):
            return seen if isinstance(seen, FatalError) else None  # ours decides, whatever is behind it
        if isinstance(seen, OSError) and not isinstance(seen, RayError) and seen.errno in FULL_NUMBERS:
            return DiskError.of(seen)
        seen = getattr(seen, "cause", None) or seen.__cause__
    return None
