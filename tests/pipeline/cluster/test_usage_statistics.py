"""Ray Data collects nothing of a run for Ray's makers, unless the environment asks for it."""

from __future__ import annotations

from typing import Any

import pytest
import ray
from ray.data._internal.usage.collector import usage_collection_disabled

from pipeline.cluster.connection import connected
from pipeline.errors import ClusterUnreachableError


@pytest.mark.parametrize(("wish", "collected"), [(None, False), ("0", False), ("1", True)])
def test_usage_is_collected_only_if_the_environment_says_so(
    monkeypatch: pytest.MonkeyPatch, wish: str | None, collected: bool
) -> None:
    """By Ray's own reading of the environment that a cluster is connected to from."""
    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_BACKEND_LOG_LEVEL", "RAY_AUTH_MODE"):
        monkeypatch.setenv(name, "")  # to be as it was, after the test
        monkeypatch.delenv(name)
    if wish is not None:
        monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", wish)
    asked: list[bool] = []

    def init(**_: Any) -> None:
        asked.append(not usage_collection_disabled())
        raise ConnectionError("not here")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(ClusterUnreachableError), connected("auto"):
        pass
    assert asked == [collected]
