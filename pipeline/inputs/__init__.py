"""Reading and checking the two input tables: videos and questions."""

from pipeline.inputs.questions import Question, QuestionTable, read_question_rows, read_questions
from pipeline.inputs.videos import Video, VideoTable, read_video_table, read_videos

__all__ = [
    "Question",
    "QuestionTable",
    "Video",
    "VideoTable",
    "read_question_rows",
    "read_questions",
    "read_video_table",
    "read_videos",
]
