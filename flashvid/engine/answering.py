"""Questions to answers: prompts are laid out and grouped by what they share, generated together, and read as text."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch

from flashvid.config import InnerPruningConfig
from flashvid.engine.generation import Batch, Ending, Generated, Prompt, SharedPrompts
from flashvid.engine.generation_config import GenerationConfig
from flashvid.engine.json_grammar import JsonGrammar
from flashvid.engine.lm_input import QuestionSuffix, SharedPrefix, no_prefix, text_alone
from flashvid.engine.types import Answer, ClipQuestions, CompressedVideo, LanguageSide, ScoredText
from flashvid.errors import ConfigurationError, InvalidFeaturesError

Ids = tuple[int, ...]


def check_clip(clip: ClipQuestions, width: int, num_deepstack: int) -> None:
    """Whether a clip is texts about one compressed video that a decoder of that width can read, or about none.

    Raises:
        ConfigurationError: several videos or images in a question, or further turns.
        InvalidFeaturesError: tokens of another width than this model's or not finite, or indices, a grid or times that
            are not theirs.
    """
    if clip.compressed is not None and not isinstance(clip.compressed, CompressedVideo):
        raise ConfigurationError(
            "a question is about one CompressedVideo, as compress() returns it, not "
            f"{type(clip.compressed).__name__}: several videos or images in one question are not supported yet"
        )
    if isinstance(clip.questions, str):
        raise ConfigurationError("questions must be a list of texts, not one text", f"question {clip.questions!r}")
    for question in clip.questions:
        if not isinstance(question, str):
            raise ConfigurationError(
                f"a question is one text, not {type(question).__name__}: images in it, and further turns of a "
                "conversation, are not supported yet"
            )
    for name, given in (("options", clip.options), ("keys", clip.keys)):
        if isinstance(given, str):
            raise ConfigurationError(f"{name} must be a list with an entry for each question, not one text")
        if given is not None and len(given) != len(clip.questions):
            raise ConfigurationError(f"{len(clip.questions)} questions need as many {name}, not {len(given)}")
    for question, options in zip(clip.questions, clip.options or (), strict=False):
        if isinstance(options, str) or not all(isinstance(option, str) for option in options or ()):
            raise ConfigurationError(f"options must be a list of texts, not {options!r}", f"question {question!r}")
    for text in (*clip.questions, *(clip.keys or ()), *(option for own in clip.options or () for option in own or ())):
        if not _is_unicode(text):
            raise ConfigurationError(f"{text!r} holds half a character (a surrogate), which no tokenizer can read")
    if clip.compressed is not None:
        _check_compressed(clip.compressed, width, num_deepstack)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_compressed(compressed: CompressedVideo, width: int, num_deepstack: int) -> None:
    tokens, indices = compressed.tokens, compressed.indices
    if tokens.ndim != 2 or tokens.shape[1] != width:
        raise InvalidFeaturesError(f"tokens must be [M, {width}] for this model, not {list(tokens.shape)}")
    if len(compressed.deepstack) != num_deepstack:
        raise InvalidFeaturesError(
            f"{len(compressed.deepstack)} deepstack features, where this model has {num_deepstack}"
        )
    for extra in compressed.deepstack:
        if extra.shape != tokens.shape:
            raise InvalidFeaturesError(f"deepstack features must be {list(tokens.shape)}, not {list(extra.shape)}")
    if not tokens.is_floating_point() or not bool(tokens.isfinite().all()):
        raise InvalidFeaturesError("tokens must be floating and finite")
    total = len(compressed.assignment)
    # Rows and columns are of patches, of which a square makes a token.
    merged, left = divmod(math.prod(compressed.grid_thw), max(total, 1))
    if min(compressed.grid_thw) < 1 or left or math.isqrt(merged) ** 2 != merged or merged == 0:
        raise InvalidFeaturesError(f"a grid of {compressed.grid_thw} patches does not make {total} tokens")
    times, steps = compressed.frame_timestamps, compressed.grid_thw[0]
    # A step is of one frame, or of two, the last perhaps of one.
    if steps not in (len(times), -(-len(times) // 2)):
        raise InvalidFeaturesError(f"{len(times)} frame_timestamps do not make {steps} temporal steps")
    if len(times) == 0 or not np.isfinite(times).all() or (np.diff(times) < 0).any():
        raise InvalidFeaturesError("frame_timestamps must be finite, ascending and at least one")
    in_order = indices.shape == tokens.shape[:1] and bool((indices.diff() >= 0).all())
    if (
        indices.is_floating_point()
        or not in_order
        or (len(indices) and not 0 <= int(indices[0]) <= int(indices[-1]) < total)
    ):
        raise InvalidFeaturesError(f"the indices of {len(tokens)} tokens must ascend and be below {total}")


def answer_clips(
    language: LanguageSide,
    clips: Sequence[ClipQuestions],
    generation: GenerationConfig,
    pruning: InnerPruningConfig | None,
    max_batch_tokens: int,
) -> list[list[Answer]]:
    """See `VideoModel.answer_many`; the clips have been checked."""
    results = _run(language, clips, generation, pruning, max_batch_tokens)
    return [
        [_answer(language, result, _options(clip, index), generation.stop) for index, result in enumerate(of_clip)]
        for clip, of_clip in zip(clips, results, strict=True)
    ]


def score_clip(
    language: LanguageSide,
    clip: ClipQuestions,
    generation: GenerationConfig,
    pruning: InnerPruningConfig | None,
) -> list[list[ScoredText]]:
    """See `VideoModel.score`; the clip has been checked, and its options are what is scored."""
    for index, question in enumerate(clip.questions):
        if not _options(clip, index):
            raise ConfigurationError("there is no continuation to score", f"question {question!r}")
    scoring = generation.model_copy(update={"choice": "likelihood"})
    # Continuations are run one by one, so that no bound of a batch plays a part.
    (results,) = _run(language, [clip], scoring, pruning, max_batch_tokens=1)
    return [
        [ScoredText(*text) for text in zip(result.prompt.options, result.generated.log_likelihoods or (), strict=True)]
        for result in results
    ]


@dataclass(frozen=True, eq=False)
class _Result:
    """A question's prompt, and what the decoder made of it."""

    prefix: SharedPrefix
    prompt: Prompt
    generated: Generated


