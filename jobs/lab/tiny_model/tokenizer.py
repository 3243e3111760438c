"""A tokenizer with one token per word the model was taught, and bytes for everything else."""

from __future__ import annotations

import json
import re
import string
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from flashvid.models import GenerationConfig
from jobs.lab.tiny_model.drawn_questions import PLURALS, TIMES, WORDINGS
from jobs.lab.tiny_model.scenes import COLOURS, DIRECTIONS, SHAPES
from jobs.lab.tiny_model.tiny_random import SPECIAL_TOKENS

SYSTEM_PROMPT = GenerationConfig().system_prompt
_ROLES = ("system", "user", "assistant")
# Words of multiple choice, and words that users write around a question.
_MORE_WORDS = (
    "Answer with the option's letter from given choices directly "
    "a an and any at by did do does first for frame had has have how it its last near none of on one only or other "
    "please scene second see seen show shown that there they thing things third this to video was were what when where "
    "which while who why will you your colour colours colors color shapes shape object objects still moving moves "
    "before after during then until background briefly flash flashing long short time times two three four five six "
)
# A word starts with its space, also at the beginning of a turn, so that each word is one token everywhere.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% for part in message.content %}"
    "{% if part.type == 'video' %}<|vision_start|><|video_pad|><|vision_end|>{% else %} {{ part.text }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_SPACE = "Ġ"


def build_vocabulary() -> dict[str, int]:
    """Return every token's id: bytes, roles, words, special tokens."""
    taught = " ".join([SYSTEM_PROMPT, *(wording for wordings in WORDINGS.values() for wording in wordings)])
    words = {word.strip(string.punctuation) for word in (*re.sub(r"{\w+}", "", taught).split(), *_MORE_WORDS.split())}
    words |= {*COLOURS, *SHAPES, *PLURALS.values(), *DIRECTIONS, *TIMES, "nowhere", "nothing", "yes", "no", "first"}
    # Users write a capital at the start of a sentence or a line, and often not in the middle of one.
    words |= {word.capitalize() for word in words} | {word.lower() for word in words}
    words |= {*string.digits, *string.ascii_uppercase[:8]}
    words = {word for word in words if word.isalnum()}
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *_ROLES, *(_SPACE + word for word in sorted(words))]
    return {token: index for index, token in enumerate([*tokens, *SPECIAL_TOKENS])}


def build_tokenizer() -> Tokenizer:
    """Return a byte-level BPE without merges: words outside the vocabulary are spelled in bytes."""
    vocabulary = build_vocabulary()
    plain = {token: index for token, index in vocabulary.items() if token not in SPECIAL_TOKENS}
    tokenizer = Tokenizer(BPE(vocab=plain, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return tokenizer


def write_tokenizer(folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json with the chat template."""
    build_tokenizer().save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    text = json.dumps(settings, indent=2, sort_keys=True) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
