"""A benchmark: its converter, how its accuracy is counted, and what was published."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

Row = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """Where a benchmark's files are.

    Attributes:
        annotations: The file or the folder of its annotations, as published.
        videos: Folder of its video files.
        subtitles: Folder of its subtitles; None for none.
        num_frames: Frames sampled from a video; subtitles on screen at one of them are used.
    """

    annotations: Path
    videos: Path
    subtitles: Path | None = None
    num_frames: int = 32


@dataclass(frozen=True)
class Tables:
    """Rows of our two tables.

    Attributes:
        videos: `video_id`, `video_path`, and columns of the benchmark's own.
        questions: As `QuestionRow`; braces in texts are doubled, because questions are templates.
        left_out: Annotations that are not multiple choice.
    """

    videos: tuple[Row, ...]
    questions: tuple[Row, ...]
    left_out: int = 0

    @classmethod
    def of(cls, rows: Iterable[tuple[Row, Row]], left_out: int = 0) -> Tables:
        """Return the tables of pairs of a video and a question; annotations repeat a video for every question."""
        pairs = list(rows)
        videos = {video["video_id"]: video for video, _ in reversed(pairs)}
        return cls(tuple(videos.values())[::-1], tuple(question for _, question in pairs), left_out)


class Converter(Protocol):
    """A module of this package."""

    COUNTED: str

    def convert(self, source: Source, /) -> Tables:
        """Return rows of both tables."""


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Attributes:
        name: As commands take it.
        title: As papers write it.
        module: Converts its annotations (`convert`), and says how it is counted (`COUNTED`).
        letters: How a response names its option (`jobs.evaluation.letters`).
        categories: By which its accuracy is usually split.
        max_new_tokens: As lmms-eval generates.
    """

    name: str
    title: str
    module: Converter
    letters: str
    categories: tuple[str, ...]
    max_new_tokens: int = 16


def lettered(options: Sequence[str]) -> list[str]:
    """Return options with their letters, for instance "(A) red"."""
    return [f"({chr(ord('A') + index)}) {option}" for index, option in enumerate(options)]


def question_row(
    question_id: str, video_id: str, question: str, answer: str | None, category: object = None, **options: list[str]
) -> Row:
    """Return a row of the questions table, whose text is a template that renders as `question`."""
    template = question.replace("{", "{{").replace("}", "}}")
    row = {"question_id": question_id, "video_id": video_id, "question": template, "answer": answer}
    return {**row, "category": category, **options}
