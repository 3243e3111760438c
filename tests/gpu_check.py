"""What needs a GPU to be seen: `make gpu-check`. Every check says what it found; without CUDA all say why they skip.

This is for the first user with a GPU: none of it could be run where the project was written.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from flashvid import CompressionConfig, compress
from flashvid.engine.prefill import prefill_prefix, prefill_questions
from flashvid.engine.types import LanguageSide
from flashvid.models import CompressedVideo, GenerationConfig, load_model
from flashvid.models.frames import normalize
from jobs.bench.cost import drifting_clip
from jobs.lab.answers_arms import QUESTIONS, Bench
from jobs.lab.answers_model import BENCH, ModelSize
from jobs.lab.operations import peak_extra_bytes
from tests.support.company import QWEN2_7B, differing, random_decoder

# The paper's LLaVA-OneVision-7B clip, and the most that compressing it may take on a data centre GPU.
_SHAPE, _GOAL_MS = (32, 196, 3584), 5.0
_RUNS = 30
# Of the clip that a small random model looks at.
_NUM_FRAMES = 8
# bfloat16 has 8 bits of mantissa: features and logits are good to about a hundredth, and few tokens change places.
_FEATURE_ERROR, _SAME_TOKENS, _LOGIT_ERROR, _LIKELIHOOD_ERROR = 0.03, 0.9, 0.05, 0.25
# Of each way to answer: random weights have near ties, which TensorFloat or another order of adding up may turn.
_SAME_ANSWERS = 0.5
_WAYS: dict[str, CompressionConfig | None] = {"all tokens": None, "a tenth": CompressionConfig(retention_ratio=0.1)}

# Each GPU to a process of its own, as Ray hands them out: which one it says, and how many torch sees.
_PINNING = """
import json, os, ray, torch
from pipeline.cluster.local_ray import local_ray
@ray.remote(num_gpus=1)
class Pinned:
    def look(self):
        where = torch.zeros(1, device="cuda").device
        return os.environ["CUDA_VISIBLE_DEVICES"], torch.cuda.device_count(), str(where)
with local_ray():
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
    # Not above: a comparison with NaN would pass.
    if not (error <= _FEATURE_ERROR and same >= _SAME_TOKENS):
        raise UnmetError(said)
    return said


def bfloat16_logits(device: str = "cuda", size: ModelSize = BENCH) -> str:
    """The decoder in bfloat16 on the GPU beside float32 on the CPU: logits behind a prefix and four questions."""
    with TemporaryDirectory() as folder:
        bench = Bench(Path(folder), size, _NUM_FRAMES)
        clip = bench.decode()
        exact = load_model(f"{folder}/model", dtype="float32", device="cpu")
        rounded = load_model(f"{folder}/model", part="language", dtype="bfloat16", device=device)
        visual = exact.encode(clip.frames, clip.frame_timestamps)
        errors = {}
        for way, config in _WAYS.items():
            video = exact.compress(visual, config)
            expected, found = (_first_logits(model.language, video) for model in (exact, rounded))
            errors[way] = float((found - expected).norm() / expected.norm())
    said = "logits differ by " + ", ".join(f"{error:.2%} of their norm with {way}" for way, error in errors.items())
    if not all(error <= _LOGIT_ERROR for error in errors.values()):
        raise UnmetError(said)
    return said


def _first_logits(language: LanguageSide, video: CompressedVideo) -> Tensor:
    """`[4, V]` float32 on the CPU: what the first token of each answer is chosen by."""
    prompts = [language.chat.around_video(question, GenerationConfig().system_prompt) for question in QUESTIONS[:4]]
    prefix = language.prefix(prompts[0][0], video)
    suffixes = [language.suffix(before, after, video) for before, after in prompts]
    shared = prefill_prefix(language.decoder, prefix, None)
    prefilled = prefill_questions(language.decoder, shared, suffixes, None)
    by_question = {prompt.question: prompt.logits for batch in prefilled for prompt in batch.prompts}
    return torch.stack([by_question[question] for question in range(len(suffixes))]).float().cpu()


def answers_agree(device: str = "cuda", size: ModelSize = BENCH) -> str:
    """Answers in float32 on the GPU beside those on the CPU, with all tokens and with a tenth."""
    with TemporaryDirectory() as folder:
        bench = Bench(Path(folder), size, _NUM_FRAMES)
        clip, asked = bench.decode(), QUESTIONS[:4]
        found: dict[str, list[list[str]]] = {way: [] for way in _WAYS}
        for where in ("cpu", device):
            model = load_model(f"{folder}/model", dtype="float32", device=where)
            visual = model.encode(clip.frames, clip.frame_timestamps)
            for way, config in _WAYS.items():
                answers = model.answer(model.compress(visual, config), asked, GenerationConfig(max_new_tokens=8))
                found[way].append([answer.response for answer in answers])
    return agreement(found)


