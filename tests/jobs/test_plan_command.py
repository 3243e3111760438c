"""What is estimated before a run against what a run then does, and the arithmetic by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from flashvid.engine.constants import MAX_BATCH_TOKENS
from flashvid.models import load_model, resolve_model
from flashvid.models.family import Part
from flashvid.models.footprint import Footprint, footprint
from jobs.cli.main import app
from pipeline.cluster.resources import Pool, Pools
from pipeline.config import SamplingConfig
from pipeline.errors import WorkerDiedError
from pipeline.plan.estimates import ClipSize, Rates, Work, actor_memory, duration, expected_frames, measured_rates, work
from pipeline.plan.hardware import Hardware
from pipeline.plan.plan import Plan
from pipeline.plan.preview import preview
from pipeline.video.clip_frames import decode_clip
from pipeline.video.frame_sampling import sample_frames
from pipeline.video.packet_index import VideoHeader
from tests.support.helpers import clip
from tests.support.outputs import make_output
from tests.support.runs import copy_videos, job, table

HERE = Hardware(num_cpus=2, machine_bytes=10**10)
MINUTE = VideoHeader(60.0, 25.0, 1500, 640, 360, "mov", "h264")


@pytest.mark.parametrize(
    "sampling", [{"num_frames": 8}, {"num_frames": 2000}, {"fps": 2}, {"fps": 30, "max_frames": 9}]
)
@pytest.mark.parametrize("span", [(None, None), (10.0, 20.0), (59.0, None), (30.0, 90.0), (3.3, 3.35)])
@pytest.mark.parametrize("fps", [25.0, 30000 / 1001, 1.0])
def test_expected_frames_are_those_that_sampling_takes(
    sampling: dict[str, Any], span: tuple[float | None, float | None], fps: float
) -> None:
    """Of a constant frame rate; up to one where a span does not begin with a frame."""
    times = np.arange(round(60 * fps)) / fps
    settings = SamplingConfig.model_validate(sampling)
    header = VideoHeader(60.0, fps, 0, 640, 360, "mov", "h264")
    expected = expected_frames(header, clip(start_s=span[0], end_s=span[1]), settings)
    inside = times[(times >= (span[0] or 0)) & (times < (span[1] or 60))]
    if inside.size:
        assert expected == pytest.approx(
            len(sample_frames(times, settings, *span)), abs=0 if span == (None, None) else 1
        )
    else:
        assert expected == 1


def test_a_header_without_a_rate() -> None:
    """`num_frames` is what is asked; with `fps` nobody knows."""
    silent = VideoHeader(60.0, None, 0, 640, 360, "matroska", "vp9")
    assert expected_frames(silent, clip(), SamplingConfig(num_frames=8)) == 8
    assert expected_frames(silent, clip(), SamplingConfig(fps=1)) is None


def test_work_adds_up_and_unknown_clips_count_as_the_mean() -> None:
    """Two of three headers known: three halves of their sum. A file that two clips share is read once."""
    clips = (
        clip("a", question_ids=("q1", "q2"), size_bytes=1000),
        clip("b", question_ids=("q1",), attempt=2, size_bytes=500),
        clip("c", question_ids=("q1",), source_id="source-b", size_bytes=500),
    )
    todo = Plan(clips, (clip("d", question_ids=("q1",)),))
    sizes = {"clip-a": ClipSize(10, 100, 25, 3000), "clip-b": ClipSize(20, 300, 75, 6000)}
    found = work(todo, sizes, stored_token_bytes=64)
    assert (found.clips_known, found.frames, found.visual_tokens, found.kept_tokens) == (2, 45, 600, 150)
    assert (found.answers, found.answers_retried, found.read_bytes, found.unsized_files) == (5, 1, 1500, 0)
    assert found.largest_clip == sizes["clip-b"]
    assert found.write_bytes == 150 * 64 + 600 * 2 + 3 * 20_000 + 5 * 500
    unsized = replace(todo, to_encode=tuple(replace(clip, size_bytes=None) for clip in clips))
    assert work(unsized, {}, stored_token_bytes=64).unsized_files == 2


TODO = Work(1, 36_000, 1, 1, 7_200, 0, None, 0, 0, 0)
POOLS = Pools({"decode": Pool(4, 1.0, 0.0), "encode": Pool(2, 0.0, 1.0), "answer": Pool(2, 0.0, 0.5)}, 6)


def test_time_is_the_slowest_stages() -> None:
    """36,000 frames at 10 a second on two actors are half an hour; the pools' three GPUs are paid for all of it."""
    found = duration(TODO, Rates(100.0, 10.0, 2.0), POOLS, num_gpus=3, gpu_hour_price=4.0)
    assert found.stage_hours == {"decode": pytest.approx(0.025), "encode": 0.5, "answer": 0.5}
    assert (found.hours, found.gpu_hours, found.cost) == (0.5, 1.5, 6.0)
    unknown = duration(TODO, Rates(encode_frames_per_second=10.0), POOLS, num_gpus=3, gpu_hour_price=4.0)
    assert (unknown.stage_hours["answer"], unknown.hours, unknown.cost) == (None, None, None)


