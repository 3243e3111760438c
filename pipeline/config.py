"""Define the job: every setting of a run, frozen and validated.

The names are those of the libraries that use them (`num_frames`, `fps`, `retention_ratio`, `max_new_tokens`,
`num_gpus`, `storage_options`). A setting that changes results is part of a fingerprint
(`pipeline/store/fingerprint.py`). A setting that changes only how the work is distributed is not.
"""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from flashvid.config import CompressionConfig, InnerPruningConfig
from flashvid.method_registry import METHODS
from flashvid.models import GenerationConfig
from flashvid.presets import PRESETS, preset_named
from pipeline.redaction import holds_secret
from pipeline.resources_config import ResourcesConfig, Settings

CacheDtype = Literal["int8"]

_SECRET_WORDS = ("key", "secret", "token", "pass", "credential", "auth", "connection_string", "sas")
_URL_WITH_PASSWORD = re.compile(r"://[^/@]*:[^/@]*@")


class ModelConfig(Settings):
    """Selects the video LLM and its precision."""

    name: str = Field(min_length=1, description="embedded model, local directory, or Hugging Face Hub id")
    revision: str | None = Field(default=None, description="branch, tag or commit of a Hugging Face Hub id")
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        default=None, description="precision of weights and tokens; default: the checkpoint's own"
    )
    wait_s: float = Field(
        default=600,
        ge=0,
        description="seconds to wait for the model on a node that does not have it yet, before the run stops",
    )


class SamplingConfig(Settings):
    """Selects the frames of a clip that the model sees: `num_frames` spread evenly, or `fps` up to `max_frames`."""

    num_frames: int | None = Field(default=None, ge=1, description="frames per clip, spread evenly")
    fps: float | None = Field(default=None, gt=0, description="frames per second of video, instead of num_frames")
    max_frames: int = Field(
        default=768,
        ge=1,
        description="with fps: largest number of frames per clip; a longer clip gets this many, spread evenly",
    )
    decoder: Literal["auto", "decord", "pyav"] = Field(
        default="auto",
        description="video decoder; auto: decord for files that it reads exactly, PyAV for all others, "
        "and for every file of a job with allowed_roots",
    )
    min_pixels: int | None = Field(default=None, ge=1, description="smallest area of a resized frame, in pixels")
    max_pixels: int | None = Field(default=None, ge=1, description="largest area of a resized frame, in pixels")

    @model_validator(mode="after")
    def _one_way_to_sample(self) -> Self:
        if self.num_frames is not None and self.fps is not None:
            raise ValueError("num_frames and fps exclude each other: set only one of them")
        if self.min_pixels and self.max_pixels and self.min_pixels > self.max_pixels:
            raise ValueError(
                f"min_pixels ({self.min_pixels}) is above max_pixels ({self.max_pixels}): lower one or raise the other"
            )
        return self


class CommitConfig(Settings):
    """Sets how often answers are written: after this many rows or this many seconds, whichever comes first."""

    rows: int = Field(default=1000, ge=1, description="rows after which answers are committed")
    seconds: float = Field(default=15.0, ge=0, description="seconds after which answers are committed")


