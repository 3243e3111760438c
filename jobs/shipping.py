"""What `flashvid submit` sends to a cluster: the job as it was resolved here, and this code.

The folder that Ray unpacks on every node, and puts on Python's path, holds `job.json` and the three packages as they
run here, with the metadata that names their version: the driver, its actors and the command that sent them are the
same code. Videos, models and caches stay where they are.
"""

from __future__ import annotations

import shutil
from importlib.metadata import distribution
from pathlib import Path

import flashvid
import jobs
import pipeline
from flashvid.errors import ConfigurationError
from pipeline.config import JobConfig
from pipeline.inputs.allowed_roots import refusal
from pipeline.inputs.questions_table import read_question_rows

_PACKAGES = (flashvid, pipeline, jobs)
_METADATA = "flashvid_pipeline.dist-info"
_NOT_SHIPPED = shutil.ignore_patterns("__pycache__", "*.pyc", ".*", "lab")
_ENTRYPOINTS = {True: "python -m jobs.cli.main run job.json", False: "flashvid run job.json"}


def for_cluster(job: JobConfig, shared: tuple[str, ...]) -> JobConfig:
    """The job as a cluster can run it: every place is one that its nodes reach, and it may read no others.

    A local table of questions is read here and sent along.

    Args:
        job: As `load_job` gives it, with absolute paths.
        shared: Local folders that every node sees under the same path.

    Raises:
        ConfigurationError: places on this machine only; all of them are named.
        InputTableError: the local table of questions can't be read.
    """
    if isinstance(job.questions, str) and _is_of_this_machine(job.questions, shared):
        rows = tuple(read_question_rows(job.questions, job.storage_options))
        job = job.model_copy(update={"questions": rows})
    # A hub id and an embedded model are names, a directory has been made absolute.
    model = job.model.name if Path(job.model.name).is_absolute() else None
    places = {"videos": job.videos, "output": job.output, "cache": job.cache, "model.name": model}
    local = [f"{key}: {place}" for key, place in places.items() if place and _is_of_this_machine(place, shared)]
    if local:
        raise ConfigurationError(
            f"the cluster's nodes don't see what is on this machine ({'; '.join(local)}): put it into a bucket, or "
            "name its folder with --shared if all nodes have it under the same path"
        )
    if job.allowed_roots is None:
        schemes = [f"{place.split('://', 1)[0]}://" for place in places.values() if place and "://" in place]
        job = job.model_copy(update={"allowed_roots": tuple(dict.fromkeys((*schemes, *shared)))})
    return job


def fill_working_dir(folder: Path, job: JobConfig, *, with_code: bool) -> str:
    """Write what is sent into an empty folder.

    Returns:
        The command that runs the job there.
    """
    (folder / "job.json").write_text(job.model_dump_json(indent=2, exclude_unset=True), encoding="utf-8")
    if with_code:
        for package in _PACKAGES:
            (source,) = package.__path__
            shutil.copytree(source, folder / package.__name__, ignore=_NOT_SHIPPED)
        metadata = folder / _METADATA
        metadata.mkdir()
        content = distribution("flashvid-pipeline").read_text("METADATA") or ""
        (metadata / "METADATA").write_text(content, encoding="utf-8")
    return _ENTRYPOINTS[with_code]


def _is_of_this_machine(place: str, shared: tuple[str, ...]) -> bool:
    is_local = "://" not in place or place.startswith(("file://", "local://"))
    return is_local and refusal(place, shared) is not None
