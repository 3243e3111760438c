"""A client of Ray's job API, with a token."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import requests


@dataclass(frozen=True)
class JobApi:
    """A head that takes jobs.

    Attributes:
        dashboard: URL of the job API.
        environment: What a client needs besides: the token, and what the cluster's processes share.
    """

    dashboard: str
    environment: Mapping[str, str]

    def get(self, path: str, **headers: str) -> requests.Response:
        """Ask, with the token unless other headers are given."""
        headers = headers or {"Authorization": f"Bearer {self.environment['RAY_AUTH_TOKEN']}"}
        return requests.get(f"{self.dashboard}{path}", headers=headers, timeout=30)

    def status(self, job_id: str) -> str:
        """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
        status: str = self.get(f"/api/jobs/{job_id}").json()["status"]
        return status

    def wait(self, job_id: str, within_s: float) -> str:
        """How a job ended."""
        deadline = time.monotonic() + within_s
        while (status := self.status(job_id)) in ("PENDING", "RUNNING"):
            assert time.monotonic() < deadline, f"{job_id} takes longer than {within_s} s: {self.logs(job_id)}"
            time.sleep(0.3)
        return status

    def logs(self, job_id: str) -> str:
        """What a job printed."""
        logs: str = self.get(f"/api/jobs/{job_id}/logs").json()["logs"]
        return logs
