"""Weights from safetensors files, read tensor by tensor: a part of a model costs only that part's bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from flashvid.errors import ModelLoadError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


class Checkpoint:
    """The safetensors files of a model directory, one or sharded.

    Attributes:
        bytes_read: Bytes of the tensors read so far, as stored.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.bytes_read = 0

    def check_readable(self) -> None:
        """Open every file's header.

        Raises:
            ModelLoadError: no safetensors file, one is missing or damaged.
        """
        if not self._files:
            raise ModelLoadError("there are no tensors", str(self._path))

    @cached_property
    def _files(self) -> Mapping[str, Path]:
        """Which file holds each tensor."""
        index = self._path / "model.safetensors.index.json"
        if index.is_file():
            shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            names = sorted(set(shards.values()))
        else:
            names = sorted(file.name for file in self._path.glob("*.safetensors"))
        if not names:
            raise ModelLoadError("there are no .safetensors files (pickled weights are never read)", str(self._path))
        return {tensor: self._path / name for name in names for tensor in self._names(self._path / name)}

    def _names(self, file: Path) -> list[str]:
        try:
            with safe_open(file, framework="np") as opened:
                return list(opened.keys())
        except FileNotFoundError:
            raise ModelLoadError(f"{file.name} is named in the index and missing", str(self._path)) from None
        except SafetensorError as error:
            raise ModelLoadError(f"{file.name} can't be read: {error}", str(self._path)) from None

    def has(self, name: str) -> bool:
        """Whether there is a tensor of that name."""
        return name in self._files

    def has_prefix(self, prefix: str) -> bool:
        """Whether any tensor's name starts so."""
        return any(name.startswith(prefix) for name in self._files)

    def read(self, prefix: str, dtype: torch.dtype | None, device: torch.device) -> dict[str, Tensor]:
        """Read the tensors whose names start with a prefix, and no others.

        Args:
            prefix: Stripped from the names returned.
            dtype: To convert to; None keeps each tensor's own.
            device: Where the tensors go.
        """
        wanted: dict[Path, list[str]] = {}
        for name, file in self._files.items():
            if name.startswith(prefix):
                wanted.setdefault(file, []).append(name)
        tensors = {}
        for file, names in wanted.items():
            with safe_open(file, framework="pt", device=str(device)) as opened:
                for name in names:
                    tensor = opened.get_tensor(name)
                    self.bytes_read += tensor.numel() * tensor.itemsize
                    tensors[name.removeprefix(prefix)] = tensor if dtype is None else tensor.to(dtype)
        return tensors

    def fill(self, module: nn.Module, tensors: Mapping[str, Tensor], part: str) -> None:
        """Give a module that was built without memory its weights.

        Raises:
            ModelLoadError: tensors are missing, unexpected, or of another shape; names them.
        """
        try:
            module.load_state_dict(tensors, strict=True, assign=True)
        except RuntimeError as error:
            lines = [line.strip() for line in str(error).splitlines()[1:]]
            raise ModelLoadError(f"the weights of the {part} do not fit: {'; '.join(lines)}", str(self._path)) from None
