"""A fourth stage is one file, with a class that says what it needs, and one line in `STAGES`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.clip import ClipMessage
from pipeline.cluster.resources import Pool, plan_pools
from pipeline.resources_config import ResourcesConfig
from pipeline.run import run as run_module
from pipeline.run.run import run
from pipeline.stages import STAGES, Stage, StageSettings
from tests.support.runs import copy_videos, job, table


class ShoutStage(Stage):
    """Works on what the answer stage passes on."""

    name = "shout"

    def __init__(self, settings: StageSettings) -> None:
        super().__init__(settings)
        self.announce()

    def process(self, message: ClipMessage) -> tuple[ClipMessage, Mapping[str, int]]:
        """Put every response in capitals."""
        answers = tuple({**answer, "response": answer["response"].upper()} for answer in message.answers)
        return replace(message, answers=answers), {}


def test_it_has_a_pool_that_is_placed_with_the_others() -> None:
    """One actor that reserves no more than one without a GPU does."""
    names = [stage.name for stage in (*STAGES, ShoutStage)]
    for gpus, cpus in (((1,), 0.0), ((), 0.01)):
        for encodes in (True, False):
            pools = plan_pools(ResourcesConfig(), cpus_per_node=(4,), gpus_per_node=gpus, encodes=encodes, stages=names)
            assert pools["shout"] == Pool(1, cpus, 0.0)
            assert list(pools.by_stage) == (names if encodes else ["answer", "shout"])


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_every_clip_passes_it(sample_videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """New clips and cached ones; its process and its seconds are in the run's books."""
    monkeypatch.setattr(run_module, "STAGES", (*STAGES, ShoutStage))
    copy_videos(sample_videos, tmp_path, ["moving_red_disc.mp4"])
    first = run(job(tmp_path))
    copy_videos(sample_videos, tmp_path, ["three_boxes.mp4"])
    second = run(job(tmp_path, questions=["What happens here?", "How many objects are there?", "Where?"]))
    assert (second.clips_decoded, second.cache_hits, second.failures_new) == (1, 1, 0)
    for summary in (first, second):
        assert [worker.stage for worker in summary.workers].count("shout") == 1
        assert summary.stage_seconds["shout"] > 0
    responses = [row["response"] for row in table(tmp_path / "output", "answers")]
    assert len(responses) == 6
    assert all(response == response.upper() for response in responses)
