"""The report: what it holds, that nothing in it acts, and how it works in a real browser."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from flashvid.errors import ConfigurationError
from jobs.cli.main import app
from jobs.report.content import ReportContent, collect
from jobs.report.page import render
from jobs.report.pictures import Pictures
from pipeline.config import JobConfig
from pipeline.errors import UnreadableVideoError, WorkerDiedError
from pipeline.store.storage import Storage
from tests.support import browser
from tests.support.outputs import make_output
from tests.support.runs import copy_videos, job, table

EVIL = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
LEFT, RIGHT, ESCAPE = "\ue012", "\ue014", "\ue00c"


def many(folder: Path, count: int) -> JobConfig:
    """Videos that nobody reads; every fifth fails, each in its own words."""
    videos = folder / "videos.jsonl"
    videos.write_text("\n".join(json.dumps({"video_id": f"clip {n}", "video_path": f"{n}.mp4"}) for n in range(count)))
    questions = [{"question": "What is it?", "answer": "a cat"}]
    settings: dict[str, Any] = {"videos": str(videos), "questions": questions, "output": str(folder / "output")}
    return JobConfig.model_validate({**settings, "model": {"name": "tiny-random"}})


def respond(clip: Any, _: str) -> str | Exception:
    """Evil in an answer and in a message of an error."""
    number = int(clip.video_id.split()[1])
    if number % 5 == 4:
        return WorkerDiedError(f"gone {EVIL}") if number % 2 else UnreadableVideoError("cut short")
    return EVIL if number == 0 else "A cat" if number % 2 else "a dog"


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """The report of 53 clips, with markup wherever a stranger may write some."""
    make_output(many(tmp_path, 53), respond, encode=False)
    file = tmp_path / "report.html"
    done = CliRunner().invoke(app, ["report", str(tmp_path / "output"), "--to", str(file)])
    assert done.exception is None, done.exception
    assert "53 clips, 43 answers" in done.stdout
    return file


class Elements(HTMLParser):
    """Every element of a page with its attributes, and the text inside scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, list[str]] = {"script": [], "style": []}
        self._open = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.found.append((tag, dict(attrs)))
        self._open = tag

    def handle_data(self, data: str) -> None:
        """Note what a script or style holds."""
        if self._open in self.inside:
            self.inside[self._open].append(data)

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002
        """Its text has ended."""
        self._open = ""


def test_nothing_in_the_page_acts_or_loads(page: Path) -> None:
    """One script and one style, which the policy names by hash; no handler, no link, no image from elsewhere."""
    text = page.read_text(encoding="utf-8")
    elements = Elements(text)
    scripts = [attributes for tag, attributes in elements.found if tag == "script"]
    assert scripts == [{"type": "application/json", "id": "clips"}, {}]
    policy = next(a["content"] for tag, a in elements.found if tag == "meta" and "http-equiv" in a)
    for kind, inline in (("script", elements.inside["script"][1]), ("style", elements.inside["style"][0])):
        digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in str(policy)
    assert str(policy).startswith("default-src 'none';")
    names = {name for _, attributes in elements.found for name in attributes}
    assert not [name for name in names if name.startswith("on") or name in ("href", "src", "style", "action")]
    assert "img" not in {tag for tag, _ in elements.found}
    # What was said is there, as data.
    clips = json.loads(elements.inside["script"][0])
    assert clips[0]["answers"][0]["response"] == EVIL
    assert text.count(EVIL) == 0


def test_failures_are_grouped_by_cause_with_the_command(page: Path) -> None:
    """The most frequent first; the command names stage and type, and quotes the path."""
    content = collect(Storage(str(page.parent / "output")), max_clips=100, max_pictures=100)
    assert [(group.stage, group.error_type, group.error_kind, group.count) for group in content.failures] == [
        ("answer", "UnreadableVideoError", "permanent", 5),
        ("answer", "WorkerDiedError", "transient", 5),
    ]
    assert content.failures[1].retry == f"flashvid retry {page.parent}/output --stage answer --type WorkerDiedError"
    assert content.failures[1].retry in page.read_text()
    limited = collect(Storage(str(page.parent / "output")), max_clips=10, max_pictures=4)
    # Clips 4 and 13 (of "clip 0, 1, 10, 11, 12, ...") fail: of nine with an answer, four are looked at.
    assert (len(limited.clips), limited.clips_left_out) == (10, 43)
    assert "43 further clips are not in this file" in render(limited)


