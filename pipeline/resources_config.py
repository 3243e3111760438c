"""Define the job's `resources`: actor pools, limits of video decoding, and the folder for fetched videos."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator


class Settings(BaseModel):
    """A frozen group of settings that rejects unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid")


_Count = Annotated[int, Field(ge=1)]


class PoolConfig(Settings):
    """One pool of actors; values that are left out are chosen by the size of the cluster.

    `plan_pools` in `pipeline/cluster/resources.py` chooses them.
    """

    concurrency: _Count | tuple[_Count, _Count] | None = Field(
        default=None, description="number of actors, or [least, most] for a pool that grows and shrinks with its work"
    )
    num_cpus: float | None = Field(default=None, ge=0, description="CPUs that each actor reserves")
    num_gpus: float | None = Field(
        default=None, ge=0, description="GPUs that each actor reserves: a whole number, or a share below 1"
    )

    @field_validator("concurrency")
    @classmethod
    def _least_is_not_most(cls, concurrency: int | tuple[int, int] | None) -> int | tuple[int, int] | None:
        if isinstance(concurrency, tuple) and concurrency[0] > concurrency[1]:
            raise ValueError(
                f"the least number of actors ({concurrency[0]}) is above the most ({concurrency[1]}): "
                "write [least, most]"
            )
        return concurrency

    @field_validator("num_gpus")
    @classmethod
    def _share_or_whole(cls, num_gpus: float | None) -> float | None:
        if num_gpus is not None and num_gpus > 1 and num_gpus != int(num_gpus):
            raise ValueError("num_gpus above 1 must be a whole number: round it, or set a share below 1")
        return num_gpus


class DecodePoolConfig(PoolConfig):
    """The pool for video decoding, and what one clip may use of it."""

    time_limit_s: float = Field(
        default=600.0, gt=0, description="seconds that video decoding of a clip, or probing of its file, may take"
    )
    memory_limit_gb: float = Field(default=4.0, ge=0.1, description="GiB that video decoding in one actor may allocate")

    @field_validator("num_gpus")
    @classmethod
    def _on_cpu(cls, num_gpus: float | None) -> float | None:
        if num_gpus:
            raise ValueError("decoding runs on CPUs: remove num_gpus from resources.decode")
        return num_gpus


class StagingConfig(Settings):
    """The folder on each node that receives videos fetched from object stores."""

    directory: str | None = Field(
        default=None,
        description="path on a local disk, in which each user gets a folder of their own; default: the user's cache "
        "folder (XDG_CACHE_HOME or ~/.cache), else the system's temporary folder",
    )
    max_gb: float = Field(
        default=50.0, gt=0, description="GiB of videos kept there; the least recently used are deleted first"
    )


class ResourcesConfig(Settings):
    """The three pools, the limit of decoded clips in memory, and the folder for fetched videos."""

    decode: DecodePoolConfig = DecodePoolConfig()
    encode: PoolConfig = PoolConfig()
    answer: PoolConfig = PoolConfig()
    staging: StagingConfig = StagingConfig()
    max_decoded_clips: int | None = Field(
        default=None,
        ge=1,
        description="largest number of clips whose frames are in memory at once, in the whole cluster; "
        "default: two for each encode actor, plus two",
    )
