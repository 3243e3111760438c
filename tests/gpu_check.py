"""What needs a GPU to be seen: `make gpu-check`. Every check says what it found; without CUDA all say why they skip.

This is for the first user with a GPU: none of it could be run where the project was written.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from flashvid import CompressionConfig, compress
from flashvid.models import GenerationConfig, load_model
from flashvid.models.resizing import move_frames
from jobs.bench.answers_arms import QUESTIONS, Bench
from jobs.bench.answers_model import BENCH, ModelSize
from jobs.bench.cost import drifting_clip

# The paper's LLaVA-OneVision-7B clip, and the most that compressing it may take on a data centre GPU.
_SHAPE, _GOAL_MS = (32, 196, 3584), 5.0
_RUNS = 30
# Of the clip that a small random model looks at.
_NUM_FRAMES = 8
# bfloat16 has 8 bits of mantissa: features are good to about a hundredth, and few tokens change places over it.
_FEATURE_ERROR, _SAME_TOKENS = 0.03, 0.9

# Each GPU to a process of its own, as Ray hands them out: which one it says, and how many torch sees.
_PINNING = """
import json, os, ray, torch
ray.init(address="local", include_dashboard=False, log_to_driver=False)
@ray.remote(num_gpus=1)
class Pinned:
    def look(self):
        where = torch.zeros(1, device="cuda").device
        return os.environ["CUDA_VISIBLE_DEVICES"], torch.cuda.device_count(), str(where)
actors = [Pinned.remote() for _ in range(int(ray.cluster_resources()["GPU"]))]
print(json.dumps(ray.get([actor.look.remote() for actor in actors])))
"""


class UnmetError(Exception):
    """A check that a GPU does not pass."""


class SkippedError(Exception):
    """A check that says nothing here, and why."""


def bfloat16_agreement(device: str = "cuda", size: ModelSize = BENCH) -> str:
    """Encoding in bfloat16 on the GPU beside float32 on the CPU: features, and which tokens are kept."""
    with TemporaryDirectory() as folder:
        bench = Bench(Path(folder), size, _NUM_FRAMES)
        clip, config = bench.decode(), CompressionConfig(retention_ratio=0.25)
        kept, features = [], []
        for dtype, where in (("float32", "cpu"), ("bfloat16", device)):
            model = load_model(f"{folder}/model", part="vision", dtype=dtype, device=where)
            visual = model.encode(clip.frames, clip.frame_timestamps)
            features.append(visual.features.float().cpu())
            kept.append({*model.compress(visual, config).indices.tolist()})
    error = float((features[1] - features[0]).norm() / features[0].norm())
    same = len(kept[0] & kept[1]) / len(kept[0])
    said = f"features differ by {error:.2%} of their norm, {same:.1%} of the kept tokens are the same"
    if error > _FEATURE_ERROR or same < _SAME_TOKENS:
        raise UnmetError(said)
    return said


def answers_agree(device: str = "cuda", size: ModelSize = BENCH) -> str:
    """Answers in float32 on the GPU beside those on the CPU, with all tokens and with a tenth."""
    with TemporaryDirectory() as folder:
        bench = Bench(Path(folder), size, _NUM_FRAMES)
        clip, asked = bench.decode(), QUESTIONS[:4]
        found = []
        for where in ("cpu", device):
            model = load_model(f"{folder}/model", dtype="float32", device=where)
            visual = model.encode(clip.frames, clip.frame_timestamps)
            generation = GenerationConfig(max_new_tokens=8)
            for config in (None, CompressionConfig(retention_ratio=0.1)):
                found += [[a.response for a in model.answer(model.compress(visual, config), asked, generation)]]
    pairs = (pair for ours, theirs in zip(found[:2], found[2:], strict=True) for pair in zip(ours, theirs, strict=True))
    equal = sum(ours == theirs for ours, theirs in pairs)
    said = f"{equal} of {2 * len(asked)} answers are equal"
    # Random weights have near ties, which TensorFloat or another order of adding up may turn.
    if equal < len(asked):
        raise UnmetError(said)
    return said


def compression_time() -> str:
    """CUDA time and memory of compressing one clip of the paper's size, in bfloat16."""
    features, scores = (part.cuda() for part in drifting_clip(*_SHAPE))
    features, config = features.bfloat16(), CompressionConfig(retention_ratio=0.1)
    compress(features, scores, config)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before, times = torch.cuda.memory_allocated(), []
    for _ in range(_RUNS):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        compress(features, scores, config)
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    took, held = statistics.median(times), torch.cuda.max_memory_allocated() - before
    said = f"{took:.2f} ms (goal {_GOAL_MS:g}), {held / 1e6:.0f} MB beside the {features.nbytes / 1e6:.0f} MB given"
    if took > _GOAL_MS:
        raise UnmetError(said)
    return said


