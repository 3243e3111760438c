"""The job file: what is right is read, and every fault is named with its line and key."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from flashvid import CompressionConfig, InnerPruningConfig
from flashvid.errors import ConfigurationError
from flashvid.models import GenerationConfig
from flashvid.presets import preset_named
from jobs.job_file import load_job
from pipeline.config import QuestionRow, SamplingConfig
from pipeline.resources_config import ResourcesConfig

GOOD = """\
videos: videos.csv
questions:
  - What happens?
  - question_id: colour
    question: Which colour?
    options: [red, blue]
output: results
model:
  name: tiny-random
  dtype: bfloat16
sampling:
  fps: 2
  max_frames: 64
compression:
  retention_ratio: 0.1
resources:
  encode: {num_gpus: 0.5}
storage_options:
  anon: true
"""
FASTV = GOOD.replace("retention_ratio: 0.1", "method: fastv")
MINIMAL = "videos: v\nquestions: [What]\noutput: o\nmodel: {name: tiny-random}\n"


def write(folder: Path, text: str) -> Path:
    """A job file."""
    path = folder / "job.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(folder: Path, text: str, overrides: dict[str, Any] | None = None) -> str:
    """What a job file is refused with."""
    path = write(folder, text)
    with pytest.raises(ConfigurationError) as caught:
        load_job(path, overrides)
    assert str(caught.value).startswith(f"{path}: ")
    return caught.value.message


def test_a_good_file_is_read_in_full(tmp_path: Path) -> None:
    """Every value arrives; what is not said has its default."""
    job = load_job(write(tmp_path, GOOD))
    assert job.questions == (
        QuestionRow(question="What happens?"),
        QuestionRow(question="Which colour?", question_id="colour", options=("red", "blue")),
    )
    assert (job.model.name, job.model.dtype, job.model.revision) == ("tiny-random", "bfloat16", None)
    assert job.sampling == SamplingConfig(fps=2.0, max_frames=64)
    assert job.compression == CompressionConfig(retention_ratio=0.1)
    assert job.generation == GenerationConfig()
    assert job.resources.encode.num_gpus == 0.5
    assert (job.storage_options, job.max_attempts) == ({"anon": True}, 3)


def test_defaults_are_the_documented_ones(tmp_path: Path) -> None:
    """32 frames, tokens beside the answers; also where a group is written without what it is about."""
    job = load_job(write(tmp_path, MINIMAL))
    assert job.sampling == SamplingConfig(num_frames=32)
    assert job.resources == ResourcesConfig()
    assert job.tokens_root == job.output == str(tmp_path / "o")
    assert load_job(write(tmp_path, MINIMAL + "sampling: {max_pixels: 5000}\n")).sampling.num_frames == 32


def test_a_preset_fills_what_is_left_open(tmp_path: Path) -> None:
    """Keys that are written stand, on the command line too; `inner_pruning:` without a value means none."""
    preset = preset_named("qwen3_vl")
    bare = load_job(write(tmp_path, MINIMAL + "preset: qwen3_vl\n"))
    assert (bare.preset, bare.compression) == ("qwen3_vl", preset.compression(0.25))
    assert bare.inner_pruning == InnerPruningConfig(pruning_layer=28, llm_retention_ratio=0.1)

    text = MINIMAL + "preset: qwen3_vl\ncompression: {retention_ratio: 0.1, alpha: 0.5}\n"
    changed = load_job(write(tmp_path, text + "inner_pruning: {llm_retention_ratio: 0.2}\n"))
    assert changed.compression == preset.compression(0.1).model_copy(update={"alpha": 0.5})
    assert changed.inner_pruning == InnerPruningConfig(pruning_layer=28, llm_retention_ratio=0.2)
    set_on_call = load_job(tmp_path / "job.yaml", {"preset": "llava_video", "inner_pruning.pruning_layer": 3})
    assert set_on_call.compression.min_segment_num == 8
    assert set_on_call.inner_pruning == InnerPruningConfig(pruning_layer=3, llm_retention_ratio=0.2)

    without = load_job(write(tmp_path, MINIMAL + "preset: qwen3_vl\ninner_pruning:\n"))
    assert (without.inner_pruning, without.compression.expansion) == (None, 1.0)


def test_pruning_inside_the_llm_is_off_unless_asked_for(tmp_path: Path) -> None:
    """And then has the published settings of most models."""
    assert load_job(write(tmp_path, MINIMAL)).inner_pruning is None
    assert load_job(write(tmp_path, MINIMAL + "inner_pruning: {}\n")).inner_pruning == InnerPruningConfig()


def test_the_shipped_example_is_a_job(tmp_path: Path) -> None:
    """The demo's own file: the default of the demo is the trained model."""
    text = files("jobs").joinpath("examples/demo.yaml").read_text(encoding="utf-8")
    job = load_job(write(tmp_path, text))
    assert (job.videos, job.output) == (str(tmp_path / "videos"), str(tmp_path / "output"))
    assert (job.model.name, job.questions) == ("tiny", str(tmp_path / "questions.csv"))


