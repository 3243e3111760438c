"""The language side of LLaVA: decoder, and the layout of a prompt around a video (docs/flashvid.md, section 8)."""

import math
from typing import Self

import torch
from torch import Tensor
from transformers import Qwen2Config, Qwen2Model

from flashvid.engine.decoder import Decoder
from flashvid.engine.lm_input import QuestionSuffix, SharedPrefix
from flashvid.engine.types import CompressedVideo
from flashvid.errors import ModelLoadError
from flashvid.models.chat import ChatPrompt, end_tokens, load_tokenizer
from flashvid.models.family import LoadOptions
from flashvid.models.llava.settings import LlavaSettings, Newlines, is_hugging_face
from flashvid.models.modules import read_decoder, transformers_config
from flashvid.models.source import ModelSource, chat_template
from flashvid.models.tensors import decoder_tensors
from flashvid.models.weights import Checkpoint


class LlavaLanguage:
    """See `flashvid.engine.types.LanguageSide`."""

    def __init__(self, decoder: Decoder, newline: Tensor, newlines: Newlines, chat: ChatPrompt) -> None:
        self.decoder = decoder
        self.chat = chat
        self.dtype = decoder.dtype
        self._newline = newline
        self._newlines: Newlines = newlines

    @classmethod
    def load(cls, source: ModelSource, checkpoint: Checkpoint, options: LoadOptions) -> Self:
        """Read the tokenizer and the language side, and no other tensor.

        Raises:
            ModelLoadError: The configuration or tensors do not fit, or the tokenizer can't be used.
            ConfigurationError: The attention implementation is unknown.
        """
        settings = LlavaSettings.parse(source.config())
        layout = settings.layout(checkpoint.files)
        chat = load_chat(source)
        config = transformers_config(Qwen2Config, settings.text, source, options)
        names = decoder_tensors(config.num_hidden_layers)
        decoder = read_decoder(
            Qwen2Model, config, checkpoint, options, prefix=layout.decoder, names=names, head=layout.head
        )
        newline = torch.zeros(config.hidden_size, device=options.device)  # unless the model places none
        if settings.newlines != "no_token":
            (newline,) = checkpoint.read("", [layout.newline], options.dtype, options.device).values()
        return cls(Decoder(*decoder), newline, settings.newlines, chat)

    def prefix(self, before: tuple[int, ...], compressed: CompressedVideo) -> SharedPrefix:
        """Lay out the prompt up to the video's last token or newline."""
        return shared_prefix(self.decoder.embed(before), compressed, self._newline, self._newlines)

    def suffix(self, before: tuple[int, ...], after: tuple[int, ...], compressed: CompressedVideo) -> QuestionSuffix:
        """Lay out the prompt after the video's last token or newline."""
        return question_suffix(len(before), after, compressed, self._newlines)

    def reference_compatible(self) -> Self:
        """Return this side: the published implementation lays out the same prompts."""
        return self


def shared_prefix(before: Tensor, compressed: CompressedVideo, newline: Tensor, newlines: Newlines) -> SharedPrefix:
    """Lay out the prompt up to the video's last token or newline.

    Args:
        before: `[B, D]`, embeddings of the text before the video.
        compressed: The video; its grid counts tokens.
        newline: `[D]`, embedding of the newline.
        newlines: Where newlines are placed. One after the video is not prunable, those after every frame are.
    """
    kept = len(compressed.tokens)
    steps = compressed.grid_thw[0]
    if newlines == "frame":
        step_of = compressed.indices.cpu() // math.prod(compressed.grid_thw[1:])
        per_step = torch.bincount(step_of, minlength=steps)
        # A frame without kept tokens keeps its newline.
        places = per_step.cumsum(0) + torch.arange(steps)
        is_newline = torch.zeros(kept + steps, dtype=torch.bool)
        is_newline[places] = True
    else:
        is_newline = torch.zeros(kept + (newlines == "one_token"), dtype=torch.bool)
        is_newline[kept:] = True
    video = before.new_empty(len(is_newline), before.shape[1])
    video[~is_newline] = compressed.tokens.to(before)
    video[is_newline] = newline.to(before)

    text = torch.zeros(len(before), dtype=torch.bool)
    is_visual = torch.cat([text, ~is_newline])
    is_prunable = torch.cat([text, ~is_newline | (newlines == "frame")])
    # Positions are renumbered over the shortened prompt.
    positions = torch.arange(len(is_visual)).unsqueeze(0)
    return SharedPrefix(torch.cat([before, video]), positions, is_visual, is_prunable)


def question_suffix(
    before: int, after: tuple[int, ...], compressed: CompressedVideo, newlines: Newlines
) -> QuestionSuffix:
    """Lay out the text after the video, at positions that continue those of the prefix.

    Args:
        before: Number of text tokens before the video.
        after: Ids after the video.
        compressed: The video.
        newlines: Where newlines are placed.
    """
    added = {"one_token": 1, "frame": compressed.grid_thw[0], "no_token": 0}[newlines]
    first = before + len(compressed.tokens) + added
    return QuestionSuffix(after, torch.arange(first, first + len(after)).unsqueeze(0), first + len(after))


# The conversation `qwen_1_5` of the original code, which the templates of its tokenizers do not describe.
_ORIGINAL_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% for part in message.content %}{% if part.type == 'video' %}<image>\n{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def load_chat(source: ModelSource) -> ChatPrompt:
    """Load tokenizer and chat template.

    Raises:
        ModelLoadError: The tokenizer can't be used, there is no chat template, or no token ends an answer.
    """
    if is_hugging_face(source.config()):
        template, placeholder = chat_template(source.path), "<video>"
    else:
        template, placeholder = _ORIGINAL_TEMPLATE, "<image>"
    if template is None:
        raise ModelLoadError("there is no chat template", str(source.path))
    tokenizer = load_tokenizer(source.path)
    # Original tokenizers lack the placeholder, at which the original code splits the text. It never reaches the model.
    tokenizer.add_tokens([placeholder], special_tokens=True)
    return ChatPrompt(tokenizer, template, placeholder, end_tokens(source.path, tokenizer)).checked(source.path)
