"""Hold the questions of a job: about every video, or about one."""

import string
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pipeline.inputs.prompts import question_prompt
from pipeline.store.keys import question_hash


@dataclass(frozen=True)
class Question:
    """A checked question.

    Attributes:
        question_id: Unique among the questions about one video.
        template: The text; `{column}` is replaced by that column of the video's row.
        options: Choices shown to the model, or None for an open question.
        expected_answer: Expected answer, for evaluation; never shown to the model.
        video_id: The only video that gets the question; None for all.
        category: Kind of question, for evaluation; never shown to the model.
    """

    question_id: str
    template: str
    options: tuple[str, ...] | None = None
    expected_answer: str | None = None
    video_id: str | None = None
    category: str | None = None

    @cached_property
    def columns(self) -> frozenset[str]:
        """Return the columns of the video's row that the text uses."""
        return frozenset(name for _, name, _, _ in string.Formatter().parse(self.template) if name)

    @cached_property
    def fixed_hash(self) -> str | None:
        """Return the `question_hash` if the text is the same for every video; None if it uses columns."""
        return None if self.columns else question_hash(self.render({}), self.options)

    def render(self, columns: Mapping[str, Any]) -> str:
        """Return the text for a video whose row has these columns."""
        # Not str.format, which would read a column named "meta.title" as an attribute.
        parts = string.Formatter().parse(self.template)
        return "".join(text + ("" if name is None else str(columns[name])) for text, name, _, _ in parts)

    def hash(self, columns: Mapping[str, Any]) -> str:
        """Return the `question_hash` for a video whose row has these columns."""
        return self.fixed_hash or question_hash(self.render(columns), self.options)

    def prompt(self, columns: Mapping[str, Any]) -> str:
        """Return the user's turn of the prompt for a video whose row has these columns."""
        return question_prompt(self.render(columns), self.options)

    def row(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        """Return the columns of `answers/` that describe the question, for a video whose row has these columns."""
        return {
            "question_id": self.question_id,
            "question": self.render(columns),
            "question_hash": self.hash(columns),
            "options": list(self.options) if self.options else None,
            "expected_answer": self.expected_answer,
        }


class QuestionTable:
    """The questions of a job, grouped by video.

    Attributes:
        common: The questions about all videos.
        notes: What the user should know about how the table was read.
    """

    def __init__(self, questions: Iterable[Question], notes: Iterable[str] = ()) -> None:
        self.notes = tuple(notes)
        self.common: list[Question] = []
        self._of_video: dict[str, list[Question]] = defaultdict(list)
        for question in questions:
            (self.common if question.video_id is None else self._of_video[question.video_id]).append(question)

    def for_video(self, video_id: str) -> list[Question]:
        """Return every question about a video: first the common questions, then its own."""
        return [*self.common, *self._of_video.get(video_id, [])]

    @property
    def columns(self) -> frozenset[str]:
        """Return the columns of the videos table that at least one question uses."""
        own = (question for questions in self._of_video.values() for question in questions)
        return frozenset().union(*(question.columns for question in (*self.common, *own)))
