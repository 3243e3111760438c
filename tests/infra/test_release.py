"""What is published: an sdist, a wheel made of it, and the demo in an environment that has nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from tests.support.runs import table

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SOURCES = ("flashvid", "pipeline", "jobs", "pyproject.toml", "README.md", "LICENSE")


def _python(*arguments: str | Path, cwd: Path, python: Path | str = sys.executable) -> str:
    """Run Python without this checkout in sight; what it printed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [python, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built of a copy: a build leaves traces among its sources."""
    folder = tmp_path_factory.mktemp("sdist")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(ROOT / name, folder / name)
    _python("-c", "from setuptools.build_meta import build_sdist; build_sdist('dist')", cwd=folder)
    (made,) = (folder / "dist").iterdir()
    return made


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built of the sdist, as whoever has no wheel for a machine does."""
    folder = tmp_path_factory.mktemp("wheel")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (sources,) = folder.iterdir()
    _python("-c", "from setuptools.build_meta import build_wheel; build_wheel('../dist')", cwd=sources)
    (made,) = (folder / "dist").iterdir()
    return made


def test_the_wheel_holds_the_packages_and_their_files(wheel: Path) -> None:
    """Every module and data file of the three packages but jobs/lab, and nothing besides."""
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = {
        str(path.relative_to(ROOT))
        for package in ("flashvid", "pipeline", "jobs")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and ROOT / "jobs" / "lab" not in path.parents
    }
    assert found == expected


@pytest.fixture
def installed(wheel: Path, tmp_path: Path) -> Path:
    """The wheel, unpacked; what it depends on comes from this environment."""
    shutil.unpack_archive(wheel, tmp_path / "installed", "zip")
    return tmp_path / "installed"


def _bench(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `flashvid bench` of the unpacked wheel."""
    command = [sys.executable, "-c", "from jobs.cli.main import main; main()", "bench", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    return subprocess.run(
        command, cwd=installed.parent, env=environment, capture_output=True, text=True, timeout=900, check=False
    )


@pytest.mark.parametrize("command", [["quality", "--output", "x"], ["answers"], ["planning"]], ids=lambda c: c[0])
def test_measurements_that_need_the_repository(installed: Path, command: list[str]) -> None:
    """Refused with one sentence."""
    done = _bench(installed, *command)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"flashvid bench {command[0]} is not in the installed package" in line
    assert "checkout of the flashvid repository" in line


def test_every_shipped_module_is_imported_without_the_lab(installed: Path) -> None:
    """Nothing of jobs/lab is needed at import time."""
    names = sorted(
        ".".join(path.relative_to(installed).with_suffix("").parts)
        for path in (installed / "jobs").rglob("*.py")
        if path.name != "__init__.py"
    )
    script = f"import importlib; [importlib.import_module(name) for name in {names}]; import jobs; print(jobs.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=installed,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(installed)


def test_all_benchmarks_of_an_installed_wheel(installed: Path, tmp_path: Path) -> None:
    """What is there runs, and what is not is named."""
    done = _bench(installed, "all", "--output", str(tmp_path / "bench"), "--quick")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Left out: quality, answers and planning" in (tmp_path / "bench" / "all.md").read_text()
    reports = {path.name for path in (tmp_path / "bench").rglob("*.md")}
    assert reports == {"all.md", "compress.md", "decode.md", "pipeline.md", "cache.md"}


def test_the_demo_of_an_installed_wheel(wheel: Path, tmp_path: Path) -> None:
    """In an empty environment, with what pip installs for the wheel and nothing else."""
    venv.create(tmp_path / "venv", with_pip=True, symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    _python("-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", wheel, cwd=tmp_path, python=python)
    _python("-m", "pip", "check", cwd=tmp_path, python=python)
    (packages,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    for package in ("flashvid", "pipeline", "jobs"):
        where = _python("-c", f"import {package}; print({package}.__file__)", cwd=tmp_path, python=python)
        assert Path(where.strip()).is_relative_to(packages)
    flashvid = tmp_path / "venv" / "bin" / "flashvid"
    _python(flashvid, "demo", "--output", tmp_path / "demo", cwd=tmp_path, python=python)
    answers = table(tmp_path / "demo" / "output", "answers")
    assert answers
    assert all(row["response"] for row in answers)
