"""Outputs as a run leaves them, made in this process: the same parts without Ray, and with answers of one's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

from flashvid.models import load_model, load_preprocessor, resolve_model
from pipeline.clip import Clip, ClipMessage, Failure
from pipeline.config import JobConfig
from pipeline.errors import UnreadableVideoError
from pipeline.inputs import QuestionTable
from pipeline.inputs.job_inputs import read_tables
from pipeline.inputs.sources import stat_sources
from pipeline.plan.plan import plan, row_clip
from pipeline.plan.probe import ProbeTable
from pipeline.run.committer import Committer
from pipeline.run.summary import RunSummary
from pipeline.stages.encode import thumbnails
from pipeline.store.fingerprint import Fingerprints, fingerprints
from pipeline.store.lease import Lease
from pipeline.store.ledger import Ledger
from pipeline.store.run_records import FORMAT_VERSION, RunRecords, new_run_id
from pipeline.store.storage import Storage
from pipeline.store.tokens import TokenStore
from pipeline.video.clip_frames import decode_clip
from pipeline.video.probing import read_probe

Respond = Callable[[Clip, str], str | Exception]
"""The response to a rendered question about a clip, or what it fails with."""


def start_record(run_id: str, fingerprint: str, **fields: object) -> dict[str, object]:
    """The start record of a run, made by hand."""
    record: dict[str, object] = {
        "format_version": FORMAT_VERSION,
        "run_id": run_id,
        "started": "2026-01-01T00:00:00+00:00",
        "host": "host",
        "packages": {},
        "tokens_fingerprint": fingerprint,
        "answers_fingerprint": fingerprint,
        "tokens_settings": {},
        "answers_settings": {},
        "job": {"cache": None},
    }
    return {**record, **fields}


def job_fingerprints(job: JobConfig) -> Fingerprints:
    """What the job's output is filed under."""
    return fingerprints(job, resolve_model(job.model.name).identity)


def row_clips(job: JobConfig) -> tuple[list[Clip], QuestionTable]:
    """The clip of each row of a job's videos, and the job's questions."""
    table, questions = read_tables(job)
    videos = list(table)
    sources = stat_sources(videos, source_id_column=job.source_id_column, storage_options=job.storage_options)
    clips = [row_clip(video, source, questions.columns) for video, source in zip(videos, sources, strict=True)]
    return clips, questions


def make_output(
    job: JobConfig,
    respond: Respond = lambda clip, _: f"of {clip.video_id}",
    *,
    encode: bool = True,
    run_id: str | None = None,
) -> str:
    """Do a whole run's work with given responses.

    Args:
        job: Of an embedded model, over local videos.
        respond: Makes the answers.
        encode: Whether to make tokens and probes: else only answers, and nothing reads the videos.
        run_id: Sorts by time; two runs within a second need one that does.

    Returns:
        The `run_id`.
    """
    prints, storage = job_fingerprints(job), Storage(job.output)
    clips, questions = row_clips(job)
    ledger = Ledger(storage, prints.answers)
    tokens = TokenStore(Storage(job.tokens_root), prints.tokens, cache_dtype=job.cache_dtype)
    todo = plan(
        clips,
        questions,
        committed_tokens=tokens.committed(),
        answered=ledger.answer_keys(),
        failed=ledger.failure_keys(),
        max_attempts=job.max_attempts,
    )
    lease = Lease.acquire(storage, run_id or new_run_id())
    committer, records = Committer(ledger, lease, job.commit), RunRecords(storage)
    records.start(lease.run_id, job, prints)
    counts: dict[str, int] = {"frames_decoded": 0, "visual_tokens_before": 0, "visual_tokens_after": 0}
    for clip in (*todo.to_encode, *todo.cached):
        try:
            if encode and clip in todo.to_encode:
                _encode(job, clip, tokens, storage, lease.run_id, counts)
        except UnreadableVideoError as error:
            committer.add_failure(clip, Failure.of(error, "probe"))
            continue
        answers, failures = [], []
        for question in questions.for_video(clip.video_id):
            if question.question_id not in clip.question_ids:
                continue
            response = respond(clip, question.render(clip.columns))
            if isinstance(response, Exception):
                failures.append(Failure.of(response, "answer", question.question_id))
                continue
            answers.append(
                {
                    **question.row(clip.columns),
                    "response": response,
                    "finish_reason": "stop",
                    "num_visual_tokens": 8,
                    "num_prompt_tokens": 20,
                    "num_generated_tokens": 2,
                    "option_scores": None,
                    "answer_seconds": 0.5,
                }
            )
        committer.add(ClipMessage(clip, answers=tuple(answers), failures=tuple(failures)))
    committer.flush()
    summary = RunSummary(
        run_id=lease.run_id,
        output=job.output,
        answers_fingerprint=prints.answers,
        tokens_fingerprint=prints.tokens,
        clips_total=todo.counts.clips_total,
        clips_planned=len(todo.to_encode) + len(todo.cached),
        cache_hits=len(todo.cached),
        clips_decoded=len(todo.to_encode),
        frames_decoded=counts["frames_decoded"],
        clips_sampled_down=0,
        encoder_calls=len(todo.to_encode),
        visual_tokens_before=counts["visual_tokens_before"],
        visual_tokens_after=counts["visual_tokens_after"],
        visual_token_layers_before=3 * counts["visual_tokens_before"],
        visual_token_layers_after=3 * counts["visual_tokens_after"],
        retention_ratio=job.compression.retention_ratio,
        answers_total=todo.counts.answers_total,
        answers_before=todo.counts.answers_done,
        answers_new=committer.answers_committed,
        failures_new=committer.failures_committed,
        answers_exhausted=todo.counts.answers_exhausted,
        answers_unaskable=todo.counts.answers_unaskable,
        changed_sources=(),
        max_decoded_clips=1,
        stage_seconds={"decode": 2.0, "encode": 4.0, "answer": 5.0},
        seconds=12.0,
    )
    records.end(lease.run_id, asdict(summary))
    lease.release()
    return lease.run_id


def _encode(
    job: JobConfig, clip: Clip, tokens: TokenStore, storage: Storage, run_id: str, counts: dict[str, int]
) -> None:
    probe = read_probe(str(clip.video_path))
    ProbeTable(storage).append([(clip, probe)], f"{run_id}-{clip.clip_id}")
    preprocessor = load_preprocessor(job.model.name)
    decoded = decode_clip(
        str(clip.video_path),
        job.sampling,
        clip.start_s,
        clip.end_s,
        transform_for=lambda num_frames: preprocessor.for_video(num_frames).resize,
    )
    model = load_model(job.model.name, part="vision", device="cpu", dtype=job.model.dtype)
    compressed = model.compress(model.encode(decoded.frames, decoded.frame_timestamps), job.compression)
    tokens.commit(clip.content_key, compressed, clip, thumbnails=thumbnails(decoded.frames), run_id=run_id)
    counts["frames_decoded"] += len(decoded.frames)
    counts["visual_tokens_before"] += len(compressed.assignment)
    counts["visual_tokens_after"] += len(compressed.tokens)
