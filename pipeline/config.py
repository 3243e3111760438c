"""The job: every setting of a run, frozen and validated.

Field names are the field's own (`num_frames`, `fps`, `retention_ratio`, `max_new_tokens`, `num_gpus`,
`storage_options`). A setting here either changes results, and is then part of a fingerprint
(`pipeline.store.fingerprint`), or changes only how the work is spread, and is not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from flashvid.config import CompressionConfig, InnerPruningConfig
from flashvid.method_registry import METHODS
from flashvid.models import GenerationConfig
from flashvid.presets import PRESETS, preset_named

CacheDtype = Literal["int8"]

_SECRET_WORDS = ("key", "secret", "token", "pass", "credential", "auth", "connection_string", "sas")
_URL_WITH_SECRET = re.compile(r"://[^/@]*:[^/@]*@")


class Settings(BaseModel):
    """A frozen group of settings that refuses unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelConfig(Settings):
    """Which video LLM, and in which precision."""

    name: str = Field(min_length=1, description="embedded model, local directory, or hub id")
    revision: str | None = Field(default=None, description="branch, tag or commit of a hub id")
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        default=None, description="precision of weights and tokens; the checkpoint's own when omitted"
    )
    wait_s: float = Field(
        default=600,
        ge=0,
        description="seconds that an actor waits where its node does not have the model yet, before the run stops",
    )


class SamplingConfig(Settings):
    """Which frames of a clip the model sees: `num_frames` spread evenly, or `fps` up to `max_frames`."""

    num_frames: int | None = Field(default=None, ge=1, description="frames per clip, spread evenly")
    fps: float | None = Field(default=None, gt=0, description="frames per second of video, instead of num_frames")
    max_frames: int = Field(default=768, ge=1, description="with fps: at most so many, then spread evenly")
    decoder: Literal["auto", "decord", "pyav"] = Field(
        default="auto", description="auto: decord for files that it reads exactly, PyAV for all others"
    )
    min_pixels: int | None = Field(default=None, ge=1, description="lower bound of a resized frame's area")
    max_pixels: int | None = Field(default=None, ge=1, description="upper bound of a resized frame's area")

    @model_validator(mode="after")
    def _one_way_to_sample(self) -> Self:
        if self.num_frames is not None and self.fps is not None:
            raise ValueError("num_frames and fps exclude each other: give one of them")
        if self.min_pixels and self.max_pixels and self.min_pixels > self.max_pixels:
            raise ValueError(f"min_pixels ({self.min_pixels}) is above max_pixels ({self.max_pixels})")
        return self


_Count = Annotated[int, Field(ge=1)]


class PoolConfig(Settings):
    """One pool of actors. What is omitted is chosen from the cluster's size (see `pipeline.cluster.resources`)."""

    concurrency: _Count | tuple[_Count, _Count] | None = Field(
        default=None, description="number of actors, or [least, most] of a pool that grows and shrinks with its work"
    )
    num_cpus: float | None = Field(default=None, ge=0, description="CPUs that each actor reserves")
    num_gpus: float | None = Field(default=None, ge=0, description="GPUs, or a share of one, per actor")

    @field_validator("concurrency")
    @classmethod
    def _least_is_not_most(cls, concurrency: int | tuple[int, int] | None) -> int | tuple[int, int] | None:
        if isinstance(concurrency, tuple) and concurrency[0] > concurrency[1]:
            raise ValueError(f"at least {concurrency[0]} actors and at most {concurrency[1]} contradict each other")
        return concurrency

    @field_validator("num_gpus")
    @classmethod
    def _share_or_whole(cls, num_gpus: float | None) -> float | None:
        if num_gpus is not None and num_gpus > 1 and num_gpus != int(num_gpus):
            raise ValueError("more than one GPU comes in whole ones only")
        return num_gpus


class DecodePoolConfig(PoolConfig):
    """The pool that decodes, and what one clip may take of it."""

    time_limit_s: float = Field(
        default=600.0, gt=0, description="seconds that the decoder, or a look at its packets, may take for one clip"
    )
    memory_limit_gb: float = Field(default=4.0, ge=0.1, description="GiB that the decoder of one actor may allocate")

    @field_validator("num_gpus")
    @classmethod
    def _on_cpu(cls, num_gpus: float | None) -> float | None:
        if num_gpus:
            raise ValueError("decoding runs on CPUs: num_gpus has no meaning here")
        return num_gpus


class StagingConfig(Settings):
    """The folder of each node into which videos are fetched from object stores."""

    directory: str | None = Field(
        default=None, description="on a local disk; default: below the system's temporary folder"
    )
    max_gb: float = Field(default=50.0, gt=0, description="GiB of videos kept there; the least recently used go first")


class ResourcesConfig(Settings):
    """The three pools, the bound on decoded clips in memory, and where videos are fetched to."""

    decode: DecodePoolConfig = DecodePoolConfig()
    encode: PoolConfig = PoolConfig()
    answer: PoolConfig = PoolConfig()
    staging: StagingConfig = StagingConfig()
    max_decoded_clips: int | None = Field(
        default=None,
        ge=1,
        description="clips whose frames are in memory at once, over the whole cluster; "
        "default: two for each encode actor, and two more",
    )


class CommitConfig(Settings):
    """How often the driver writes answers: after so many rows or so many seconds, whichever comes first."""

    rows: int = Field(default=1000, ge=1)
    seconds: float = Field(default=15.0, ge=0)


