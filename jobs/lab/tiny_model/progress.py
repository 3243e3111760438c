"""The files of a training run: its state, replaced atomically, and its log."""

import json
import os
import time
from pathlib import Path
from typing import Any

import torch


class RunFolder:
    """The state and the log of one stage, in a folder that survives being killed at any moment."""

    def __init__(self, folder: Path, stage: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._state = folder / f"{stage}.pt"
        self._log = folder / f"{stage}.jsonl"

    def load(self) -> dict[str, Any] | None:
        """Return the last saved state, and cut the log to it."""
        if not self._state.is_file():
            self._log.unlink(missing_ok=True)
            return None
        state: dict[str, Any] = torch.load(self._state, weights_only=True)
        if self._log.is_file():
            lines = self._log.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = "".join(line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= state["step"])
            _replace(self._log, kept.encode())
        return state

    def save(self, state: dict[str, Any]) -> None:
        """Replace the state atomically: after a kill it is the old one or the new one."""
        partial = self._state.with_suffix(".partial")
        torch.save(state, partial)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(self._state)

    def log(self, **row: object) -> None:
        """Append a row."""
        row["at"] = round(time.time())
        with self._log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_suffix(path.suffix + ".partial")
    partial.write_bytes(content)
    partial.replace(path)
