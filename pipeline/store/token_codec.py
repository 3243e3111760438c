"""A clip's compressed tokens as the bytes of one Parquet object, and back. This module imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from flashvid.models import CompressedVideo
from flashvid.quantisation import QuantisedTokens, quantise
from pipeline.clip import ClipIdentity
from pipeline.config import CacheDtype
from pipeline.errors import CorruptTokensError
from pipeline.store import schemas
from pipeline.store.parquet import from_bytes, to_bytes

# Parquet has no bfloat16: tokens travel as raw little-endian bytes beside the name of their dtype.
_DTYPES: Mapping[str, torch.dtype] = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16")}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


def encode_tokens(
    video: CompressedVideo,
    origin: ClipIdentity,
    *,
    cache_dtype: CacheDtype | None,
    thumbnails: list[bytes],
    run_id: str,
) -> bytes:
    """A clip's tokens as the object that is committed: one row of `schemas.TOKENS`.

    Raises:
        InvalidFeaturesError: tokens that `cache_dtype` cannot hold.
    """
    levels, scales = [video.tokens, *video.deepstack], None
    if cache_dtype is not None:
        quantised = [quantise(level) for level in levels]
        levels, scales = [level.values for level in quantised], [level.scales.tolist() for level in quantised]
    contents = [_bytes(level) for level in levels]
    row = {
        **origin.identity(),
        "frame_timestamps": [float(t) for t in video.frame_timestamps],
        "grid_thw": list(video.grid_thw),
        "segment_lengths": list(video.segment_lengths),
        "num_tokens": video.tokens.shape[0],
        "hidden_size": video.tokens.shape[1],
        "dtype": _NAMES[video.tokens.dtype],
        "indices": video.indices.tolist(),
        "assignment": video.assignment.tolist(),
        "tokens": contents[0],
        "scales": scales and scales[0],
        "deepstack": contents[1:] or None,
        "deepstack_scales": (scales and scales[1:]) or None,
        "thumbnails": thumbnails,
        "run_id": run_id,
    }
    return to_bytes([row], schemas.TOKENS)


def decode_tokens(content: bytes, name: str) -> CompressedVideo:
    """The tokens in an object; `name` is for the error.

    Raises:
        CorruptTokensError: the object contradicts itself.
    """
    try:
        (row,) = from_bytes(content).to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise CorruptTokensError(f"is no Parquet file with one row: {error}", name) from None
    try:
        return _decode(row, name)
    except KeyError as error:
        raise CorruptTokensError(f"has no column {error}", name) from None


def _decode(row: Mapping[str, Any], name: str) -> CompressedVideo:
    dtype = _DTYPES.get(row["dtype"])
    if dtype is None:
        raise CorruptTokensError(f"holds tokens of an unknown dtype {row['dtype']!r}", name)
    shape = (row["num_tokens"], row["hidden_size"])
    # Older objects have neither column: they are of families without these features, and exact.
    contents = (row["tokens"], *(row.get("deepstack") or ()))
    scales = () if row.get("scales") is None else (row["scales"], *(row.get("deepstack_scales") or ()))
    stored = torch.int8 if scales else dtype
    for content in contents:
        if len(content) != shape[0] * shape[1] * stored.itemsize or len(row["indices"]) != shape[0]:
            raise CorruptTokensError(f"holds {len(content)} bytes for {shape} {stored}", name)
    if scales and [len(of_level) for of_level in scales] != [shape[0]] * len(contents):
        raise CorruptTokensError(f"holds scales for other than {shape[0]} tokens", name)
    found = [_tensor(content, stored, shape) for content in contents]
    if scales:
        found = [
            QuantisedTokens(values, torch.tensor(of_level, dtype=torch.float32)).restore(dtype)
            for values, of_level in zip(found, scales, strict=True)
        ]
    tokens, *deepstack = found
    steps, height, width = row["grid_thw"]
    return CompressedVideo(
        tokens=tokens,
        indices=torch.tensor(row["indices"], dtype=torch.int64),
        assignment=torch.tensor(row["assignment"], dtype=torch.int64),
        grid_thw=(steps, height, width),
        frame_timestamps=np.array(row["frame_timestamps"], dtype=np.float64),
        segment_lengths=tuple(row["segment_lengths"]),
        deepstack=tuple(deepstack),
    )


def _bytes(tensor: torch.Tensor) -> bytes:
    """The values of `[M, D]`, row by row, as they lie in memory."""
    return tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()


def _tensor(content: bytes, dtype: torch.dtype, shape: tuple[int, int]) -> torch.Tensor:
    # bytearray: torch wants memory that it may write to.
    return torch.frombuffer(bytearray(content), dtype=dtype).reshape(shape)
