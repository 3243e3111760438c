"""Size and error of a cached token in each dtype, measured on what the store writes and reads."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from flashvid.models import CompressedVideo, load_model
from jobs.lab.arms import OURS
from jobs.lab.quality import MAIN_RETENTION, Scope, clips
from jobs.lab.tiny_model.evaluate import through_file
from pipeline.clip import ClipIdentity
from pipeline.config import CacheDtype
from pipeline.store.storage import Storage
from pipeline.store.tokens import TokenStore

_CLIPS = 16
# The dtype of the model's tokens, and of the cache.
_KINDS: Mapping[str, tuple[torch.dtype, CacheDtype | None]] = {
    "float32": (torch.float32, None),
    "bfloat16": (torch.bfloat16, None),
    "float16": (torch.float16, None),
    "float32, int8": (torch.float32, "int8"),
    "bfloat16, int8": (torch.bfloat16, "int8"),
}


@dataclass(frozen=True)
class CachedTokens:
    """One kind of cache, over all clips.

    Attributes:
        kind: Dtype of the tokens, and of the cache where it is another.
        value_bytes: Per token: values and scales alone.
        object_bytes: Per token: the whole Parquet object, without thumbnails.
        relative_rms: Root of the mean squared error over that of the float32 values.
        largest_error: Over the largest magnitude of the same token.
    """

    kind: str
    value_bytes: float
    object_bytes: float
    relative_rms: float
    largest_error: float


def measure_cached_tokens(model: str, scope: Scope) -> list[CachedTokens]:
    """Commit and read back the compressed tokens of a few clips in every dtype.

    Args:
        model: Embedded name, directory or hub id.
        scope: Its first clips are used.
    """
    videos = list(_videos(model, scope))
    return [_measure(kind, videos) for kind in _KINDS]


def _videos(model: str, scope: Scope) -> Iterator[CompressedVideo]:
    handle = load_model(model, part="vision", dtype="float32")
    config = OURS.model_copy(update={"retention_ratio": MAIN_RETENTION})
    with TemporaryDirectory(prefix="flashvid-bench-") as folder:
        for _, (scene, _questions) in zip(range(_CLIPS), clips(scope), strict=False):
            clip = through_file(scene, Path(folder) / "clip.mp4")
            yield handle.compress(handle.encode(clip.frames, clip.frame_timestamps), config)


def _measure(kind: str, videos: Sequence[CompressedVideo]) -> CachedTokens:
    dtype, cache_dtype = _KINDS[kind]
    exact, found, object_bytes, value_bytes = [], [], 0, 0
    with TemporaryDirectory(prefix="flashvid-bench-") as folder:
        store = TokenStore(Storage(folder), "0" * 16, cache_dtype)
        for number, video in enumerate(videos):
            key = f"{number:032x}"
            origin = ClipIdentity(key, key, key, None, None)
            rounded = replace(video, tokens=video.tokens.to(dtype))
            store.commit(key, rounded, origin, thumbnails=[], run_id="bench")
            exact.append(video.tokens)
            found.append(store.read(key).tokens.to(torch.float32))
            object_bytes += (Path(folder) / store.name(key)).stat().st_size
            value_bytes += len(video.tokens) * _value_bytes(video.tokens.shape[1], dtype, cache_dtype)
    wanted = torch.cat(exact)
    errors = torch.cat(found) - wanted
    return CachedTokens(
        kind,
        value_bytes / len(wanted),
        object_bytes / len(wanted),
        float(errors.square().mean().sqrt() / wanted.square().mean().sqrt()),
        float((errors.abs().amax(dim=1) / wanted.abs().amax(dim=1)).max()),
    )


def _value_bytes(hidden_size: int, dtype: torch.dtype, cache_dtype: CacheDtype | None) -> int:
    return hidden_size * dtype.itemsize if cache_dtype is None else hidden_size + torch.float32.itemsize


def cached_tokens_markdown(measured: Sequence[CachedTokens]) -> str:
    """Return the table for the report: bytes are per token."""
    lines = [
        "| tokens, and their cache | bytes of values | bytes in Parquet | relative RMS error | largest error |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {one.kind} | {one.value_bytes:.0f} | {one.object_bytes:.0f} | {one.relative_rms:.1e} "
        f"| {one.largest_error:.1e} |"
        for one in measured
    ]
    return "\n".join(lines) + "\n"