def test_a_command_to_copy_works_from_any_folder(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the report was asked for with a relative path."""
    monkeypatch.chdir(page.parent)
    content = collect(Storage("output"), max_clips=0, max_pictures=0)
    assert content.output == f"{page.parent}/output"
    assert f"flashvid retry {page.parent}/output " in str(content.failures[1].retry)


def test_numbers_and_pictures_are_the_outputs(sample_videos: Path, tmp_path: Path) -> None:
    """Summary, busy share, thumbnails, and what became of each token of the pictured moment."""
    copy_videos(sample_videos, tmp_path, ["moving_red_disc.mp4", "three_boxes.mp4"])
    make_output(job(tmp_path), lambda clip, text: f"{clip.video_id}: {text}")
    content = collect(Storage(str(tmp_path / "output")), max_clips=10, max_pictures=1)
    assert [clip["picture"] is not None for clip in content.clips] == [True, False]
    assert content.pictures.left_out == 1
    picture = content.clips[0]["picture"]
    (row,) = (row for row in table(tmp_path / "output", "tokens") if row["video_id"] == content.clips[0]["video"])
    assert base64.b64decode(picture["jpeg"]) == row["thumbnails"][1]
    with Image.open(io.BytesIO(row["thumbnails"][1])) as thumbnail:
        assert thumbnail.size[0] == 160
    steps, patch_rows, patch_columns = row["grid_thw"]
    assert (picture["columns"], len(picture["states"])) == (patch_columns // 2, patch_rows * patch_columns // 4)
    # 6 frames are 3 steps; the middle thumbnail is frame 2 or 3, of step 1.
    per_step = len(row["assignment"]) // steps
    for place, state in enumerate(picture["states"], start=per_step):
        assert (state == "2") == (place in row["indices"])
        assert (state == "0") == (row["assignment"][place] == -1)
    page = render(content)
    assert "12 frames" not in page
    assert '<th scope="row">frames decoded</th><td>12</td>' in page
    assert f"{2 * len(row['assignment']):,} before" in page
    assert content.committed[-1][1] == 4


def test_busy_share_and_curve() -> None:
    """By hand: 8 of 2 x 10 seconds are 40 %; the line ends at the top."""
    end = {
        "clips_planned": 1, "clips_total": 1, "frames_decoded": 1, "cache_hits": 0, "visual_tokens_before": 4,
        "visual_tokens_after": 1, "retention_ratio": 0.25, "visual_token_layers_before": 8,
        "visual_token_layers_after": 3, "seconds": 10.0, "answers_new": 5,
        "stage_seconds": {"encode": 8.0}, "workers": [{"stage": "encode"}, {"stage": "encode"}],
    }  # fmt: skip
    record = {
        "run_id": "r", "started": "s", "job": {"x": "<b>"}, "packages": {}, "python": "3", "answers_fingerprint": "a",
        "tokens_fingerprint": "t",
    }  # fmt: skip
    page = render(ReportContent("o", record, (end,), (), (), 5, 0, Pictures({}, 0, 0), ((0.0, 0), (5.0, 1), (10.0, 5))))
    assert "40% of the time of 2 actors" in page
    assert "0.2500 requested, 0.3750 realised" in page
    points = re.search(r'points="([^"]+)"', page)
    assert points is not None
    line = [tuple(map(float, point.split(","))) for point in points[1].split()]
    assert [x for x, _ in line] == [60, 390, 390, 720, 720]
    assert [y for _, y in line] == pytest.approx([156 - 156 * 0.95 * done / 5 for done in (0, 0, 1, 1, 5)], abs=0.1)
    assert "x: &lt;b&gt;" in page


def test_no_output_is_refused(tmp_path: Path) -> None:
    """And so is a place that can't be written to."""
    done = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert isinstance(done.exception, ConfigurationError)
    make_output(many(tmp_path, 1), respond, encode=False)
    nowhere = CliRunner().invoke(app, ["report", str(tmp_path / "output"), "--to", str(tmp_path / "no" / "r.html")])
    assert "can't be written" in str(nowhere.exception)


@pytest.mark.skipif(browser.missing() is not None, reason=f"there is no {browser.missing()} here (apt)")
def test_in_a_browser(page: Path, tmp_path: Path) -> None:
    """It opens from disk without a word on the console; text stays text; search, filter and pages work by keyboard."""
    with browser.Browser(tmp_path / "profile") as chromium:
        chromium.open(page)
        shown = "return [...document.querySelectorAll('.clip h3')].map((e) => e.textContent)"
        place = "return document.getElementById('place').textContent"
        assert chromium.run(place) == "53 of 53 clips, page 1 of 3"
        assert len(chromium.run(shown)) == 20
        assert chromium.run("return document.title").startswith("flashvid run ")
        assert chromium.run("return document.querySelector('.clip dd').textContent").startswith(EVIL)
        assert chromium.run("return document.images.length") == 0
        chromium.press(RIGHT, RIGHT)
        assert (chromium.run(place), len(chromium.run(shown))) == ("53 of 53 clips, page 3 of 3", 13)
        chromium.press(RIGHT, LEFT)
        assert chromium.run(place) == "53 of 53 clips, page 2 of 3"
        chromium.press("/", *"clip 52")
        assert chromium.run(shown) == ["clip 52"]
        assert chromium.run("return document.activeElement.id") == "search"
        chromium.press(ESCAPE)
        assert chromium.run(place) == "53 of 53 clips, page 1 of 3"
        chromium.run("document.getElementById('failed').click()")
        assert chromium.run(place) == "10 of 53 clips, page 1 of 1"
        # A stranger's script would not run even if it were in the page.
        chromium.run(
            "const s = document.createElement('script'); s.textContent = \"document.title = 'owned'\";"
            "document.body.append(s)"
        )
        assert chromium.run("return document.title").startswith("flashvid run ")
        messages = chromium.console()
        assert len(messages) == 1, messages
        assert "Content Security Policy" in messages[0]
