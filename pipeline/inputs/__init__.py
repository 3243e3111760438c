"""Reads the two input tables, videos and questions, in `videos_table` and `questions_table`."""

from pipeline.inputs.questions import Question, QuestionTable
from pipeline.inputs.videos import Source, Video, VideoTable

__all__ = ["Question", "QuestionTable", "Source", "Video", "VideoTable"]
