"""`flashvid doctor`: what is wrong is found by trying it, and shown on one line with what to do."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import numpy as np
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem

from jobs import doctor
from jobs.doctor import Check, check_gpu, check_installation, check_storage, check_tables
from tests.support.ray_cluster import local_cluster
from tests.support.runs import copy_videos, job

BIN = Path(sys.executable).parent

_OTHER_VERSION = """
import dataclasses, json, sys
from jobs import doctor

doctor.version = lambda name: "0.0.1"
print(json.dumps([dataclasses.asdict(check) for check in doctor.check_cluster(sys.argv[1])]))
"""


class FaultyFileSystem(MemoryFileSystem):  # type: ignore[misc]
    """A store with one fault, the host of its URL: faulty://FAULT/folder."""

    protocol: ClassVar[str] = "faulty"
    cachable = False
    store: ClassVar[dict[str, Any]] = {}

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: object) -> None:
        """Write."""
        if "read-only" in path:
            raise PermissionError("Access Denied")
        if mode == "create" and "no-conditions" in path:
            raise NotImplementedError("If-None-Match")
        if mode == "create" and self.exists(path):
            raise FileExistsError(path)
        super().pipe_file(path, value)

    def cat_file(self, path: str, *_: object, **__: object) -> bytes:
        """Read."""
        return b"else" if "forgetful" in path and "doctor/" in path else bytes(super().cat_file(path))

    def rm_file(self, path: str) -> None:
        """Remove."""
        if "undeletable" not in path or "doctor/" not in path:
            super().rm_file(path)


_ADDRESS = """
import dataclasses, json, sys
from jobs.doctor import check_cluster
print(json.dumps([dataclasses.asdict(check) for check in check_cluster(sys.argv[1])]))
"""


@pytest.fixture(autouse=True)
def faulty_store() -> None:
    """faulty:// for this test; registered again for each, which changes nothing."""
    fsspec.register_implementation("faulty", FaultyFileSystem, clobber=True)


def failed(checks: Iterable[Check]) -> dict[str, tuple[str, str]]:
    """What was found and what to do, by the check's name; each is a line, and none is without advice."""
    found = {check.name: (check.found, check.fix) for check in checks if check.state == "failed"}
    for reason, fix in found.values():
        assert reason
        assert fix
        assert "\n" not in reason + fix
        assert "Traceback" not in reason
    return found


def test_packages_that_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too old, or not there; one that only an extra asks for does not matter."""
    asked = ["numpy>=999", "no-such-package>=1", "pyarrow>=1", "no-such-extra; extra == 'bench'"]
    monkeypatch.setattr(doctor, "requires", lambda _: asked)
    packages = next(iter(check_installation()))
    found, fix = failed([packages])["packages"]
    assert found == f"numpy {np.__version__} is not >=999; no-such-package>=1 is missing"
    assert fix == "pip install -c constraints.txt flashvid-pipeline"


@pytest.mark.parametrize(
    ("built_for", "counted", "state", "found"),
    [
        ("13.0", 2, "failed", "2 here, and CUDA can't use any: The NVIDIA driver is too old (found version 12020)."),
        ("13.0", 0, "note", "a job that reserves GPUs is refused: The NVIDIA driver is too old (found version 12020)."),
        (None, 0, "note", ", without CUDA: models run on the CPU, and a job that reserves GPUs is refused"),
    ],
)
def test_a_machine_whose_gpus_cuda_cannot_use(
    built_for: str | None, counted: int, state: str, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What torch says of them; a GPU that is here and unusable is a failure, none at all is not."""

    def too_old() -> None:
        raise RuntimeError("The NVIDIA driver is too old (found version 12020).\nUpdate it.")

    monkeypatch.setattr(torch.version, "cuda", built_for)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: counted)
    monkeypatch.setattr(torch.cuda, "init", too_old)
    (check,) = check_gpu()
    assert (check.area, check.name, check.state) == ("GPU", "CUDA", state)
    assert found in check.found
    assert "everything" not in check.found
    assert ("GPUs in docs/operations.md" in check.fix) == (state == "failed")
    assert len(failed([check])) == (state == "failed")


def test_the_tables_of_a_job(sample_videos: Path, tmp_path: Path) -> None:
    """Counted; and that the first video is where its row says."""
    copy_videos(sample_videos, tmp_path, ["three_boxes.mp4", "short_flash.mp4"])
    (fine,) = check_tables(job(tmp_path))
    size = (tmp_path / "videos" / "short_flash.mp4").stat().st_size
    assert fine.state == "ok"
    assert fine.found == f"2 videos, 2 questions for all; the first has {size} bytes"


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ("video_id,video_path\na,gone.mp4\n", "there is no {}/gone.mp4"),
        ("video_id,video_path\n", "has no videos"),
        ("name,file\na,b\n", "video_id"),
        (None, "videos.csv"),
    ],
)
def test_tables_that_are_wrong(table: str | None, reason: str, tmp_path: Path) -> None:
    """One line each, with where to look for more."""
    if table is not None:
        (tmp_path / "videos.csv").write_text(table)
    found = failed(check_tables(job(tmp_path, videos=str(tmp_path / "videos.csv"))))
    assert reason.format(tmp_path) in found["videos, questions"][0]
    assert "flashvid validate" in found["videos, questions"][1]


