"""Compression of long videos block by block, in memory bounded by the longest segment; see docs/streaming.md."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from flashvid.compression.api import check_inputs
from flashvid.compression.dyseg import transition_similarities
from flashvid.compression.flashvid import compress_flashvid
from flashvid.compression.result import ClipFeatures, CompressionResult
from flashvid.config import CompressionConfig
from flashvid.errors import ConfigurationError, InvalidFeaturesError


@dataclass(frozen=True, eq=False)
class StreamedSegment:
    """One segment of a stream.

    Attributes:
        first_frame: The frame of the stream at which it begins.
        result: The segment as a clip of its own: indices and assignment begin at its own first token.
    """

    first_frame: int
    result: CompressionResult


def compress_stream(
    blocks: Iterable[tuple[Tensor, Tensor]], config: CompressionConfig, *, max_segment_frames: int
) -> Iterator[StreamedSegment]:
    """Compress a video of any length, segment by segment as each one ends.

    If hard cuts (transitions below `segment_threshold`) alone define the segments, and none is longer than
    `max_segment_frames`, the joined segments equal `compress(..., complementary_segment=False)` of the whole clip:
    same indices and assignment, and tokens up to rounding. Budgets are exact from the first frame on, so the whole
    stream has exactly `config.clip_budget` tokens. Results differ in these cases:

    - `complementary_segment` is ignored, because it needs the whole clip;
    - a segment that reaches `max_segment_frames` is cut there, and no tree extends over the cut;
    - without `do_segment`, these are the only cuts.

    Args:
        blocks: `(features [t, N, D], scores [t, N])` of any number of frames each, in order, with the same N, D, dtype
            and device. See `compress` for valid values. A block may be overwritten once the next one is requested.
        config: The settings; `method` must be "flashvid", `event_relevance` "segment".
        max_segment_frames: Frames of the longest segment. Memory is that of compressing this many, plus one block.

    Returns:
        An iterator over segments in order. Every frame is in one segment.

    Raises:
        ConfigurationError: A setting needs the whole clip, or `max_segment_frames` is below 1.
        InvalidFeaturesError: See `compress`; also if blocks differ in N, D or dtype.
    """
    if not isinstance(max_segment_frames, int) or max_segment_frames < 1:
        raise ConfigurationError(f"max_segment_frames must be a whole number from 1, not {max_segment_frames!r}")
    if config.method != "flashvid":
        raise ConfigurationError(f"compress_stream supports only method flashvid, not {config.method}")
    if config.event_relevance == "clip":
        raise ConfigurationError('event_relevance "clip" needs the whole clip: use "segment" with compress_stream')
    return _segments(blocks, config, max_segment_frames)


def _segments(
    blocks: Iterable[tuple[Tensor, Tensor]], config: CompressionConfig, max_segment_frames: int
) -> Iterator[StreamedSegment]:
    """Compress the blocks; separate from `compress_stream` so that its arguments are checked when it is called."""
    whole = config.model_copy(update={"do_segment": False})
    # Features `[N, D]` and scores `[N]` of each frame of the open segment.
    held: list[tuple[Tensor, Tensor]] = []
    first_frame = 0
    last_mean: Tensor | None = None

    def close() -> StreamedSegment:
        features, scores = (torch.stack(parts) for parts in zip(*held, strict=True))
        held.clear()
        with torch.no_grad():
            result = compress_flashvid(ClipFeatures(features, scores), whole, first_frame=first_frame)
        return StreamedSegment(first_frame, result)

    for features, scores in blocks:
        check_inputs(features, scores)
        if held and (features.shape[1:] != held[0][0].shape or features.dtype != held[0][0].dtype):
            raise InvalidFeaturesError(
                f"a block of {list(features.shape[1:])} {features.dtype} follows blocks of "
                f"{list(held[0][0].shape)} {held[0][0].dtype}"
            )
        is_cut, last_mean = _hard_cuts(features, last_mean, config)
        for frame, cut in enumerate(is_cut):
            if held and (cut or len(held) == max_segment_frames):
                segment = close()
                yield segment
                first_frame += sum(segment.result.segment_lengths)
            # Copied, so that a segment does not keep alive the block that it begins in.
            held.append((features[frame].clone(), scores[frame].clone()))
    if held:
        yield close()


def joined(segments: Iterable[StreamedSegment], tokens_per_frame: int) -> CompressionResult:
    """Join all segments of a stream into one result, like that of `compress` for a whole clip.

    Args:
        segments: All segments from `compress_stream`, in order, at least one.
        tokens_per_frame: N.

    Raises:
        InvalidFeaturesError: There is no segment.
    """
    parts = list(segments)
    if not parts:
        raise InvalidFeaturesError("there are no segments to join: the stream had no frames")
    slots = accumulate((len(part.result.tokens) for part in parts), initial=0)
    assignments = [
        torch.where(part.result.assignment < 0, -1, part.result.assignment + slot)
        for part, slot in zip(parts, slots, strict=False)
    ]
    return CompressionResult(
        torch.cat([part.result.tokens for part in parts]),
        torch.cat([part.result.indices + part.first_frame * tokens_per_frame for part in parts]),
        torch.cat(assignments),
        tuple(length for part in parts for length in part.result.segment_lengths),
    )


def _hard_cuts(features: Tensor, last_mean: Tensor | None, config: CompressionConfig) -> tuple[list[bool], Tensor]:
    """Return whether there is a cut before each frame of a block, and the mean of its last frame, `[1, D]`."""
    if not config.reference_compatible:
        features = features.to(torch.promote_types(features.dtype, torch.float32))
    means = features.detach().mean(dim=1)
    joined = torch.cat([means[:1] if last_mean is None else last_mean, means])
    similarities = transition_similarities(joined, reference_compatible=config.reference_compatible)
    is_cut = (similarities < config.segment_threshold) & config.do_segment
    return is_cut.tolist(), means[-1:].clone()
