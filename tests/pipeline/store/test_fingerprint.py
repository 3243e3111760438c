"""Fingerprints change with what changes results, and with nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args

import pytest
from pydantic import BaseModel

from flashvid.methods import METHODS
from pipeline.config import JobConfig
from pipeline.store import fingerprint
from pipeline.store.fingerprint import Fingerprints, changed_settings, fingerprints
from tests.support.helpers import job

MODEL = "sha256:0123"
Effect = Literal["both", "answers", "neither"]

# Every setting of a job: another value than the default, and which fingerprint it must change.
SETTINGS: dict[str, tuple[object, Effect]] = {
    "videos": ("/elsewhere", "neither"),
    "questions": ("/elsewhere/questions.csv", "neither"),
    "output": ("/elsewhere", "neither"),
    "cache": ("/elsewhere", "neither"),
    "cache_dtype": ("int8", "both"),
    "limit": (3, "neither"),
    "source_id_column": ("checksum", "neither"),
    # The model's identity is hashed, not the name it was found under.
    "model.name": ("/models/tiny-random", "neither"),
    "model.revision": ("main", "neither"),
    "model.dtype": ("bfloat16", "both"),
    "model.wait_s": (5.0, "neither"),
    # A window is known by its span, as is a row with start_s and end_s.
    "window_s": (30.0, "neither"),
    "stride_s": (15.0, "neither"),
    "max_windows": (99, "neither"),
    # What it resolves to is hashed, not its name.
    "preset": ("qwen2_5_vl", "both"),
    "sampling.num_frames": (16, "both"),
    "sampling.fps": (2.0, "both"),
    "sampling.max_frames": (100, "neither"),  # without fps
    "sampling.decoder": ("pyav", "both"),
    "sampling.min_pixels": (100, "both"),
    "sampling.max_pixels": (200, "both"),
    "compression.method": ("adts", "both"),
    "compression.retention_ratio": (0.1, "both"),
    "compression.seed": (1, "both"),
    "compression.event_relevance": ("clip", "both"),
    "compression.do_segment": (False, "both"),
    "compression.segment_threshold": (0.8, "both"),
    "compression.min_segment_num": (4, "both"),
    "compression.complementary_segment": (False, "both"),
    "compression.token_selection_method": ("attn", "both"),
    "compression.alpha": (0.5, "both"),
    "compression.temporal_threshold": (0.7, "both"),
    "compression.expansion": (1.25, "both"),
    "compression.reference_compatible": (True, "both"),
    "inner_pruning.pruning_layer": (2, "answers"),
    "inner_pruning.llm_retention_ratio": (0.5, "answers"),
    "generation.max_new_tokens": (8, "answers"),
    "generation.system_prompt": ("Be brief.", "answers"),
    "generation.temperature": (0.7, "answers"),
    "generation.top_k": (50, "answers"),
    "generation.top_p": (0.9, "answers"),
    "generation.seed": (1, "answers"),
    "generation.stop": (("\n",), "answers"),
    "generation.choice": ("likelihood", "answers"),
    "generation.json_schema": ({"type": "integer"}, "answers"),
    "generation.chat_template": ("{{ messages }}", "answers"),
    "generation.reference_compatible": (True, "answers"),
    "resources.decode.concurrency": (2, "neither"),
    "resources.decode.num_cpus": (2.0, "neither"),
    "resources.decode.num_gpus": (0.0, "neither"),
    "resources.decode.time_limit_s": (60.0, "neither"),
    "resources.decode.memory_limit_gb": (8.0, "neither"),
    "resources.encode.concurrency": (2, "neither"),
    "resources.encode.num_cpus": (2.0, "neither"),
    "resources.encode.num_gpus": (0.5, "neither"),
    "resources.answer.concurrency": (2, "neither"),
    "resources.answer.num_cpus": (2.0, "neither"),
    "resources.answer.num_gpus": (0.5, "neither"),
    "resources.staging.directory": ("/scratch", "neither"),
    "resources.staging.max_gb": (1.0, "neither"),
    "resources.max_decoded_clips": (9, "neither"),
    "commit.rows": (7, "neither"),
    "commit.seconds": (7.0, "neither"),
    "max_attempts": (7, "neither"),
    "on_error": ("raise", "neither"),
    "max_failures": (0.5, "neither"),
    "storage_options": ({"anon": True}, "neither"),
    "allowed_roots": (("s3://",), "neither"),
}


def leaves(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted names of every setting below a settings class."""
    for name, field in model.model_fields.items():
        # A group, or a group that may be left out; a list of groups is a setting.
        kind, *others = [part for part in get_args(field.annotation) or [field.annotation] if part is not type(None)]
        group = not others and isinstance(kind, type) and not get_args(kind) and issubclass(kind, BaseModel)
        yield from leaves(kind, f"{prefix}{name}.") if group else [f"{prefix}{name}"]


