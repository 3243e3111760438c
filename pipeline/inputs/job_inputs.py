"""Read and check the tables of a job."""

from flashvid.errors import ConfigurationError
from pipeline.config import JobConfig
from pipeline.errors import InputTableError
from pipeline.inputs.allowed_roots import refusal, source_options
from pipeline.inputs.questions import QuestionTable
from pipeline.inputs.questions_table import read_questions
from pipeline.inputs.videos import VideoTable
from pipeline.inputs.videos_table import read_videos


def read_tables(job: JobConfig) -> tuple[VideoTable, QuestionTable]:
    """Read and check the videos, up to the job's `limit`, and the questions. No video file is accessed.

    Raises:
        ConfigurationError: a table, the output or the cache is outside of `allowed_roots`.
        InputTableError: a table can't be read, or contradicts the job or the other table.
    """
    for key in ("videos", "questions", "output", "cache"):
        place = getattr(job, key)
        if isinstance(place, str) and (reason := refusal(place, job.allowed_roots)):
            raise ConfigurationError(f"{key}: {reason}")
    options = source_options(job.storage_options, job.allowed_roots)
    videos = read_videos(job.videos, options, job.allowed_roots)
    if job.source_id_column is not None and job.source_id_column not in videos.columns:
        raise InputTableError(
            f"has no column {job.source_id_column!r} (source_id_column of the job); its columns are "
            f"{videos.rows.column_names}",
            job.videos,
        )
    questions = read_questions(job.questions, videos, options)
    return videos.first(job.limit), questions
