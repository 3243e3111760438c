"""What a benchmark is to us: a converter, a way to count, and what was published."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.datasets.published import PublishedNumber, published_numbers

Row = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """Where a benchmark's files are.

    Attributes:
        annotations: The file, or the folder, of its annotations as published.
        videos: Folder of its video files.
        subtitles: Folder of its subtitles; None for none.
        num_frames: Frames that a video is sampled to, where subtitles are those on screen then.
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
        questions: As `QuestionRow`; braces in texts are doubled, since questions are templates.
        left_out: Annotations that are not multiple choice.
    """

    videos: tuple[Row, ...]
    questions: tuple[Row, ...]
    left_out: int = 0


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Attributes:
        name: As commands take it.
        title: As papers write it.
        convert: Annotations to tables.
        letters: How a response names its option (`jobs.evaluation.letters`).
        categories: By which its accuracy is usually split.
        max_new_tokens: As lmms-eval generates.
        counted: How lmms-eval makes one number of it, as a sentence.
    """

    name: str
    title: str
    convert: Callable[[Source], Tables]
    letters: str
    categories: tuple[str, ...]
    max_new_tokens: int
    counted: str

    def published(self, job: Mapping[str, Any]) -> tuple[PublishedNumber, ...]:
        """The paper's numbers for a job's preset, frames and retention (`JobConfig` as it was recorded)."""
        return published_numbers(self.name, job)


def literal(text: str) -> str:
    """A text as a question template that says just this."""
    return text.replace("{", "{{").replace("}", "}}")


def lettered(options: Sequence[str], shape: str) -> list[str]:
    """Options with their letters: shape "({}) {}" gives "(A) red"."""
    return [shape.format(chr(ord("A") + index), option) for index, option in enumerate(options)]


def unique_videos(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Each video once: annotations repeat them for every question."""
    return tuple({row["video_id"]: row for row in reversed(rows)}.values())[::-1]
