"""Encode a clip's compressed tokens as one Parquet object, and decode them. This module imports torch."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from flashvid.models import CompressedVideo
from flashvid.quantisation import QuantisedTokens, quantise
from pipeline.clip import ClipIdentity
from pipeline.config import CacheDtype
from pipeline.errors import CorruptTokensError
from pipeline.store import schemas
from pipeline.store.parquet import from_bytes, to_bytes

# Parquet has no bfloat16: tokens are stored as raw little-endian bytes, with the name of their dtype in another column.
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
    """Encode a clip's tokens as the object to commit: one row of `schemas.TOKENS`.

    Args:
        video: The tokens `[M, D]`, one matrix for each level.
        origin: The clip.
        cache_dtype: Stored type of the tokens; None stores them exactly.
        thumbnails: Encoded images of the clip.
        run_id: The run that makes the tokens.

    Raises:
        InvalidFeaturesError: `cache_dtype` can't represent the tokens.
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
    """Decode the tokens of an object.

    Args:
        content: The bytes of the object.
        name: Name of the object, for the error.

    Raises:
        CorruptTokensError: the object can't be read, or contradicts itself.
    """
    try:
        (row,) = from_bytes(content, schemas.TOKENS).to_pylist()
    except ValueError as error:
        raise CorruptTokensError(f"is not a Parquet file with one row: {error}", name) from None
    return _decode(row, name)


def _decode(row: Mapping[str, Any], name: str) -> CompressedVideo:
    dtype = _DTYPES.get(row["dtype"])
    if dtype is None:
        raise CorruptTokensError(f"has tokens of the unknown dtype {row['dtype']!r}", name)
    shape = (row["num_tokens"], row["hidden_size"])
    # Objects of earlier versions lack these columns: their models have no deepstack features, their tokens are exact.
    contents = (row["tokens"], *(row.get("deepstack") or ()))
    scales = () if row.get("scales") is None else (row["scales"], *(row.get("deepstack_scales") or ()))
    stored = torch.int8 if scales else dtype
    for content in contents:
        if len(content) != shape[0] * shape[1] * stored.itemsize or len(row["indices"]) != shape[0]:
            raise CorruptTokensError(
                f"has {len(content)} bytes and {len(row['indices'])} indices for tokens of shape {shape} and {stored}",
                name,
            )
    if scales and [len(of_level) for of_level in scales] != [shape[0]] * len(contents):
        raise CorruptTokensError(f"does not have one scale for each of its {shape[0]} tokens", name)
    # A bytearray, because torch requires writable memory.
    found = [torch.frombuffer(bytearray(content), dtype=stored).reshape(shape) for content in contents]
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
    """Return the values of a tensor `[M, D]` as raw bytes, row by row."""
    return tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
