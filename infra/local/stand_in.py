"""A cluster on this machine that stands as those of infra/kubernetes and infra/aws do, and the demo job on it.

    python infra/local/stand_in.py up       # S3 server, Ray head without work, two workers; bucket, videos, job
    python infra/local/stand_in.py down     # ends all of it, and deletes what it wrote

`up` needs the package with its extra `dev`. Everything is in one folder (`--folder`, default `stand-in`): `state.json`
says where the job API, the metrics and the object store are, for `ray job submit` and for tests; only its owner may
read it, since the secrets of this cluster are in it. The job API and the object store listen on 127.0.0.1 only. A Ray
of several nodes listens on every interface; its ports, except for metrics, want the token.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated

import psutil
import requests
import s3fs
import typer
import yaml

from jobs.demo import write_samples

_BIN = Path(sys.executable).parent
_BUCKET = "flashvid"
_HOST = "127.0.0.1"
_UP_S = 120.0
_CLOCK_S = 5.0
_WORKERS = 2
_OBJECT_STORE_BYTES = 200_000_000


@dataclass
class State:
    """What `up` started.

    Attributes:
        ray_folder: Ray's sessions: a short path, since a socket's may have 107 bytes.
        dashboard: URL of the job API.
        metrics: URLs that Prometheus would read, the head's first.
        endpoint_url: Of the object store.
        environment: What clients and processes of the cluster need: the token, the store's keys.
        processes: Ids of the processes, each the first of its session, with the time of its start in seconds.
        job_file: The job that was submitted.
        job_id: Its id in the job API.
    """

    ray_folder: str
    dashboard: str
    metrics: list[str]
    endpoint_url: str
    environment: dict[str, str]
    processes: dict[int, float] = field(default_factory=dict)
    job_file: str = ""
    job_id: str = ""

    def write(self, path: Path) -> None:
        """Keep it for `down`, which has to find the processes also if `up` did not come to its end."""
        path.touch(mode=0o600)
        path.write_text(json.dumps(asdict(self), indent=2))

    @classmethod
    def read(cls, path: Path) -> State:
        """As `write` kept it."""
        content = json.loads(path.read_text())
        return cls(**{**content, "processes": {int(pid): start for pid, start in content["processes"].items()}})


def up(folder: Path) -> State:
    """Start everything, and submit the demo job."""
    state_file = folder / "state.json"
    if state_file.exists():
        raise SystemExit(f"{state_file} is there: `down` first")
    folder.mkdir(parents=True, exist_ok=True)
    s3, dashboard, gcs, *metrics = _free_ports(3 + 1 + _WORKERS)
    state = State(
        ray_folder=tempfile.mkdtemp(prefix="ray-", dir="/tmp"),
        dashboard=f"http://{_HOST}:{dashboard}",
        metrics=[f"http://{_HOST}:{port}/metrics" for port in metrics],
        endpoint_url=f"http://{_HOST}:{s3}",
        environment={
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(16),
            "RAY_metrics_report_interval_ms": "1000",
            "AWS_ACCESS_KEY_ID": secrets.token_hex(8),
            "AWS_SECRET_ACCESS_KEY": secrets.token_hex(16),
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        },
    )
    state.write(state_file)
    try:
        start = _Starter(folder, state)
        _start_store(start, s3)
        _start_ray(start, gcs, dashboard, metrics)
        state.job_file = str(_upload(folder, state))
        state.job_id = submit(state, str(_BIN / "flashvid"), "run", state.job_file)
        state.write(state_file)
    except BaseException:
        _end_processes(state)  # their logs stay, to be read, until `down`
        raise
    return state


def down(folder: Path) -> None:
    """End what `up` started, and nothing else, and delete the folder."""
    state_file = folder / "state.json"
    if not state_file.exists():
        raise SystemExit(f"{state_file} is not there: nothing to end")
    state = State.read(state_file)
    _end_processes(state)
    shutil.rmtree(state.ray_folder, ignore_errors=True)
    shutil.rmtree(folder)


def submit(state: State, *entrypoint: str) -> str:
    """Hand a command to the job API; the job's id."""
    command = [str(_BIN / "ray"), "job", "submit", "--address", state.dashboard, "--no-wait"]
    done = subprocess.run(
        [*command, "--", *entrypoint], env=_environment(state), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(done.stdout + done.stderr)
    return next(word.strip("'") for word in done.stdout.split() if word.startswith("'raysubmit_"))


def _end_processes(state: State) -> None:
    """Those that were started, and all below them: a job's driver is in a session of its own."""
    victims = []
    for pid, started in state.processes.items():
        with suppress(psutil.NoSuchProcess):
            # A later process may have the same id. The time is computed from the system's clock, which may be set.
            if abs((first := psutil.Process(pid)).create_time() - started) < _CLOCK_S:
                victims += [first, *first.children(recursive=True)]
    for process in victims:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(victims, timeout=10)


class _Starter:
    """Starts processes of the cluster, each in a session of its own with a log, and notes them for `down`."""

    def __init__(self, folder: Path, state: State) -> None:
        self.folder = folder
        self.state = state

    def __call__(self, name: str, command: list[str], ready: Callable[[], bool]) -> None:
        log = self.folder / f"{name}.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                command, env=_environment(self.state), stdout=output, stderr=output, start_new_session=True
            )
        self.state.processes[process.pid] = psutil.Process(process.pid).create_time()
        self.state.write(self.folder / "state.json")
        deadline = time.monotonic() + _UP_S
        while not _quietly(ready):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{name} did not start:\n{log.read_text()}")
            time.sleep(0.2)


