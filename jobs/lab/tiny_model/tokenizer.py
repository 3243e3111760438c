"""A tokenizer with one token per word the model was taught, and bytes for everything else."""

import re
import string

from tokenizers import Tokenizer, pre_tokenizers

from flashvid.models import GenerationConfig
from jobs.lab.tiny_model.drawn_questions import PLURALS, TIMES, WORDINGS
from jobs.lab.tiny_model.model_files import SPECIAL_TOKENS, byte_level_tokenizer, chat_template
from jobs.lab.tiny_model.scenes import COLOURS, DIRECTIONS, SHAPES

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
CHAT_TEMPLATE = chat_template(" {{ part.text }}")
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
    return byte_level_tokenizer(plain, ignore_merges=True)
