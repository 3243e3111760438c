"""Read and write `runs/`: the immutable start record and end record of each run.

The settings in the start records prevent results of different settings from being mixed.
"""

import json
import platform
import secrets
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from flashvid.errors import ConfigurationError
from pipeline.config import JobConfig
from pipeline.errors import DamagedObjectError, NewerFormatError, SettingsChangedError
from pipeline.redaction import holds_secret, redacted
from pipeline.store.fingerprint import Fingerprints, changed_settings
from pipeline.store.json_record import check_keys, check_name, read_record
from pipeline.store.storage import Storage

# Format of everything below an output (docs/compatibility.md). Increase it if an older version would misread a change.
FORMAT_VERSION = 1
END = ".end.json"
_FORMAT_KEYS = {"format_version": int, "packages": dict}
_START_KEYS = {
    **dict.fromkeys(("run_id", "started", "host", "tokens_fingerprint", "answers_fingerprint"), str),
    **dict.fromkeys(("tokens_settings", "answers_settings", "job"), dict),
}
_END_KEYS = {"ended": str, "run_id": str, "answers_total": int}
_RECORDED_PACKAGES = ("flashvid-pipeline", "torch", "transformers", "ray", "decord", "av", "pyarrow")


def new_run_id() -> str:
    """Return a new run id, which sorts by start time (UTC) and is unique without coordination."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"


class RunRecords:
    """The run records of one output."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def check_settings(self, new: Fingerprints, *, fork: bool) -> None:
        """Reject settings that no earlier run of this output used (docs/guarantees.md, guarantee 5).

        Args:
            new: Fingerprints of the run that is about to start.
            fork: Whether the user allows new settings (`--fork`).

        Raises:
            SettingsChangedError: no earlier run used these settings; the message lists the differences from the
                earlier run that is most similar.
            NewerFormatError: see `all`.
        """
        earlier = [run for run in self.all() if self._has_results(run)]
        if fork or not earlier or any(run["answers_fingerprint"] == new.answers for run in earlier):
            return
        compared = (changed_settings(run["answers_settings"], new.answers_settings) for run in reversed(earlier))
        fewest = min(compared, key=len)
        changes = "\n  ".join(fewest)
        raise SettingsChangedError(
            f"{self._storage.url} was made with other settings:\n  {changes}\nRestore these settings, store the new "
            "answers next to the earlier ones with --fork, or choose another output."
        )

    def start(self, run_id: str, job: JobConfig, prints: Fingerprints) -> None:
        """Record the resolved job. Call this before anything is committed under its fingerprints."""
        self._create(
            f"runs/{run_id}.json",
            {
                "format_version": FORMAT_VERSION,
                "run_id": run_id,
                "started": datetime.now(UTC).isoformat(),
                "host": platform.node(),
                "python": platform.python_version(),
                "packages": {name: version(name) for name in _RECORDED_PACKAGES},
                "tokens_fingerprint": prints.tokens,
                "answers_fingerprint": prints.answers,
                "tokens_settings": dict(prints.tokens_settings),
                "answers_settings": dict(prints.answers_settings),
                "job": _without_secrets(job.model_dump(mode="json")),
            },
        )

    def end(self, run_id: str, summary: Mapping[str, Any]) -> None:
        """Record the end of a run with its summary."""
        self._create(f"runs/{run_id}{END}", {"ended": datetime.now(UTC).isoformat(), **summary})

    def all(self) -> list[dict[str, Any]]:
        """Return the start record of every run, the earliest first.

        Raises:
            DamagedObjectError: a record can't be read.
            NewerFormatError: a later version wrote to this output, in a format that this version can't read.
        """
        return [self.read_start(name) for name in self._storage.names("runs") if not name.endswith(END)]

    def readable(self) -> list[dict[str, Any]]:
        """Return the start records that are not damaged, the earliest first: for commands that look for damage.

        Raises:
            NewerFormatError: see `all`.
        """
        found = []
        for name in self._storage.names("runs"):
            with suppress(DamagedObjectError):
                found += [] if name.endswith(END) else [self.read_start(name)]
        return found

    def latest(self, fingerprint: str | None = None) -> dict[str, Any]:
        """Return the start record of the latest run.

        Args:
            fingerprint: Consider only runs under this `answers_fingerprint`; None for all runs.

        Raises:
            ConfigurationError: there is no such run.
            NewerFormatError: see `all`.
        """
        runs = self.all()
        if not runs:
            raise ConfigurationError(
                "no run has written here: runs/ is empty; check the path of the output", self._storage.url
            )
        chosen = [run for run in runs if fingerprint in (None, run["answers_fingerprint"])]
        if not chosen:
            known = ", ".join(dict.fromkeys(run["answers_fingerprint"] for run in runs))
            raise ConfigurationError(
                f"has no run of fingerprint {fingerprint}; known fingerprints: {known}", self._storage.url
            )
        return chosen[-1]

    def read_start(self, name: str) -> dict[str, Any]:
        """Return a start record by the name of its object.

        Raises:
            DamagedObjectError: it can't be read.
            NewerFormatError: see `all`.
        """
        record = read_record(self._storage, name, _FORMAT_KEYS)
        if record["format_version"] > FORMAT_VERSION:
            writer = record["packages"].get("flashvid-pipeline", "of a later version")
            raise NewerFormatError(
                f"was written by flashvid-pipeline {writer} in format {record['format_version']}; this version, "
                f"{version('flashvid-pipeline')}, reads up to format {FORMAT_VERSION}: install {writer} or a later one",
                self._storage.url,
            )
        check_keys(self._storage, name, record, _START_KEYS)
        check_name(self._storage, name, f"runs/{record['run_id']}.json")
        return record

    def read_end(self, name: str) -> dict[str, Any]:
        """Return an end record by the name of its object.

        Raises:
            DamagedObjectError: it can't be read.
        """
        record = read_record(self._storage, name, _END_KEYS)
        check_name(self._storage, name, f"runs/{record['run_id']}{END}")
        return record

    def ended(self) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """Return the start record and the end record of every run that has ended, the earliest first.

        Raises:
            NewerFormatError: see `all`.
        """
        names = set(self._storage.names("runs"))
        # The start of a run may be in quarantine.
        ends = sorted(name for name in names if name.endswith(END) and name.replace(END, ".json") in names)
        return [(self.read_start(name.replace(END, ".json")), self.read_end(name)) for name in ends]

    def _has_results(self, run: Mapping[str, Any]) -> bool:
        """Return whether anything is committed under a run's fingerprints.

        The settings of a run without results are not compared with those of later runs.
        """
        answers, tokens = run["answers_fingerprint"], run["tokens_fingerprint"]
        folders = (f"answers/fingerprint={answers}", f"failures/fingerprint={answers}", f"tokens/fingerprint={tokens}")
        return any(self._storage.has_folder(folder) for folder in folders)

    def _create(self, name: str, record: Mapping[str, Any]) -> None:
        self._storage.add(name, json.dumps(record, indent=2).encode())


def _without_secrets(job: dict[str, Any]) -> dict[str, Any]:
    """Return a resolved job without the signatures in the URLs of its tables; `JobConfig` refuses other secrets."""
    signed = [key for key in ("videos", "questions") if isinstance(job[key], str) and holds_secret(job[key])]
    return {**job, **{key: redacted(job[key]) for key in signed}}