def _run(
    language: LanguageSide,
    clips: Sequence[ClipQuestions],
    generation: GenerationConfig,
    pruning: InnerPruningConfig | None,
    max_batch_tokens: int,
) -> list[list[_Result]]:
    """Every question of every clip, in order, as one batch."""
    if generation.reference_compatible:
        language = language.reference_compatible()
    groups: list[SharedPrompts] = []
    # For each group its clip, and which of the clip's questions its prompts are.
    origins: list[tuple[int, list[int]]] = []
    for index, clip in enumerate(clips):
        for group, members in _shared_prompts(language, clip, generation):
            groups.append(group)
            origins.append((index, members))
    ending = Ending(language.chat.end_tokens, generation.stop, language.chat.text)
    schema = generation.json_schema
    grammar = JsonGrammar(schema, language.chat.constraint) if schema is not None else None
    batch = Batch(
        language.decoder,
        groups,
        generation,
        ending,
        pruning=pruning,
        grammar=grammar,
        max_batch_tokens=max_batch_tokens,
    )
    results: list[dict[int, _Result]] = [{} for _ in clips]
    for group, (index, members), generated in zip(groups, origins, batch.run(), strict=True):
        for member, prompt, made in zip(members, group.prompts, generated, strict=True):
            results[index][member] = _Result(group.prefix, prompt, made)
    return [[found[member] for member in range(len(found))] for found in results]


def _shared_prompts(
    language: LanguageSide, clip: ClipQuestions, generation: GenerationConfig
) -> list[tuple[SharedPrompts, list[int]]]:
    """A clip's prompts by what stands before the video, and which questions they are.

    Only what stands up to the last visual token is shared, never more: what a question's answer is computed from must
    not depend on which other questions came along.
    """
    texts = [_texts(language, clip, question, generation) for question in clip.questions]
    keys = clip.keys or [f"{_digest(clip.compressed, generation)}/{question}" for question in clip.questions]
    found = []
    order = sorted(range(len(texts)), key=lambda index: texts[index][0])
    for before, group in groupby(order, key=lambda index: texts[index][0]):
        members = [*group]
        prompts = tuple(
            Prompt(
                suffix=_suffix(language, before, texts[index][1], clip.compressed),
                key=keys[index],
                options=_option_ids(language, clip, index) if generation.choice == "likelihood" else (),
            )
            for index in members
        )
        found.append((SharedPrompts(_prefix(language, before, clip.compressed), prompts), members))
    return found


def _digest(compressed: CompressedVideo | None, generation: GenerationConfig) -> str:
    """What a clip is, as the name of its random streams; nothing where nothing is drawn."""
    if compressed is None or generation.temperature == 0:
        return ""
    content = compressed.tokens.detach().cpu().contiguous().view(torch.uint8).numpy()
    return hashlib.sha256(content.tobytes()).hexdigest()


def _texts(language: LanguageSide, clip: ClipQuestions, question: str, generation: GenerationConfig) -> tuple[Ids, Ids]:
    """A prompt's ids before and behind its video; all of them behind, if there is none."""
    if clip.compressed is None:
        return (), language.chat.without_video(question, generation.system_prompt, generation.chat_template)
    return language.chat.around_video(question, generation.system_prompt, generation.chat_template)


def _prefix(language: LanguageSide, before: Ids, compressed: CompressedVideo | None) -> SharedPrefix:
    return no_prefix(language.decoder.embed(())) if compressed is None else language.prefix(before, compressed)


def _suffix(language: LanguageSide, before: Ids, after: Ids, compressed: CompressedVideo | None) -> QuestionSuffix:
    return text_alone(after) if compressed is None else language.suffix(before, after, compressed)


def _options(clip: ClipQuestions, index: int) -> Sequence[str]:
    return (clip.options[index] if clip.options is not None else None) or ()


def _option_ids(language: LanguageSide, clip: ClipQuestions, index: int) -> tuple[tuple[int, ...], ...]:
    ids = tuple(language.chat.continuation(option) for option in _options(clip, index))
    if not all(ids):
        raise ConfigurationError("an option without text can't be scored", f"question {clip.questions[index]!r}")
    return ids


def _answer(language: LanguageSide, result: _Result, options: Sequence[str], stop: Sequence[str]) -> Answer:
    prefix, generated = result.prefix, result.generated
    if generated.log_likelihoods is None:
        scores, response = None, _until(language.chat.text(generated.ids), stop)
    else:
        scores = tuple(math.fsum(values) for values in generated.log_likelihoods)
        response = options[scores.index(max(scores))]
    return Answer(
        response=response,
        finish_reason=generated.finish_reason,
        num_visual_tokens=int(prefix.is_visual.sum()),
        num_prompt_tokens=len(prefix.embeddings) + len(result.prompt.suffix.ids),
        num_shared_tokens=len(prefix.embeddings),
        num_generated_tokens=len(generated.ids),
        token_layers=generated.token_layers,
        option_scores=scores,
    )


def _until(text: str, stop: Sequence[str]) -> str:
    ends = [text.index(stopping) for stopping in stop if stopping in text]
    return text[: min(ends)].strip() if ends else text.strip()
