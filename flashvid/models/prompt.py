"""The chat prompt around a video: the model's own template, as token ids before and after the visual tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from flashvid.errors import ConfigurationError, ModelLoadError


class ChatPrompt:
    """A tokenizer with its chat template.

    Attributes:
        end_tokens: Ids that end an answer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str, video_token: str, ends: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._video_id = int(tokenizer.convert_tokens_to_ids(video_token))
        self.end_tokens = ends

    @classmethod
    def load(cls, path: Path, special_tokens: Sequence[str], *, video_token: str) -> Self:
        """Read a model directory's tokenizer, template and end tokens.

        Raises:
            ModelLoadError: no usable tokenizer, no chat template, special tokens missing.
        """
        try:
            tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise ModelLoadError(f"the tokenizer can't be loaded: {str(error).splitlines()[0]}", str(path)) from None
        vocabulary = tokenizer.get_vocab()
        if missing := [token for token in special_tokens if token not in vocabulary]:
            raise ModelLoadError(f"the tokenizer lacks {', '.join(missing)}", str(path))
        template = tokenizer.chat_template or _processor_template(path)
        if template is None:
            raise ModelLoadError("there is no chat template", str(path))
        return cls(tokenizer, template, video_token, _end_tokens(path, tokenizer))

    def around_video(self, question: str, system_prompt: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Token ids of a question's prompt before and after its visual tokens.

        Raises:
            ConfigurationError: the template does not place exactly one video.
        """
        text = self.render(question, system_prompt)
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        if ids.count(self._video_id) != 1:
            raise ConfigurationError(f"the chat template places {ids.count(self._video_id)} videos, not 1")
        place = ids.index(self._video_id)
        return tuple(ids[:place]), tuple(ids[place + 1 :])

    def render(self, question: str, system_prompt: str) -> str:
        """A question's prompt as text, with one placeholder for the video."""
        # A question is text: what looks like a special token in it must not become one.
        plain = question.replace("<|", "< |")
        messages: list[dict[str, Any]] = [
            {"role": "system", "content": [{"type": "text", "text": system_prompt}]},
            {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": plain}]},
        ]
        text: str = self._tokenizer.apply_chat_template(
            messages, chat_template=self._template, tokenize=False, add_generation_prompt=True
        )
        return text

    def decode(self, ids: Sequence[int]) -> str:
        """Generated ids as text, without special tokens."""
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text.strip()


def _processor_template(path: Path) -> str | None:
    """The template, where a directory keeps it beside the tokenizer."""
    plain, wrapped = path / "chat_template.jinja", path / "chat_template.json"
    if plain.is_file():
        return plain.read_text(encoding="utf-8")
    if wrapped.is_file():
        template: str = json.loads(wrapped.read_text(encoding="utf-8"))["chat_template"]
        return template
    return None


def _end_tokens(path: Path, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    file = path / "generation_config.json"
    ends = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id") if file.is_file() else None
    if ends is None:
        ends = tokenizer.eos_token_id
    return frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends])
