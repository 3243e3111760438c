"""Defines the encode stage, which encodes a clip's frames, compresses the features to tokens and commits the tokens."""

import io
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flashvid.models import load_model
from pipeline.clip import ClipMessage
from pipeline.cluster.device import reserved_device
from pipeline.stages.stage import Stage, StageSettings
from pipeline.store.token_codec import encode_tokens

_THUMBNAILS = 3
_THUMBNAIL_SIDE = 160


class EncodeStage(Stage):
    """Encodes clips on a GPU actor with the vision side of the model; commits a clip's tokens before passing it on.

    With `cache: off` the clip carries its tokens, as the bytes that would otherwise be committed.
    """

    name = "encode"
    makes_tokens = True
    counted: ClassVar[Mapping[str, str]] = {
        "encoder_calls": "clips that went through the vision tower",
        "tokens_encoded": "visual tokens before compression, as they were encoded",
        "tokens_committed": "compressed tokens written to storage",
    }

    def __init__(self, settings: StageSettings) -> None:
        super().__init__(settings)
        job = self.job
        self._model = load_model(
            settings.model(),
            part="vision",
            dtype=job.model.dtype,
            device=reserved_device(),
            min_pixels=job.sampling.min_pixels,
            max_pixels=job.sampling.max_pixels,
        )
        self.announce()

    def process(self, message: ClipMessage) -> tuple[ClipMessage, Mapping[str, int]]:
        """Encode, compress and commit the clip's tokens; a clip without frames has committed tokens already."""
        clip, decoded, job = message.clip, message.decoded, self.job
        passed_on, run_id = replace(message, decoded=None), self.settings.run.run_id
        # If a process dies after its commit and before its reply, the work is not repeated.
        if decoded is None or (job.keeps_tokens and self.tokens.has(clip.content_key)):
            return passed_on, {}
        visual = self._model.encode(decoded.frames, decoded.frame_timestamps)
        compressed = self._model.compress(visual, job.compression)
        counts = {"encoder_calls": 1, "tokens_encoded": visual.scores.numel()}
        if not job.keeps_tokens:
            content = encode_tokens(compressed, clip, cache_dtype=job.cache_dtype, thumbnails=[], run_id=run_id)
            return replace(passed_on, tokens=content), counts
        pictures = thumbnails(decoded.frames)
        self.tokens.commit(clip.content_key, compressed, clip, thumbnails=pictures, run_id=run_id)
        return passed_on, {**counts, "tokens_committed": len(compressed.tokens)}

    def after(self, message: ClipMessage) -> None:
        """Release the clip's place, whether or not it failed, since its frames are no longer needed."""
        self.tell("release", message.clip.clip_id)


def thumbnails(frames: NDArray[np.uint8]) -> list[bytes]:
    """Return up to three small JPEGs of a clip: its first, middle and last frame.

    Args:
        frames: uint8 `[F, H, W, 3]`, RGB.
    """
    chosen = np.unique(np.linspace(0, len(frames) - 1, _THUMBNAILS).round().astype(int))
    images = []
    for index in chosen:
        image = Image.fromarray(frames[index])
        image.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE))
        buffer = io.BytesIO()
        image.save(buffer, format="JPEG", quality=80)
        images.append(buffer.getvalue())
    return images
