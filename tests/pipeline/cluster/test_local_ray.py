"""The Ray that a run starts on this machine: only its own processes reach it."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
import ray
import requests
from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

from pipeline.cluster import connection, local_ray
from pipeline.errors import ClusterUnreachableError
from tests.support.ray_cluster import local_cluster

ROOT = Path(__file__).parents[3]
LOOPBACK = "127.0.0.1"


def listening() -> Iterator[tuple[psutil.Process, str, int]]:
    """Process, address and port of each socket that this process and its descendants listen on."""
    variable("PATH")  # workers listen, too
    this = psutil.Process()
    for process in (this, *this.children(recursive=True)):
        for found in process.net_connections("inet"):
            if found.status == psutil.CONN_LISTEN or (found.type == socket.SOCK_DGRAM and not found.raddr):
                yield process, found.laddr.ip.removeprefix("::ffff:"), found.laddr.port


def variable(name: str) -> str | None:
    """Return a variable of a worker's environment."""
    found: str | None = ray.get(ray.remote(num_cpus=0)(lambda: os.environ.get(name)).remote())
    return found


def other_addresses() -> set[str]:
    """Addresses of this machine other than the one that Ray listens on; on Linux, all of 127.0.0.0/8 are."""
    interfaces = psutil.net_if_addrs().values()
    found = {one.address for addresses in interfaces for one in addresses if one.family == socket.AF_INET}
    return {*found, "127.0.0.2"} - {LOOPBACK}


def refusal(address: str, port: int) -> str | None:
    """Why a connection can't be made; None if it can."""
    try:
        socket.create_connection((address, port), timeout=10).close()
    except OSError as error:
        return type(error).__name__
    return None


def nodes(address: str, token: str | None) -> str:
    """Ask Ray's head for its nodes: "OK", or gRPC's name of the error."""
    stub = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(grpc.insecure_channel(address))
    metadata = [] if token is None else [("authorization", f"Bearer {token}")]
    try:
        stub.GetAllNodeInfo(gcs_service_pb2.GetAllNodeInfoRequest(), metadata=metadata, timeout=10)
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


def test_it_listens_on_loopback_only(ray_session: Mapping[str, str]) -> None:
    """Ray's head, its nodes' daemons, their agents, every worker, and this process."""
    assert ray_session["RAY_ADDRESS"].startswith(f"{LOOPBACK}:")
    found = list(listening())
    assert len({process.pid for process, _, _ in found}) >= 5
    assert {address for _, address, _ in found} == {LOOPBACK}, found


def test_other_addresses_of_the_machine_are_refused(ray_session: Mapping[str, str]) -> None:
    """Every port of every process."""
    del ray_session
    ports = {port for _, _, port in listening()}
    assert refusal(LOOPBACK, max(ports)) is None
    answers = {(address, port): refusal(address, port) for address in other_addresses() for port in ports}
    assert set(answers.values()) == {"ConnectionRefusedError"}, answers


def test_it_wants_its_token(ray_session: Mapping[str, str]) -> None:
    """From gRPC and from HTTP, also with a token that is not the right one."""
    address, token = ray_session["RAY_ADDRESS"], ray_session["RAY_AUTH_TOKEN"]
    asked = {None: "UNAUTHENTICATED", "0" * 64: "UNAUTHENTICATED", token: "OK"}
    assert {one: nodes(address, one) for one in asked} == asked
    agents = [port for process, _, port in listening() if process.name() == "ray::RuntimeEnvAgent"]
    for port in agents:
        url = f"http://{LOOPBACK}:{port}/get_or_create_runtime_env"
        assert requests.post(url, data=b"", timeout=10).status_code == 401
    assert len(agents) == 1


def test_nobody_can_read_the_token(ray_session: Mapping[str, str]) -> None:
    """Neither arguments nor logs have it, and what this process starts does not inherit it."""
    token = ray_session["RAY_AUTH_TOKEN"]
    assert len(token) == 64
    assert variable("RAY_AUTH_TOKEN") == token
    assert token not in os.environ.values()
    this = psutil.Process()
    for process in (this, *this.children(recursive=True)):
        assert token not in " ".join(process.cmdline())
    session = Path(ray.nodes()[0]["RayletSocketName"]).parents[1]  # type: ignore[no-untyped-call]
    files = [path for path in session.rglob("*") if path.is_file()]
    assert len(files) > 5
    assert [path for path in files if token.encode() in path.read_bytes()] == []


