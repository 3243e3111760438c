"""Nothing is reported to Ray's makers: neither by a Ray that a run starts, nor of a run on somebody's cluster."""

from __future__ import annotations

import os
from typing import Any

import pytest
import ray
from ray._common.usage.usage_lib import usage_stats_enabled
from ray.data._internal.usage.collector import usage_collection_disabled

from pipeline.cluster import connected
from pipeline.errors import ClusterUnreachableError


@pytest.mark.parametrize("address", ["local", "auto"])
@pytest.mark.parametrize(("wish", "reported"), [(None, False), ("0", False), ("1", True)])
def test_usage_is_reported_only_if_the_environment_says_so(
    monkeypatch: pytest.MonkeyPatch, address: str, wish: str | None, reported: bool
) -> None:
    """By Ray's own reading of the environment that it is started with, or connected to from."""
    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_BACKEND_LOG_LEVEL", "RAY_AUTH_MODE"):
        monkeypatch.setenv(name, "")  # to be as it was, after the test
        monkeypatch.delenv(name)
    if wish is not None:
        monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", wish)
    asked: list[tuple[bool, bool]] = []

    def init(**_: Any) -> None:
        asked.append((usage_stats_enabled(), not usage_collection_disabled()))
        raise ConnectionError("not here")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(ClusterUnreachableError), connected(address):
        pass
    assert asked == [(reported, reported)]
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == (wish or "0")
