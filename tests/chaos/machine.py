"""Runs on local disks: drivers stopped beyond their lease, full disks, two drivers, gc beside a run, bit flips.

Each fault hits a copy of the same job, which the next runs finish; then its tables are compared with those of an
undisturbed run. An answer may stand twice only where docs/guarantees.md says so, and where `verify` finds it.
"""

import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.care.forget import token_roots
from pipeline.care.verify import verify
from pipeline.config import JobConfig
from pipeline.store.results import Results
from pipeline.store.storage import Storage
from tests.support.full_disk import on_small_disk
from tests.support.runs import comparable, job, table
from tests.support.sample_folder import make_sample_videos

SAMPLES = ("moving_red_disc.mp4", "three_boxes.mp4", "scene_cuts.mp4", "short_flash.mp4")
QUESTIONS = ("What happens here?", "How many objects are there?")
NUM_VIDEOS = 8
_PYTHON = sys.executable
_DRIVER = [_PYTHON, "-m", "tests.chaos.driver"]
_FLASHVID = [_PYTHON, "-m", "jobs.cli.main"]
_LIMIT_S = 300.0
_POLL_S = 0.05
_ROOM_LATER = """
{run} run {job}; echo "exit code $?"
mount -o remount,rw,size=64m {disk}
{run} run {job} || exit 1
cp -a {disk}/. {kept}/
"""


