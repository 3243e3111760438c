"""Starts Ray on this machine for one run: it listens only on 127.0.0.1, and wants a random token."""

import logging
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import ray
from ray._private import ray_constants
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined] # compiled, without types

from flashvid.models.devices import usable_gpus

_TOKEN_BYTES = 32


@contextmanager
def local_ray(*, num_cpus: int | None = None, num_gpus: int | None = None) -> Iterator[Mapping[str, str]]:
    """Start Ray on this machine, and stop it at the end of the context.

    Nothing else in the project starts Ray. The token is new each time and replaces what the environment says about
    authentication, which is meant for clusters. It is passed on in the environment of Ray's processes, never in their
    arguments. This process has it in its own environment only while Ray starts.

    Args:
        num_cpus: CPUs that Ray hands out. None takes all CPUs of this machine.
        num_gpus: GPUs that Ray hands out. None takes the GPUs that torch can use.

    Yields:
        The variables with which another process of this machine connects, the token among them.

    Raises:
        ConnectionError: Ray did not start.
    """
    if num_gpus is None and not usable_gpus():
        num_gpus = 0  # Ray counts every GPU that the NVIDIA driver lists, even if torch can't use it
    # Ray's C++ code reports routine events as errors on the terminal; its log files keep the real ones.
    with changed_environment(ray_defaults(RAY_BACKEND_LOG_LEVEL="fatal")):
        token = new_token()
        try:
            with changed_environment(token), loopback_kept():
                read_authentication()
                ray.init(
                    address="local",
                    num_cpus=num_cpus,
                    num_gpus=num_gpus,
                    include_dashboard=False,
                    logging_level=logging.ERROR,
                    log_to_driver=False,
                )
            connecting = {name: value for name, value in token.items() if value is not None}
            try:
                yield {**connecting, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
            finally:
                ray.shutdown()
        finally:
            read_authentication()


def new_token() -> dict[str, str | None]:
    """Return the variables of a Ray with a new random token; None removes other sources of a token."""
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(_TOKEN_BYTES),
        "RAY_AUTH_TOKEN_PATH": None,
        "RAY_ENABLE_K8S_TOKEN_AUTH": None,
    }


def read_authentication() -> None:
    """Make Ray read the mode and the token from the environment again: it keeps those that it read first."""
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def ray_defaults(**defaults: str) -> dict[str, str | None]:
    """Return the variables of a connection to Ray: the user's where they are set, else the given defaults and ours.

    Variables that Ray itself sets are among them, so that they are restored with the others.
    """
    # On a cluster, Ray Data starts an actor that collects usage statistics unless they are disabled.
    wanted = {"RAY_USAGE_STATS_ENABLED": "0", **defaults}
    return {name: os.environ.get(name, wanted.get(name)) for name in (*wanted, "PYTHONBREAKPOINT")}


@contextmanager
def changed_environment(changes: Mapping[str, str | None]) -> Iterator[None]:
    """Set variables of this process, or remove those that are None; restore them at the end of the context."""
    before = {name: os.environ.get(name) for name in changes}
    _set(changes)
    try:
        yield
    finally:
        _set(before)


@contextmanager
def loopback_kept() -> Iterator[None]:
    """Let `ray.init` use 127.0.0.1 where it would take the address of a network interface.

    Ray replaces a loopback address, even a given one, by another address of the machine, and then listens on every
    interface. It leaves them alone where it supports one node only (Windows, macOS): this is that switch, for this
    process, which has read it when Ray was imported, and for the processes that it starts.
    """
    several_nodes = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        with changed_environment({ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0"}):
            yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = several_nodes


def _set(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
