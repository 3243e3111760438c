"""`flashvid bench quality`: accuracy against retention, measured on generated clips that went through h264.

Every clip is written as a file, decoded and encoded once; each arm then compresses the same features and answers the
same questions, so that all comparisons are paired.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from flashvid import CompressionConfig, compress, compress_stream
from flashvid.compression.streaming import joined
from flashvid.models import CompressedVideo, VisualFeatures
from flashvid.quantisation import quantise
from jobs.lab.arms import METHOD_ARMS, PUBLISHED, VARIANT_ARMS, Arm, ratio_for
from jobs.lab.measurement import FULL, Measurement
from jobs.lab.tiny_model.clips import ClipQuestions, held_out_clips
from jobs.lab.tiny_model.drawn_questions import OPEN_FAMILIES
from jobs.lab.tiny_model.evaluate import through_file
from jobs.lab.worker import ask, load, loaded
from pipeline.config import CacheDtype

# The retention at which results are claimed; more clips are used there than elsewhere.
MAIN_RETENTION = 0.1
# In steps of two frames: 16, 24 and 32 frames, as far as published settings go.
_LENGTHS = {8: 0.5, 12: 0.3, 16: 0.2}
# Far from the clips of training and evaluation; results on the clips for tuning are never reported.
FIRST_CLIPS = {"report": 2_000_000, "tune": 3_000_000}

ClipSet = Literal["report", "tune"]


@dataclass(frozen=True)
class Scope:
    """How much is measured.

    Attributes:
        main_clips: Clips at retention 0.1, of eight questions each.
        other_clips: The first of them, which are also measured at every other retention.
        variants: Whether variants are measured as well.
        clip_set: Which clips.
    """

    main_clips: int = 192
    other_clips: int = 64
    variants: bool = True
    clip_set: ClipSet = "report"


QUICK = Scope(main_clips=48, other_clips=16, variants=False)


def measure(model: str, scope: Scope, arms: Sequence[Arm], *, workers: int) -> Iterator[list[Measurement]]:
    """Measure clip by clip, in processes of one thread; yield the measurements of each clip, in order.

    Args:
        model: Embedded name, directory or hub id.
        scope: How much.
        arms: What to compare, besides full tokens.
        workers: Processes.
    """
    work = partial(measure_clip, arms=tuple(arms), scope=scope)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=load, initargs=(model,)) as executor:
        yield from executor.map(work, [*enumerate(clips(scope))])


def clips(scope: Scope) -> Iterator[ClipQuestions]:
    """Yield the clips of a scope with their questions; a larger scope begins with the clips of a smaller one."""
    first_clip = FIRST_CLIPS[scope.clip_set]
    return held_out_clips(scope.main_clips, first_clip=first_clip, lengths=_LENGTHS, families=OPEN_FAMILIES)


def default_arms(scope: Scope) -> tuple[Arm, ...]:
    """Return every method, and the variants if the scope has them."""
    return (*METHOD_ARMS, *VARIANT_ARMS) if scope.variants else METHOD_ARMS


def measure_clip(numbered: tuple[int, ClipQuestions], *, arms: Sequence[Arm], scope: Scope) -> list[Measurement]:
    """Decode and encode one clip once and ask every arm its questions; in a process prepared by `load`.

    Args:
        numbered: The clip and its index in the scope.
        arms: What to compare, besides full tokens.
        scope: Which retentions this clip is for.
    """
    index, (scene, questions) = numbered
    with TemporaryDirectory(prefix="flashvid-bench-") as folder:
        clip = through_file(scene, Path(folder) / "clip.mp4")
    visual = loaded().encode(clip.frames, clip.frame_timestamps)
    measured = ask(loaded().compress(visual, None), FULL, 1.0, index, questions)
    for arm in arms:
        for retention in arm.retentions:
            if index < scope.other_clips or retention == MAIN_RETENTION:
                config = _settings(visual, arm, retention, seed=index)
                video = _stored(_compressed(visual, config, arm.max_segment_frames), arm.cache_dtype)
                measured += ask(video, arm.name, retention, index, questions, arm.pruning)
    return measured


def _compressed(
    visual: VisualFeatures, config: CompressionConfig | None, max_segment_frames: int | None
) -> CompressedVideo:
    if config is None or max_segment_frames is None:
        return loaded().compress(visual, config)
    blocks = zip(visual.features[:, None], visual.scores[:, None], strict=True)
    segments = compress_stream(blocks, config, max_segment_frames=max_segment_frames)
    return CompressedVideo.of(visual, joined(segments, visual.features.shape[1]))


def _stored(video: CompressedVideo, cache_dtype: CacheDtype | None) -> CompressedVideo:
    if cache_dtype is None:
        return video
    return replace(video, tokens=quantise(video.tokens).restore(video.tokens.dtype))


def _settings(visual: VisualFeatures, arm: Arm, retention: float, seed: int) -> CompressionConfig | None:
    if arm.config is None:
        return None
    if not arm.published_tokens:
        return arm.config.model_copy(update={"retention_ratio": retention, "seed": seed})
    published = PUBLISHED.model_copy(update={"retention_ratio": retention})
    tokens = len(compress(visual.features, visual.scores, published).tokens)
    return arm.config.model_copy(update={"retention_ratio": ratio_for(tokens, visual.scores.numel())})