@pytest.mark.parametrize(
    ("encode", "answer", "num_gpus", "billed"),
    [
        (Pool(1, 0.0, 1.0, max_size=3), Pool(1, 0.0, 1.0, max_size=5), 8, 2),
        (Pool(1, 0.0, 0.4), Pool(1, 0.0, 0.6), 8, 1),
        # No two of them fit one GPU.
        (Pool(0, 0.0, 0.0), Pool(3, 0.0, 0.6), 8, 3),
        (Pool(1, 0.0, 2.0), Pool(2, 0.0, 1.0), 4, 4),
        (Pool(1, 0.01, 0.0), Pool(1, 0.01, 0.0), 8, None),
        (Pool(1, 0.01, 0.0), Pool(1, 0.01, 0.0), 0, None),
    ],
)
def test_gpus_that_no_pool_reserves_are_not_billed(
    encode: Pool, answer: Pool, num_gpus: int, billed: int | None
) -> None:
    """Of pools that grow, others come only when they are needed, and the hours become fewer."""
    todo = replace(TODO, frames=0, answers=3600 * answer.size)
    pools = Pools({**POOLS.by_stage, "encode": encode, "answer": answer}, 6)
    lasts = duration(todo, Rates(1.0, 1.0, 1.0), pools, num_gpus=num_gpus, gpu_hour_price=2)
    assert (lasts.hours, lasts.gpu_hours, lasts.cost) == (1.0, billed, billed and 2 * billed)


