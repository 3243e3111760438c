"""Reading and checking the two input tables: videos and questions."""

from pipeline.inputs.questions import Question, QuestionTable, read_questions
from pipeline.inputs.videos import Video, read_videos

__all__ = ["Question", "QuestionTable", "Video", "read_questions", "read_videos"]
