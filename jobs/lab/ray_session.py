"""One Ray on this machine for several measured processes: its start takes longer than most measurements."""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from jobs.lab.process_tree import ProcessTree

_HOST = """
import sys, ray
from pipeline.cluster.connection import connected
with connected("local"):
    print(ray.get_runtime_context().gcs_address, flush=True)
    sys.stdin.read()
"""
_END_SECONDS = 60


@dataclass(frozen=True)
class RaySession:
    """A running Ray.

    Attributes:
        environment: Environment with which a process connects to it.
        tree: Its processes.
    """

    environment: Mapping[str, str]
    tree: ProcessTree


@contextmanager
def ray_session(environment: Mapping[str, str]) -> Iterator[RaySession]:
    """Start Ray in another process, whose environment its workers inherit; stop it at the end of the context.

    Raises:
        RuntimeError: it did not start; its stderr says why.
    """
    command = [sys.executable, "-c", _HOST]
    with subprocess.Popen(  # noqa: S603 - ours
        command, env=dict(environment), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as host:
        assert host.stdin is not None  # noqa: S101 - for the type checker
        assert host.stdout is not None  # noqa: S101
        address = host.stdout.readline().strip()
        if not address:
            raise RuntimeError("Ray did not start")
        try:
            # Ray's C++ side reports routine events as errors; `connected` silences only a Ray that it starts itself.
            connecting = {**environment, "RAY_ADDRESS": address, "RAY_BACKEND_LOG_LEVEL": "fatal"}
            yield RaySession(connecting, ProcessTree({host.pid: "daemons"}))
        finally:
            host.stdin.close()
            host.wait(_END_SECONDS)
