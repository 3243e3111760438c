"""Questions to answers: prompts are laid out and grouped by what they share, generated together, and read as text."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from flashvid.config import InnerPruningConfig
from flashvid.errors import ConfigurationError, InvalidFeaturesError
from flashvid.models.generation import Batch, Ending, Generated, Prompt, SharedPrompts
from flashvid.models.json_grammar import JsonGrammar
from flashvid.models.types import Answer, ClipQuestions, CompressedVideo, GenerationConfig, LanguageSide


def check_clip(clip: ClipQuestions, width: int) -> None:
    """Whether a clip is one compressed video that a decoder of that width can read, and its questions are texts.

    Raises:
        ConfigurationError: several videos or images in a question, or further turns.
        InvalidFeaturesError: tokens of another width than this model's, or indices that are not theirs.
    """
    if not isinstance(clip.compressed, CompressedVideo):
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
    _check_compressed(clip.compressed, width)


def _check_compressed(compressed: CompressedVideo, width: int) -> None:
    tokens, indices = compressed.tokens, compressed.indices
    if tokens.ndim != 2 or tokens.shape[1] != width:
        raise InvalidFeaturesError(f"tokens must be [M, {width}] for this model, not {list(tokens.shape)}")
    for extra in compressed.deepstack:
        if extra.shape != tokens.shape:
            raise InvalidFeaturesError(f"deepstack features must be {list(tokens.shape)}, not {list(extra.shape)}")
    total = len(compressed.assignment)
    in_order = indices.shape == tokens.shape[:1] and bool((indices.diff() >= 0).all())
    if not in_order or (len(indices) and not 0 <= int(indices[0]) <= int(indices[-1]) < total):
        raise InvalidFeaturesError(f"the indices of {len(tokens)} tokens must ascend and be below {total}")


def answer_clips(
    language: LanguageSide,
    clips: Sequence[ClipQuestions],
    generation: GenerationConfig,
    pruning: InnerPruningConfig | None,
    max_batch_tokens: int,
) -> list[list[Answer]]:
    """See `VideoModel.answer_many`; the compressed videos have been checked."""
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
    answers: list[dict[int, Answer]] = [{} for _ in clips]
    for group, (index, members), generated in zip(groups, origins, batch.run(), strict=True):
        for member, prompt, result in zip(members, group.prompts, generated, strict=True):
            response = _response(language, result, _options(clips[index], member), generation.stop)
            answers[index][member] = _answer(group, prompt, result, response)
    return [[found[member] for member in range(len(found))] for found in answers]


def _shared_prompts(
    language: LanguageSide, clip: ClipQuestions, generation: GenerationConfig
) -> list[tuple[SharedPrompts, list[int]]]:
    """A clip's prompts by what stands before the video, and which questions they are.

    Only what stands up to the last visual token is shared, never more: what a question's answer is computed from must
    not depend on which other questions came along.
    """
    for name, given in (("options", clip.options), ("keys", clip.keys)):
        if given is not None and len(given) != len(clip.questions):
            raise ConfigurationError(f"{len(clip.questions)} questions need as many {name}, not {len(given)}")
    texts = [
        language.chat.around_video(question, generation.system_prompt, generation.chat_template)
        for question in clip.questions
    ]
    found = []
    order = sorted(range(len(texts)), key=lambda index: texts[index][0])
    for before, group in groupby(order, key=lambda index: texts[index][0]):
        members = [*group]
        prompts = tuple(
            Prompt(
                suffix=language.suffix(before, texts[index][1], clip.compressed),
                key=clip.keys[index] if clip.keys is not None else clip.questions[index],
                options=_option_ids(language, clip, index) if generation.choice == "likelihood" else (),
            )
            for index in members
        )
        found.append((SharedPrompts(language.prefix(before, clip.compressed), prompts), members))
    return found


def _options(clip: ClipQuestions, index: int) -> Sequence[str]:
    return (clip.options[index] if clip.options is not None else None) or ()


def _option_ids(language: LanguageSide, clip: ClipQuestions, index: int) -> tuple[tuple[int, ...], ...]:
    ids = tuple(language.chat.continuation(option) for option in _options(clip, index))
    if not all(ids):
        raise ConfigurationError("an option without text can't be scored", f"question {clip.questions[index]!r}")
    return ids


def _response(language: LanguageSide, generated: Generated, options: Sequence[str], stop: Sequence[str]) -> str:
    if generated.option_scores is not None:
        return options[generated.option_scores.index(max(generated.option_scores))]
    text = language.chat.text(generated.ids)
    ends = [text.index(stopping) for stopping in stop if stopping in text]
    return text[: min(ends)].strip() if ends else text.strip()


def _answer(group: SharedPrompts, prompt: Prompt, generated: Generated, response: str) -> Answer:
    num_shared = len(group.prefix.embeddings)
    return Answer(
        response=response,
        finish_reason=generated.finish_reason,
        num_visual_tokens=int(group.prefix.is_visual.sum()),
        num_prompt_tokens=num_shared + len(prompt.suffix.ids),
        num_shared_tokens=num_shared,
        num_generated_tokens=len(generated.ids),
        token_layers=generated.token_layers,
        option_scores=generated.option_scores,
    )
