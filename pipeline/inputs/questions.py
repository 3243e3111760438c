"""The questions of a job: what is asked of every video, or of one."""

from __future__ import annotations

import string
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pipeline.inputs.prompts import question_prompt
from pipeline.store.keys import question_hash


@dataclass(frozen=True)
class Question:
    """A checked question.

    Attributes:
        question_id: Unique among the questions that any one video gets.
        template: The text, with `{column}` where a column of the video's row goes.
        options: Choices shown to the model, or None for an open question.
        expected_answer: For evaluation; never shown to the model.
        video_id: The only video it is asked of; None for all.
        category: For evaluation, as `expected_answer`.
    """

    question_id: str
    template: str
    options: tuple[str, ...] | None = None
    expected_answer: str | None = None
    video_id: str | None = None
    category: str | None = None

    @cached_property
    def columns(self) -> frozenset[str]:
        """Columns of the video's row that the text uses."""
        return frozenset(name for _, name, _, _ in string.Formatter().parse(self.template) if name)

    @cached_property
    def fixed_hash(self) -> str | None:
        """The `question_hash` of a text that is the same for every row; None if it uses columns."""
        return None if self.columns else question_hash(self.render({}), self.options)

    def render(self, columns: Mapping[str, Any]) -> str:
        """The text for one video, whose row has these columns."""
        # Not str.format: a column may be called "meta.title", which that takes for an attribute.
        parts = string.Formatter().parse(self.template)
        return "".join(text + ("" if name is None else str(columns[name])) for text, name, _, _ in parts)

    def hash(self, columns: Mapping[str, Any]) -> str:
        """The `question_hash` of what that video is asked."""
        return self.fixed_hash or question_hash(self.render(columns), self.options)

    def prompt(self, columns: Mapping[str, Any]) -> str:
        """What the model reads after that video."""
        return question_prompt(self.render(columns), self.options)

    def row(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        """The question's columns of that video's row in `answers/`."""
        return {
            "question_id": self.question_id,
            "question": self.render(columns),
            "question_hash": self.hash(columns),
            "options": list(self.options) if self.options else None,
            "expected_answer": self.expected_answer,
        }


class QuestionTable:
    """The job's questions, looked up by video."""

    def __init__(self, questions: Iterable[Question]) -> None:
        self._common: list[Question] = []
        self._of_video: dict[str, list[Question]] = defaultdict(list)
        for question in questions:
            (self._common if question.video_id is None else self._of_video[question.video_id]).append(question)

    @property
    def common(self) -> Sequence[Question]:
        """The questions for all videos."""
        return self._common

    def for_video(self, video_id: str) -> list[Question]:
        """Every question of a video: those for all videos, then its own."""
        return [*self._common, *self._of_video.get(video_id, [])]

    @property
    def columns(self) -> frozenset[str]:
        """Columns of the videos table that some question uses."""
        own = (question for questions in self._of_video.values() for question in questions)
        return frozenset().union(*(question.columns for question in (*self._common, *own)))
