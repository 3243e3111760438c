"""A job's tables, read and checked, and what the bytes behind its videos are."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.config import JobConfig
from pipeline.errors import InputTableError
from pipeline.inputs import QuestionTable, Video, read_questions, read_videos
from pipeline.inputs.videos import referenced_columns
from pipeline.sources import Source, stat_sources


@dataclass(frozen=True)
class JobInputs:
    """What a job reads.

    Attributes:
        videos: Rows of the videos table.
        questions: The questions.
        sources: What the bytes of each video are, in the order of `videos`.
    """

    videos: list[Video]
    questions: QuestionTable
    sources: list[Source]


def read_inputs(job: JobConfig) -> JobInputs:
    """Read and check the tables, and stat every video.

    Raises:
        InputTableError: see `read_tables` and `stat_sources`.
    """
    videos, questions = read_tables(job)
    sources = stat_sources(videos, source_id_column=job.source_id_column, storage_options=job.storage_options)
    return JobInputs(videos, questions, sources)


def read_tables(job: JobConfig) -> tuple[list[Video], QuestionTable]:
    """Read and check the videos and the questions; no video is looked for.

    Raises:
        InputTableError: a table that can't be read, or that contradicts the job or the other one.
    """
    videos = read_videos(job.videos, job.storage_options)
    columns = referenced_columns(videos)
    if job.source_id_column is not None and job.source_id_column not in columns:
        raise InputTableError(f"has no column {job.source_id_column!r} (source_id_column of the job)", job.videos)
    questions = read_questions(
        job.questions,
        video_ids=[video.video_id for video in videos],
        video_columns=columns,
        storage_options=job.storage_options,
    )
    return videos, questions
