"""Visual features of many clips on disk: the vision side is frozen while the language side learns."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jobs.lab.tiny_model.rendering import render, through_codec
from jobs.lab.tiny_model.scenes import FRAMES_PER_STEP, Scene, Split, clip_rng, make_scene
from jobs.lab.tiny_model.vision_stage import encode_steps

SHARD_CLIPS = 64
Sampling = Literal["all", "shifted", "sparse"]
# Shards by length in steps: mostly short clips, which cost little, and some long ones.
TRAIN_SHARDS: Mapping[Sampling, Mapping[int, int]] = {
    "all": {1: 6, 2: 12, 3: 14, 4: 44, 6: 52, 8: 64, 12: 28, 16: 14, 24: 6, 32: 4, 40: 4},
    "shifted": {3: 4, 4: 8, 6: 10, 8: 12, 12: 4},
    "sparse": {4: 8, 8: 8},
}
HELD_OUT_SHARDS: Mapping[Sampling, Mapping[int, int]] = {"all": {2: 1, 4: 1, 6: 1, 8: 2, 12: 1, 16: 1, 32: 1}}
_SPARSELY_SAMPLED = (24, 32, 40)
_CODEC_SHARE = 0.85
_STEPS_AT_ONCE = 32


@dataclass(frozen=True)
class Shard:
    """Clips of one length.

    Attributes:
        split: Training or held out.
        number: Index of the shard, over all lengths; the clips' seeds follow from it.
        steps: Length of each clip, as it is sampled.
        sampling: Which frames are seen: all; all but the first and the last, so that things come and go within steps;
            or a few of a long clip's.
    """

    split: Split
    number: int
    steps: int
    sampling: Sampling = "all"

    @property
    def clips(self) -> range:
        """The seeds of its clips."""
        return range(self.number * SHARD_CLIPS, (self.number + 1) * SHARD_CLIPS)

    @property
    def untold(self) -> frozenset[str]:
        """Families of questions that can't be answered from so few frames."""
        if self.sampling != "sparse":
            return frozenset()
        # In four steps, a lasting thing is seen as rarely as one that flashes.
        return frozenset({"order", "time", "flash"} if self.steps < 8 else {"order", "time"})

    def clip(self, clip: int) -> tuple[Scene, NDArray[np.int64]]:
        """The scene of one of its clips, with the things that are seen, and the frames that are."""
        frames_seen = self.steps * FRAMES_PER_STEP
        if self.sampling == "sparse":
            steps = _SPARSELY_SAMPLED[clip % len(_SPARSELY_SAMPLED)]
            frames = np.linspace(0, steps * FRAMES_PER_STEP - 1, frames_seen).astype(np.int64)
        else:
            shift = int(self.sampling == "shifted")
            steps, frames = self.steps + shift, np.arange(frames_seen) + shift
        scene = make_scene(self.split, clip, steps)
        steps_seen = {*(frames // FRAMES_PER_STEP).tolist()}
        things = [thing for thing in scene.things if steps_seen & {*range(thing.first_step, thing.end_step)}]
        return replace(scene, things=tuple(things)), frames


def shards(split: Split) -> list[Shard]:
    """Every shard of a split."""
    wanted = TRAIN_SHARDS if split == "train" else HELD_OUT_SHARDS
    kinds = [
        (steps, sampling)
        for sampling, by_length in wanted.items()
        for steps, times in by_length.items()
        for _ in range(times)
    ]
    return [Shard(split, number, steps, sampling) for number, (steps, sampling) in enumerate(kinds)]


class FeatureCache:
    """A folder with one array per shard, `[clips, T * N, D]` in bfloat16 (stored as int16, which numpy knows)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def fill(self, tower: nn.Module, wanted: list[Shard], deadline: float) -> bool:
        """Compute missing shards; return whether all are done before the deadline."""
        for shard in wanted:
            if self._path(shard).is_file():
                continue
            if time.time() > deadline:
                return False
            with torch.no_grad():
                features = torch.stack([_encode(tower, shard, clip) for clip in shard.clips])
            partial = self._path(shard).with_suffix(".partial")
            with partial.open("wb") as file:
                np.save(file, features.bfloat16().view(torch.int16).numpy())
            partial.replace(self._path(shard))
        return True

    def read(self, shard: Shard, places: list[int]) -> Tensor:
        """Return features of some clips of a shard, `[len(places), T * N, D]` float32."""
        stored = np.load(self._path(shard), mmap_mode="r")
        return torch.from_numpy(stored[places]).view(torch.bfloat16).float()

    def _path(self, shard: Shard) -> Path:
        return self._folder / f"{shard.split}-{shard.number:04d}-{shard.steps}-{shard.sampling}.npy"


def _encode(tower: nn.Module, shard: Shard, clip: int) -> Tensor:
    frames = render(*shard.clip(clip))
    rng = clip_rng(shard.split, clip, purpose=4)
    if rng.random() < _CODEC_SHARE:
        frames = through_codec(frames, rng)
    pieces = np.split(frames, range(2 * _STEPS_AT_ONCE, len(frames), 2 * _STEPS_AT_ONCE))
    return torch.cat([encode_steps(tower, piece) for piece in pieces]).flatten(0, 1)
