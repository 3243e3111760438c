"""The arms of `bench answers`: ways from a video file and questions to answers, with counts of the work done."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import LlavaOnevisionForConditionalGeneration

from flashvid import CompressionConfig, InnerPruningConfig
from flashvid.engine.constants import CPU_DECODE_ROWS
from flashvid.models import Answer, CompressedVideo, GenerationConfig, VideoModel, VisualFeatures, load_model
from flashvid.models.llava.preprocess import LlavaFramePreprocessor
from flashvid.presets import preset_named
from jobs.lab.answers_model import ModelSize, write_model
from jobs.lab.sample_videos import write_textures
from pipeline.clip import ClipIdentity, DecodedClip
from pipeline.config import SamplingConfig
from pipeline.store.storage import Storage
from pipeline.store.tokens import TokenStore
from pipeline.video.clip_frames import decode_clip

_PRESET = preset_named("llava_onevision")
# Short, because the embedded tokenizer spells letters: a question of the paper's benchmarks takes 20 to 40 tokens.
_SUBJECTS = ("it", "that", "blue", "there")
_ASKED = ("What is {}?", "When is {}?", "Who has {}?", "Why is {}?")
QUESTIONS = tuple(asked.format(subject) for subject in _SUBJECTS for asked in _ASKED)
# Of every arm.
_MAX_NEW_TOKENS = 8
# Enough for every arm with the most questions: a smaller limit would split the rival's batch, and measure our memory
# limit instead of its method.
_MAX_BATCH_TOKENS = 1 << 20


@dataclass(frozen=True)
class Counts:
    """The work that an arm did.

    Attributes:
        frames_decoded: Frames sampled from the file.
        encoder_calls: Clips that went through the vision tower.
        token_layers_prefilled: Prompt tokens times the decoder layers that ran them.
        generated_tokens: Of all answers.
        bytes_written: To the token store.
        bytes_read: From it.
        kv_bytes: Keys and values held at a time, of the shared prefix and of each answer; slots have some more room.
    """

    frames_decoded: int
    encoder_calls: int
    token_layers_prefilled: int
    generated_tokens: int
    bytes_written: int
    bytes_read: int
    kv_bytes: int


@dataclass(frozen=True)
class Asked:
    """The answers of an arm.

    Attributes:
        responses: One per question.
        counts: The work done for them.
        answers: As the model handle returned them; none from the stock loop.
        seconds: CPU time by step; none of the stock loop.
    """

    responses: tuple[str, ...]
    counts: Counts
    answers: tuple[Answer, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)


class Stopwatch:
    """CPU time of this process by step.

    Attributes:
        seconds: Of every finished step.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._begun = time.process_time()

    def lap(self, step: str) -> None:
        """End a step; the next one begins."""
        now = time.process_time()
        self.seconds[step], self._begun = now - self._begun, now


