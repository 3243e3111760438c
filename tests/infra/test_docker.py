"""infra/docker: clean by hadolint, and consistent with what it copies and installs."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "infra" / "docker" / "Dockerfile"


def instructions() -> list[tuple[str, str]]:
    """Name and text of each instruction, its lines joined."""
    joined = DOCKERFILE.read_text().replace("\\\n", "")
    lines = [line for line in joined.splitlines() if line and not line.startswith("#")]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


def stages() -> dict[str, list[tuple[str, str]]]:
    """The instructions of each stage, with those of the stages that it is built on."""
    found: dict[str, list[tuple[str, str]]] = {}
    for name, text in instructions():
        if name == "FROM":
            image, _, stage = text.split()
            found[stage] = [*found.get(image, [])]
            current = found[stage]
        elif found:
            current.append((name, text))
    return found


def test_hadolint_finds_nothing() -> None:
    """The one rule that is switched off has its reason beside it."""
    linter = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([linter, DOCKERFILE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_both_images_are_careful() -> None:
    """A user without rights, a volume for models, a health check; the base by its exact version."""
    for target in ("cpu", "cuda"):
        stage = dict(stages()[target])
        assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", stage["USER"])
        assert stage["VOLUME"] == "/models"
        assert "ray health-check" in stage["HEALTHCHECK"]
        # The user is dropped to last: nothing but copies after it.
        names = [name for name, _ in stages()[target]]
        assert "RUN" not in names[names.index("USER") :]
    # One image from elsewhere, which the builder can name by its digest.
    assert {text.split()[0] for name, text in instructions() if name == "FROM"} - stages().keys() == {"${PYTHON_IMAGE}"}
    (base,) = (text for name, text in instructions() if name == "ARG")
    assert re.fullmatch(r"PYTHON_IMAGE=python:3\.\d+\.\d+-slim-\w+", base)


def test_ray_up_finds_its_tools() -> None:
    """The package of each program that its commands call in a container, and the home that it mounts the token into."""
    for target in ("cpu", "cuda"):
        runs = [text for name, text in stages()[target] if name == "RUN"]
        (install,) = (command for text in runs for command in text.split("&&") if "apt-get install" in command)
        assert {"openssh-client", "rsync", "wget"} <= set(install.split())
        (user,) = (command for text in runs for command in text.split("&&") if "useradd" in command)
        assert "--create-home" in user
        # Ray's `DockerCommandRunner.run_init` reads HOME of the image's environment, and takes /root without.
        words = [word for name, text in stages()[target] if name == "ENV" for word in text.split()]
        environment = dict(word.split("=", 1) for word in words)
        assert environment["HOME"] == f"/home/{user.split()[-1]}" == dict(stages()[target])["WORKDIR"]


def test_login_shells_find_our_programs(tmp_path: Path) -> None:
    """The Dockerfile's own line, in a shell that has Debian's PATH only."""
    for target in ("cpu", "cuda"):
        (line,) = (text for name, text in stages()[target] if name == "RUN" and "/etc/profile.d/" in text)
        written = tmp_path / f"{target}.sh"
        made, _, path = line.rpartition(" > ")
        assert Path(path).match("/etc/profile.d/*.sh")
        subprocess.run(["bash", "-c", f"{made} > {shlex.quote(str(written))}"], check=True)  # noqa: S607
        asked = ["env", "-i", "PATH=/usr/bin:/bin", "bash", "-c", f". {shlex.quote(str(written))}; printenv PATH"]
        found = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
        assert found.strip() == "/opt/flashvid/bin:/usr/bin:/bin"


def test_packages_are_those_of_the_constraints() -> None:
    """Each install names constraints.txt, or installs our own wheel and nothing with it."""
    installs = [
        command
        for name, text in instructions()
        if name == "RUN"
        for command in text.split("&&")
        if "pip install" in command or "pip wheel" in command
    ]
    assert len(installs) >= 6
    for command in installs:
        assert "-c constraints.txt" in command or "--no-deps" in command, command


def test_the_list_of_requirements_is_made_of_the_project() -> None:
    """The command of the Dockerfile, run here."""
    (command,) = (
        text for name, text in instructions() if name == "RUN" and "requirements.txt" in text and "tomllib" in text
    )
    words = shlex.split(command)
    assert words[-2:] == [">", "requirements.txt"]
    script = words[words.index("-c") + 1]
    made = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert made.stdout.splitlines() == [*project["dependencies"], *project["optional-dependencies"]["cluster"]]


def test_every_package_of_the_images_is_pinned() -> None:
    """Also those that others bring, as their metadata says; what torch's CUDA build brings, it pins itself."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {canonicalize_name(line.split("==")[0]) for line in lines if "==" in line and not line.startswith("#")}
    todo = [Requirement(line) for line in (*project["dependencies"], *project["optional-dependencies"]["cluster"])]
    seen: set[tuple[str, frozenset[str]]] = set()
    while todo:
        wanted = todo.pop()
        name, extras = canonicalize_name(wanted.name), frozenset(wanted.extras)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        todo += [
            one
            for one in map(Requirement, metadata.requires(name) or [])
            if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in (extras or {""}))
            if not (name == "torch" and one.name.startswith(("cuda", "nvidia", "triton")))
        ]
    assert {name for name, _ in seen} - pinned == set()
    assert len(seen) > 60


def test_what_is_copied_reaches_docker_and_nothing_else_does() -> None:
    """.dockerignore lets in exactly what the Dockerfile copies."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    allowed = {line.removeprefix("!") for line in lines if line.startswith("!")}
    copied = {
        word for name, text in instructions() if name == "COPY" and "--from" not in text for word in text.split()[:-1]
    }
    assert copied == allowed
    assert all((ROOT / name).exists() for name in allowed)
    assert not any(fnmatch(name, pattern) for name in allowed for pattern in ("*.env", ".*", "*secret*", "*token*"))
