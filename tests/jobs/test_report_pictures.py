"""The report's pictures: thumbnails with what became of their tokens, within limits."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from flashvid.models import CompressedVideo
from jobs.cli.main import app
from jobs.report.content import collect
from jobs.report.page import render
from jobs.report.pictures import take_pictures
from pipeline.clip import ClipIdentity
from pipeline.stages.encode import thumbnails
from pipeline.store.keys import content_key
from pipeline.store.storage import Storage
from pipeline.store.tokens import TokenStore
from tests.support import browser
from tests.support.outputs import make_output
from tests.support.runs import copy_videos, job


def test_pictures_have_limits_in_number_and_in_bytes(sample_videos: Path, tmp_path: Path) -> None:
    """What is beyond them, damaged or never stored has no picture, and the page says so; nothing else changes."""
    copy_videos(sample_videos, tmp_path, ["moving_red_disc.mp4", "three_boxes.mp4", "short_flash.mp4"])
    make_output(job(tmp_path))
    storage = Storage(str(tmp_path / "output"))

    def pictured(**limits: float) -> tuple[list[bool], int]:
        content = collect(storage, max_clips=10, **{"max_pictures": 10, **limits})  # type: ignore[arg-type]
        return [clip["picture"] is not None for clip in content.clips], content.pictures.left_out

    everything = collect(storage, max_clips=10, max_pictures=10)
    sizes = [len(clip["picture"]["jpeg"]) + len(clip["picture"]["states"]) for clip in everything.clips]
    assert everything.pictures.num_bytes == sum(sizes)
    assert "3 clips have a picture here" in render(everything)
    assert pictured() == ([True, True, True], 0)
    assert pictured(max_pictures=2) == ([True, True, False], 1)
    assert pictured(max_picture_bytes=sizes[0] + sizes[1]) == ([True, True, False], 1)
    assert pictured(max_picture_bytes=sizes[0] + sizes[1] - 1) == ([True, False, False], 2)
    done = CliRunner().invoke(
        app, ["report", storage.url, "--to", str(tmp_path / "r.html"), "--max-picture-mb", str(sizes[0] / 1e6)]
    )
    assert done.exception is None, done.exception
    assert "2 have only their number of tokens (--max-pictures, --max-picture-mb)" in (tmp_path / "r.html").read_text()
    files = sorted((tmp_path / "output" / "tokens").rglob("*.parquet"))
    content = bytearray(files[0].read_bytes())
    files[0].write_bytes(content[: len(content) // 2])  # without the footer
    files[1].write_bytes(content[:-16] + b"\xff" * 8 + content[-8:])  # a footer that makes no sense
    files[2].unlink()
    assert pictured() == ([False, False, False], 0)


def test_a_run_that_stored_no_tokens_and_missed_a_video(sample_videos: Path, tmp_path: Path) -> None:
    """The page says why there are no pictures, and has answers and failure all the same."""
    copy_videos(sample_videos, tmp_path, ["three_boxes.mp4"])
    (tmp_path / "videos" / "broken.mp4").write_bytes(b"no video")
    make_output(job(tmp_path, cache=False), encode=False)
    (tmp_path / "videos" / "three_boxes.mp4").unlink()
    content = collect(Storage(str(tmp_path / "output")), max_clips=10, max_pictures=10)
    assert [clip["picture"] for clip in content.clips] == [None, None]
    assert (content.pictures.left_out, dict(content.pictures.by_clip)) == (0, {})
    assert "stored no tokens (cache: false)" in render(content)


@pytest.mark.parametrize("num_frames", [1, 2, 3, 4, 5, 8, 9])
def test_a_picture_has_the_tokens_of_its_own_moment(num_frames: int, tmp_path: Path) -> None:
    """Frame f, of a grey that names it, is in temporal step f // 2, of which token (f // 2) % 4 is kept."""
    frames = np.repeat(np.arange(num_frames, dtype=np.uint8)[:, None, None, None] * 25, 3, axis=3)
    frames = np.broadcast_to(frames, (num_frames, 56, 56, 3))
    steps = -(-num_frames // 2)
    indices = torch.arange(steps) * 4 + torch.arange(steps) % 4
    assignment = torch.full((steps * 4,), -1)
    assignment[indices] = torch.arange(steps)
    video = CompressedVideo(
        torch.zeros(steps, 8), indices, assignment, (steps, 4, 4), np.arange(num_frames, dtype=np.float64), (steps,)
    )
    storage = Storage(str(tmp_path))
    key = content_key("source", None, None)
    TokenStore(storage, "f").commit(
        key, video, ClipIdentity("c", "v", "source", None, None), thumbnails=thumbnails(frames), run_id="r"
    )
    answer = {"clip_id": "c", "source_id": "source", "start_s": None, "end_s": None}
    picture = take_pictures(storage, "f", [answer], max_pictures=1, max_bytes=1e6).by_clip["c"]
    with Image.open(io.BytesIO(base64.b64decode(picture["jpeg"]))) as image:
        frame = round(np.asarray(image).mean() / 25)
    place = frame // 2 % 4
    assert (picture["states"], picture["columns"]) == ("0" * place + "2" + "0" * (3 - place), 2)


@pytest.mark.skipif(browser.missing() is not None, reason=f"there is no {browser.missing()} here (apt)")
def test_kept_tokens_are_drawn_over_the_thumbnail_in_a_browser(sample_videos: Path, tmp_path: Path) -> None:
    """Yellow frames where tokens were kept, blue where merged, dark where dropped; none of it once it is turned off."""
    copy_videos(sample_videos, tmp_path, ["moving_red_disc.mp4", "three_boxes.mp4"])
    make_output(job(tmp_path))
    content = collect(Storage(str(tmp_path / "output")), max_clips=10, max_pictures=1)
    file = tmp_path / "report.html"
    file.write_text(render(content), encoding="utf-8")
    picture = content.clips[0]["picture"]
    with browser.Browser(tmp_path / "profile") as chromium:
        chromium.open(file)
        assert chromium.run("return document.images[0].decode().then(() => document.images[0].naturalWidth)") == 160
        assert chromium.run("return document.images.length") == 1
        # The pixel at the upper left corner of each token's cell is on its frame, if it has one.
        drawn = chromium.run(
            "const c = document.querySelector('canvas'), n = arguments[0];"
            "const pixels = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
            "const at = (i) => 4 * ((Math.floor(i / n) * 16 + 1) * c.width + i % n * 16 + 1);"
            "return [...Array(c.width * c.height / 256).keys()].map((i) => [...pixels.slice(at(i), at(i) + 3)])",
            picture["columns"],
        )
        colours = {"2": [255, 212, 0], "1": [30, 110, 220], "0": [0, 0, 0]}
        assert len(drawn) == len(picture["states"])
        for pixel, state in zip(drawn, picture["states"], strict=True):
            # A canvas holds colours multiplied by their opacity: one or two are lost in rounding.
            assert pixel == pytest.approx(colours[state], abs=3)
        captions = "return [...document.querySelectorAll('.clip > div:first-child')].map((e) => e.textContent)"
        assert chromium.run(captions) == [f"{picture['after']} of {picture['before']} tokens", "8 tokens, no picture"]
        chromium.run("document.getElementById('overlay').click()")
        assert chromium.run("return document.querySelectorAll('canvas').length") == 0
        assert chromium.console() == []
