"""What `flashvid submit` sends to a cluster: the resolved job, and this code.

Ray unpacks the folder on every node and puts it on Python's path. It holds `job.json` and the three packages as they
run here, with the metadata that names their version, so that the driver, its actors and the submitting command run the
same code. Videos, models and caches stay where they are.
"""

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
    """Return the job as a cluster can run it: its nodes reach every place, and it may read no others.

    A local table of questions is read here and sent with the job.

    Args:
        job: As `load_job` gives it, with absolute paths.
        shared: Local folders that every node sees under the same path.

    Raises:
        ConfigurationError: some places are on this machine only; the message names all of them.
        InputTableError: the local table of questions can't be read.
    """
    if isinstance(job.questions, str) and _is_of_this_machine(job.questions, shared):
        rows = tuple(read_question_rows(job.questions, job.storage_options))
        job = job.model_copy(update={"questions": rows})
    # A hub id and an embedded model are names; a directory is an absolute path.
    model = job.model.name if Path(job.model.name).is_absolute() else None
    places = {"videos": job.videos, "output": job.output, "cache": job.cache, "model.name": model}
    local = [f"{key}: {place}" for key, place in places.items() if place and _is_of_this_machine(place, shared)]
    if local:
        raise ConfigurationError(
            f"the cluster's nodes can't read paths of this machine ({'; '.join(local)}): copy them to a bucket, or "
            "name their folder with --shared if all nodes have it under the same path"
        )
    if job.allowed_roots is None:
        schemes = [f"{place.split('://', 1)[0]}://" for place in places.values() if place and "://" in place]
        job = job.model_copy(update={"allowed_roots": tuple(dict.fromkeys((*schemes, *shared)))})
    return job


def fill_working_dir(folder: Path, job: JobConfig, *, with_code: bool) -> str:
    """Write the files to send into an empty folder.

    Returns:
        The command that runs the job on the cluster.
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