def _start_store(start: _Starter, port: int) -> None:
    """SeaweedFS, which has conditional writes as AWS's S3 has them."""
    state, data = start.state, start.folder / "s3"
    data.mkdir()
    environment = state.environment
    keys = {"accessKey": environment["AWS_ACCESS_KEY_ID"], "secretKey": environment["AWS_SECRET_ACCESS_KEY"]}
    identity = {"name": "stand-in", "credentials": [keys], "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
    config = start.folder / "s3.json"
    config.touch(mode=0o600)
    config.write_text(json.dumps({"identities": [identity]}))
    master, volume, filer = _free_ports(3)
    options = {
        "dir": data, "ip": _HOST, "ip.bind": _HOST, "master.port": master, "volume.port": volume, "filer.port": filer,
        "volume.max": 20, "master.volumeSizeLimitMB": 64, "s3.port": port, "s3.config": config,
        # Servers that nobody asked for, on fixed ports: a second store here would end for them. And no reports.
        "s3.port.iceberg": 0, "s3.port.lance": 0, "master.telemetry": "false",
    }  # fmt: skip
    weed = shutil.which("weed", path=f"{_BIN}{os.pathsep}{os.environ['PATH']}") or "weed"
    command = [weed, "server", "-s3", *(f"-{name}={value}" for name, value in options.items())]

    def create_bucket() -> bool:
        _filesystem(state).call_s3("create_bucket", Bucket=_BUCKET)
        return True

    start("s3", command, create_bucket)


def _start_ray(start: _Starter, gcs: int, dashboard: int, metrics: list[int]) -> None:
    """A head that does no work, and workers with one CPU each; a GPU of this machine would be every node's."""
    state = start.state
    token = {"Authorization": f"Bearer {state.environment['RAY_AUTH_TOKEN']}"}
    ray = [
        str(_BIN / "ray"), "start", "--block", "--disable-usage-stats", f"--node-ip-address={_HOST}",
        f"--object-store-memory={_OBJECT_STORE_BYTES}", "--min-worker-port=0", "--max-worker-port=0",
        "--num-gpus=0",
    ]  # fmt: skip
    # Ray's own choice is one fixed port for all nodes: the second of a machine has then no agent, and says nothing.
    agents = [f"--dashboard-agent-listen-port={port}" for port in _free_ports(len(metrics))]
    (client,) = _free_ports(1)

    def answers(url: str) -> bool:
        return requests.get(url, headers=token, timeout=10).ok

    head = [
        "--head", "--num-cpus=0", f"--port={gcs}", "--include-dashboard=true", f"--dashboard-host={_HOST}",
        f"--dashboard-port={dashboard}", f"--temp-dir={state.ray_folder}", f"--metrics-export-port={metrics[0]}",
        agents[0], f"--ray-client-server-port={client}",
    ]  # fmt: skip
    start("head", [*ray, *head], lambda: answers(f"{state.dashboard}/api/jobs/") and answers(state.metrics[0]))
    for number, port in enumerate(metrics[1:], start=1):
        worker = [f"--address={_HOST}:{gcs}", "--num-cpus=1", f"--metrics-export-port={port}", agents[number]]
        start(f"worker-{number}", [*ray, *worker], partial(answers, state.metrics[number]))


def _upload(folder: Path, state: State) -> Path:
    """The demo's videos and questions in the bucket, and its job file over them."""
    samples = folder / "samples"
    write_samples(samples)
    store = _filesystem(state)
    store.put(f"{samples}/", f"{_BUCKET}/demo/", recursive=True)
    job = yaml.safe_load((Path(__file__).parents[2] / "jobs" / "examples" / "demo.yaml").read_text())
    job |= {name: f"s3://{_BUCKET}/demo/{job[name]}" for name in ("videos", "questions", "output")}
    job["storage_options"] = {"endpoint_url": state.endpoint_url}
    path = (folder / "job.yaml").absolute()
    path.write_text(yaml.safe_dump(job, sort_keys=False))
    return path


def _filesystem(state: State) -> s3fs.S3FileSystem:
    environment = state.environment
    return s3fs.S3FileSystem(
        key=environment["AWS_ACCESS_KEY_ID"],
        secret=environment["AWS_SECRET_ACCESS_KEY"],
        endpoint_url=state.endpoint_url,
        use_listings_cache=False,
        skip_instance_cache=True,
    )


def _environment(state: State) -> Mapping[str, str]:
    """This process's, without what belongs to another cluster or store."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "AWS_"))}
    return {**ours, **state.environment}


def _quietly(ready: Callable[[], bool]) -> bool:
    try:
        return ready()
    except Exception:  # noqa: BLE001 - not up yet, which shows in many ways
        return False


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, below those that SeaweedFS adds 10,000 to."""
    found: list[int] = []
    # All stay bound until the end, so that no port is drawn twice.
    with ExitStack() as bound:
        while len(found) < count:
            candidate = bound.enter_context(socket.socket())
            candidate.bind((_HOST, 0))
            if (port := candidate.getsockname()[1]) < 50_000:
                found.append(port)
    return found


app = typer.Typer(help=__doc__, add_completion=False)
Folder = Annotated[Path, typer.Option(help="everything is in it")]


@app.command("up")
def _up(folder: Folder = Path("stand-in")) -> None:
    state = up(folder)
    print(f"job: {state.job_id}\njob API: {state.dashboard}\nmetrics: {', '.join(state.metrics)}")
    print(f"object store: {state.endpoint_url}, bucket {_BUCKET}\ntokens and keys: {folder / 'state.json'}")


@app.command("down")
def _down(folder: Folder = Path("stand-in")) -> None:
    down(folder)


if __name__ == "__main__":
    app()