class QuestionRow(Settings):
    """One question, as a row of the questions table or written into the job."""

    question: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)] = Field(
        description="the text; {column} stands for a column of the video's row"
    )
    question_id: str | None = Field(default=None, min_length=1, description="default: hash of text and options")
    options: tuple[str, ...] | None = Field(
        default=None,
        min_length=2,
        max_length=26,
        description="choices, shown to the model with a letter each",
    )
    answer: str | None = Field(default=None, description="the expected answer, for evaluation only")
    video_id: str | None = Field(default=None, description="ask it of this video only")
    category: str | None = Field(default=None, description="kind of question, for evaluation only")


class JobConfig(Settings):
    """A job: videos, questions, where results go, and every setting in between."""

    videos: str = Field(min_length=1, description="a folder, a glob, or a Parquet, CSV or JSONL table")
    questions: str | tuple[QuestionRow, ...] = Field(description="a table's path, or the questions themselves")
    output: str = Field(min_length=1, description="folder or URL that receives answers and failures")
    cache: str | Literal[False] | None = Field(
        default=None,
        description="where the compressed tokens live: default, in the output; off: nowhere, for jobs that run once",
    )
    cache_dtype: CacheDtype | None = Field(
        default=None, description="int8 halves a bfloat16 cache, at a small error; default: tokens bit for bit"
    )
    limit: int | None = Field(
        default=None, ge=1, description="only the first so many videos of the table: a trial before the whole"
    )
    source_id_column: str | None = Field(
        default=None,
        description="column of the videos table that says what the bytes are, for instance a checksum",
    )
    model: ModelConfig
    preset: str | None = Field(
        default=None, description="published settings of a model; fills what compression and inner_pruning leave open"
    )
    window_s: float | None = Field(
        default=None, gt=0, description="cut videos into clips of so many seconds; whole videos when omitted"
    )
    stride_s: float | None = Field(
        default=None, gt=0, description="seconds from one window's start to the next one's; default: window_s"
    )
    sampling: SamplingConfig = SamplingConfig(num_frames=32)
    compression: CompressionConfig = CompressionConfig()
    inner_pruning: InnerPruningConfig | None = Field(default=None, description="pruning inside the LLM; none if null")
    generation: GenerationConfig = GenerationConfig()
    resources: ResourcesConfig = ResourcesConfig()
    commit: CommitConfig = CommitConfig()
    max_attempts: int = Field(default=3, ge=1, description="tries of a transient failure, counted over runs")
    on_error: Literal["quarantine", "raise"] = Field(
        default="quarantine",
        description="quarantine records a failure and goes on; raise stops the run at the first one",
    )
    max_failures: float | None = Field(
        default=None,
        gt=0,
        description="stop when more clips fail than this number, or, below 1, than this share of the run's clips",
    )
    storage_options: dict[str, Any] = Field(default_factory=dict, description="passed to fsspec; no secrets")
    allowed_roots: tuple[Annotated[str, StringConstraints(min_length=1)], ...] | None = Field(
        default=None,
        description="folders and URL prefixes that videos, tables, output and cache must be below, for instance "
        "/mnt/videos, s3://bucket or s3://; no bound when omitted",
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, job: object) -> object:
        # Before the groups are read: what is written in them stands, and a recorded job holds what came out of it.
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
        if not isinstance(job, dict) or name not in tuple(METHODS) or (pruning := METHODS[name].inner_pruning) is None:
            return job
        if job.get("preset") is not None:
            raise ValueError(f"a preset holds settings of flashvid, not of the method {name}: leave one of them out")
        if job.get("inner_pruning", {}) is None:
            raise ValueError(f"{name} is inner_pruning: it cannot be switched off")
        defaults = InnerPruningConfig.model_validate(pruning)
        return {**job, "inner_pruning": _filled(job.get("inner_pruning", {}), defaults)}

    @model_validator(mode="after")
    def _stride_of_windows(self) -> Self:
        if self.stride_s is not None and self.window_s is None:
            raise ValueError("stride_s needs window_s")
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
    def _no_secrets(cls, value: dict[str, Any]) -> dict[str, Any]:
        # The job is written to storage as it was resolved; a secret in it would be, too.
        for key, text in _nested(value):
            if any(word in key.lower() for word in _SECRET_WORDS):
                raise ValueError(f"'{key}' looks like a secret: give it through the environment or a profile")
            if _URL_WITH_SECRET.search(text):
                raise ValueError("a URL holds a password: give it through the environment or a profile")
        return value

    @field_validator("videos", "questions", "output", "cache")
    @classmethod
    def _no_secrets_in_urls(cls, value: object) -> object:
        if isinstance(value, str) and _URL_WITH_SECRET.search(value):
            raise ValueError("the URL holds a password: give it through the environment or a profile")
        return value

    @field_validator("cache", mode="before")
    @classmethod
    def _off_is_false(cls, value: object) -> object:
        # YAML reads off as false; the command line and Python may write the word.
        return False if value == "off" else value

    @property
    def keeps_tokens(self) -> bool:
        """Whether compressed tokens are committed, for later questions and later runs."""
        return self.cache is not False

    @property
    def tokens_root(self) -> str:
        """Where the compressed tokens live, if they are kept."""
        return self.cache or self.output


def _filled(group: object, defaults: BaseModel) -> object:
    """A group as it is written, and defaults for what it leaves open; what is no group is left to the validation."""
    written = group.model_dump(exclude_unset=True) if isinstance(group, BaseModel) else group
    return {**defaults.model_dump(), **written} if isinstance(written, dict) else written


def _nested(value: object, key: str = "") -> Iterator[tuple[str, str]]:
    """Every key inside a value with its text; "" for a value that is not a text, or has no key."""
    yield key, value if isinstance(value, str) else ""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _nested(inner, str(name))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _nested(inner)
