"""A real output with damage in every table: one error, one repair, and the next run makes again what was lost."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import DamagedObjectError
from pipeline.run.run import run
from tests.support.runs import comparable, job, table
from tests.support.shared_runs import QUESTIONS, VIDEOS, SharedRun

pytestmark = pytest.mark.slow


def damage(output: Path, name: str) -> None:
    """Cut off the end of the first object of a table."""
    path = min(path for path in (output / name).rglob("*") if path.is_file() and ".end." not in path.name)
    path.write_bytes(path.read_bytes()[:-3])


@pytest.mark.parametrize(("tables", "made_again"), [(("answers", "probes", "tokens"), True), (("runs",), False)])
def test_damage_is_repaired_and_made_again(
    finished: SharedRun, tmp_path: Path, tables: tuple[str, ...], made_again: bool
) -> None:
    """Every answer is there once, as it was; results whose run lost its record are found under their fingerprint."""
    output = finished.copy_output(tmp_path)
    settings = finished.settings.model_copy(update={"output": str(output)})
    for name in tables:
        damage(output, name)
    with pytest.raises(DamagedObjectError, match="verify OUTPUT --repair"):
        run(settings)
    command = [sys.executable, "-m", "jobs.cli.main", "verify", str(output)]
    repaired = subprocess.run([*command, "--repair"], capture_output=True, text=True, check=False)
    assert (repaired.stdout.count("\nmoved: "), repaired.stderr) == (len(tables), ""), repaired.stdout
    # Without any record of their run, the results are orphans until the next run names their settings again.
    assert repaired.returncode == (0 if made_again else 1)
    summary = run(settings)
    assert (summary.answers_new > 0) == made_again
    assert comparable(table(output, "answers")) == comparable(table(finished.output, "answers"))
    # Tokens are made again where an answer needs them.
    kept = {row["clip_id"] for row in table(finished.output, "answers")}
    again = {row["clip_id"] for row in table(output, "answers") if row["run_id"] == summary.run_id}
    assert again <= {row["clip_id"] for row in table(output, "tokens")} <= kept
    assert subprocess.run(command, check=False).returncode == 0


def test_damaged_tokens_are_made_again_by_the_next_run(finished: SharedRun, tmp_path: Path) -> None:
    """A run that reads them has one failure per question of the clip, which costs an attempt, and no other."""
    output = finished.copy_output(tmp_path)
    settings = job(finished.folder, output=str(output), questions=[*QUESTIONS, "Is it day?"])
    damage(output, "tokens")
    first = run(settings)
    assert (first.answers_new, first.failures_new, first.clips_decoded) == (len(VIDEOS) - 1, 1, 0)
    (failed,) = table(output, "failures")
    assert (failed["error_type"], failed["error_kind"]) == ("CorruptTokensError", "transient")
    assert "quarantine/" in failed["error_message"]
    second = run(settings)
    assert (second.answers_new, second.failures_new, second.clips_decoded) == (1, 0, 1)
