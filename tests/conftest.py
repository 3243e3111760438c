"""Fixtures: one Ray for the whole session, and videos that are encoded once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from pipeline.cluster.device import DEVICE_VARIABLE
from pipeline.cluster.local_ray import local_ray
from tests.support.sample_folder import make_sample_videos

pytest_plugins = ["tests.support.embedded_model", "tests.support.object_stores", "tests.support.shared_runs"]

# The tests' matrices are tiny: threads would only wait for each other, on a busy machine for seconds.
torch.set_num_threads(1)
# The GPUs of the tests' Ray are a number. Every process that a test starts inherits it.
os.environ[DEVICE_VARIABLE] = "cpu"
# The same examples every time: a search for new ones belongs to a person's machine, not to everybody's CI.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def sample_videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with drawn and natural videos; not to be changed by tests."""
    folder = tmp_path_factory.mktemp("samples")
    make_sample_videos(folder)
    return folder


@pytest.fixture(scope="session")
def ray_session(aws_environment: None) -> Iterator[Mapping[str, str]]:
    """A Ray of this session's own with two logical GPUs: the machine needs none to check who holds which.

    Its value is the variables with which another process connects.
    """
    del aws_environment  # its processes inherit the environment as it is now
    with local_ray(num_cpus=2, num_gpus=2) as connecting:
        yield connecting
