"""Which files a job may touch, and that ids never name a path."""

from __future__ import annotations

from pathlib import Path

import pytest

from flashvid.errors import ConfigurationError
from jobs.shipping import fill_working_dir, for_cluster
from pipeline.inputs.allowed_roots import refusal
from pipeline.inputs.job_inputs import read_tables
from pipeline.inputs.sources import stat_sources
from pipeline.inputs.videos_table import read_videos
from pipeline.store.ledger import Ledger
from pipeline.store.storage import Storage
from tests.pipeline.store.test_ledger import answer
from tests.support.runs import job


@pytest.mark.parametrize(
    ("path", "roots", "allowed"),
    [
        ("s3://bucket/a.mp4", ["s3://bucket"], True),
        ("s3://bucket/a.mp4", ["s3://"], True),
        ("s3://bucket2/a.mp4", ["s3://bucket"], False),
        ("s3://bucket/../other/a.mp4", ["s3://bucket"], False),
        ("s3://bucket/%2e%2e/other/a.mp4", ["s3://bucket"], False),
        ("http://169.254.169.254/latest", ["s3://"], False),
        ("/videos/a.mp4", ["/videos"], True),
        ("/videos2/a.mp4", ["/videos"], False),
        ("/videos/../etc/passwd", ["/videos"], False),
        ("/etc/passwd", ["s3://"], False),
        ("/etc/passwd", [], False),
        ("file:///etc/passwd", ["/videos", "file://"], False),
        ("file:///videos/a.mp4", ["/videos"], True),
        ("local:///etc/passwd", ["/videos"], False),
        ("zip://a.mp4::file:///etc/a.zip", ["/videos", "s3://"], False),
        ("simplecache::file:///etc/passwd", ["/"], False),
        ("s3://bucket/a.mp4::file:///etc/passwd", ["s3://bucket"], False),
        ("/etc/passwd", None, True),
    ],
)
def test_what_is_below_a_root(path: str, roots: list[str] | None, allowed: bool) -> None:
    """Names that only look like it are refused, and the refusal names the path."""
    reason = refusal(path, roots)
    assert (reason is None) == allowed
    if reason is not None:
        assert path in reason


def test_a_symbolic_link_out_of_a_root_is_refused(tmp_path: Path) -> None:
    """What counts is the file that would be opened."""
    (tmp_path / "videos").mkdir()
    (tmp_path / "secret.mp4").touch()
    (tmp_path / "videos" / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    assert refusal(str(tmp_path / "videos" / "link.mp4"), [str(tmp_path / "videos")])


def test_rows_outside_are_problems_that_are_not_looked_for(tmp_path: Path) -> None:
    """The other rows stay as they are; the file is not even stat'ed, so its size is not learnt."""
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").write_bytes(b"12")
    (tmp_path / "secret.mp4").write_bytes(b"123")
    table = tmp_path / "videos" / "videos.csv"
    table.write_text(f"video_id,video_path\na,a.mp4\nup,../secret.mp4\nfar,{tmp_path}/secret.mp4\nweb,http://x/a.mp4\n")
    roots = [str(tmp_path / "videos")]
    videos = read_videos(str(table), allowed_roots=roots)
    rows = {video.video_id: video.problem for shard in videos.shards(4) for video in shard}
    assert rows.pop("a") is None
    assert all(problem is not None and "allowed_roots" in problem for problem in rows.values())
    with_roots = job(tmp_path, videos=str(table), output=str(tmp_path / "videos" / "out"), allowed_roots=roots)
    sources = stat_sources(list(read_tables(with_roots)[0]), source_id_column=None, storage_options={})
    assert [source.size_bytes for source in sources] == [2, None, None, None]
    with pytest.raises(ConfigurationError, match=r"output: .* is outside of allowed_roots"):
        read_tables(with_roots.model_copy(update={"output": str(tmp_path / "out")}))


def test_submit_refuses_what_only_this_machine_sees(tmp_path: Path) -> None:
    """Every such place by name; a local questions table goes along; the job may read its own places only."""
    (tmp_path / "questions.csv").write_text("question\nWhat?\n")
    local = job(tmp_path, questions=str(tmp_path / "questions.csv"), cache="s3://bucket/cache")
    with pytest.raises(ConfigurationError, match="--shared") as refused:
        for_cluster(local, ())
    assert f"videos: {tmp_path}/videos; output: {tmp_path}/output" in str(refused.value)
    assert "cache" not in str(refused.value)

    shared = for_cluster(local, (str(tmp_path),))
    assert shared.questions == str(tmp_path / "questions.csv")
    assert shared.allowed_roots == ("s3://", str(tmp_path))

    remote = for_cluster(local.model_copy(update={"videos": "s3://v/t.parquet", "output": "gs://o"}), ())
    assert remote.allowed_roots == ("s3://", "gs://")
    assert [row.question for row in remote.questions if not isinstance(row, str)] == ["What?"]
    own = remote.model_copy(update={"allowed_roots": ("s3://v", "gs://o")})
    assert for_cluster(own, ()).allowed_roots == ("s3://v", "gs://o")


def test_what_is_sent(tmp_path: Path) -> None:
    """The job and the three packages with their version; no caches of Python's, and far below Ray's 500 MB."""
    settings = job(tmp_path)
    entrypoint = fill_working_dir(tmp_path, settings, with_code=True)
    assert entrypoint == "python -m jobs.cli.main run job.json"
    assert {path.name for path in tmp_path.iterdir()} == {
        "job.json",
        "flashvid",
        "pipeline",
        "jobs",
        "flashvid_pipeline.dist-info",
    }
    assert not list(tmp_path.rglob("__pycache__"))
    assert sum(path.stat().st_size for path in tmp_path.rglob("*")) < 20_000_000
    assert type(settings).model_validate_json((tmp_path / "job.json").read_text()) == settings


@pytest.mark.parametrize(
    "video_id", ["../../escape", "/etc/escape", "a/../../b", "shard=00", "nul\x00byte", "..", "x" * 5000]
)
def test_ids_name_no_path(tmp_path: Path, video_id: str) -> None:
    """Ids stand inside the tables only: whatever they are, files have the names they always have."""
    output = tmp_path / "output"
    Ledger(Storage(str(output)), "print").append_answers([answer(video_id, "../../question", run_id="r")], "part")
    (file,) = (path for path in tmp_path.rglob("*") if path.is_file())
    assert file.parent.parent == output / "answers" / "fingerprint=print"
    assert file.parent.name.startswith("shard=")
