"""A question has one video and one turn; more is an error before any work."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from flashvid.errors import ConfigurationError, InvalidFeaturesError
from flashvid.models import ClipQuestions, CompressedVideo, VideoModel
from pipeline.config import QuestionRow
from tests.support.embedded_model import QUESTIONS, TIMES, video

CONVERSATION = [
    {"role": "user", "content": "What happens?"},
    {"role": "assistant", "content": "A dog runs."},
    {"role": "user", "content": "Which colour has it?"},
]


@pytest.fixture
def idle(model: VideoModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if the decoder runs."""
    monkeypatch.setattr(model.language.decoder, "forward", lambda *_, **__: pytest.fail("work was done"))


@pytest.mark.usefixtures("idle")
def test_several_videos_or_images_in_one_question(model: VideoModel, compressed: CompressedVideo) -> None:
    """A list of videos, or an image instead of a video, is an error."""
    for several in ([compressed, compressed], (compressed,), torch.zeros(3, 96), video(0)):
        with pytest.raises(ConfigurationError, match="several videos or images in one question are not supported yet"):
            model.answer(several, QUESTIONS)  # type: ignore[arg-type]
    both = ClipQuestions([compressed, compressed], QUESTIONS)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="not list: several videos"):
        model.answer_many([ClipQuestions(compressed, QUESTIONS), both])


@pytest.mark.parametrize(
    "question", [CONVERSATION, CONVERSATION[0], ("What?", "And why?"), {"type": "image"}, b"What?", None], ids=str
)
@pytest.mark.usefixtures("idle")
def test_further_turns(model: VideoModel, compressed: CompressedVideo, question: Any) -> None:
    """A conversation is not a question, in any form."""
    with pytest.raises(ConfigurationError, match=r"further turns of a conversation, are not supported yet"):
        model.answer(compressed, ["What?", question])


@pytest.mark.usefixtures("idle")
def test_one_text_is_no_list_of_questions(model: VideoModel, compressed: CompressedVideo) -> None:
    """A single text is an error: its letters would become questions."""
    with pytest.raises(ConfigurationError, match="questions must be a list of texts, not one text"):
        model.answer(compressed, "What happens?")


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (video(0)[0], r"not uint8 \[120, 220, 3\]: encode a video, not one image"),
        (np.stack([video(0), video(1)]), r"encode one video at a time"),
        ([video(0), video(1)], r"encode one video at a time"),
        ([video(0), video(1, count=4)], r"must be arrays of one video"),
    ],
    ids=["image", "stacked videos", "list of videos", "list of unlike videos"],
)
def test_only_one_video_is_encoded(model: VideoModel, frames: Any, message: str) -> None:
    """Tokens of an image or of several videos have another shape, which is an error."""
    with pytest.raises(InvalidFeaturesError, match=message):
        model.encode(frames, TIMES)


@pytest.mark.parametrize("extra", ["images", "videos", "turns", "messages"])
def test_a_job_has_no_such_columns(extra: str) -> None:
    """Unknown settings are errors with their name, not ignored."""
    with pytest.raises(ValueError, match=extra):
        QuestionRow.model_validate({"question": "What?", extra: ["a"]})
