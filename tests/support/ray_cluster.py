"""A Ray cluster as an operator starts one: `ray start`, with the dashboard, the job API and token authentication."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import requests

from tests.support.job_server import JobApi

_UP_S = 90
_BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class LocalCluster(JobApi):
    """A head on this machine.

    Attributes:
        address: Of the cluster, for `ray.init`.
        metrics: URL that Prometheus would read.
    """

    address: str
    metrics: str


@contextmanager
def local_cluster(num_cpus: int, *, authenticated: bool = True) -> Iterator[LocalCluster]:
    """Start a head, wait for its job API, and end what was started and nothing else."""
    ports = _free_ports(5)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    # Seconds between two exports of metrics; Ray's own is 10.
    environment |= {"RAY_metrics_report_interval_ms": "500", "PYTHONPATH": os.pathsep.join(sys.path)}
    environment |= {"RAY_AUTH_MODE": "token" if authenticated else "disabled", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    # Else Ray takes another address than 127.0.0.1, even if it is told that one.
    environment |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    # A path for sockets may have 107 bytes, which pytest's own folders come close to.
    with TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        log = Path(folder) / "head.log"
        options = {
            "node-ip-address": "127.0.0.1",
            "port": ports[0],
            "dashboard-host": "127.0.0.1",
            "dashboard-port": ports[1],
            "metrics-export-port": ports[2],
            # Ray's own choice is the same for every Ray of a machine: the second has no agent, and takes no jobs.
            "dashboard-agent-listen-port": ports[3],
            "ray-client-server-port": ports[4],
            "num-cpus": num_cpus,
            "num-gpus": 0,
            "object-store-memory": 200_000_000,
            "temp-dir": folder,
            "include-dashboard": "true",
        }
        command = [str(_BIN / "ray"), "start", "--head", "--block", "--disable-usage-stats"]
        with log.open("w") as output:
            head = subprocess.Popen(
                [*command, *(f"--{name}={value}" for name, value in options.items())],
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        cluster = LocalCluster(
            address=f"127.0.0.1:{ports[0]}",
            dashboard=f"http://127.0.0.1:{ports[1]}",
            metrics=f"http://127.0.0.1:{ports[2]}/metrics",
            environment=environment,
        )
        try:
            _wait_until_up(cluster, head, log)
            yield cluster
        finally:
            _end(head)


def _wait_until_up(cluster: LocalCluster, head: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _UP_S
    while True:
        assert head.poll() is None, log.read_text()
        try:
            if cluster.get("/api/jobs/").ok and requests.get(cluster.metrics, timeout=10).ok:
                return
        except requests.ConnectionError:
            pass
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)


def _end(head: subprocess.Popen[bytes]) -> None:
    """`ray start --block` ends its children when it is told to end; if it does not, its process group is killed."""
    head.send_signal(signal.SIGTERM)
    try:
        head.wait(timeout=10)
    except subprocess.TimeoutExpired:
        os.killpg(head.pid, signal.SIGKILL)
        head.wait()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
