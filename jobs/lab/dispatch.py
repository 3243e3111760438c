"""The cost of Python: operations of a model's parts, counted, and the time that a host takes to dispatch one.

The number of operations does not depend on a model's width, so they are counted on a CPU, on a narrow model with
the layers of a 7B model. A GPU's code path differs in a few operations per layer.
`python -m jobs.lab.dispatch` prints both.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from flashvid import CompressionConfig
from flashvid.engine.constants import GPU_DECODE_ROWS, QUESTION_ROWS
from flashvid.engine.lm_input import QuestionSuffix, SharedPrefix
from flashvid.engine.prefill import prefill_prefix, prefill_questions
from flashvid.engine.row_sizes import RowSizes
from flashvid.engine.types import LanguageSide
from flashvid.models import CompressedVideo, GenerationConfig, load_model
from jobs.bench.cost import cpu_seconds, single_thread
from jobs.bench.reports import describe_environment
from jobs.lab.answers_model import LLAVA_7B, write_model
from jobs.lab.operations import CountOperations

# Only the widths and the vocabulary are small.
_NARROW = replace(
    LLAVA_7B,
    vision_width=16,
    vision_mlp=24,
    vision_heads=2,
    width=32,
    mlp=40,
    heads=4,
    kv_heads=2,
    vocabulary=480,
    value_bytes=4,
)
_RUNS = 30


@dataclass(frozen=True)
class Operations:
    """Numbers of operations that reach PyTorch's dispatcher, by part.

    Attributes:
        encode: Of a clip.
        compress: Of a clip.
        prefix: The prefill that questions share.
        questions: Of questions prefilled together, by their number.
        step: A decoding step; the same for any number of answers.
    """

    encode: int
    compress: int
    prefix: int
    questions: dict[int, int]
    step: int


class _NarrowModel:
    """A model with the layers of a 7B model, a clip, and questions."""

    def __init__(self, folder: Path, num_frames: int, tokens: int) -> None:
        write_model(folder, _NARROW)
        self._model = load_model(str(folder), dtype="float32", device="cpu")
        self.language: LanguageSide = self._model.language
        self.decoder = self.language.decoder
        # As many rows go through the layers together as on a GPU.
        where = self.decoder.dtype, self.decoder.device
        self.decoder.decode_rows = RowSizes([], (GPU_DECODE_ROWS,), *where)
        self.decoder.question_rows = RowSizes([], (QUESTION_ROWS,), *where)
        self._num_frames, self._tokens = num_frames, tokens

    def encode(self) -> CompressedVideo:
        side = 2 * _NARROW.patches
        frames = np.random.default_rng(0).integers(0, 256, (self._num_frames, side, side, 3), dtype=np.uint8)
        self.visual = self._model.encode(frames, np.arange(self._num_frames, dtype=np.float64))
        return self._model.compress(self.visual, None)

    def compress(self) -> CompressedVideo:
        return self._model.compress(self.visual, CompressionConfig(retention_ratio=0.1))

    def prompts(self, video: CompressedVideo, number: int) -> tuple[SharedPrefix, list[QuestionSuffix]]:
        before, after = self.language.chat.around_video("?", GenerationConfig().system_prompt)
        # Pad with any token to the length of a question.
        behind = (*after, *[after[0]] * (self._tokens - len(after)))[: self._tokens]
        return self.language.prefix(before, video), [self.language.suffix(before, behind, video)] * number


@cache
def count_operations(num_frames: int, tokens: int, questions: Sequence[int]) -> Operations:
    """Count the operations of every part of a clip.

    Args:
        num_frames: Encoded.
        tokens: Of a question.
        questions: Numbers of questions that are prefilled together.
    """
    with TemporaryDirectory(prefix="flashvid-bench-") as folder:
        model = _NarrowModel(Path(folder), num_frames, tokens)
        decoder = model.decoder
        encode = _counted(model.encode)
        compress = _counted(model.compress)
        prefix, suffixes = model.prompts(model.compress(), max(questions))
        shared = prefill_prefix(decoder, prefix, None)
        (begun,) = prefill_questions(decoder, shared, suffixes[:1], None)
        return Operations(
            encode,
            compress,
            _counted(lambda: prefill_prefix(decoder, prefix, None)),
            {
                number: _counted(lambda: prefill_questions(decoder, shared, suffixes[:number], None))  # noqa: B023
                for number in questions
            },
            _counted(lambda: decoder.step([1], [suffixes[0].next_position], [begun.slots])),
        )


def dispatch_seconds() -> float:
    """Return the CPU seconds of one operation of a decoding step here, with almost nothing to compute in it."""
    with single_thread(), TemporaryDirectory(prefix="flashvid-bench-") as folder:
        model = _NarrowModel(Path(folder), 2, 8)
        model.encode()
        prefix, suffixes = model.prompts(model.compress(), 1)
        (begun,) = prefill_questions(model.decoder, prefill_prefix(model.decoder, prefix, None), suffixes, None)
        slots, position = begun.slots, suffixes[0].next_position
        operations = _counted(lambda: model.decoder.step([1], [position], [slots]))
        least = math.inf
        for later in range(1, _RUNS):
            step = [1], [position + later], [slots]
            least = min(least, cpu_seconds(lambda: model.decoder.step(*step)))  # noqa: B023
    return least / operations


def _counted(action: Callable[[], object]) -> int:
    with CountOperations() as operations:
        action()
    return int(operations.count)


if __name__ == "__main__":
    print(describe_environment())
    print(count_operations(32, 30, (1, 4, 16)))
    print(f"{dispatch_seconds() * 1e6:.1f} microseconds of CPU time an operation")