def copies_do_not_wait() -> str:
    """Frames go to the GPU while kernels run there: the call returns before these end, and every byte arrives."""
    frames = np.random.default_rng(0).integers(0, 256, (16, 448, 448, 3), dtype=np.uint8)
    device, busy = torch.device("cuda"), torch.randn(8192, 8192, device="cuda")
    # Once without being timed: the first call pins the memory, the first product loads its kernel.
    move_frames(frames, device)
    busy @ busy
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(50):
        busy @ busy
    moved = move_frames(frames, device)
    returned = time.perf_counter() - started
    torch.cuda.synchronize()
    ended = time.perf_counter() - started
    if not np.array_equal(moved.cpu().numpy(), frames.transpose(0, 3, 1, 2)):
        raise UnmetError("frames arrive as other bytes")
    said = f"the call returned after {returned * 1e3:.0f} ms, the kernels before it ended after {ended * 1e3:.0f}"
    if returned > ended / 2:
        raise UnmetError(said)
    return said


def device_pinning() -> str:
    """Ray gives every actor a GPU of its own, and torch in it sees that one only."""
    done = subprocess.run([sys.executable, "-c", _PINNING], stdout=subprocess.PIPE, text=True, timeout=300, check=True)
    looks: list[Any] = json.loads(done.stdout.splitlines()[-1])
    devices = [device for device, _, _ in looks]
    said = f"{len(looks)} actors on GPUs {', '.join(devices)}"
    if len({*devices}) != len(devices) or any(count != 1 for _, count, _ in looks):
        raise UnmetError(f"{said}; torch sees {[count for _, count, _ in looks]} of them")
    return said


def flash_attention() -> str:
    """flash_attention_2 beside sdpa, in bfloat16: how likely answers are, the same but for rounding."""
    if find_spec("flash_attn") is None:
        raise SkippedError("flash_attn is not installed")
    return attention_agreement("flash_attention_2")


def attention_agreement(implementation: str, device: str = "cuda", size: ModelSize = BENCH) -> str:
    """An attention implementation beside sdpa, in bfloat16."""
    with TemporaryDirectory() as folder:
        clip, found = Bench(Path(folder), size, _NUM_FRAMES).decode(), []
        for name in ("sdpa", implementation):
            model = load_model(f"{folder}/model", dtype="bfloat16", device=device, attn_implementation=name)
            compressed = model.compress(model.encode(clip.frames, clip.frame_timestamps), None)
            (scored,) = model.score(compressed, QUESTIONS[:1], [["yes", "no", "perhaps"]])
            found.append(torch.tensor([value for text in scored for value in text.log_likelihoods]))
    error = float((found[1] - found[0]).abs().max())
    said = f"log-likelihoods differ by at most {error:.3f}"
    if error > 0.25:
        raise UnmetError(said)
    return said


CHECKS: tuple[Callable[[], str], ...] = (
    bfloat16_agreement,
    answers_agree,
    compression_time,
    copies_do_not_wait,
    device_pinning,
    flash_attention,
)


def why_not() -> str | None:
    """Why nothing can be checked here; None if there is a GPU."""
    if torch.cuda.is_available():
        return None
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    return f"torch {torch.__version__} finds no CUDA device"


def main() -> int:
    """Run every check; 1 if one is not met."""
    reason, unmet = why_not(), False
    if reason is None:
        print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    for check in CHECKS:
        name = check.__name__.replace("_", " ")
        try:
            if reason is not None:
                raise SkippedError(reason)
            print(f"ok       {name}: {check()}")
        except SkippedError as skipped:
            print(f"skipped  {name}: {skipped}")
        except UnmetError as found:
            unmet = True
            print(f"NOT MET  {name}: {found}")
    return int(unmet)


if __name__ == "__main__":
    sys.exit(main())