def test_a_gpu_that_cuda_cannot_use_is_none_to_plan_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that is too old counts it, and fails at whatever else it is asked."""

    def too_old(_: int) -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", too_old)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert (Hardware.here().num_gpus, Hardware.here().gpu_bytes) == (0, None)


def test_rates_are_measured_in_runs_of_the_same_model() -> None:
    """In the same precision; seconds and counts of several runs are added up before they are divided."""

    def run(identity: str, dtype: str | None, frames: int, answers: int) -> tuple[dict[str, Any], dict[str, Any]]:
        settings = {"model.identity": identity, "model.dtype": dtype}
        seconds = {"decode": 2.0, "encode": 4.0, "answer": 10.0} if frames else {"answer": 10.0}
        end = {"run_id": f"{identity}{frames}", "frames_decoded": frames, "answers_new": answers}
        return {"tokens_settings": settings}, {**end, "stage_seconds": seconds}

    runs = [run("a", None, 10, 20), run("a", None, 30, 0), run("a", "float32", 99, 99), run("b", None, 99, 99)]
    assert measured_rates(runs, "a", None) == Rates(10.0, 5.0, 2.0, ("a10", "a30"))
    assert measured_rates(runs, "c", None) == Rates()
    assert measured_rates([run("a", None, 0, 5)], "a", None) == Rates(None, None, 0.5, ("a0",))


def test_memory_is_held_against_shares_and_what_others_leave() -> None:
    """GPU actors against their share; those without a GPU against the machine less what the others need."""
    takes = Footprint(vision=10, language=50, stored_token=0, quantised_token=0, cached_token=2)
    hardware = Hardware(num_cpus=8, num_gpus=1, gpu_bytes=100, machine_bytes=44_000_000)
    found = actor_memory(POOLS, takes, hardware, ClipSize(1, 1, 1, 5), [MINUTE])
    raw = 640 * 360 * 3 * 16
    assert [(actor.stage, actor.bytes_needed, actor.bytes_there, actor.fits) for actor in found] == [
        ("decode", raw + 5, 44_000_000 - 3 * (raw + 5), False),
        ("encode", 15, 100, True),
        ("answer", 50 + 2 * MAX_BATCH_TOKENS, 50, False),
    ]


def test_the_footprint_is_what_loading_reads() -> None:
    """Weights of each side, and the bytes of a stored token and of its keys and values, in bfloat16."""
    source = resolve_model("tiny-random")
    takes = footprint(source)
    stored = load_file(source.path / "model.safetensors")
    sides: tuple[tuple[Part, int], ...] = (("vision", takes.vision), ("language", takes.language))
    for part, expected in sides:
        model = load_model(source, part=part, device="cpu")
        assert expected == sum(stored[name].nbytes for name in set(model.tensors_read))
    assert takes.stored_token == model.hidden_size * 2
    config = source.config()["text_config"]
    head_dim = config["hidden_size"] // config["num_attention_heads"]
    assert takes.cached_token == 2 * config["num_key_value_heads"] * head_dim * config["num_hidden_layers"] * 2


def test_a_preview_says_what_a_run_then_does(sample_videos: Path, tmp_path: Path) -> None:
    """Frames and tokens to the last one, from headers alone; what is done, cached, failed, and would be refused."""
    videos = copy_videos(sample_videos, tmp_path, ["moving_red_disc.mp4", "three_boxes.mp4"])
    (videos / "broken.mp4").write_bytes(b"no video")
    small = job(tmp_path)
    before = preview(small, HERE)
    assert (before.clips_total, before.clips_to_encode, before.clips_cached) == (3, 2, 0)
    assert before.clips_unusable == {"UnreadableVideoError": 1}
    assert (before.answers_total, before.work.answers, before.headers_read) == (6, 4, 2)
    assert before.work.read_bytes == sum(
        (videos / name).stat().st_size for name in ("moving_red_disc.mp4", "three_boxes.mp4")
    )
    assert before.duration is not None
    assert before.duration.hours is None
    written = {path.relative_to(small.output).parts[0] for path in Path(small.output).rglob("*") if path.is_file()}
    assert written == {"probes"}
    # The headers are known now; of the broken file nothing is kept, so it is looked at again.
    assert preview(small, HERE).headers_read == 0

    died = {"what": "What happens here?", "of": "three_boxes.mp4"}
    make_output(
        small,
        lambda clip, text: WorkerDiedError("gone") if (clip.video_id, text) == (died["of"], died["what"]) else "ok",
    )
    made = table(tmp_path / "output", "tokens")
    assert before.work.frames == sum(len(row["frame_timestamps"]) for row in made)
    assert before.work.visual_tokens == sum(len(row["assignment"]) for row in made)
    assert before.work.kept_tokens == sum(row["num_tokens"] for row in made)

    after = preview(small, HERE)
    assert (after.clips_to_encode, after.clips_cached, after.answers_done) == (0, 1, 3)
    assert (after.work.answers, after.work.answers_retried, after.answers_exhausted) == (1, 1, 2)
    assert after.rates.answers_per_second == pytest.approx(3 / 5.0)
    assert after.changed_settings is None
    assert [actor.stage for actor in after.memory] == ["answer"]
    other = small.model_copy(update={"sampling": SamplingConfig(num_frames=4)})
    forked = preview(other, HERE)
    assert "sampling.num_frames: 6 -> 4" in str(forked.changed_settings)
    assert forked.work.frames == 8


def test_windows_are_clips(sample_videos: Path, tmp_path: Path) -> None:
    """Six seconds in windows of two and a half: three clips, each with the frames that decoding takes of it."""
    videos = copy_videos(sample_videos, tmp_path, ["moving_red_disc.mp4"])
    cut = job(tmp_path, window_s=2.5, sampling={"fps": 3})
    found = preview(cut, HERE)
    spans = ((None, 2.5), (2.5, 5.0), (5.0, None))
    decoded = [decode_clip(str(videos / "moving_red_disc.mp4"), cut.sampling, *span).frames for span in spans]
    assert (found.clips_total, found.clips_to_encode, found.headers_read) == (3, 3, 1)
    assert found.work.frames == sum(map(len, decoded)) == 8 + 8 + 3
    # One file, read once for all of its windows' sizes.
    assert found.work.read_bytes == (videos / "moving_red_disc.mp4").stat().st_size


def test_int8_caches_are_smaller(sample_videos: Path, tmp_path: Path) -> None:
    """By a byte a value, in bfloat16, less four for each token's scale."""
    copy_videos(sample_videos, tmp_path, ["moving_red_disc.mp4"])
    exact, quantised = (preview(job(tmp_path, cache_dtype=dtype), HERE).work for dtype in (None, "int8"))
    hidden = load_model("tiny-random", part="vision", device="cpu").hidden_size
    assert exact.write_bytes - quantised.write_bytes == exact.kept_tokens * (hidden - 4)


