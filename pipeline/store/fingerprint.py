"""Derive fingerprints: the settings that a result depends on, as flat dictionaries, and one hash of each.

Every run record stores the dictionaries, so that the error for changed settings can name them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from flashvid.method_registry import METHODS
from flashvid.models.registry import FAMILIES
from pipeline.config import JobConfig
from pipeline.store.keys import digest

# Increase a number by hand when the code that it stands for gives other results; tests/pipeline/store/test_versions.py
# fails until that is done.
VERSIONS: Mapping[str, int] = {"decode": 2, "preprocess": 1, "compression": 3, "prompt": 2}
# Part of the fingerprint only with `compression.reference_compatible`. Increase it by hand when that mode reproduces
# other defects or ties of the published implementation.
REFERENCE_MODE_VERSION = 2

Setting = str | int | float | bool | list[str] | None


@dataclass(frozen=True)
class Fingerprints:
    """The settings that the tokens and the answers of a run depend on.

    Attributes:
        tokens_settings: Settings that change a clip's compressed tokens.
        answers_settings: `tokens_settings` and the settings that change only answers.
    """

    tokens_settings: Mapping[str, Setting]
    answers_settings: Mapping[str, Setting]

    @property
    def model_identity(self) -> str:
        """Return the identity of the model's weights: a commit, or a digest of the files."""
        return str(self.tokens_settings["model.identity"])

    @property
    def tokens(self) -> str:
        """Return the `tokens_fingerprint`."""
        return digest_of_settings(self.tokens_settings)

    @property
    def answers(self) -> str:
        """Return the `answers_fingerprint`."""
        return digest_of_settings(self.answers_settings)


def digest_of_settings(settings: Mapping[str, Setting]) -> str:
    """Return the fingerprint of settings."""
    return digest(dict(settings), length=16)


def fingerprints(job: JobConfig, model_identity: str, family: str | None = None) -> Fingerprints:
    """Derive both fingerprints of a job.

    Args:
        job: The job.
        model_identity: Resolved commit, or digest of the model's files (`flashvid.models.resolve_model`).
        family: Name of the model's family; a family of another package adds its name and version.
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
    # Add nothing while these settings are off: answers from versions without them then keep their fingerprint.
    if not job.generation.reference_compatible:
        del answers["generation.reference_compatible"]
    if job.inner_pruning is not None:
        answers.update(_flat("inner_pruning", job.inner_pruning.model_dump(mode="json")))
    return Fingerprints(tokens, answers)


def changed_settings(old: Mapping[str, Setting], new: Mapping[str, Setting]) -> list[str]:
    """Return one line for each difference, for example ``compression.retention_ratio: 0.1 -> 0.25``."""
    return [
        f"{name}: {old.get(name)} -> {new.get(name)}" for name in sorted({*old, *new}) if old.get(name) != new.get(name)
    ]


def _flat(prefix: str, group: Mapping[str, Setting]) -> dict[str, Setting]:
    return {f"{prefix}.{name}": value for name, value in group.items()}
