"""What a run reports: progress while it works, a summary when it ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.cluster.monitor import Worker


@dataclass(frozen=True)
class Progress:
    """Counts of this run so far; totals are what the plan left to do."""

    clips_done: int
    clips_planned: int
    answers_done: int
    answers_planned: int
    failures: int
    seconds: float


@dataclass(frozen=True)
class RunSummary:
    """How a run ended.

    Attributes:
        run_id: This run.
        output: Where the tables are.
        answers_fingerprint: The folder below `answers/` and `failures/`.
        tokens_fingerprint: The folder below `tokens/`.
        clips_total: Clips of the job.
        clips_planned: Clips this run worked on.
        cache_hits: Clips of those whose tokens were committed before.
        clips_decoded: Clips decoded, repeated work included.
        frames_decoded: Frames handed to the encoder.
        clips_sampled_down: Clips decoded with fewer frames than `fps` asks for, because of `max_frames`.
        encoder_calls: Clips that went through the vision tower.
        visual_tokens_before: Visual tokens of the answered clips, uncompressed.
        visual_tokens_after: And as they were compressed.
        visual_token_layers_before: Visual tokens of the answered clips times the decoder's layers, as if nothing had
            been compressed or pruned.
        visual_token_layers_after: And those that the layers had, over the answers of a clip averaged.
        retention_ratio: As asked.
        answers_total: Answers the finished job has.
        answers_before: Committed by earlier runs.
        answers_new: Committed by this run.
        failures_new: Rows this run added to `failures/`.
        answers_exhausted: Not tried: failed for good, or too often, in earlier runs.
        changed_sources: `video_id` of files replaced since an earlier run.
        max_decoded_clips: The most clips whose frames were in memory at once.
        stage_seconds: Seconds per stage, summed over its actors.
        seconds: Wall time of the run.
        workers: Every actor process that started.
    """

    run_id: str
    output: str
    answers_fingerprint: str
    tokens_fingerprint: str
    clips_total: int
    clips_planned: int
    cache_hits: int
    clips_decoded: int
    frames_decoded: int
    clips_sampled_down: int
    encoder_calls: int
    visual_tokens_before: int
    visual_tokens_after: int
    visual_token_layers_before: int
    visual_token_layers_after: int
    retention_ratio: float
    answers_total: int
    answers_before: int
    answers_new: int
    failures_new: int
    answers_exhausted: int
    changed_sources: tuple[str, ...]
    max_decoded_clips: int
    stage_seconds: Mapping[str, float]
    seconds: float
    workers: tuple[Worker, ...] = field(default=())

    @property
    def realised_retention(self) -> float | None:
        """Visual tokens averaged over the decoder's layers, as a share of all; None if nothing was answered."""
        if not self.visual_token_layers_before:
            return None
        return self.visual_token_layers_after / self.visual_token_layers_before