def test_a_few_headers_stand_for_many(sample_videos: Path, tmp_path: Path) -> None:
    """With a limit, some are read, and the rest counts as their mean."""
    copy_videos(sample_videos, tmp_path, ["moving_red_disc.mp4", "three_boxes.mp4", "scene_cuts.mp4"])
    found = preview(job(tmp_path), HERE, max_probes=2)
    assert (found.clips_to_encode, found.work.clips_known, found.work.frames) == (3, 2, 18)


def test_the_command_prints_json_and_a_table(sample_videos: Path, tmp_path: Path) -> None:
    """Given rates, hardware and limit count; a cluster that is too small is part of the answer."""
    copy_videos(sample_videos, tmp_path, ["moving_red_disc.mp4", "three_boxes.mp4"])
    path = tmp_path / "job.yaml"
    path.write_text("videos: videos\nquestions: [What]\noutput: o\nmodel: {name: tiny-random}\n")
    rates = ("--frames-per-second", "3.2", "--decode-frames-per-second", "32", "--answers-per-second", "1")
    arguments = ("plan", str(path), "--gpus", "1", "--gpu-memory", "0.001", "--gpu-hour-price", "36", "--limit", "1")
    done = CliRunner().invoke(app, [*arguments, *rates, "--json"])
    found = json.loads(done.stdout)
    assert found["work"]["frames"] == 32
    # Ten seconds of one GPU at 36 an hour.
    assert (found["duration"]["hours"], found["duration"]["cost"]) == (pytest.approx(10 / 3600), pytest.approx(0.1))
    assert {actor["stage"]: actor["fits"] for actor in found["memory"]} == {
        "decode": True,
        "encode": False,
        "answer": False,
    }
    shown = CliRunner().invoke(app, list(arguments)).stdout
    assert "DOES NOT FIT" in shown
    crowded = CliRunner().invoke(app, [*arguments, "--set", "resources.encode.num_gpus=1", "--json"])
    assert "GPUs" in json.loads(crowded.stdout)["placement_problem"]
    refused = CliRunner().invoke(app, ["plan", str(tmp_path / "none.yaml")])
    assert "can't read the job file" in str(refused.exception)
