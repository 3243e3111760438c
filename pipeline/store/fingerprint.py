"""Fingerprints: which settings a result depends on, as flat dictionaries and as one hash over each.

The dictionaries are stored with every run, so that a refused run can name what changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flashvid.method_registry import METHODS
from flashvid.models.registry import FAMILIES
from pipeline.config import JobConfig
from pipeline.store.keys import digest

# Bumped by hand when the code behind them starts to give other results; tests/pipeline/store/test_versions.py
# guards each.
VERSIONS: Mapping[str, int] = {"decode": 2, "preprocess": 1, "compression": 3, "prompt": 2}
# Added to what `compression.reference_compatible` gives, which only its own defects and ties can change.
REFERENCE_MODE_VERSION = 2

Setting = str | int | float | bool | list[str] | None


@dataclass(frozen=True)
class Fingerprints:
    """What the tokens and the answers of a run depend on.

    Attributes:
        tokens_settings: Settings that change a clip's compressed tokens.
        answers_settings: Those, and the ones that change only answers.
    """

    tokens_settings: Mapping[str, Setting]
    answers_settings: Mapping[str, Setting]

    @property
    def model_identity(self) -> str:
        """Which model."""
        return str(self.tokens_settings["model.identity"])

    @property
    def tokens(self) -> str:
        """The `tokens_fingerprint`."""
        return digest(dict(self.tokens_settings), length=16)

    @property
    def answers(self) -> str:
        """The `answers_fingerprint`."""
        return digest(dict(self.answers_settings), length=16)


def fingerprints(job: JobConfig, model_identity: str, family: str | None = None) -> Fingerprints:
    """Derive both fingerprints of a job.

    Args:
        job: The job.
        model_identity: Resolved commit, or digest of the model's files (`flashvid.models.resolve_model`).
        family: Name of the model's family; one of another package adds its name and version.
    """
    tokens: dict[str, Setting] = {
        "model.identity": model_identity,
        "model.dtype": job.model.dtype,
        **_flat("sampling", job.sampling.model_dump(mode="json")),
        **_flat("compression", job.compression.model_dump(mode="json")),
        **{f"version.{name}": VERSIONS[name] for name in ("decode", "preprocess", "compression")},
    }
    if job.sampling.fps is None:
        del tokens["sampling.max_frames"]  # has no effect with num_frames
    if job.compression.reference_compatible:
        tokens["version.reference_mode"] = REFERENCE_MODE_VERSION
    if job.cache_dtype is not None:
        tokens["cache_dtype"] = job.cache_dtype
    if (version := METHODS.version(job.compression.method)) is not None:
        tokens["compression.method_version"] = version
    if family is not None and (version := FAMILIES.version(family)) is not None:
        tokens.update({"model.family": family, "model.family_version": version})
    answers: dict[str, Setting] = {
        **tokens,
        **_flat("generation", job.generation.model_dump(mode="json")),
        "version.prompt": VERSIONS["prompt"],
    }
    # Switched off, or without it, nothing is added: answers from before there was such a setting are still this job's.
    if not job.generation.reference_compatible:
        del answers["generation.reference_compatible"]
    if job.inner_pruning is not None:
        answers.update(_flat("inner_pruning", job.inner_pruning.model_dump(mode="json")))
    return Fingerprints(tokens, answers)


def changed_settings(old: Mapping[str, Setting], new: Mapping[str, Setting]) -> list[str]:
    """Describe the differences, one line each: ``compression.retention_ratio: 0.1 -> 0.25``."""
    return [
        f"{name}: {old.get(name)} -> {new.get(name)}" for name in sorted({*old, *new}) if old.get(name) != new.get(name)
    ]


def _flat(prefix: str, group: Mapping[str, Setting]) -> dict[str, Setting]:
    return {f"{prefix}.{name}": value for name, value in group.items()}
