"""Defines what a run reports: its progress while it works, and a summary when it ends."""

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.cluster.monitor import Worker


@dataclass(frozen=True)
class Progress:
    """Counts the work of this run so far; `clips_planned` and `answers_planned` are the totals of its plan."""

    clips_done: int
    clips_planned: int
    answers_done: int
    answers_planned: int
    failures: int
    seconds: float


@dataclass(frozen=True)
class RunSummary:
    """Summarises a run that has ended.

    Attributes:
        run_id: Id of this run.
        output: Root of the output's tables.
        answers_fingerprint: Name of the run's folder below `answers/` and `failures/`.
        tokens_fingerprint: Name of the run's folder below `tokens/`.
        clips_total: Clips of the job.
        clips_planned: Clips that this run worked on.
        cache_hits: Planned clips whose tokens were committed before this run.
        clips_decoded: Clips decoded, including repeated work.
        frames_decoded: Frames passed to the encoder.
        clips_sampled_down: Clips decoded with fewer frames than `fps` asks for, because of `max_frames`.
        encoder_calls: Clips that went through the vision tower.
        visual_tokens_before: Visual tokens of the answered clips before compression.
        visual_tokens_after: Visual tokens of the answered clips after compression.
        visual_token_layers_before: Visual tokens of the answered clips times the decoder's layers, without compression
            and pruning.
        visual_token_layers_after: Visual tokens that each of the decoder's layers processed, summed over the layers
            and averaged over the answers of a clip.
        retention_ratio: Retention ratio that the job asks for.
        answers_total: Answers that the finished job has.
        answers_before: Answers committed by earlier runs.
        answers_new: Answers committed by this run.
        failures_new: Rows that this run added to `failures/`.
        answers_exhausted: Answers not tried, because of a permanent failure or too many transient ones in earlier runs.
        answers_unaskable: Answers not tried, because their question uses an empty column of the video's row.
        changed_sources: `video_id` of every video whose file was replaced since an earlier run.
        max_decoded_clips: Maximum number of clips whose frames were in memory at once.
        stage_seconds: Seconds of work by stage, summed over the stage's actors.
        seconds: Wall time of the run in seconds.
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
    answers_unaskable: int
    changed_sources: tuple[str, ...]
    max_decoded_clips: int
    stage_seconds: Mapping[str, float]
    seconds: float
    workers: tuple[Worker, ...] = ()

    @property
    def realised_retention(self) -> float | None:
        """Return the share of visual tokens kept, averaged over the decoder's layers; None if nothing was answered."""
        if not self.visual_token_layers_before:
            return None
        return self.visual_token_layers_after / self.visual_token_layers_before
