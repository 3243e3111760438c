"""A machine with one GPU: encode and answer share it. Needs a Ray of its own, so it runs in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.runs import copy_videos, job

_SCRIPT = """
import json, sys
from pipeline.cluster.local_ray import local_ray
from pipeline.config import JobConfig
from pipeline.run.run import run
with local_ray(num_cpus=2, num_gpus=1):
    summary = run(JobConfig.model_validate_json(sys.argv[1]))
devices = {worker.stage: worker.cuda_visible_devices for worker in summary.workers}
print(json.dumps({"answers": summary.answers_new, "devices": devices}))
"""


@pytest.mark.slow
def test_encode_and_answer_share_the_only_gpu(sample_videos: Path, tmp_path: Path) -> None:
    """With default resources both pools are placed on device 0 and the run ends."""
    copy_videos(sample_videos, tmp_path, ["moving_red_disc.mp4", "three_boxes.mp4"])
    settings = job(tmp_path, resources={}).model_dump_json()
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, settings], capture_output=True, text=True, timeout=180, check=True
    )
    result = json.loads(done.stdout.strip().splitlines()[-1])
    assert result["answers"] == 4
    assert result["devices"]["encode"] == result["devices"]["answer"] == "0"
