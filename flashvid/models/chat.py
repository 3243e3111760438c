"""Fill in a chat template around a video, and return token ids before and after the visual tokens."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from flashvid.errors import ConfigurationError, ModelLoadError, first_line
from flashvid.models.bounded_template import fill_in
from flashvid.models.source import chat_template, read_json
from flashvid.models.template_bounds import TemplateBoundError

if TYPE_CHECKING:
    from llguidance import LLTokenizer

# Placeholders of images in the families' templates. In original LLaVA templates, <image> stands for a video.
_IMAGES = ("<|image_pad|>", "<image>")


class ChatPrompt:
    """A tokenizer with its chat template.

    Attributes:
        end_tokens: Ids that end an answer.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, template: str, video_token: str, end_tokens: frozenset[int]
    ) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._video = video_token
        added = tokenizer.get_added_vocab()
        self._video_id = tokenizer.get_vocab()[video_token]
        self._image_ids = {added[token] for token in _IMAGES if token in added and token != video_token}
        self._special = sorted(added, key=len, reverse=True)
        self.end_tokens = end_tokens

    @classmethod
    def load(cls, path: Path, *, video_token: str) -> Self:
        """Read tokenizer, chat template and end tokens from a model's directory.

        Raises:
            ModelLoadError: The tokenizer can't be used, there is no chat template, or no token ends an answer.
        """
        tokenizer, template = load_tokenizer(path), chat_template(path)
        if template is None:
            raise ModelLoadError("there is no chat template", str(path))
        return cls(tokenizer, template, video_token, end_tokens(path, tokenizer)).checked(path)

    def checked(self, path: Path) -> Self:
        """Return the prompt itself, after filling in the model's own template once.

        Raises:
            ModelLoadError: The template takes too long or makes too much text. Other errors depend on the question.
        """
        try:
            self._fill_in("What happens?", "You are a helpful assistant.", self._template)
        except TemplateBoundError as error:
            raise ModelLoadError(f"the chat template can't be filled in: {error}", str(path)) from None
        except Exception:  # noqa: BLE001 - a template may refuse this question, and is then asked with others
            return self
        return self

    def around_video(
        self, question: str, system_prompt: str, template: str | None = None
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the token ids of a question's prompt before and after its visual tokens.

        Args:
            question: The text of the user's turn.
            system_prompt: The text of the system's turn.
            template: A Jinja template; the model's own when omitted.

        Raises:
            ConfigurationError: The template does not place exactly one video, places an image, leaves the question
                out, or can't be filled in.
        """
        before, after = self._texts(question, system_prompt, template, num_videos=1)
        return before, after

    def without_video(self, question: str, system_prompt: str, template: str | None = None) -> tuple[int, ...]:
        """Return the token ids of the prompt of a question without a video; see `around_video`.

        Raises:
            ConfigurationError: The template places a video or an image, leaves the question out, or can't be filled in.
        """
        (ids,) = self._texts(question, system_prompt, template, num_videos=0)
        return ids

    def _texts(
        self, question: str, system_prompt: str, template: str | None, *, num_videos: int
    ) -> tuple[tuple[int, ...], ...]:
        """Return the ids of a prompt around its videos, after checking their number."""
        text = self.render(question, system_prompt, template, with_video=num_videos > 0)
        if template is not None and self._as_text(question).strip() not in text:
            raise ConfigurationError("the chat template leaves out the question, a text of the user's content")
        texts = self.split_at_videos(text)
        if len(texts) != num_videos + 1:
            raise ConfigurationError(
                f"the chat template places {len(texts) - 1} videos, not {num_videos}: {self._video} stands for one"
            )
        if any(not self._image_ids.isdisjoint(ids) for ids in texts):
            raise ConfigurationError("the chat template places an image; questions about images are not supported yet")
        return texts

    def split_at_videos(self, text: str) -> tuple[tuple[int, ...], ...]:
        """Return the token ids around the video placeholders of a prompt: one run more than there are placeholders."""
        runs: list[list[int]] = [[]]
        for token in self._tokenizer(text, add_special_tokens=False)["input_ids"]:
            if token == self._video_id:
                runs.append([])
            else:
                runs[-1].append(token)
        return tuple(tuple(run) for run in runs)

    def render(self, question: str, system_prompt: str, template: str | None = None, *, with_video: bool = True) -> str:
        """Return a question's prompt as text, with a placeholder if there is a video; see `around_video`."""
        try:
            return self._fill_in(question, system_prompt, template or self._template, with_video=with_video)
        except Exception as error:  # noqa: BLE001 - a template is a program, and may raise anything
            raise ConfigurationError(f"the chat template can't be filled in: {error}") from None

    def _fill_in(self, question: str, system_prompt: str, template: str, *, with_video: bool = True) -> str:
        # Text in a question that looks like a special token must not become one.
        question = self._as_text(question)
        messages: list[dict[str, Any]] = [
            {"role": "system", "content": [{"type": "text", "text": system_prompt}]},
            {"role": "user", "content": [*[{"type": "video"}] * with_video, {"type": "text", "text": question}]},
        ]
        # The variables of Transformers' `apply_chat_template`.
        variables = {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": True}
        return fill_in(template, {**self._tokenizer.special_tokens_map, **variables})

    def continuation(self, text: str) -> tuple[int, ...]:
        """Return the token ids of a text as the assistant would write it; special tokens in it are text."""
        return tuple(self._tokenizer(self._as_text(text), add_special_tokens=False)["input_ids"])

    def text(self, ids: Sequence[int]) -> str:
        """Return generated ids as text without special tokens; surrounding whitespace is kept."""
        return str(self._tokenizer.decode([*ids], skip_special_tokens=True))

    def decode(self, ids: Sequence[int]) -> str:
        """Return generated ids as text without special tokens and without surrounding whitespace."""
        return self.text(ids).strip()

    @cached_property
    def constraint(self) -> LLTokenizer:
        """The tokenizer in the form that grammars need; a large vocabulary takes a second to convert.

        Raises:
            ConfigurationError: The tokenizer is not one of the tokenizers library.
        """
        from llguidance.hf import from_tokenizer

        if not isinstance(self._tokenizer, PreTrainedTokenizerFast):
            raise ConfigurationError("json_schema needs a model with a tokenizer of the tokenizers library")
        return from_tokenizer(self._tokenizer, eos_token=sorted(self.end_tokens))

    def _as_text(self, text: str) -> str:
        for token in self._special:
            text = text.replace(token, f"{token[0]} {token[1:]}")
        return text


def load_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model's directory without running code from that directory.

    Raises:
        ModelLoadError: The tokenizer can't be loaded.
    """
    try:
        return AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # noqa: BLE001 - the tokenizers library raises plain Exception
        raise ModelLoadError(f"the tokenizer can't be loaded: {first_line(error)}", str(path)) from None


def end_tokens(path: Path, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return the ids of the tokens that end an answer.

    Raises:
        ModelLoadError: Neither generation_config.json nor the tokenizer names one, or it is not an id of the tokenizer.
    """
    file = path / "generation_config.json"
    ends = read_json(file).get("eos_token_id") if file.is_file() else None
    if ends is None:
        ends = tokenizer.eos_token_id
    if ends is None:
        raise ModelLoadError("neither generation_config.json nor the tokenizer names an eos_token_id", str(path))
    ids = ends if isinstance(ends, list) else [ends]
    if not ids or not all(isinstance(token, int) and 0 <= token < len(tokenizer) for token in ids):
        raise ModelLoadError(
            f"eos_token_id {ends!r} does not name ids of the tokenizer, which has {len(tokenizer)} tokens", str(path)
        )
    return frozenset(ids)