def agreement(found: Mapping[str, Sequence[Sequence[str]]]) -> str:
    """How many answers of two devices are equal, each way by itself.

    Raises:
        UnmetError: fewer than half in one of them.
    """
    equal = {way: sum(ours == theirs for ours, theirs in zip(*both, strict=True)) for way, both in found.items()}
    said = ", ".join(f"{count} of {len(found[way][0])} answers are equal with {way}" for way, count in equal.items())
    if any(count < _SAME_ANSWERS * len(found[way][0]) for way, count in equal.items()):
        raise UnmetError(said)
    return said


def the_same_in_any_company(device: str = "cuda", sizes: Mapping[str, int] = QWEN2_7B) -> str:
    """An answer's bits do not hang on which others are decoded or prefilled with it, in either precision."""
    numbers = {}
    for dtype in (torch.float32, torch.bfloat16):
        kind = str(dtype).removeprefix("torch.")
        numbers[f"{kind} questions"], numbers[f"{kind} answers"] = differing(random_decoder(sizes, device, dtype))
    said = ", ".join(f"{number} {what} differ" for what, number in numbers.items())
    if any(numbers.values()):
        raise UnmetError(said)
    return said


def compression_time(device: str = "cuda", shape: tuple[int, int, int] = _SHAPE) -> str:
    """Time and memory of compressing one clip of the paper's size, in bfloat16."""
    features, scores = (part.to(device) for part in drifting_clip(*shape))
    features, config = features.bfloat16(), CompressionConfig(retention_ratio=0.1)

    def work() -> object:
        return compress(features, scores, config)

    work()
    took = statistics.median(_milliseconds(work, device) for _ in range(_RUNS))
    held = _held_bytes(work, device)
    said = f"{took:.2f} ms (goal {_GOAL_MS:g}), {held / 1e6:.0f} MB beside the {features.nbytes / 1e6:.0f} MB given"
    if took > _GOAL_MS:
        raise UnmetError(said)
    return said


def _milliseconds(action: Callable[[], object], device: str) -> float:
    """Of the device's own clock on CUDA."""
    if device == "cpu":
        begun = time.perf_counter()
        action()
        return (time.perf_counter() - begun) * 1e3
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    action()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def _held_bytes(action: Callable[[], object], device: str) -> int:
    """The most that an action's tensors take at one time."""
    if device == "cpu":
        return peak_extra_bytes(action)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    action()
    return torch.cuda.max_memory_allocated() - before


def copies_do_not_wait(device: str = "cuda", width: int = 8192, side: int = 448) -> str:
    """Frames are moved and normalised while kernels run: the call returns before these end, and every byte arrives."""
    frames = np.random.default_rng(0).integers(0, 256, (16, side, side, 3), dtype=np.uint8)
    mean, std = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
    where, busy = torch.device(device), torch.randn(width, width, device=device)
    # Once without being timed: the first call pins the memory, the first product loads its kernel.
    normalize(frames, where, mean, std)
    busy @ busy
    _wait(device)
    started = time.perf_counter()
    for _ in range(50):
        busy @ busy
    with _waiting_is_an_error(device):
        pixels = normalize(frames, where, mean, std)
    returned = time.perf_counter() - started
    _wait(device)
    ended = time.perf_counter() - started
    if not torch.allclose(pixels.cpu(), normalize(frames, torch.device("cpu"), mean, std), rtol=0, atol=1e-5):
        raise UnmetError("frames arrive as other bytes")
    said = f"the call returned after {returned * 1e3:.0f} ms, the kernels before it ended after {ended * 1e3:.0f}"
    if returned > ended / 2:
        raise UnmetError(said)
    return said


@contextmanager
def _waiting_is_an_error(device: str) -> Iterator[None]:
    """Torch raises where the CPU waits for CUDA."""
    if device == "cpu":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def device_pinning() -> str:
    """Ray gives every actor a GPU of its own, and torch in it sees that one only."""
    done = subprocess.run([sys.executable, "-c", _PINNING], stdout=subprocess.PIPE, text=True, timeout=300, check=True)
    return pinning(json.loads(done.stdout.splitlines()[-1]))


def pinning(looks: Sequence[tuple[str, int, str]]) -> str:
    """What actors say: the devices that each may see, how many torch does, and where a tensor is.

    Raises:
        UnmetError: two share a GPU, or one sees more than its own.
    """
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
    if not error <= _LIKELIHOOD_ERROR:
        raise UnmetError(said)
    return said


CHECKS: tuple[Callable[[], str], ...] = (
    bfloat16_agreement,
    bfloat16_logits,
    answers_agree,
    the_same_in_any_company,
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
    """Run every check; 1 if one is not met or fails, which ends none of the others."""
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
        # Whatever the first GPU comes up with: the other checks still have something to say.
        except Exception as error:  # noqa: BLE001
            unmet = True
            print(f"FAILED   {name}: {type(error).__name__}: {error}")
    return int(unmet)


if __name__ == "__main__":
    sys.exit(main())
