"""Read weights from safetensors files tensor by tensor, so that one side of a model reads only its own bytes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from flashvid.bounded_json import parse_json
from flashvid.errors import ModelLoadError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"

_PICKLED = (".bin", ".pt", ".pth", ".ckpt")
# Bytes per value of the types that models are published in, by their names in the files' headers.
_BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2}


class Checkpoint:
    """The safetensors files of a model directory, one file or shards. Pickled weights are never read.

    Attributes:
        tensors_read: Names of the tensors read so far, as stored.
        bytes_read: Bytes of these tensors, as stored.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.tensors_read: list[str] = []
        self.bytes_read = 0

    @cached_property
    def files(self) -> Mapping[str, Path]:
        """The file that holds each tensor, from the headers of the files.

        Raises:
            ModelLoadError: There is no safetensors file, a file is missing or damaged, or the index can't be read.
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
        return f"{pickled[0]} is pickled, and pickled weights are never read: save the model with safetensors"

    def _shards(self) -> list[str]:
        try:
            return sorted(set(parse_json((self._path / _INDEX).read_bytes(), any_integer=True)["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError):
            raise ModelLoadError(f"{_INDEX} is not an index of weights", str(self._path)) from None

    def _names(self, file: Path) -> list[str]:
        try:
            with safe_open(file, framework="np") as opened:
                return list(opened.keys())
        except FileNotFoundError:
            raise ModelLoadError(f"{file.name} is named in the index, but missing", str(self._path)) from None
        except (SafetensorError, OSError) as error:
            raise ModelLoadError(f"{file.name} can't be read: {error}", str(self._path)) from None

    def num_bytes(self, names: Iterable[str], dtype: torch.dtype | None) -> int:
        """Return the bytes that tensors take in memory once they are read, from the headers of the files.

        Args:
            names: Names of the tensors as stored.
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
            prefix: Prefix of the names in the files.
            names: Names without the prefix; the checkpoint must hold all of them.
            dtype: The precision to convert to; None keeps the stored one.
            device: The device to read the tensors to.

        Returns:
            The tensors by their names without the prefix.

        Raises:
            ModelLoadError: Weights are quantised, or have several precisions and `dtype` is None.
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
                f"the weights are {' and '.join(precisions)}, and config.json lacks a dtype: set dtype", str(self._path)
            )
        return tensors

    def fill(self, module: nn.Module, tensors: Mapping[str, Tensor], part: str) -> None:
        """Assign weights to a module on the meta device.

        Raises:
            ModelLoadError: Tensors are missing, unexpected, or of another shape; the message names them.
        """
        try:
            module.load_state_dict(tensors, strict=True, assign=True)
        except RuntimeError as error:
            lines = [line.strip() for line in str(error).splitlines()[1:]]
            raise ModelLoadError(f"the weights of the {part} do not fit: {'; '.join(lines)}", str(self._path)) from None