@pytest.mark.parametrize("address", [None, f"{LOOPBACK}:6379"])
@pytest.mark.parametrize("mode", [None, "disabled", "token"])
def test_what_the_environment_says_is_for_clusters(
    monkeypatch: pytest.MonkeyPatch, address: str | None, mode: str | None
) -> None:
    """Our own Ray has a new token whatever is set; afterwards, the environment is what it was."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    given = {} if mode is None else {"RAY_AUTH_MODE": mode, "RAY_AUTH_TOKEN": "1" * 64, "RAY_AUTH_TOKEN_PATH": "/token"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    seen: list[dict[str, str]] = []

    def init(**_: Any) -> None:
        seen.append({name: value for name, value in os.environ.items() if name.startswith("RAY_AUTH_")})
        os.environ["PYTHONBREAKPOINT"] = os.environ["RAY_USAGE_STATS_ENABLED"] = "as ray.init does"
        raise ConnectionError("not here")

    # The Ray of the other tests keeps its token.
    monkeypatch.setattr(local_ray, "read_authentication", lambda: None)
    monkeypatch.setattr(connection, "_check_reachable", lambda _: None)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    before = {**os.environ}
    for _ in range(2):
        with pytest.raises(ClusterUnreachableError), connection.connected(address):
            pass
    assert {**os.environ} == before
    if address is not None:
        assert seen == [given or {"RAY_AUTH_MODE": "disabled"}] * 2
        return
    assert all(one.keys() == {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN"} for one in seen)
    assert {one["RAY_AUTH_MODE"] for one in seen} == {"token"}
    assert len({"1" * 64, *(one["RAY_AUTH_TOKEN"] for one in seen)}) == 3


CLUSTER = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "1" * 64}
_TWICE = """
import json, os, ray
from pipeline.cluster.connection import connected
before, tokens = {**os.environ}, []
for _ in range(2):
    with connected():
        tokens.append(ray.get(ray.remote(lambda: os.environ["RAY_AUTH_TOKEN"]).remote()))
print(json.dumps({"tokens": tokens, "changed": sorted({**os.environ}.items() ^ before.items())}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("environment", [{}, {"RAY_AUTH_MODE": "disabled"}, CLUSTER])
def test_each_run_has_a_token_of_its_own(environment: Mapping[str, str]) -> None:
    """Whatever the user has set for clusters; afterwards the environment is what it was."""
    found = json.loads(python(_TWICE, environment))
    first, second = found["tokens"]
    assert len({first, second, "1" * 64}) == 3
    assert len(first) == len(second) == 64
    assert found["changed"] == []


_LOCAL_THEN_CLUSTER = """
import json, os, sys, ray
from pipeline.cluster.connection import connected
nodes = []
for address in (None, sys.argv[1], None):
    with connected(address) as size:
        nodes.append(ray.get_runtime_context().gcs_address)
print(json.dumps(nodes))
"""


@pytest.mark.slow
@pytest.mark.parametrize("authenticated", [True, False])
def test_a_cluster_is_reached_between_two_local_runs(authenticated: bool) -> None:
    """With its own token or without one, whatever the Ray that this process had started before wanted."""
    with local_cluster(num_cpus=1, authenticated=authenticated) as cluster:
        given = {name: value for name, value in cluster.environment.items() if name.startswith("RAY_AUTH_")}
        if not authenticated:
            del given["RAY_AUTH_MODE"]
        first, between, last = json.loads(python(_LOCAL_THEN_CLUSTER, given, cluster.address))
    assert between == cluster.address
    assert len({first, between, last}) == 3


def python(script: str, environment: Mapping[str, str], *arguments: str) -> str:
    """Run a script in a process of its own; the last line that it prints."""
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env={**clean(), **environment},
        capture_output=True,
        text=True,
        timeout=180,
        check=True,
    )
    assert not re.search(r"\b[0-9a-f]{64}\b", done.stderr)
    return done.stdout.splitlines()[-1]


def clean() -> dict[str, str]:
    """This process's environment without what belongs to a Ray."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}


def test_one_function_starts_ray() -> None:
    """The other call connects to a cluster that exists; tests and benchmarks use the same function."""
    calls = {
        str(path.relative_to(ROOT)): len(found)
        for folder in ("flashvid", "pipeline", "jobs", "infra", "tests")
        for path in (ROOT / folder).rglob("*.py")
        if (found := re.findall(r"\bray\.init\(", path.read_text())) and path != Path(__file__)
    }
    assert calls == {"pipeline/cluster/local_ray.py": 1, "pipeline/cluster/connection.py": 1}
