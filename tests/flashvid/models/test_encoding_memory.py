"""Peak memory of encoding a long video, with towers that need most of the memory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from flashvid.models import resolve_model
from tests.support import tiny_families
from tests.support.tiny_families import write_llava, write_qwen3

SIDE = 128
WIDE = {"hidden_size": 256, "intermediate_size": 512}
# In a process of its own: Linux counts the peak from its reset, which comes after the frames and a first block.
MEASURE = """
import sys
import numpy as np
from flashvid.models import load_model

def memory(name):
    lines = dict(line.split(":") for line in open("/proc/self/status"))
    return int(lines[name].split()[0]) * 1024

folder, count, side = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
bounds = {} if "llava" in folder else {"min_pixels": side * side, "max_pixels": side * side}
model = load_model(folder, part="vision", device="cpu", **bounds)
model.encode(np.zeros((4, side, side, 3), np.uint8), np.arange(4.0))
frames = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
open("/proc/self/clear_refs", "w").write("5")
before = memory("VmRSS")
found = model.encode(frames, np.arange(float(count)))
print(memory("VmHWM") - before - sum(part.nbytes for part in (found.features, found.scores, *found.deepstack)))
"""


def rise(folder: Path, count: int) -> int:
    """Return the most bytes that encoding `count` frames adds to a process, features and scores excluded."""
    # Makes glibc return freed blocks at once; by default it keeps up to 32 MB of each size, which would count as used.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", MEASURE, str(folder), str(count), str(SIDE)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return int(done.stdout)


def write_wide_qwen2_5(folder: Path) -> None:
    """Write the embedded random model with a wider tower."""
    shutil.copytree(resolve_model("tiny-random").path, folder)
    content = json.loads((folder / "config.json").read_text())
    content["vision_config"] |= WIDE
    with torch.random.fork_rng():
        torch.manual_seed(0)
        Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig.from_dict(content)).save_pretrained(folder)
    tiny_families.change_config(folder, **content)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are counted by Linux")
@pytest.mark.parametrize("family", ["llava", "qwen2_5", "qwen3"])
def test_a_long_video_takes_no_more_than_a_short_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    """768 frames take at most 1.2 times as much as 64 frames."""
    folder = tmp_path / family
    if family == "llava":
        monkeypatch.setattr(
            tiny_families, "SIGLIP", {**tiny_families.SIGLIP, **WIDE, "image_size": SIDE, "patch_size": 8}
        )
        write_llava(folder)
        file = folder / "preprocessor_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "size": {"height": SIDE, "width": SIDE}}))
    elif family == "qwen2_5":
        write_wide_qwen2_5(folder)
    else:
        config: Any = tiny_families.Qwen3VLConfig

        def wide(vision_config: dict[str, Any], **others: Any) -> Any:
            return config(vision_config={**vision_config, **WIDE}, **others)

        monkeypatch.setattr(tiny_families, "Qwen3VLConfig", wide)
        write_qwen3(folder)
    short, long = rise(folder, 64), rise(folder, 768)
    # Large enough to be the memory of the tower, not the noise of a process.
    assert short > 20 * 2**20
    assert long <= 1.2 * short
