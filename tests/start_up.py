"""CPU seconds that commands and the decode process take to start, against another build.

    python -m tests.start_up BASE_PYTHON [--base-child MODULE] [--rounds N]

BASE_PYTHON is the interpreter of an environment with the other build. The two builds take turns; of each the least of
all rounds counts, user and system time together. Exit code 1 if an entry is above its share. It is not part of
`make test`, which pins what each entry imports instead (`tests/test_imports.py`).
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import Pipe
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile

_SHARES = {"--help": 0.4, "validate": 0.6, "status": 0.6, "decode process": 0.6}
_OUTPUT = Path(__file__).parent / "data" / "output-format-1"
_MEMORY = 1 << 30
_JOB = """\
videos: videos.csv
questions: ["What happens?", "Where is it?"]
output: output
model: {name: tiny}
"""


def main() -> None:
    """Measure and print the table."""
    options = argparse.ArgumentParser(prog="python -m tests.start_up")
    options.add_argument("base_python")
    options.add_argument("--base-child", default="pipeline.video.child", help="at 780b831: pipeline.decoders.child")
    options.add_argument("--rounds", type=int, default=7)
    given = options.parse_args()
    with TemporaryDirectory() as folder:
        fill(Path(folder))
        others = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        base = _entries(given.base_python, given.base_child, folder, others)
        ours = _entries(sys.executable, "pipeline.video.child", folder, os.environ)
        above = False
        for name, share in _SHARES.items():
            pairs = [(base[name](), ours[name]()) for _ in range(given.rounds)]
            before, now = (min(times) for times in zip(*pairs, strict=True))
            above |= now > share * before
            print(f"{name:15} {before:.3f} s -> {now:.3f} s: {now / before:.2f} of the base, at most {share}")
    sys.exit(above)


def fill(folder: Path) -> None:
    """Write a job with a table of videos and an output."""
    shutil.copytree(_OUTPUT, folder / "output")
    (folder / "job.yaml").write_text(_JOB)
    (folder / "videos.csv").write_text("video_id,video_path\na,a.mp4\nb,b.mp4\n")


def _entries(python: str, child: str, folder: str, environment: Mapping[str, str]) -> Mapping[str, Callable[[], float]]:
    def command(*arguments: str) -> Callable[[], float]:
        return lambda: _cpu_of_command([str(Path(python).with_name("flashvid")), *arguments], folder, environment)

    return {
        "--help": command("--help"),
        "validate": command("validate", "job.yaml"),
        "status": command("status", "output"),
        "decode process": lambda: _cpu_until_ready([python, "-m", child], folder, environment),
    }


def _cpu_of_command(command: Sequence[str], folder: str, environment: Mapping[str, str]) -> float:
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
    return _cpu(process, expected=0)


def _cpu_until_ready(command: Sequence[str], folder: str, environment: Mapping[str, str]) -> float:
    ours, theirs = Pipe()
    with ours, theirs, TemporaryFile() as memory:
        memory.truncate(_MEMORY)
        descriptors = (theirs.fileno(), memory.fileno())
        process = subprocess.Popen(
            [*command, *map(str, descriptors), str(_MEMORY)], cwd=folder, env=environment, pass_fds=descriptors
        )
        if ours.recv() != "ready":
            raise RuntimeError("the decode process did not say that it is ready")
        process.kill()
        return _cpu(process, expected=-9)


def _cpu(process: subprocess.Popen[bytes], *, expected: int) -> float:
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != expected:
        raise RuntimeError(f"{process.args!r} ended with exit code {process.returncode}")
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
