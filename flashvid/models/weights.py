"""Weights from safetensors files, read tensor by tensor: a part of a model costs only that part's bytes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from flashvid.errors import ModelLoadError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"

_PICKLED = (".bin", ".pt", ".pth", ".ckpt")
# Of the types that models are published in, as the files' headers name them.
_BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2}


class Checkpoint:
    """The safetensors files of a model directory, one or sharded. Pickled weights are never read.

    Attributes:
        tensors_read: Names of the tensors read so far, as stored.
        bytes_read: Their bytes, as stored.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.tensors_read: list[str] = []
        self.bytes_read = 0

    @cached_property
    def files(self) -> Mapping[str, Path]:
        """Which file holds each tensor, from the files' own headers.

        Raises:
            ModelLoadError: no safetensors file, one of them missing or damaged, an unreadable index.
        """
        if (self._path / _INDEX).is_file():
            shards = self._shards()
        elif (self._path / _SINGLE).is_file():
            shards = [_SINGLE]
        else:
            raise ModelLoadError(f"there is no {_SINGLE} ({self._instead()})", str(self._path))
        return {tensor: self._path / shard for shard in shards for tensor in self._names(self._path / shard)}

    def _instead(self) -> str:
        pickled = sorted(file.name for ending in _PICKLED for file in self._path.glob(f"*{ending}"))
        if not pickled:
            return "pickled weights are never read"
        return f"{pickled[0]} is pickled, and never read: save the model with safetensors"

    def _shards(self) -> list[str]:
        try:
            return sorted(set(json.loads((self._path / _INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError):
            raise ModelLoadError(f"{_INDEX} is no index of weights", str(self._path)) from None

    def _names(self, file: Path) -> list[str]:
        try:
            with safe_open(file, framework="np") as opened:
                return list(opened.keys())
        except FileNotFoundError:
            raise ModelLoadError(f"{file.name} is named in the index and missing", str(self._path)) from None
        except (SafetensorError, OSError) as error:
            raise ModelLoadError(f"{file.name} can't be read: {error}", str(self._path)) from None

    def num_bytes(self, names: Iterable[str], dtype: torch.dtype | None) -> int:
        """Memory that tensors take once they are read, told from the files' headers.

        Args:
            names: As stored.
            dtype: As in `read`.
        """
        members: dict[Path, list[str]] = {}
        for name in names:
            members.setdefault(self.files[name], []).append(name)
        total = 0
        for file, inside in members.items():
            with safe_open(file, framework="np") as opened:
                for name in inside:
                    header = opened.get_slice(name)
                    itemsize = dtype.itemsize if dtype is not None else _BYTES.get(header.get_dtype(), 1)
                    total += math.prod(header.get_shape()) * itemsize
        return total

    def read(
        self, prefix: str, names: Iterable[str], dtype: torch.dtype | None, device: torch.device
    ) -> dict[str, Tensor]:
        """Read tensors by name, and no others.

        Args:
            prefix: What stands before the names in the files.
            names: Without the prefix; all must be there.
            dtype: To convert to; None keeps each tensor's own.
            device: Where the tensors go.

        Returns:
            The tensors by their names without the prefix.

        Raises:
            ModelLoadError: quantised weights, or of several precisions where none was asked for.
        """
        wanted: dict[Path, list[str]] = {}
        for name in names:
            wanted.setdefault(self.files[prefix + name], []).append(name)
        tensors = {}
        for file, members in wanted.items():
            with safe_open(file, framework="pt", device=str(device)) as opened:
                for name in members:
                    tensor = opened.get_tensor(prefix + name)
                    if not tensor.is_floating_point():
                        raise ModelLoadError(
                            f"{prefix}{name} is {tensor.dtype}: quantised weights are not supported", str(self._path)
                        )
                    self.tensors_read.append(prefix + name)
                    self.bytes_read += tensor.numel() * tensor.itemsize
                    tensors[name] = tensor if dtype is None else tensor.to(dtype)
        precisions = sorted({str(tensor.dtype) for tensor in tensors.values()})
        if len(precisions) > 1:
            raise ModelLoadError(
                f"the weights are {' and '.join(precisions)}, and config.json names none: give a dtype", str(self._path)
            )
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
