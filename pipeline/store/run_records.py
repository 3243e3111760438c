"""`runs/`: what each run was asked to do and how it ended. Immutable; the settings in them guard against mixing."""

from __future__ import annotations

import json
import platform
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from flashvid.errors import ConfigurationError
from pipeline.config import JobConfig
from pipeline.errors import NewerFormatError, SettingsChangedError
from pipeline.store.fingerprint import Fingerprints, changed_settings
from pipeline.store.storage import Storage

# Of all that is below an output, as docs/compatibility.md describes it. Raised when an older version would misread it.
FORMAT_VERSION = 1
_RECORDED_PACKAGES = ("flashvid-pipeline", "torch", "transformers", "ray", "decord", "av", "pyarrow")


def new_run_id() -> str:
    """Sortable by start, unique without coordination."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"


class RunRecords:
    """The runs of one output."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def check_settings(self, new: Fingerprints, *, fork: bool) -> None:
        """Refuse settings that this output has not seen, unless the user asks for a fork (guarantee 5).

        Raises:
            SettingsChangedError: names every changed setting, compared with the nearest earlier run.
            NewerFormatError: see `all`.
        """
        earlier = [run for run in self.all() if self._has_results(run)]
        if fork or not earlier or any(run["answers_fingerprint"] == new.answers for run in earlier):
            return
        changes = min(
            (changed_settings(run["answers_settings"], new.answers_settings) for run in reversed(earlier)),
            key=len,
        )
        raise SettingsChangedError(
            f"{self._storage.url} was made with other settings:\n  "
            + "\n  ".join(changes)
            + "\nGo on beside the earlier answers with --fork, or choose another output."
        )

    def start(self, run_id: str, job: JobConfig, prints: Fingerprints) -> None:
        """Record the job as resolved, before anything is committed under its fingerprints."""
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
                "job": job.model_dump(mode="json"),
            },
        )

    def end(self, run_id: str, summary: Mapping[str, Any]) -> None:
        """Record how the run ended."""
        self._create(f"runs/{run_id}.end.json", {"ended": datetime.now(UTC).isoformat(), **summary})

    def all(self) -> list[dict[str, Any]]:
        """Every run's record as it was started, the earliest first.

        Raises:
            NewerFormatError: a run of a later version has changed the output's format.
        """
        names = self._storage.names("runs")
        return [self._read_start(name) for name in names if not name.endswith(".end.json")]

    def latest(self, fingerprint: str | None = None) -> dict[str, Any]:
        """The latest run's record, or that of the latest run under an `answers_fingerprint`.

        Raises:
            ConfigurationError: there is no such run.
            NewerFormatError: see `all`.
        """
        runs = self.all()
        if not runs:
            raise ConfigurationError("no run has written here: runs/ is empty", self._storage.url)
        chosen = [run for run in runs if fingerprint in (None, run["answers_fingerprint"])]
        if not chosen:
            known = ", ".join(dict.fromkeys(run["answers_fingerprint"] for run in runs))
            raise ConfigurationError(f"has no run of fingerprint {fingerprint}; there are {known}", self._storage.url)
        return chosen[-1]

    def _read_start(self, name: str) -> dict[str, Any]:
        record = self._read(name)
        if record["format_version"] > FORMAT_VERSION:
            writer = record["packages"]["flashvid-pipeline"]
            raise NewerFormatError(
                f"was written by flashvid-pipeline {writer} in format {record['format_version']}; this version, "
                f"{version('flashvid-pipeline')}, reads up to format {FORMAT_VERSION}: install {writer} or a later one",
                self._storage.url,
            )
        return record

    def _read(self, name: str) -> dict[str, Any]:
        return dict(json.loads(self._storage.read(name)))

    def ended(self) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """The two records of every run that came to its end, as it was started and as it ended, the earliest first.

        Raises:
            NewerFormatError: see `all`.
        """
        ends = [name for name in self._storage.names("runs") if name.endswith(".end.json")]
        return [(self._read_start(name.replace(".end.json", ".json")), self._read(name)) for name in ends]

    def _has_results(self, run: Mapping[str, Any]) -> bool:
        """Whether anything stands under a run's fingerprints; a run that made nothing binds nobody."""
        answers, tokens = run["answers_fingerprint"], run["tokens_fingerprint"]
        folders = (f"answers/fingerprint={answers}", f"failures/fingerprint={answers}", f"tokens/fingerprint={tokens}")
        return any(self._storage.has_folder(folder) for folder in folders)

    def _create(self, name: str, record: Mapping[str, Any]) -> None:
        self._storage.add(name, json.dumps(record, indent=2).encode())
