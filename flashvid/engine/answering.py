"""Questions to answers: lay out prompts, group them by shared prefix, generate together, and convert to text."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np
import torch

from flashvid.config import InnerPruningConfig
from flashvid.engine.generation import Batch, Ending
from flashvid.engine.generation_config import GenerationConfig
from flashvid.engine.json_grammar import JsonGrammar
from flashvid.engine.lm_input import SharedPrefix, no_prefix, text_alone
from flashvid.engine.running import Generated, Prompt, SharedPrompts
from flashvid.engine.types import Answer, ClipQuestions, CompressedVideo, LanguageSide, ScoredText
from flashvid.errors import ConfigurationError, InvalidFeaturesError

Ids = tuple[int, ...]


def check_clip(clip: ClipQuestions, width: int, num_deepstack: int) -> None:
    """Check that a clip consists of text questions about at most one compressed video that a decoder can read.

    Args:
        clip: What to check.
        width: Width of the decoder's embeddings.
        num_deepstack: Deepstack levels of the model.

    Raises:
        ConfigurationError: A question has several videos, images or further turns, or options or keys do not fit.
        InvalidFeaturesError: Tokens have a wrong width or are not finite, or indices, grid or times do not fit them.
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
            raise ConfigurationError(f"{text!r} contains a lone surrogate, which no tokenizer can read")
    if clip.compressed is not None and (defect := next(_defects(clip.compressed, width, num_deepstack), None)):
        raise InvalidFeaturesError(defect)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _defects(compressed: CompressedVideo, width: int, num_deepstack: int) -> Iterator[str]:
    """Yield what is wrong with a compressed video; a later defect assumes that there is no earlier one."""
    tokens, indices = compressed.tokens, compressed.indices
    if tokens.ndim != 2 or tokens.shape[1] != width:
        yield f"tokens must be [M, {width}] for this model, not {list(tokens.shape)}"
    if len(compressed.deepstack) != num_deepstack:
        yield f"{len(compressed.deepstack)} deepstack features, where this model has {num_deepstack}"
    for extra in compressed.deepstack:
        if extra.shape != tokens.shape:
            yield f"deepstack features must be {list(tokens.shape)}, not {list(extra.shape)}"
    if not tokens.is_floating_point() or not bool(tokens.isfinite().all()):
        yield "tokens must be floating and finite"
    total = len(compressed.assignment)
    # The grid counts patches, of which a square makes a token.
    merged, left = divmod(math.prod(compressed.grid_thw), max(total, 1))
    if min(compressed.grid_thw) < 1 or left or math.isqrt(merged) ** 2 != merged or merged == 0:
        yield f"a grid of {compressed.grid_thw} patches does not make {total} tokens"
    times, steps = compressed.frame_timestamps, compressed.grid_thw[0]
    # A step has one frame, or two; then the last step may have one.
    if steps not in (len(times), -(-len(times) // 2)):
        yield f"{len(times)} frame_timestamps do not make {steps} temporal steps"
    if len(times) == 0 or not np.isfinite(times).all() or (np.diff(times) < 0).any():
        yield "frame_timestamps must be finite, ascending and at least one"
    ascend = indices.shape == tokens.shape[:1] and not indices.is_floating_point() and bool((indices.diff() >= 0).all())
    if not ascend or (len(indices) and not 0 <= int(indices[0]) <= int(indices[-1]) < total):
        yield f"the indices of {len(tokens)} tokens must ascend and be below {total}"


def answer_clips(
    language: LanguageSide,
    clips: Sequence[ClipQuestions],
    generation: GenerationConfig,
    pruning: InnerPruningConfig | None,
    max_batch_tokens: int,
) -> list[list[Answer]]:
    """Return the answers to checked clips; see `VideoModel.answer_many`."""
    results = _run(language, clips, generation, pruning, max_batch_tokens)
    return [
        [_answer(language, result, _options(clip, index), generation.stop) for index, result in enumerate(of_clip)]
        for clip, of_clip in zip(clips, results, strict=True)
    ]


def score_clip(
    language: LanguageSide, clip: ClipQuestions, generation: GenerationConfig, pruning: InnerPruningConfig | None
) -> list[list[ScoredText]]:
    """Return the scores of a checked clip's options; see `VideoModel.score`."""
    for index, question in enumerate(clip.questions):
        if not _options(clip, index):
            raise ConfigurationError("there is no continuation to score", f"question {question!r}")
    scoring = generation.model_copy(update={"choice": "likelihood"})
    # Continuations are run one by one, so the limit on a batch does not matter.
    (results,) = _run(language, [clip], scoring, pruning, max_batch_tokens=1)
    return [
        [ScoredText(*text) for text in zip(prompt.options, generated.log_likelihoods or (), strict=True)]
        for _, prompt, generated in results
    ]


# A question's prompt in two parts, and what the decoder generated for it.
_Result = tuple[SharedPrefix, Prompt, Generated]


def _run(
    language: LanguageSide,
    clips: Sequence[ClipQuestions],
    generation: GenerationConfig,
    pruning: InnerPruningConfig | None,
    max_batch_tokens: int,
) -> list[list[_Result]]:
    """Run every question of every clip as one batch, and return the results clip by clip, question by question."""
    if generation.reference_compatible:
        language = language.reference_compatible()
    groups: list[SharedPrompts] = []
    # The clip and the question of every prompt, group after group.
    origins: list[tuple[int, int]] = []
    for number, clip in enumerate(clips):
        prompts = _prompts(language, clip, generation)
        order = sorted(range(len(prompts)), key=lambda index: prompts[index][0])
        # Only tokens up to the last visual one are shared, never more: what an answer is computed from must not
        # depend on which other questions are in the batch.
        for before, group in groupby(order, key=lambda index: prompts[index][0]):
            members = [*group]
            prefix = (
                no_prefix(language.decoder.embed(()))
                if clip.compressed is None
                else language.prefix(before, clip.compressed)
            )
            groups.append(SharedPrompts(prefix, tuple(prompts[member][1] for member in members)))
            origins += [(number, member) for member in members]
    schema = generation.json_schema
    batch = Batch(
        language.decoder,
        groups,
        generation,
        Ending(language.chat.end_tokens, generation.stop, language.chat.text),
        pruning=pruning,
        grammar=JsonGrammar(schema, language.chat.constraint) if schema is not None else None,
        max_batch_tokens=max_batch_tokens,
    )
    results = [
        (group.prefix, *result)
        for group, generated in zip(groups, batch.run(), strict=True)
        for result in zip(group.prompts, generated, strict=True)
    ]
    found = dict(zip(origins, results, strict=True))
    return [[found[number, index] for index in range(len(clip.questions))] for number, clip in enumerate(clips)]


def _prompts(language: LanguageSide, clip: ClipQuestions, generation: GenerationConfig) -> list[tuple[Ids, Prompt]]:
    """Return for each question of a clip the token ids before the video, and the rest of the prompt."""
    chat, compressed, digest, found = language.chat, clip.compressed, "", []
    if compressed is not None and generation.temperature > 0:
        # Names the clip's random streams; needed only where something is drawn.
        content = compressed.tokens.detach().cpu().contiguous().view(torch.uint8).numpy()
        digest = hashlib.sha256(content.tobytes()).hexdigest()
    for index, question in enumerate(clip.questions):
        asked = question, generation.system_prompt, generation.chat_template
        if compressed is None:
            before: Ids = ()
            suffix = text_alone(chat.without_video(*asked))
        else:
            before, after = chat.around_video(*asked)
            suffix = language.suffix(before, after, compressed)
        options = _options(clip, index) if generation.choice == "likelihood" else ()
        option_ids = tuple(chat.continuation(option) for option in options)
        if not all(option_ids):
            raise ConfigurationError("an option without text can't be scored", f"question {question!r}")
        key = clip.keys[index] if clip.keys else f"{digest}/{question}"
        found.append((before, Prompt(suffix, key, option_ids)))
    return found


def _options(clip: ClipQuestions, index: int) -> Sequence[str]:
    return (clip.options[index] if clip.options is not None else None) or ()


def _answer(language: LanguageSide, result: _Result, options: Sequence[str], stop: Sequence[str]) -> Answer:
    prefix, prompt, generated = result
    if generated.log_likelihoods is None:
        scores, text = None, language.chat.text(generated.ids)
        # At the first stop text, or at the end.
        response = text[: min([text.index(stopping) for stopping in stop if stopping in text], default=None)].strip()
    else:
        scores = tuple(math.fsum(values) for values in generated.log_likelihoods)
        response = options[scores.index(max(scores))]
    return Answer(
        response=response,
        finish_reason=generated.finish_reason,
        num_visual_tokens=int(prefix.is_visual.sum()),
        num_prompt_tokens=len(prefix.embeddings) + len(prompt.suffix.ids),
        num_shared_tokens=len(prefix.embeddings),
        num_generated_tokens=len(generated.ids),
        token_layers=generated.token_layers,
        option_scores=scores,
    )
