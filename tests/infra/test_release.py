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


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty environment with what pip installs for the wheel, and nothing else."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "venv", with_pip=True, symlinks=True)
    python = folder / "venv" / "bin" / "python"
    _python("-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", wheel, cwd=folder, python=python)
    _python("-m", "pip", "check", cwd=folder, python=python)
    return folder / "venv"


def _flashvid(installed: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command of the environment."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [installed / "bin" / "flashvid", *arguments],
        cwd=installed.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


def test_every_module_is_imported_without_the_lab(installed: Path) -> None:
    """From where pip put it."""
    (packages,) = installed.glob("lib/python*/site-packages")
    names = sorted(
        ".".join(path.relative_to(packages).with_suffix("").parts)
        for package in ("flashvid", "pipeline", "jobs")
        for path in (packages / package).rglob("*.py")
        if path.name != "__init__.py"
    )
    assert names
    script = f"import importlib, jobs\nfor name in {names}: importlib.import_module(name)\nprint(jobs.__file__)"
    where = _python("-c", script, cwd=installed.parent, python=installed / "bin" / "python")
    assert Path(where.strip()).is_relative_to(packages)


def test_the_demo_of_an_installed_wheel(installed: Path, tmp_path: Path) -> None:
    """Its clips are in the wheel."""
    done = _flashvid(installed, "demo", "--output", tmp_path / "demo")
    assert done.returncode == 0, done.stdout + done.stderr
    answers = table(tmp_path / "demo" / "output", "answers")
    assert len(answers) == 10
    assert all(row["response"] for row in answers)


@pytest.mark.parametrize("command", [["quality", "--output", "x"], ["answers"], ["planning"]], ids=lambda c: c[0])
def test_measurements_that_need_the_repository(installed: Path, command: list[str]) -> None:
    """Refused with one sentence."""
    done = _flashvid(installed, "bench", *command)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"flashvid bench {command[0]} is not in the installed package" in line
    assert "checkout of the flashvid repository" in line


def test_all_benchmarks_of_an_installed_wheel(installed: Path, tmp_path: Path) -> None:
    """What is there runs, and what is not is named."""
    done = _flashvid(installed, "bench", "all", "--output", tmp_path / "bench", "--quick")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (
        "Left out: quality, answers and planning (they need a checkout" in (tmp_path / "bench" / "all.md").read_text()
    )
    reports = {path.name for path in (tmp_path / "bench").rglob("*.md")}
    assert reports == {"all.md", "compress.md", "pipeline.md", "cache.md"}