def test_a_folder_that_works_is_left_as_it_was(tmp_path: Path) -> None:
    """Listed, written, read, protected, deleted."""
    checks = list(check_storage("output", str(tmp_path), {}))
    assert [(check.name, check.state) for check in checks] == [
        (name, "ok") for name in ("list", "write", "read back", "conditional write", "delete")
    ]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("fault", "check", "reason", "fix"),
    [
        ("read-only", "write", "access denied (Access Denied)", "may this user write here?"),
        ("forgetful", "read back", "what is read is not what was written", "do not use this store"),
        ("no-conditions", "conditional write", "two runs at the same time", "one run at a time"),
        ("undeletable", "delete", "the object is still there", "by hand"),
    ],
)
def test_a_store_with_a_fault(fault: str, check: str, reason: str, fix: str) -> None:
    """Found at the step that meets it, and at no other."""
    found = failed(check_storage("output", f"faulty://{fault}/output", {}))
    assert list(found) == [check]
    assert reason in found[check][0]
    assert fix in found[check][1]


def test_a_store_that_nobody_knows(tmp_path: Path) -> None:
    """An unknown scheme, and a file where the folder should be."""
    (tmp_path / "file").write_text("")
    assert "nowhere" in failed(check_storage("output", "nowhere://bucket", {}))["list"][0]
    assert "is a file, not a folder" in failed(check_storage("output", str(tmp_path / "file"), {}))["list"][0]


def test_a_cluster_that_is_not_there() -> None:
    """Nothing listens on this port. In a process of its own: this one may be connected to another test's Ray."""
    done = subprocess.run(
        [sys.executable, "-c", _ADDRESS, "127.0.0.1:1"], capture_output=True, text=True, timeout=300, check=True
    )
    found, fix = failed(Check(**check) for check in json.loads(done.stdout.splitlines()[-1]))["address"]
    assert "127.0.0.1:1" in found
    assert "is it up" in fix


@pytest.mark.slow
@pytest.mark.parametrize("num_cpus", [0, 1])
def test_a_cluster(num_cpus: int, sample_videos: Path, tmp_path: Path) -> None:
    """Of a job file and a cluster, each looked at; one without CPUs, and one whose token is another, are named."""
    copy_videos(sample_videos, tmp_path, ["three_boxes.mp4"])
    (tmp_path / "job.yaml").write_text("videos: videos\nquestions: [What]\noutput: output\nmodel: {name: tiny}\n")

    def run(**environment: str) -> tuple[int, dict[str, Check]]:
        done = subprocess.run(
            [BIN / "flashvid", "doctor", "job.yaml", "--address", cluster.address, "--json"],
            cwd=tmp_path,
            env={**cluster.environment, **environment},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.stdout, done.stderr
        said = json.loads(done.stdout)
        checks = [Check(**check) for check in said["checks"]]
        assert said["failed"] == len(failed(checks)), done.stderr
        return done.returncode, {f"{check.area}: {check.name}": check for check in checks}

    with local_cluster(num_cpus=num_cpus) as cluster:
        code, checks = run()
        assert checks["tables: videos, questions"].state == checks["storage, output: delete"].state == "ok"
        assert checks["cluster: address"].found == f"{cluster.address}, 1 nodes"
        assert checks["cluster: versions"].state == "ok"
        resources = checks["cluster: resources"]
        if num_cpus == 0:
            assert (code, resources.state) == (1, "failed")
            assert resources.fix == "add nodes with CPUs: decoding needs at least one"
            return
        assert (code, resources.state, resources.found) == (0, "ok", "1 CPUs, 0 GPUs")
        code, checks = run(RAY_AUTH_TOKEN="0" * 32)
        assert (code, checks["cluster: address"].state) == (1, "failed")
        assert "RAY_AUTH_TOKEN" in checks["cluster: address"].fix
        # Here we are another version than the node's.
        done = subprocess.run(
            [sys.executable, "-c", _OTHER_VERSION, cluster.address],
            env=cluster.environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        (versions,) = (Check(**check) for check in json.loads(done.stdout) if check["name"] == "versions")
        assert "install the same versions" in failed([versions])["versions"][1]
