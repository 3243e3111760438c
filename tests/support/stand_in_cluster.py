"""The cluster of infra/local, started and ended as its user does it, and a client of its job API."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import requests
import s3fs

from tests.support.job_server import JobApi

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "infra" / "local" / "stand_in.py"
_BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class StandIn(JobApi):
    """A cluster on this machine.

    Attributes:
        folder: What `up` was given.
        state: What it wrote.
    """

    folder: Path
    state: dict[str, Any]

    @property
    def demo_job(self) -> str:
        """Id of the job that `up` submitted."""
        job_id: str = self.state["job_id"]
        return job_id

    def submit(self, *entrypoint: str) -> str:
        """Hand in a job; its id."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        done = subprocess.run(
            [_BIN / "ray", "job", "submit", "--address", self.dashboard, "--no-wait", "--", *entrypoint],
            env={**environment, **self.environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return next(word.strip("'") for word in done.stdout.split() if word.startswith("'raysubmit_"))

    def worker_nodes(self) -> set[str]:
        """Ray's ids of the nodes besides the head."""
        return {node["node_id"] for node in self.nodes() if not node["is_head_node"]}

    def nodes(self) -> list[dict[str, Any]]:
        """What Ray says of each node."""
        nodes: list[dict[str, Any]] = self.get("/api/v0/nodes?detail=1").json()["data"]["result"]["result"]
        return nodes

    def node_commands(self) -> list[list[str]]:
        """How each node was started."""
        commands = [psutil.Process(int(pid)).cmdline() for pid in self.state["processes"]]
        return [command for command in commands if "start" in command]

    def metrics(self) -> list[str]:
        """A line for each value, of all nodes."""
        return [line for url in self.state["metrics"] for line in requests.get(url, timeout=10).text.splitlines()]

    def filesystem(self) -> s3fs.S3FileSystem:
        """The object store."""
        return s3fs.S3FileSystem(
            key=self.environment["AWS_ACCESS_KEY_ID"],
            secret=self.environment["AWS_SECRET_ACCESS_KEY"],
            endpoint_url=self.state["endpoint_url"],
            use_listings_cache=False,
            skip_instance_cache=True,
        )


@contextmanager
def stand_in(folder: Path) -> Iterator[StandIn]:
    """`up`, and `down` in any case; then nothing is left, neither a process nor a file."""
    _script("up", folder)
    state = json.loads((folder / "state.json").read_text())
    try:
        assert _processes(state)
        yield StandIn(state["dashboard"], state["environment"], folder, state)
    finally:
        _script("down", folder)
    _, alive = psutil.wait_procs(_processes(state), timeout=10)
    assert not alive
    assert not folder.exists()
    assert not Path(state["ray_folder"]).exists()


def _processes(state: dict[str, Any]) -> list[psutil.Process]:
    """All that belong to the cluster: its token is in the environment of each, or its folder among the arguments."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            known = [*process.environ().values(), *process.cmdline()]
            if any(state["environment"]["RAY_AUTH_TOKEN"] in word or state["ray_folder"] in word for word in known):
                found.append(process)
    return found


def _script(command: str, folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, command, "--folder", folder],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
