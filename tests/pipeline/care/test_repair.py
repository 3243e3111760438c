"""`verify --repair`: what is damaged moves to `quarantine/`, under the lease, and nothing else changes."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs.cli.main import app
from pipeline.care.verify import verify
from pipeline.errors import DamagedObjectError, OutputLockedError
from pipeline.store import schemas
from pipeline.store.cache_users import note_cache_user
from pipeline.store.lease import Lease
from pipeline.store.ledger import Ledger
from pipeline.store.retries import RetryRequest
from pipeline.store.run_records import RunRecords
from pipeline.store.storage import Storage
from tests.pipeline.care.test_care import ANSWERS_PRINT, RUNS, Run, output

__all__ = ["output"]  # the fixture
TABLES = ("answers", "failures", "probes", "tokens", "runs", "retries", "used-by", "lease")


class DiesError(Exception):
    """The process ends here."""


@pytest.fixture
def full(output: Storage, tmp_path: Path) -> Storage:
    """An output with an object of every kind."""
    note_cache_user(output, Storage(str(tmp_path / "user")))
    retry = RetryRequest("20260105T000000-ee")
    assert output.create(f"retries/{retry.requested}.json", json.dumps(vars(retry)).encode())
    with Lease.acquire(output, "run"):
        pass
    assert verify(output, [output]).findings == ()
    return output


def contents(storage: Storage) -> dict[str, bytes]:
    """Every object but the lease, which each command renews."""
    return {name: storage.read(name) for name in storage.names("") if not re.match("lease/.*[^1].json", name)}


def damage(storage: Storage, table: str) -> str:
    """Cut off the end of an object; return its name."""
    name = storage.names(table)[0]
    path = Path(storage.path(name))
    path.write_bytes(path.read_bytes()[:-9])
    return name


@pytest.mark.parametrize("table", TABLES)
def test_what_is_damaged_moves_with_all_its_bytes(full: Storage, table: str) -> None:
    """Nothing is deleted, nothing else is touched, and doing it twice is doing it once."""
    before = contents(full)
    name = damage(full, table)
    damaged = full.read(name)
    with Lease.acquire(full, "repair", sleep=lambda _: None) as lease:
        (finding,) = [one for one in verify(full, [full], lease).findings if one.kind == "damaged"]
        assert (finding.name, finding.root, finding.quarantined) == (name, full.url, f"quarantine/{name}")
        after = {**before, f"quarantine/{name}": damaged}
        del after[name]
        assert contents(full) == after
        assert [one for one in verify(full, [full], lease).findings if one.kind == "damaged"] == []
        assert contents(full) == after


@pytest.mark.parametrize("table", ["answers", "tokens", "runs"])
def test_a_crash_on_the_way_leaves_each_row_once(full: Storage, monkeypatch: pytest.MonkeyPatch, table: str) -> None:
    """It is then in both places, one of which nobody reads; the same command completes the move."""
    name = damage(full, table)
    damaged = full.read(name)

    def die(_: str) -> None:
        raise DiesError

    with Lease.acquire(full, "repair") as lease:
        with monkeypatch.context() as context, pytest.raises(DiesError):
            context.setattr(full, "remove", die)
            verify(full, [full], lease)
        assert full.read(name) == full.read(f"quarantine/{name}") == damaged
        verify(full, [full], lease)
    assert not full.exists(name)
    assert full.names("quarantine") == [f"quarantine/{name}"]


def test_a_second_object_of_the_same_name_gets_a_number(full: Storage) -> None:
    """Tokens that were made again and damaged again."""
    name = damage(full, "tokens")
    with Lease.acquire(full, "repair") as lease:
        verify(full, [full], lease)
        assert full.create(name, b"damaged again")
        verify(full, [full], lease)
    assert full.names("quarantine") == [f"quarantine/{name}", f"quarantine/{name}.2"]
    assert full.read(f"quarantine/{name}.2") == b"damaged again"


def test_nothing_moves_without_the_lease(full: Storage) -> None:
    """Another run has taken it."""
    name, lease = damage(full, "answers"), Lease.acquire(full, "repair")
    assert full.create(f"lease/{lease.epoch + 1:08d}.json", full.read(f"lease/{lease.epoch:08d}.json"))
    with pytest.raises(OutputLockedError):
        verify(full, [full], lease)
    assert full.exists(name)
    assert full.names("quarantine") == []


def test_rows_of_a_run_whose_record_is_in_quarantine_are_no_orphans(full: Storage) -> None:
    """The run did exist, and another one names its settings."""
    name = damage(full, "runs")
    assert name == f"runs/{RUNS[0]}.json"
    with pytest.raises(DamagedObjectError):
        RunRecords(full).all()
    with Lease.acquire(full, "repair") as lease:
        assert [one.kind for one in verify(full, [full], lease).findings] == ["damaged"]
    assert [run["run_id"] for run in RunRecords(full).all()] == [RUNS[1]]
    assert verify(full, [full]).findings == ()


def test_a_fingerprint_must_be_that_of_its_settings(full: Storage) -> None:
    """One flipped digit would hide every answer."""
    Run("20260104T000000-dd", answers=ANSWERS_PRINT[:-1] + "z").record(full)
    (finding,) = verify(full, [full]).findings
    assert (finding.kind, finding.message) == ("damaged", "its answers_fingerprint is not that of its settings")


def test_the_answer_that_counts_is_no_finding(full: Storage) -> None:
    """Two drivers wrote the same answer: the one of the lower epoch is named, in the part that holds it."""
    ledger = Ledger(full, ANSWERS_PRINT)
    rows = full.table([full.names("answers")[0]], schemas.ANSWERS, schemas.ANSWERS.names).to_pylist()
    ledger.append_answers([{**row, "epoch": 9} for row in rows], "later")
    ledger.append_answers([{**row, "epoch": 4} for row in rows], "earlier")
    found = {finding.name.rsplit("/", 1)[1]: finding for finding in verify(full, [full]).findings}
    assert sorted(found) == sorted(["part-earlier.parquet", full.names("answers")[0].rsplit("/", 1)[1]])
    assert {finding.kind for finding in found.values()} == {"duplicate"}
    assert "stand twice" in found["part-earlier.parquet"].message


def test_the_command(full: Storage) -> None:
    """It says what moved where; exit code 0 once nothing is wrong any more, 1 for what a repair can't help."""
    runner, name = CliRunner(), damage(full, "answers")
    assert isinstance(runner.invoke(app, ["status", full.root]).exception, DamagedObjectError)
    assert runner.invoke(app, ["verify", full.root]).exit_code == 1
    done = runner.invoke(app, ["verify", full.root, "--repair"])
    assert done.exit_code == 0, done.output
    assert f"moved: {name} to quarantine/{name}" in done.output
    again = runner.invoke(app, ["verify", full.root, "--repair", "--json"])
    assert (again.exit_code, json.loads(again.stdout)["findings"]) == (0, [])
    assert runner.invoke(app, ["export", full.root, full.root + "-export"]).exit_code == 0
    assert full.create("answers/fingerprint=unknown/shard=00/part-x.parquet", full.read(full.names("answers")[0]))
    assert runner.invoke(app, ["verify", full.root, "--repair"]).exit_code == 1
