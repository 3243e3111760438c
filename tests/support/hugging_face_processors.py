"""Run Hugging Face's own video processors: `python -m tests.support.hugging_face_processors CASES.json FOLDER`.

They need torchvision, which does not import beside a CPU build of torch unless the three operators that it misses are
declared first. This is a program of its own, for a process of its own: transformers behaves otherwise with it.

CASES.json lists objects with `processor` (a class), `settings` (its arguments), `frames` (`[count, height, width]`)
and `seed`. Of case i, FOLDER gets `i.npy`: `pixel_values_videos` as float32.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


def noise(count: int, height: int, width: int, seed: int) -> NDArray[np.uint8]:
    """Frames uint8 `[count, height, width, 3]`: coarse blocks under fine noise, the same for both sides."""
    bits = np.random.default_rng(seed)
    coarse = bits.integers(0, 200, (count, height // 9 + 1, width // 9 + 1, 3), dtype=np.uint8)
    smooth = coarse.repeat(9, axis=1).repeat(9, axis=2)[:, :height, :width]
    fine: NDArray[np.uint8] = smooth + bits.integers(0, 56, (count, height, width, 3), dtype=np.uint8)
    return fine


def run(case: dict[str, Any]) -> NDArray[np.float32]:
    """What the processor named makes of a case's frames."""
    import transformers

    processor = getattr(transformers, case["processor"])(**case["settings"])
    frames = noise(*case["frames"], case["seed"])
    video = torch.from_numpy(frames).permute(0, 3, 1, 2)
    made = processor(videos=[video], do_sample_frames=False, return_tensors="pt")
    pixels: NDArray[np.float32] = made["pixel_values_videos"].float().numpy()
    return pixels


def main(cases: Path, folder: Path) -> None:
    """Run all cases."""
    # In use for detection models only, and missing from a torchvision that was built for another torch.
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define(
        "qroi_align(Tensor input, Tensor rois, float scale, int h, int w, int ratio, bool aligned) -> Tensor"
    )
    for number, case in enumerate(json.loads(cases.read_text(encoding="utf-8"))):
        np.save(folder / f"{number}.npy", run(case))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
