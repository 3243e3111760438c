"""A cache to compare the token store with: a file of the bare values, written as durably.

It is written to a temporary name, then fsync, rename, and fsync of the folder.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from flashvid.models import CompressedVideo
from jobs.bench.cache import Kind


def plain_file(folder: Path, video: CompressedVideo) -> Mapping[str, Kind]:
    """Return plain files of a clip's tokens as a kind of cache."""

    def write(turn: int) -> None:
        temporary = folder / "temporary"
        with temporary.open("wb") as file:
            file.write(video.tokens.view(torch.uint8).numpy().data)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(name(turn))
        descriptor = os.open(folder, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)

    def read(turn: int) -> object:
        return (
            torch.from_numpy(np.fromfile(name(turn), dtype=np.int16)).view(torch.bfloat16).reshape(video.tokens.shape)
        )

    def name(turn: int) -> Path:
        return folder / f"{turn}.bin"

    return {"plain file": Kind(write, read, name)}