def test_relative_paths_are_meant_from_the_job_files_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the command runs; URLs, absolute paths and questions that are no paths are left alone."""
    write(tmp_path, "videos: in/*.mp4\nquestions: in/q.csv\noutput: ../out\ncache: /abs/cache\nmodel: {name: m}\n")
    monkeypatch.chdir(tmp_path.parent)
    for path in (tmp_path / "job.yaml", Path(tmp_path.name) / "job.yaml"):
        job = load_job(path)
        assert (job.videos, job.questions) == (f"{tmp_path}/in/*.mp4", f"{tmp_path}/in/q.csv")
        assert (job.output, job.cache) == (f"{tmp_path}/../out", "/abs/cache")
    monkeypatch.setenv("HOME", "/home/someone")
    remote = "videos: s3://b/v.parquet\nquestions: s3://b/q.csv\noutput: ~/out\nmodel: {name: m}\n"
    job = load_job(write(tmp_path, remote))
    assert (job.videos, job.questions, job.output) == ("s3://b/v.parquet", "s3://b/q.csv", "/home/someone/out")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD.replace("output:", "outptu:"), "line 7, outptu: unknown key; did you mean 'output'?"),
        (GOOD.replace("retention_ratio", "retention"), "line 15, compression.retention: unknown key; did you mean"),
        (GOOD.replace("{num_gpus: 0.5}", "{gpu: 1}"), "line 17, resources.encode.gpu: unknown key"),
        (GOOD + "preset: qwen\n", "line 20, preset: preset 'qwen' is not one of llava_onevision, llava_video"),
        (FASTV + "preset: tiny\n", "a preset holds settings of flashvid"),
        (FASTV + "inner_pruning:\n", "fastv is inner_pruning"),
        (FASTV.replace("fastv", "fastv\n  retention_ratio: 0.5"), "line 14, compression: fastv keeps every token"),
        (GOOD + "preset: [qwen3_vl]\n", "line 20, preset: "),
        (GOOD + "inner_pruning: {layer: 3}\n", "line 20, inner_pruning.layer: unknown key; known keys: pruning_layer"),
        (GOOD + "inner_pruning: {pruning_layer: 0}\n", "line 20, inner_pruning.pruning_layer: "),
        (GOOD + "preset: qwen3_vl\ninner_pruning: 3\n", "line 21, inner_pruning: "),
        (GOOD.replace("0.1", "1.1") + "preset: qwen3_vl\n", "line 15, compression.retention_ratio: "),
        (GOOD.replace("    question: Which", "    qestion: Which"), "did you mean 'question'?"),
        (MINIMAL + "zzz: 1\n", "line 5, zzz: unknown key; known keys: videos, questions, output, cache"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_known_one(tmp_path: Path, text: str, message: str) -> None:
    """And with its line."""
    assert message in refusal(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD.replace("0.1", "a lot"), r"line 15, compression\.retention_ratio: .*number.* \(got 'a lot'\)"),
        (GOOD.replace("0.1", "1.5"), r"line 15, compression\.retention_ratio: .*less than or equal to 1 \(got 1\.5\)"),
        (GOOD.replace("max_frames: 64", "max_frames: 6.5"), r"line 13, sampling\.max_frames: .*integer"),
        (GOOD.replace("bfloat16", "int3"), r"line 10, model\.dtype: .*'float32', 'bfloat16' or 'float16'"),
        (MINIMAL + "commit:\n  rows: 0\n", r"line 6, commit\.rows: .*greater than or equal to 1 \(got 0\)"),
        (MINIMAL + "commit: often\n", r"line 5, commit: .*\(got 'often'\)"),
        (MINIMAL + "sampling:\n", r"line 5, sampling: .*\(got None\)"),
        (GOOD.replace("[red, blue]", "[red]"), r"line 6, questions\.1\.options: .*at least 2"),
        (GOOD.replace("  - What happens?", "  - 7"), r"line 3, questions\.0: "),
        (MINIMAL.replace("videos: v", "videos: [v]"), r"line 1, videos: .*string \(got \['v'\]\)"),
        (MINIMAL.replace("o\n", "''\n"), "line 3, output: .*at least 1 character"),
        (MINIMAL + "resources: {decode: {num_gpus: 1}}\n", r"resources\.decode\.num_gpus: decoding runs on CPUs"),
    ],
)
def test_a_wrong_value_is_named_with_its_line_and_key(tmp_path: Path, text: str, message: str) -> None:
    """And with what was found there."""
    assert re.search(message, refusal(tmp_path, text)), refusal(tmp_path, text)


@pytest.mark.parametrize("key", ["videos", "questions", "output", "model"])
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    """There is no line to name."""
    text = "".join(line for line in MINIMAL.splitlines(keepends=True) if not line.startswith(key))
    assert refusal(tmp_path, text) == f"{key}: is missing"


def test_a_missing_key_inside_a_group_is_named_with_the_groups_line(tmp_path: Path) -> None:
    """As near as can be."""
    text = MINIMAL.replace("{name: tiny-random}", "{dtype: float32}")
    assert refusal(tmp_path, text) == "line 4, model.name: is missing"


def test_every_fault_is_listed_at_once(tmp_path: Path) -> None:
    """Nobody mends a file one message at a time."""
    message = refusal(tmp_path, MINIMAL.replace("output: o\n", "") + "max_attempts: 0\noutptu: o\n")
    assert message.startswith("the job file has faults:\n")
    lines = message.splitlines()[1:]
    assert len(lines) == 3
    for part in ("line 4, max_attempts:", "line 5, outptu: unknown key", "output: is missing"):
        assert sum(part in line for line in lines) == 1


def test_two_ways_to_sample_exclude_each_other(tmp_path: Path) -> None:
    """Both named, with the line of the group."""
    message = refusal(tmp_path, MINIMAL + "sampling: {num_frames: 8, fps: 1}\n")
    assert "line 5, sampling: num_frames and fps exclude each other" in message
    message = refusal(tmp_path, MINIMAL + "sampling: {min_pixels: 9, max_pixels: 4}\n")
    assert "min_pixels (9) is above max_pixels (4)" in message


@pytest.mark.parametrize(
    "options",
    [
        "{key: hunter2}",
        "{secret: hunter2}",
        "{token: hunter2}",
        "{AWS_SECRET_ACCESS_KEY: hunter2}",
        "{client_kwargs: {aws_secret_access_key: hunter2}}",
        "{password: hunter2}",
        "{deep: [{secret: hunter2}]}",
    ],
)
def test_a_secret_is_refused_and_not_repeated(tmp_path: Path, options: str) -> None:
    """The job is written to storage as it was resolved, and messages go to logs."""
    message = refusal(tmp_path, MINIMAL + f"storage_options: {options}\n")
    assert "line 5, storage_options: " in message
    assert "looks like a secret: give it through the environment or a profile" in message
    assert "hunter2" not in message


def test_a_password_in_a_url_is_refused_wherever_it_is(tmp_path: Path) -> None:
    options = "{client_kwargs: {endpoint_url: 'http://user:hunter2@host:9000'}}"
    message = refusal(tmp_path, MINIMAL + f"storage_options: {options}\n")
    assert "line 5, storage_options: a URL contains a password" in message
    assert "hunter2" not in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no keys"),
        ("# nothing but a comment\n", "holds no keys"),
        ("- a\n- b\n", "holds no keys"),
        ("just words", "holds no keys"),
        ("videos: [a\noutput: b\n", "not YAML: .*line 2"),
        ("videos: a\n\toutput: b\n", "not YAML: .*line 2"),
        ("model: !!python/object/apply:os.getcwd []\n", "not YAML: "),
    ],
)
def test_a_file_that_holds_no_job(tmp_path: Path, text: str, message: str) -> None:
    """Empty, something else, not YAML, or YAML that would run code."""
    assert re.search(message, refusal(tmp_path, text), re.DOTALL)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """Not there, a folder, not text."""
    with pytest.raises(ConfigurationError, match=r"nowhere\.yaml: can't read the job file: No such file"):
        load_job(tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigurationError, match="can't read the job file: Is a directory"):
        load_job(tmp_path)
    (tmp_path / "job.yaml").write_bytes(b"videos: \xff\xfe\n")
    with pytest.raises(ConfigurationError, match="not UTF-8 text"):
        load_job(tmp_path / "job.yaml")


def test_values_set_on_the_command_line_win(tmp_path: Path) -> None:
    """Over the file's, in groups the file has and in ones it lacks; then all is checked together."""
    path = write(tmp_path, GOOD)
    overrides = {
        "compression.retention_ratio": 0.5,
        "sampling.max_frames": 8,
        "generation.max_new_tokens": 3,
        "resources.answer.concurrency": 2,
        "output": "elsewhere",
    }
    job = load_job(path, overrides)
    assert (job.compression.retention_ratio, job.sampling.max_frames, job.sampling.fps) == (0.5, 8, 2.0)
    assert (job.generation.max_new_tokens, job.resources.answer.concurrency) == (3, 2)
    assert job.output == str(tmp_path / "elsewhere")
    assert load_job(path).compression.retention_ratio == 0.1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"compression.retention": 0.1}, "--set compression.retention: unknown key; did you mean 'retention_ratio'?"),
        ({"outptu": "x"}, "--set outptu: unknown key; did you mean 'output'?"),
        ({"sampling.num_frames": 4}, "num_frames and fps exclude each other"),
        ({"compression.retention_ratio": "x"}, "--set compression.retention_ratio: Input should be a valid number"),
        ({"generation.max_new_tokens": 0}, "--set generation.max_new_tokens: Input should be greater than or equal"),
    ],
)
def test_a_wrong_value_on_the_command_line_is_named(tmp_path: Path, overrides: dict[str, Any], message: str) -> None:
    """By its key, and not blamed on a line of the file."""
    assert message in refusal(tmp_path, GOOD, overrides)


def test_a_value_is_no_group(tmp_path: Path) -> None:
    """Setting something inside it is refused, not done in its place."""
    with pytest.raises(ConfigurationError, match=r"videos is not a group of settings, so videos\.path can't be set"):
        load_job(write(tmp_path, GOOD), {"videos.path": "x"})
