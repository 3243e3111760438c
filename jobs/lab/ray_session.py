"""One Ray on this machine for several measured processes: its start takes longer than most measurements."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from jobs.lab.process_tree import ProcessTree

_HOST = """
import json, sys
from pipeline.cluster.local_ray import local_ray
with local_ray() as connecting:
    print(json.dumps(dict(connecting)), flush=True)
    sys.stdin.read()
"""
_END_SECONDS = 60
# Ray's C++ code reports routine events as errors; `connected` silences only a Ray that it starts itself.
_QUIET = {"RAY_BACKEND_LOG_LEVEL": "fatal", "RAY_USAGE_STATS_ENABLED": "0"}


@dataclass(frozen=True)
class RaySession:
    """A running Ray.

    Attributes:
        environment: Environment with which a process connects to it; the token is in it.
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
        command, env={**_QUIET, **environment}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as host:
        assert host.stdin is not None  # noqa: S101 - for the type checker
        assert host.stdout is not None  # noqa: S101
        connecting = host.stdout.readline()
        if not connecting:
            raise RuntimeError("Ray did not start")
        try:
            yield RaySession({**_QUIET, **environment, **json.loads(connecting)}, ProcessTree({host.pid: "daemons"}))
        finally:
            host.stdin.close()
            host.wait(_END_SECONDS)
