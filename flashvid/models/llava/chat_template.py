"""The chat of a LLaVA model: its own template, or the original code's conversation."""

from __future__ import annotations

from flashvid.errors import ModelLoadError
from flashvid.models.chat import ChatPrompt, end_tokens, load_tokenizer
from flashvid.models.llava.settings import is_hugging_face
from flashvid.models.source import ModelSource, chat_template

# The conversation `qwen_1_5` of the original code, which its tokenizers' own templates do not describe.
_ORIGINAL_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% for part in message.content %}{% if part.type == 'video' %}<image>\n{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def load_chat(source: ModelSource) -> ChatPrompt:
    """Tokenizer and template.

    Raises:
        ModelLoadError: no usable tokenizer, no chat template, nothing that ends an answer.
    """
    if is_hugging_face(source.config()):
        template, placeholder = chat_template(source.path), "<video>"
    else:
        template, placeholder = _ORIGINAL_TEMPLATE, "<image>"
    if template is None:
        raise ModelLoadError("there is no chat template", str(source.path))
    tokenizer = load_tokenizer(source.path)
    # Original tokenizers do not know it: their code cuts the text there. It never reaches the model.
    tokenizer.add_tokens([placeholder], special_tokens=True)
    return ChatPrompt(tokenizer, template, placeholder, end_tokens(source.path, tokenizer))
