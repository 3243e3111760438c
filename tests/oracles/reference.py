"""Reads the reference vectors. They are not part of the repository; tests that need them are skipped without them."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from torch import Tensor

_BESIDE = sorted(Path(__file__).resolve().parents[3].glob("*/reference"))  # in a folder beside the repository
REFERENCE = Path(os.environ.get("FLASHVID_REFERENCE") or (_BESIDE[0] if _BESIDE else "reference"))
GOLDEN = REFERENCE / "golden"

needs_reference = pytest.mark.skipif(
    not GOLDEN.is_dir(),
    reason=f"reference vectors are not at {GOLDEN}; set FLASHVID_REFERENCE to the folder that holds golden/",
)


@dataclass(frozen=True)
class Vector:
    """One vector file: its tensors, and the parameters of the recorded run."""

    name: str
    tensors: dict[str, Tensor]
    metadata: dict[str, Any]

    @property
    def params(self) -> dict[str, Any]:
        """Return the settings of the function under test."""
        params: dict[str, Any] = self.metadata["params"]
        return params

    def features(self) -> Tensor:
        """Return the input features in float32, as in the recorded run; files store them in 16 bits."""
        return self.tensors["features"].float()


def load_vector(path: Path) -> Vector:
    """Read a `.safetensors` file of the reference."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        metadata = json.loads((file.metadata() or {})["json"])
    return Vector(path.stem, tensors, metadata)


def vector_paths(prefix: str, folder: Path = GOLDEN) -> list[Path]:
    """Return the vector files whose names start with `prefix`; none if the folder is missing."""
    return sorted(folder.glob(f"{prefix}*.safetensors"))


def load_edge_cases(folder: Path = GOLDEN) -> list[dict[str, Any]]:
    """Return descriptions of edge cases, with the result of the reference."""
    cases: list[dict[str, Any]] = json.loads((folder / "edge_cases.json").read_text(encoding="utf-8"))
    return cases