@dataclass
class Machine:
    """Carries out faults, one after the other.

    Args:
        folder: For files of this run.
        seed: When faults happen, and where.
        say: Told each fault when it is over.
    """

    folder: Path
    seed: int
    say: Callable[[str], object]
    faults: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    runs: int = 0

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)  # noqa: S311 - when faults happen, not a secret
        samples = self.folder / "samples"
        make_sample_videos(samples)
        self._videos = self.folder / "videos"
        self._videos.mkdir(parents=True)
        for number in range(NUM_VIDEOS):
            shutil.copyfile(samples / SAMPLES[number % len(SAMPLES)], self._videos / f"{number:02}.mp4")
        undisturbed = self._job("undisturbed")
        self._finish(undisturbed)
        self._expected = _current(undisturbed)

    def stopped(self, stop: str | None, *, still_clock: bool) -> None:
        """Stop a driver beyond its lease, let another host take over and finish, and wake the first one up.

        Args:
            stop: Right `before` or `after` its last look at the lease; None: anywhere.
            still_clock: Whether its monotonic clock stands still meanwhile.
        """
        name = f"driver stopped {'anywhere' if stop is None else f'{stop} its last look at the lease'}"
        name += ", its clock too" if still_clock else ""
        with self._fault(name) as settings:
            options = ["--host", "one", *(["--still-clock"] if still_clock else [])]
            after = self._chance.randint(1, NUM_VIDEOS // 2)
            options += [] if stop is None else ["--stop", stop, "--commits", str(after)]
            first = self._start(settings, *options)
            if stop is None:
                self._wait(lambda: len(_parts(settings)) >= after, first)
                first.send_signal(signal.SIGSTOP)
            else:
                self._wait(lambda: _is_stopped(first), first)
            assert self._start(settings, "--host", "two").wait(timeout=_LIMIT_S) == 0
            first.send_signal(signal.SIGCONT)
            code = first.wait(timeout=_LIMIT_S)
            if code not in (2, 3):
                self.problems.append(f"{name}: ended with exit code {code}, not 2 or 3")

    def small_disk(self, where: str, *, read_only: bool) -> None:
        """Run on a disk that is full, or read-only, and again when it has room.

        Args:
            where: `output` or `cache`.
            read_only: Whether it is read-only instead of full.
        """
        name = f"{where} on a {'read-only' if read_only else 'full'} disk"
        with self._fault(name) as settings:
            disk = Path(settings.output if where == "output" else settings.tokens_root)
            disk.mkdir(parents=True)
            (kept := disk.with_name(f"{disk.name}-kept")).mkdir()
            script = _ROOM_LATER.format(run=" ".join(_FLASHVID), job=_file(settings), disk=disk, kept=kept)
            done = on_small_disk(disk, "sh", "-c", script, size="64k", read_only=read_only)
            if "exit code 3" not in done.stdout or done.returncode != 0:
                self.problems.append(f"{name}: {done.stdout[-300:]}{done.stderr[-300:]}")
            shutil.copytree(kept, disk, dirs_exist_ok=True)
            self.runs += 2

    def two_drivers(self) -> None:
        """Start two drivers of one output on one host at the same time: one runs, the other says why it does not."""
        with self._fault("two drivers at once") as settings:
            drivers = [self._start(settings) for _ in range(2)]
            codes = sorted(driver.wait(timeout=_LIMIT_S) for driver in drivers)
            if codes != [0, 2]:
                self.problems.append(f"two drivers at once: exit codes {codes}")

    def gc_beside_a_run(self) -> None:
        """Remove garbage again and again from the cache that a run fills; each time it does so, or says why not."""
        with self._fault("gc --yes beside a run") as settings:
            driver, codes = self._start(settings), Counter[int]()
            while driver.poll() is None:
                if Path(settings.tokens_root).exists():
                    command = [*_FLASHVID, "gc", settings.tokens_root, "--yes"]
                    codes[subprocess.run(command, capture_output=True, check=False).returncode] += 1
                time.sleep(_POLL_S)
            if driver.returncode != 0 or codes.keys() - {0, 2}:
                self.problems.append(f"gc --yes beside a run: the run's exit code {driver.returncode}, gc's {codes}")

    def flips(self, count: int) -> None:
        """Flip single bits, each in another object of a finished output or its cache, repair, and run again."""
        with self._fault(*[f"bit flip {number}" for number in range(1, count + 1)]) as settings:
            self._finish(settings)
            roots = [Path(settings.output), Path(settings.tokens_root)]
            paths = sorted(path for root in roots for path in root.rglob("*") if path.is_file())
            for path in self._chance.sample(paths, count):
                content = bytearray(path.read_bytes())
                content[self._chance.randrange(len(content))] ^= 1 << self._chance.randrange(8)
                path.write_bytes(content)
            subprocess.run([*_FLASHVID, "verify", settings.output, "--repair"], capture_output=True, check=False)

    @contextmanager
    def _fault(self, *names: str) -> Iterator[JobConfig]:
        """Yield a job for a fault; afterwards finish it and compare."""
        settings = self._job(f"fault-{len(self.faults):02}")
        yield settings
        self._finish(settings)
        # Once more: damage that the first run met is made again by the second.
        self._finish(settings)
        found = self._differences(settings)
        self.problems += [f"{names[0]}: {problem}" for problem in found]
        self.faults += names
        for name in names:
            self.say(f"{name}: {'as undisturbed' if not found else 'FAILED'}")

    def _differences(self, settings: JobConfig) -> list[str]:
        output = Storage(settings.output)
        if (current := _current(settings)) != self._expected:
            return [f"{len(current)} answers are not those of the undisturbed run ({len(self._expected)})"]
        keys = Counter((row["clip_id"], row["question_id"]) for row in table(Path(settings.output), "answers"))
        is_twice = max(keys.values()) > 1
        findings = verify(output, token_roots(output, {})).findings
        found = [f"verify: {finding}" for finding in findings if finding.kind != "duplicate"]
        if is_twice != (len(findings) > len(found)):
            found.append(f"answers stand twice: {is_twice}, but verify has {findings}")
        left = Results(output).failures(Results(output).answers())
        return [*found, *(f"a failure is left: {row['error_type']}: {row['error_message']}" for row in left)]

    def _job(self, name: str) -> JobConfig:
        folder = self.folder / name
        folder.mkdir()
        settings = job(
            folder, videos=str(self._videos), questions=list(QUESTIONS), cache=str(folder / "cache"), max_attempts=5
        )
        _file(settings).write_text(settings.model_dump_json(exclude_none=True))  # JSON is YAML
        return settings

    def _start(self, settings: JobConfig, *options: str) -> subprocess.Popen[bytes]:
        self.runs += 1
        with _file(settings).with_suffix(".log").open("ab") as log:
            command = [*_DRIVER, str(_file(settings)), *options]
            return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

    def _finish(self, settings: JobConfig) -> None:
        code = self._start(settings).wait(timeout=_LIMIT_S)
        if code != 0:
            self.problems.append(f"a last run ended with exit code {code}; see {_file(settings).with_suffix('.log')}")

    def _wait(self, condition: Callable[[], bool], driver: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _LIMIT_S
        while not condition():
            assert driver.poll() is None, f"the driver ended with {driver.returncode} before its fault"
            assert time.monotonic() < deadline, "the moment of the fault did not come"
            time.sleep(_POLL_S)


def _file(settings: JobConfig) -> Path:
    return Path(settings.output).with_name("job.json")


def _current(settings: JobConfig) -> list[tuple[tuple[str, str], ...]]:
    """The answers that count, without what may differ between runs."""
    return comparable([dict(row) for row in Results(Storage(settings.output)).answers()])


def _parts(settings: JobConfig) -> list[Path]:
    return list(Path(settings.output, "answers").rglob("part-*.parquet"))


def _is_stopped(process: subprocess.Popen[Any]) -> bool:
    # The state follows the name, which may contain spaces and parentheses (proc(5)).
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def on_one_machine(folder: Path, *, rounds: int, seed: int, say: Callable[[str], object] = print) -> Machine:
    """Carry out every kind of fault so many times, and return what came of it."""
    machine = Machine(folder, seed, say)
    for number in range(rounds):
        machine.stopped("before", still_clock=number % 2 == 0)
        machine.stopped("after", still_clock=number % 2 == 1)
        machine.stopped(None, still_clock=False)
        machine.two_drivers()
        machine.gc_beside_a_run()
        machine.flips(3)
    for where in ("output", "cache"):
        for read_only in (False, True):
            machine.small_disk(where, read_only=read_only)
    return machine
