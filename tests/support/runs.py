"""Helpers of the end-to-end tests: small jobs, and the tables they leave."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

from pipeline.config import JobConfig

# What may differ between two runs that did the same work.
_VOLATILE = ("answer_seconds", "attempt", "run_id", "epoch")


def job(folder: Path, **settings: Any) -> JobConfig:
    """A small job over `folder/videos`, with its output in `folder/output`."""
    return JobConfig.model_validate(
        {
            "videos": str(folder / "videos"),
            "questions": ["What happens here?", "How many objects are there?"],
            "output": str(folder / "output"),
            "model": {"name": "tiny-random"},
            "sampling": {"num_frames": 6},
            "generation": {"max_new_tokens": 6},
            "resources": {"decode": {"concurrency": 1}, "encode": {"concurrency": 1}, "answer": {"concurrency": 1}},
            "commit": {"rows": 1},
            **settings,
        }
    )


def copy_videos(samples: Path, folder: Path, names: Sequence[str]) -> Path:
    """Copy some of the sample videos into `folder/videos`."""
    videos = folder / "videos"
    videos.mkdir(parents=True, exist_ok=True)
    for name in names:
        shutil.copyfile(samples / name, videos / name)
    return videos


def table(output: Path, name: str) -> list[dict[str, Any]]:
    """Every row of `answers/`, `failures/`, `tokens/` or `probes/` under an output, all fingerprints together."""
    folder = output / name
    if not folder.exists():
        return []
    # The names of folders are texts, of which pyarrow would make numbers where all of them are digits.
    names = [part.split("=")[0] for part in next(folder.rglob("*.parquet")).relative_to(folder).parts[:-1]]
    folders = ds.partitioning(pa.schema([(name, pa.string()) for name in names]), flavor="hive")
    rows: list[dict[str, Any]] = ds.dataset(folder, format="parquet", partitioning=folders).to_table().to_pylist()
    return rows


def comparable(answers: list[dict[str, Any]]) -> list[tuple[tuple[str, str], ...]]:
    """Answers as a sorted list without what may differ between runs; equal work gives equal lists."""
    return sorted(
        tuple(sorted((name, repr(value)) for name, value in row.items() if name not in _VOLATILE)) for row in answers
    )