def with_setting(name: str, value: object) -> JobConfig:
    """The default job with one setting changed."""
    groups: dict[str, Any] = {"model": {"name": "tiny-random"}, "window_s": 60.0}  # without which is no stride_s
    *path, last = name.split(".")
    inner = groups
    for group in path:
        inner = inner.setdefault(group, {})
    inner[last] = value
    return job(**groups)


def effect(old: Fingerprints, new: Fingerprints) -> tuple[bool, bool]:
    """Whether the tokens' and the answers' fingerprint changed."""
    return old.tokens != new.tokens, old.answers != new.answers


def test_every_setting_is_classified() -> None:
    """A new setting must be put into the table above: does it change tokens, answers or neither?"""
    assert set(SETTINGS) == set(leaves(JobConfig))


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_changes_the_fingerprints_it_must(name: str) -> None:
    """And only those: a cache is neither mixed nor lost for nothing."""
    value, expected = SETTINGS[name]
    old, new = fingerprints(job(), MODEL), fingerprints(with_setting(name, value), MODEL)
    assert effect(old, new) == {"both": (True, True), "answers": (False, True), "neither": (False, False)}[expected]


def test_another_model_or_maximum_of_frames_changes_both() -> None:
    """The model's identity always counts; `max_frames` does where it has an effect, which is with `fps`."""
    sampled = job(sampling={"fps": 1.0})
    assert effect(fingerprints(sampled, MODEL), fingerprints(sampled, "sha256:4567")) == (True, True)
    fewer = job(sampling={"fps": 1.0, "max_frames": 8})
    assert effect(fingerprints(sampled, MODEL), fingerprints(fewer, MODEL)) == (True, True)


def test_inner_pruning_counts_only_where_it_is() -> None:
    """Each of its two settings; absent, it leaves no trace, so that answers made before there was such a thing stay."""
    pruned = fingerprints(job(inner_pruning={}), MODEL)
    for changed in ({"pruning_layer": 2}, {"llm_retention_ratio": 0.5}):
        assert effect(pruned, fingerprints(job(inner_pruning=changed), MODEL)) == (False, True)
    plain = fingerprints(job(), MODEL)
    assert fingerprints(job(inner_pruning=None), MODEL) == plain
    assert changed_settings(plain.answers_settings, pruned.answers_settings) == [
        "inner_pruning.llm_retention_ratio: None -> 0.3",
        "inner_pruning.pruning_layer: None -> 20",
    ]


def test_a_preset_is_the_settings_it_stands_for() -> None:
    """Written out or by name: the same folders; a job read back from its record is the same job."""
    named = job(preset="qwen2_5_vl", compression={"retention_ratio": 0.1})
    written_out = job(compression=named.compression.model_dump(), inner_pruning=named.inner_pruning)
    assert effect(fingerprints(named, MODEL), fingerprints(written_out, MODEL)) == (False, False)
    assert JobConfig.model_validate_json(named.model_dump_json()) == named


