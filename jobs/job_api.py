"""Ray's job API, as `submit`, `status`, `logs`, `stop` and `list` use it.

The token, if a cluster requires one, comes from the environment (`RAY_AUTH_MODE`, `RAY_AUTH_TOKEN` or
`RAY_AUTH_TOKEN_PATH`), as Ray's own tools take it.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from flashvid.errors import ConfigurationError, first_line
from pipeline.config import JobConfig
from pipeline.errors import ClusterUnreachableError
from pipeline.redaction import redacted

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

# Keys of a job's metadata, which `list` and `status` show.
_OUTPUT, _VIDEOS = "flashvid_output", "flashvid_videos"
# Time between SIGTERM and SIGKILL, in which the driver commits its results; Ray's default is 3 seconds.
_STOP_SECONDS = "30"


@contextmanager
def job_api(address: str | None) -> Iterator[JobSubmissionClient]:
    """Yield a client of a cluster's job API.

    Args:
        address: URL of the dashboard; None for `RAY_API_SERVER_ADDRESS`, then `RAY_ADDRESS`.

    Raises:
        ConfigurationError: there is no address, the extra `cluster` is not installed, or the cluster refuses the
            request: the job does not exist, or the token is wrong.
        ClusterUnreachableError: nothing answers there, or the cluster is not ready yet.
    """
    where = address or os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS")
    if not where:
        raise ConfigurationError("no cluster is given: use --address http://HEAD:8265, or set RAY_ADDRESS")
    if not where.startswith(("http://", "https://")):
        raise ConfigurationError("is not the address of a job API, such as http://HEAD:8265", where)
    try:
        import requests
        from ray.job_submission import JobSubmissionClient
    except ImportError as error:
        raise ConfigurationError(f"needs pip install 'flashvid-pipeline[cluster]' ({error})") from None
    try:
        yield JobSubmissionClient(where)
    except (ConnectionError, requests.ConnectionError) as error:
        message = f"no answer: is the cluster up, and the address right? ({error})"
        raise ClusterUnreachableError(message, where) from None
    except RuntimeError as error:
        # The client raises this for every refusal over HTTP, with the status only in the text.
        away = "status code 5" in str(error)
        raise (ClusterUnreachableError if away else ConfigurationError)(first_line(error), where) from None


def send(client: JobSubmissionClient, working_dir: Path, entrypoint: str, job: JobConfig) -> str:
    """Submit what `jobs.shipping` wrote; return the job's id."""
    job_id = f"flashvid-{secrets.token_hex(4)}"
    environment = {"working_dir": str(working_dir), "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": _STOP_SECONDS}}
    metadata = {_OUTPUT: job.output, _VIDEOS: redacted(job.videos)}
    client.submit_job(entrypoint=entrypoint, submission_id=job_id, runtime_env=environment, metadata=metadata)
    return job_id


def our_jobs(client: JobSubmissionClient, output: str | None = None) -> list[JobDetails]:
    """Return the jobs that `flashvid submit` sent, the latest first; only those of one output if it is given."""
    found = [job for job in client.list_jobs() if _OUTPUT in (job.metadata or {})]
    of_output = [job for job in found if output is None or output_of(job) == output]
    return sorted(of_output, key=lambda job: job.start_time or 0, reverse=True)


def output_of(job: JobDetails) -> str:
    """Return the output that a job writes to."""
    return str((job.metadata or {}).get(_OUTPUT, ""))
