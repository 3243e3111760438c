"""The main job with everything on an object store: the answers are the local run's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import pyarrow.dataset as ds
import pytest

from pipeline.care.verify import verify
from pipeline.config import JobConfig
from pipeline.run.run import run
from pipeline.store.storage import Storage
from tests.chaos.kills import sender
from tests.support.fault_proxy import Seen, fault_proxy
from tests.support.object_stores import ObjectStore
from tests.support.outputs import row_clips
from tests.support.runs import comparable, copy_videos, job, table

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_session")]

VIDEOS = ("moving_red_disc.mp4", "three_boxes.mp4", "scene_cuts.mp4", "short_flash.mp4")
QUESTIONS = 'question,options\nWhat happens here?,\nWhich colour?,"[""red"", ""blue""]"\n'
# Derived from where the bytes are, which is another place.
_PLACES = ("clip_id", "source_id", "fingerprint", "shard")


@pytest.fixture(scope="module")
def local(sample_videos: Path, tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Path:
    """A finished run on local disk, with its inputs."""
    del ray_session
    folder = tmp_path_factory.mktemp("local")
    copy_videos(sample_videos, folder, VIDEOS)
    (folder / "questions.csv").write_text(QUESTIONS)
    assert run(job(folder, questions=str(folder / "questions.csv"))).answers_new == len(VIDEOS) * 2
    return folder


def remote_job(store: ObjectStore, inputs: Path, endpoint_url: str | None = None, **settings: Any) -> JobConfig:
    """The same job with videos, questions, cache and output in a new folder of an object store."""
    url = store.folder()
    store.filesystem().put(f"{inputs}/videos/", f"{url}/videos/", recursive=True)
    store.filesystem().put(str(inputs / "questions.csv"), f"{url}/questions.csv")
    places = {
        "videos": f"{url}/videos",
        "questions": f"{url}/questions.csv",
        "output": f"{url}/output",
        "cache": f"{url}/cache",
    }
    return job(inputs, **places, storage_options={"endpoint_url": endpoint_url or store.endpoint_url}, **settings)


def answers(storage: Storage) -> list[Any]:
    """All answers in an output on an object store, without what may differ."""
    return _without_places(rows(storage, "answers"))


def rows(storage: Storage, name: str) -> list[dict[str, Any]]:
    """All rows of a table in an output on an object store."""
    paths = [storage.path(part) for part in storage.names(name)]
    if not paths:
        return []
    found: list[dict[str, Any]] = ds.dataset(paths, format="parquet", filesystem=storage.fs).to_table().to_pylist()
    return found


def _without_places(found: list[dict[str, Any]]) -> list[Any]:
    return comparable([{name: value for name, value in row.items() if name not in _PLACES} for row in found])


def test_everything_on_s3_gives_the_local_answers(seaweed: ObjectStore, local: Path) -> None:
    """And resuming there finds nothing to do."""
    settings = remote_job(seaweed, local)
    notices: list[str] = []
    summary = run(settings, on_notice=notices.append)
    assert (summary.answers_new, summary.failures_new, notices) == (len(VIDEOS) * 2, 0, [])
    output, cache = seaweed.storage(settings.output), seaweed.storage(settings.cache)
    assert answers(output) == _without_places(table(local / "output", "answers"))
    assert len(cache.names("tokens")) == len(VIDEOS)
    assert verify(output, [output, cache]).findings == ()
    before = output.sizes("answers")
    again = run(settings)
    assert (again.clips_planned, again.answers_new, again.workers) == (0, 0, ())
    assert output.sizes("answers") == before


@pytest.mark.parametrize("seed", [1])
def test_a_bad_network_changes_no_answer(seaweed: ObjectStore, local: Path, seed: int) -> None:
    """One request in twenty answers 500 or 503, hangs, or breaks off: nothing lost, nothing twice, nothing failed."""
    with fault_proxy(seaweed.endpoint_url, share=0.05, seed=seed) as proxy:
        settings = remote_job(seaweed, local, proxy.endpoint_url)
        summary = run(settings)
        print(f"seed {seed}: {proxy.requests} requests, {dict(proxy.faults)}")
        assert sum(proxy.faults.values()) >= 5
    output = seaweed.storage(settings.output)
    assert (summary.answers_new, summary.failures_new) == (len(VIDEOS) * 2, 0)
    assert answers(output) == _without_places(table(local / "output", "answers"))
    assert verify(output, [output, seaweed.storage(settings.cache)]).findings == ()


@pytest.mark.parametrize("deaths", [2, 4])
def test_a_clip_whose_processes_die_is_tried_alone(seaweed: ObjectStore, local: Path, deaths: int) -> None:
    """After two deaths at the run's end; two more, and it is poison. Its neighbours are answered in any case."""
    killed: list[int] = []

    def kill_sender(seen: Seen) -> bool:
        pid = None
        if seen.moment == "before" and len(killed) < deaths and seen.method == "PUT" and poison in seen.path:
            pid = sender(seen.client_port, proxy.server_address[1])
        if pid is not None:
            killed.append(pid)
            psutil.Process(pid).kill()
        return pid is not None

    with fault_proxy(seaweed.endpoint_url, share=0.0, seed=0, on_request=kill_sender) as proxy:
        settings = remote_job(seaweed, local, proxy.endpoint_url)
        clips, _ = row_clips(settings)
        (poison,) = (clip.content_key for clip in clips if clip.video_id == VIDEOS[1])
        summary = run(settings)
    assert len(set(killed)) == deaths
    found = answers(seaweed.storage(settings.output))
    failures = rows(seaweed.storage(settings.output), "failures")
    if deaths == 2:
        assert (failures, summary.failures_new) == ([], 0)
        assert found == _without_places(table(local / "output", "answers"))
    else:
        assert [(row["video_id"], row["error_type"], row["error_kind"]) for row in failures] == [
            (VIDEOS[1], "PoisonClipError", "permanent")
        ]
        assert len(found) == 2 * (len(VIDEOS) - 1)