class Bench:
    """One model, one clip and one token store in a folder; every arm asks the same questions about the clip."""

    def __init__(self, folder: Path, size: ModelSize, num_frames: int) -> None:
        self.size, self.num_frames = size, num_frames
        self._stock: LlavaOnevisionForConditionalGeneration = write_model(folder / "model", size)
        self._model: VideoModel = load_model(str(folder / "model"), dtype="float32", device="cpu")
        self._preprocessor = LlavaFramePreprocessor.load(self._model.source, min_pixels=None, max_pixels=None)
        self._clip = folder / "clip.mp4"
        write_textures(self._clip, 2 * num_frames)
        self._storage = Storage(str(folder / "tokens"))
        self._store = TokenStore(self._storage, "0" * 16)
        self._generation = GenerationConfig(max_new_tokens=_MAX_NEW_TOKENS)
        self._video_token = size.vocabulary - 1
        self._written = 0
        clip = self.decode()
        visual = self._model.encode(clip.frames, clip.frame_timestamps)
        self._cached = self._commit(self._model.compress(visual, compression(0.1, inner_pruning=False)))

    def naive(self, questions: Sequence[str]) -> Asked:
        """A: decode, encode, prefill and answer for every question, with stock transformers."""
        chat, ends = self._model.language.chat, sorted(self._model.language.chat.end_tokens)
        responses, prompts, generated, longest = [], 0, 0, 0
        for question in questions:
            pictures = self._pictures(self.decode())
            before, after = chat.around_video(question, self._generation.system_prompt)
            num_visual = self.num_frames * self.size.frame_tokens + 1
            ids = torch.tensor([[*before, *[self._video_token] * num_visual, *after]])
            stock: Any = self._stock
            with torch.no_grad():
                found = stock.generate(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    pixel_values_videos=pictures,
                    max_new_tokens=_MAX_NEW_TOKENS,
                    do_sample=False,
                    eos_token_id=ends,
                )[0, ids.shape[1] :].tolist()
            # The model handle strips blanks around a text.
            responses.append(chat.text(found).strip())
            prompts, generated = prompts + ids.shape[1], generated + len(found)
            longest = max(longest, ids.shape[1] + len(found) - 1)
        number, layers = len(questions), self.size.layers
        held = longest * layers * self.size.kv_bytes
        return Asked(
            tuple(responses), Counts(number * self.num_frames, number, prompts * layers, generated, 0, 0, held)
        )

    def rival(self, questions: Sequence[str]) -> Asked:
        """B: stock vision once, all tokens, one prefill for all questions, whose answers are decoded together."""
        self._storage.take_traffic()
        watch = Stopwatch()
        clip = self.decode()
        watch.lap("decode")
        stock: Any = self._stock
        with torch.no_grad():
            (found,) = stock.model.get_video_features(
                self._pictures(clip), vision_feature_layer=-1, vision_feature_select_strategy="full"
            ).pooler_output
        steps, area = self.num_frames, self.size.frame_tokens
        side = round(area**0.5)
        # After the last frame comes the newline token, which the model handle adds itself.
        features = found[: steps * area].reshape(steps, area, -1)
        visual = VisualFeatures(features, features.new_ones(steps, area), (steps, side, side), clip.frame_timestamps)
        watch.lap("encode")
        return self._ask(self._model.compress(visual, None), questions, watch, encoded=1)

    def cold(self, questions: Sequence[str], retention_ratio: float = 0.1, *, inner_pruning: bool = False) -> Asked:
        """C: encode, compress, commit the tokens, read them back as a run does, and answer from them."""
        self._storage.take_traffic()
        watch = Stopwatch()
        clip = self.decode()
        watch.lap("decode")
        visual = self._model.encode(clip.frames, clip.frame_timestamps)
        watch.lap("encode")
        compressed = self._model.compress(visual, compression(retention_ratio, inner_pruning=inner_pruning))
        watch.lap("compress")
        committed = self._store.read(self._commit(compressed))
        watch.lap("store")
        return self._ask(committed, questions, watch, encoded=1, pruning=pruning() if inner_pruning else None)

    def warm(self, questions: Sequence[str]) -> Asked:
        """D: read the tokens of a tenth, committed before, and answer from them."""
        self._storage.take_traffic()
        watch = Stopwatch()
        compressed = self._store.read(self._cached)
        watch.lap("store")
        return self._ask(compressed, questions, watch, encoded=0)

    def decode(self) -> DecodedClip:
        """Return the sampled frames, resized."""
        sampling = SamplingConfig(num_frames=self.num_frames)
        return decode_clip(str(self._clip), sampling, None, None, transform_for=lambda _: self._preprocessor.resize)

    def _commit(self, compressed: CompressedVideo) -> str:
        """Commit to a new key each time: committing over an existing object writes nothing."""
        key = f"{self._written:032x}"
        self._written += 1
        self._store.commit(key, compressed, ClipIdentity(key, key, key, None, None), thumbnails=[], run_id="bench")
        return key

    def _pictures(self, clip: DecodedClip) -> torch.Tensor:
        frames: NDArray[np.uint8] = clip.frames
        return self._preprocessor.pictures(frames, torch.device("cpu")).unsqueeze(0)

    def _ask(
        self,
        compressed: CompressedVideo,
        questions: Sequence[str],
        watch: Stopwatch,
        *,
        encoded: int,
        pruning: InnerPruningConfig | None = None,
    ) -> Asked:
        answers = self._model.answer(
            compressed, questions, self._generation, pruning=pruning, max_batch_tokens=_MAX_BATCH_TOKENS
        )
        watch.lap("answer")
        traffic: Mapping[str, int] = self._storage.take_traffic()
        shared = answers[0].token_layers.shared
        own = sorted((a.token_layers.prompt + a.token_layers.generated for a in answers), reverse=True)[
            :CPU_DECODE_ROWS
        ]
        counts = Counts(
            frames_decoded=encoded * self.num_frames,
            encoder_calls=encoded,
            token_layers_prefilled=shared + sum(a.token_layers.prompt for a in answers),
            generated_tokens=sum(answer.num_generated_tokens for answer in answers),
            bytes_written=traffic.get("bytes_written", 0),
            bytes_read=traffic.get("bytes_read", 0),
            # Each answer has its own copy of the prefix.
            kv_bytes=(shared * (1 + len(own)) + sum(own)) * self.size.kv_bytes,
        )
        return Asked(tuple(answer.response for answer in answers), counts, tuple(answers), watch.seconds)


def compression(retention_ratio: float, *, inner_pruning: bool) -> CompressionConfig:
    """Return the paper's settings for LLaVA-OneVision."""
    return _PRESET.compression(retention_ratio, inner_pruning=inner_pruning)


def pruning() -> InnerPruningConfig:
    """Return its pruning inside the decoder, before the last quarter of the layers (3 of 4; in the paper 20 of 28)."""
    return _PRESET.inner_pruning().model_copy(update={"pruning_layer": 3})
