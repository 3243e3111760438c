"""A server that is down says nothing about its files; only "not found" does. Redirects stay below the allowed roots."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from botocore.exceptions import NoCredentialsError

from pipeline.errors import InputTableError, SourceUnreachableError, StorageUnavailableError, VideoNotFoundError
from pipeline.inputs.allowed_roots import source_options
from pipeline.inputs.sources import stat_sources
from pipeline.inputs.tables import read_table
from pipeline.inputs.videos import Video
from pipeline.plan.probe import probe_file
from pipeline.resources_config import StagingConfig
from pipeline.store.filesystem import described, real_error, resolve
from pipeline.store.storage import Storage
from pipeline.video.remote_file import RangeServer, RemoteVideo
from pipeline.video.staging import Staging
from tests.support.helpers import clip
from tests.support.web_server import WebServer, web_server

NOWHERE = "http://nowhere.invalid"
FILES = {"a.mp4": b"not really a video", "t.csv": b"video_path\nx.mp4\n"}


@pytest.fixture
def server() -> Iterator[WebServer]:
    """One that is up."""
    with web_server(FILES) as server:
        yield server


@pytest.fixture
def down() -> str:
    """The address of one that was."""
    with web_server(FILES) as server:
        return server.url


def unread(_: object) -> None:
    """For files that must not be reached."""
    pytest.fail("it was read")


def ways(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[[str], object]]:
    """Every way in which a run meets a video."""
    monkeypatch.setattr("pipeline.video.staging._FETCH_SECONDS", 0.5)
    staging = Staging(StagingConfig(directory=str(folder)), {})

    def stage(url: str) -> None:
        with staging.staged(url, "s"):
            pass

    return {
        "probe": lambda url: probe_file(clip("a", video_path=url), {}, unread),
        "ranges": lambda url: RangeServer(RemoteVideo(url, {}), None),  # type: ignore[arg-type]
        "staging": stage,
    }


@pytest.mark.parametrize("way", ["probe", "ranges", "staging"])
@pytest.mark.parametrize("status", [404, 410, 401, 403, 429, 500, 503, None])
def test_only_not_found_is_missing(
    server: WebServer, down: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, status: int | None
) -> None:
    """A permanent failure; everything else may pass, also a name that does not resolve."""
    is_gone = status == 404 or (status == 410 and way != "staging")
    read = ways(tmp_path, monkeypatch)[way]
    for url in [f"{server.url}/status/{status}"] if status else [f"{down}/a.mp4", f"{NOWHERE}/a.mp4"]:
        with pytest.raises(VideoNotFoundError if is_gone else SourceUnreachableError):
            read(url)


def test_what_is_planned_of_a_server_that_is_down(server: WebServer, down: str) -> None:
    """Neither missing nor answered: the reason is kept for the probe."""
    videos = [Video(name, url) for name, url in (("up", f"{server.url}/a.mp4"), ("down", f"{down}/a.mp4"))]
    videos += [Video("gone", f"{server.url}/status/404"), Video("busy", f"{server.url}/status/503")]
    up, off, gone, busy = stat_sources(videos, source_id_column=None, storage_options={})
    assert (up.size_bytes, up.unreachable) == (len(FILES["a.mp4"]), None)
    assert (gone.size_bytes, gone.unreachable) == (None, None)
    assert off.unreachable is not None
    assert "Cannot connect" in off.unreachable
    assert busy.unreachable is not None
    assert "503" in busy.unreachable


def test_a_connection_that_breaks_in_the_middle(
    server: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a file is never staged."""
    server.cut = True
    with pytest.raises(SourceUnreachableError, match=r"can't be fetched"):
        ways(tmp_path, monkeypatch)["staging"](f"{server.url}/a.mp4")
    assert list(tmp_path.rglob("*.mp4")) == []


def test_a_table_of_a_server_that_is_down(server: WebServer, down: str) -> None:
    """The run ends with exit code 3, not 2: the same command may work later."""
    assert read_table(f"{server.url}/t.csv", {}).num_rows == 1
    with pytest.raises(InputTableError, match="no such file"):
        read_table(f"{server.url}/u.csv", {})
    with pytest.raises(StorageUnavailableError, match="no answer"):
        read_table(f"{down}/t.csv", {})


def test_redirects_stay_below_the_allowed_roots(server: WebServer, tmp_path: Path) -> None:
    """For listings, whole files and ranges alike; within the roots, and without any, they are followed."""
    with web_server(FILES) as elsewhere:
        server.target = elsewhere.url
        within, without = (source_options({}, roots) for roots in ([server.url], None))
        both = source_options({}, [server.url, elsewhere.url])
        url = f"{server.url}/to/a.mp4"
        for options in (without, both):
            fs, path = resolve(url, options)
            assert fs.cat_file(path) == FILES["a.mp4"]
        message = f"{url} is redirected: {elsewhere.url}/a.mp4 is outside of allowed_roots"
        fs, path = resolve(url, within)
        with pytest.raises(PermissionError, match=message):
            fs.cat_file(path)
        (source,) = stat_sources([Video("a", url)], source_id_column=None, storage_options=within)
        assert message in str(source.unreachable)
        with pytest.raises(SourceUnreachableError, match=message):
            probe_file(clip("a", video_path=url), within, unread)
        with pytest.raises(SourceUnreachableError, match=message):
            RangeServer(RemoteVideo(url, within), None)  # type: ignore[arg-type]
        with pytest.raises(PermissionError, match=message):
            Storage(f"{server.url}/to", within).fetch("a.mp4", str(tmp_path / "a.mp4"), within_s=5.0)
        server.target = server.url
        assert fs.cat_file(path) == FILES["a.mp4"]


def test_the_same_roots_share_a_filesystem(server: WebServer) -> None:
    """Each holds connections."""
    first, second = (resolve(f"{server.url}/a.mp4", source_options({}, [server.url]))[0] for _ in range(2))
    assert first is second


def test_credentials_are_said_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the output and of a video; without a network, since none are found."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setattr("pipeline.store.calls._CREDENTIALS_SECONDS", 0.1)
    options = {"endpoint_url": "http://127.0.0.1:9", "skip_instance_cache": True}
    with pytest.raises(StorageUnavailableError, match=r"set AWS_PROFILE, or AWS_ACCESS_KEY_ID .*anon: true"):
        Storage("s3://bucket/output", options).names("")
    (source,) = stat_sources([Video("a", "s3://bucket/a.mp4")], source_id_column=None, storage_options=options)
    assert "AWS_PROFILE" in str(source.unreachable)
    assert "credentials" in described(NoCredentialsError())
    assert described(PermissionError("Access Denied")).startswith(
        "access denied (Access Denied): check the credentials"
    )


def test_a_missing_local_file_stays_one() -> None:
    """Whatever was tried before it was looked for."""
    error = FileNotFoundError("x")
    error.__cause__ = FileNotFoundError("y")
    assert real_error(error) is error