class QuestionRow(Settings):
    """One question: a row of the questions table, or an item in the job file, where numbers stand for their text."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    question: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)] = Field(
        description="the text; {column} is replaced by that column of the video's row"
    )
    question_id: str | None = Field(
        default=None, min_length=1, description="name of the question; default: a hash of its text and options"
    )
    options: tuple[str, ...] | None = Field(
        default=None, min_length=2, max_length=26, description="choices; the model sees each with a letter"
    )
    answer: str | None = Field(default=None, description="the expected answer, for evaluation only")
    video_id: str | None = Field(
        default=None, description="the only video that gets this question; default: every video"
    )
    category: str | None = Field(default=None, description="kind of question, for evaluation only")


class JobConfig(Settings):
    """A job: the videos, the questions, the output, and all other settings of a run."""

    videos: str = Field(
        min_length=1,
        description="a folder or glob of videos, or a table: .parquet, .csv, .tsv, .jsonl or .json, also .gz",
    )
    questions: str | tuple[QuestionRow, ...] = Field(description="path of a table, or a list of questions")
    output: str = Field(min_length=1, description="folder or URL that receives answers and failures")
    cache: str | Literal[False] | None = Field(
        default=None,
        description="folder or URL for the compressed tokens; default: the output; "
        "off: tokens are not stored, for jobs that run once",
    )
    cache_dtype: CacheDtype | None = Field(
        default=None,
        description="int8 halves the size of bfloat16 tokens, with a small error; default: tokens are stored exactly",
    )
    limit: int | None = Field(
        default=None, ge=1, description="use only this many videos, from the start of the table, for a trial run"
    )
    source_id_column: str | None = Field(
        default=None,
        description="column of the videos table that identifies the content of the file, for example a checksum; "
        "default: path, size, and modification time or etag",
    )
    model: ModelConfig
    preset: str | None = Field(
        default=None,
        description="published settings of a model; sets the keys of compression and inner_pruning that are left out",
    )
    window_s: float | None = Field(
        default=None, gt=0, description="cut videos into clips of this many seconds; default: whole videos"
    )
    stride_s: float | None = Field(
        default=None,
        gt=0,
        description="seconds from the start of one window to the start of the next; default: window_s",
    )
    max_windows: int = Field(
        default=10_000, ge=1, description="most windows of one video; a video with more is a failure"
    )
    sampling: SamplingConfig = SamplingConfig(num_frames=32)
    compression: CompressionConfig = CompressionConfig()
    inner_pruning: InnerPruningConfig | None = Field(default=None, description="pruning inside the LLM; null: none")
    generation: GenerationConfig = GenerationConfig()
    resources: ResourcesConfig = ResourcesConfig()
    commit: CommitConfig = CommitConfig()
    max_attempts: int = Field(
        default=3, ge=1, description="tries after which a transient failure is final, counted over all runs"
    )
    on_error: Literal["quarantine", "raise"] = Field(
        default="quarantine",
        description="quarantine: record a failure and continue; raise: stop the run at the first failure",
    )
    max_failures: float | None = Field(
        default=None,
        gt=0,
        description="stop the run when more clips than this fail; a value below 1 is a share of the run's clips",
    )
    storage_options: dict[str, Any] = Field(
        default_factory=dict, description="options of the storage, passed to fsspec; secrets are rejected"
    )
    allowed_roots: tuple[Annotated[str, StringConstraints(min_length=1)], ...] | None = Field(
        default=None,
        description="folders and URL prefixes that must contain videos, tables, output and cache, for example "
        "/mnt/videos, s3://bucket or s3://; default: any place is allowed",
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, job: object) -> object:
        # Runs before the groups are validated: keys that the job sets win over the preset, and the recorded job holds
        # the merged values.
        if not isinstance(job, dict) or job.get("preset") not in tuple(PRESETS):
            return job
        preset, written = preset_named(job["preset"]), {"compression": {}, "inner_pruning": {}, **job}
        with_pruning = written["inner_pruning"] is not None
        defaults = preset.compression(CompressionConfig().retention_ratio, inner_pruning=with_pruning)
        written["compression"] = _filled(written["compression"], defaults)
        if with_pruning:
            written["inner_pruning"] = _filled(written["inner_pruning"], preset.inner_pruning())
        return written

    @model_validator(mode="before")
    @classmethod
    def _fill_from_method(cls, job: object) -> object:
        compression = job.get("compression") if isinstance(job, dict) else None
        name = compression.get("method") if isinstance(compression, dict) else None
        if not isinstance(job, dict) or not isinstance(name, str) or name not in METHODS:
            return job
        if (pruning := METHODS[name].inner_pruning) is None:
            return job
        if job.get("preset") is not None:
            raise ValueError(
                f"a preset holds settings of flashvid, not of the method {name}: remove preset or compression.method"
            )
        if job.get("inner_pruning", {}) is None:
            raise ValueError(f"{name} is inner_pruning and can't run without it: remove inner_pruning: null")
        defaults = InnerPruningConfig.model_validate(pruning)
        return {**job, "inner_pruning": _filled(job.get("inner_pruning", {}), defaults)}

    @model_validator(mode="after")
    def _stride_of_windows(self) -> Self:
        if self.stride_s is not None and self.window_s is None:
            raise ValueError("stride_s needs window_s: set window_s, or remove stride_s")
        return self

    @field_validator("preset")
    @classmethod
    def _known_preset(cls, name: str | None) -> str | None:
        return None if name is None else preset_named(name).name

    @field_validator("questions", mode="before")
    @classmethod
    def _plain_strings_are_questions(cls, value: object) -> object:
        if isinstance(value, list | tuple):
            return tuple({"question": item} if isinstance(item, str) else item for item in value)
        return value

    @field_validator("sampling", mode="before")
    @classmethod
    def _some_way_to_sample(cls, value: object) -> object:
        if isinstance(value, dict) and value.get("num_frames") is None and value.get("fps") is None:
            return {**value, "num_frames": 32}
        return value

    @field_validator("storage_options")
    @classmethod
    def _no_secrets(cls, value: object) -> object:
        # The resolved job is written to storage, with any secret that it holds.
        for key, text in _nested(value):
            if any(word in key.lower() for word in _SECRET_WORDS):
                raise ValueError(f"'{key}' looks like a secret: give it through the environment or a profile")
            if _URL_WITH_PASSWORD.search(text):
                raise ValueError("a URL contains a password: give it through the environment or a profile")
            if holds_secret(text):
                raise ValueError(
                    f"the value of '{key}' looks like a secret: give it through the environment or a profile"
                )
        return value

    @field_validator("videos", "questions", "output", "cache", "allowed_roots")
    @classmethod
    def _no_secrets_in_urls(cls, value: object) -> object:
        for url in value if isinstance(value, tuple) else [value]:
            if isinstance(url, str) and _URL_WITH_PASSWORD.search(url):
                raise ValueError("the URL contains a password: give it through the environment or a profile")
        return value

    @field_validator("output", "cache")
    @classmethod
    def _no_secrets_in_written_urls(cls, value: object) -> object:
        # Records of later runs and of caches must name these places exactly. Signed URLs of tables are redacted there.
        if isinstance(value, str) and "://" in value and holds_secret(value):
            raise ValueError("the URL looks like a secret: give it through the environment or a profile")
        return value

    @field_validator("cache", mode="before")
    @classmethod
    def _off_is_false(cls, value: object) -> object:
        # YAML parses off as false; the command line and Python may pass the word.
        return False if value == "off" else value

    @property
    def effective_sampling(self) -> SamplingConfig:
        """Return `sampling` as video decoding uses it: `auto` is PyAV with `allowed_roots` (docs/security.md)."""
        if self.allowed_roots is None or self.sampling.decoder != "auto":
            return self.sampling
        return self.sampling.model_copy(update={"decoder": "pyav"})

    @property
    def keeps_tokens(self) -> bool:
        """Return whether compressed tokens are committed, for later questions and later runs."""
        return self.cache is not False

    @property
    def tokens_root(self) -> str:
        """Return the folder or URL of the compressed tokens; meaningful only if `keeps_tokens`."""
        return self.cache or self.output


def _filled(group: object, defaults: BaseModel) -> object:
    """Return a group with defaults for the keys that it leaves out; a value that is not a group is returned as it is.

    Validation rejects such a value later.
    """
    written = group.model_dump(exclude_unset=True) if isinstance(group, BaseModel) else group
    return {**defaults.model_dump(), **written} if isinstance(written, dict) else written


def _nested(value: object, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield each key inside a value with its text: "" for a value that is not text, and "" for a missing key."""
    yield key, value if isinstance(value, str) else ""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _nested(inner, str(name))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _nested(inner)