@pytest.mark.parametrize(
    ("name", "expected"),
    [("decode", (True, True)), ("preprocess", (True, True)), ("compression", (True, True)), ("prompt", (False, True))],
)
def test_a_bumped_version_changes_what_its_code_makes(
    monkeypatch: pytest.MonkeyPatch, name: str, expected: tuple[bool, bool]
) -> None:
    """Prompts make answers only; the other three make tokens, and answers of them."""
    old = fingerprints(job(), MODEL)
    bumped = {**fingerprint.VERSIONS, name: fingerprint.VERSIONS[name] + 1}
    monkeypatch.setattr(fingerprint, "VERSIONS", bumped)
    assert effect(old, fingerprints(job(), MODEL)) == expected


def test_the_way_a_job_is_written_does_not_count() -> None:
    """Defaults written out, an integer for a number, another order: the same settings."""
    written_out = job(
        generation={"system_prompt": "You are a helpful assistant.", "max_new_tokens": 64},
        compression={"expansion": 1, "retention_ratio": 0.25},
        sampling={"num_frames": 32},
    )
    assert effect(fingerprints(job(), MODEL), fingerprints(written_out, MODEL)) == (False, False)


def test_fingerprints_have_their_golden_values() -> None:
    """Folders of existing outputs are named by these: a change here makes every one of them start over."""
    prints = fingerprints(job(), MODEL)
    reason = "fingerprints of unchanged settings changed: existing outputs and caches no longer match"
    assert (prints.tokens, prints.answers) == ("f99e75a6e8eb6979", "efcf6de755542077"), reason
    assert set(prints.answers_settings) - set(prints.tokens_settings) == {
        "generation.chat_template",
        "generation.choice",
        "generation.json_schema",
        "generation.max_new_tokens",
        "generation.seed",
        "generation.stop",
        "generation.system_prompt",
        "generation.temperature",
        "generation.top_k",
        "generation.top_p",
        "version.prompt",
    }
    assert prints.tokens_settings.items() <= prints.answers_settings.items()


def test_changed_settings_are_named_with_both_values() -> None:
    """One line each, sorted; what only one side has counts as None on the other."""
    old = fingerprints(job(), MODEL).answers_settings
    changed = job(compression={"retention_ratio": 0.1}, sampling={"fps": 2.0}, generation={"max_new_tokens": 8})
    new = fingerprints(changed, "sha256:4567").answers_settings
    assert changed_settings(old, new) == [
        "compression.retention_ratio: 0.25 -> 0.1",
        "generation.max_new_tokens: 64 -> 8",
        "model.identity: sha256:0123 -> sha256:4567",
        "sampling.fps: None -> 2.0",
        "sampling.max_frames: None -> 768",
        "sampling.num_frames: 32 -> None",
    ]
    assert changed_settings(old, dict(reversed(old.items()))) == []


class _Versions:
    """A table of plug-ins, of which one comes from another package."""

    def __init__(self, name: str, version: int) -> None:
        self._versions = {name: version}

    def version(self, name: str) -> int | None:
        return self._versions.get(name)


def test_a_plugins_version_is_part_of_both_fingerprints(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a method, and of a model's family; what ships with this package at version 0 adds nothing."""
    tome = job(compression={"method": "tome"})
    built_in = fingerprints(tome, MODEL, "qwen2_5_vl")
    assert built_in == fingerprints(tome, MODEL)
    for table, name in (("METHODS", "tome"), ("FAMILIES", "qwen2_5_vl")):
        with monkeypatch.context() as patch:
            patch.setattr(fingerprint, table, _Versions(name, 1))
            first = fingerprints(tome, MODEL, "qwen2_5_vl")
            patch.setattr(fingerprint, table, _Versions(name, 2))
            second = fingerprints(tome, MODEL, "qwen2_5_vl")
        assert effect(built_in, first) == effect(first, second) == (True, True)
        assert fingerprints(job(), MODEL) == fingerprints(job(), MODEL, "llava_video")


def test_a_method_that_returns_other_tokens_than_before_has_a_version() -> None:
    """Of the methods that ship, FastVID alone; the others keep the fingerprints that they had."""
    versions = {
        name: fingerprints(job(compression={"method": name}), MODEL).tokens_settings.get("compression.method_version")
        for name in METHODS
    }
    assert {name: version for name, version in versions.items() if version is not None} == {"fastvid": 1}
