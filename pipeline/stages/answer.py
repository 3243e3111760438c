"""Answer: the committed bytes of a clip and all its questions to responses."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import ray

from flashvid.errors import FatalError
from flashvid.models import Answer, ClipQuestions, CompressedVideo, load_model
from pipeline.clip import Clip, ClipMessage, Failure
from pipeline.cluster.device import reserved_device
from pipeline.inputs import Question, QuestionTable
from pipeline.stages.prompts import option_letters, question_prompt
from pipeline.stages.stage import Stage, StageSettings
from pipeline.store.keys import question_hash
from pipeline.store.tokens import decode_tokens


class AnswerStage(Stage):
    """GPU actor with the language side of the model; one prefill of a clip serves all its questions."""

    name = "answer"

    def __init__(self, settings: StageSettings, questions: ray.ObjectRef[QuestionTable]) -> None:
        super().__init__(settings)
        self._questions: QuestionTable = ray.get(questions)
        self._model = load_model(
            settings.model(), part="language", dtype=settings.job.model.dtype, device=reserved_device()
        )
        self.announce()

    def process(self, message: ClipMessage) -> tuple[ClipMessage, Mapping[str, int]]:
        """Answer from what storage holds, also in the run that just wrote it: cold equals warm."""
        asked = self._asked(message)
        return self._answered(message, asked, self._ask(asked))

    def process_together(self, messages: Sequence[ClipMessage]) -> list[tuple[ClipMessage, Mapping[str, int]]]:
        """The same for several clips, whose questions are generated as one batch."""
        asked = [self._asked(message) for message in messages]
        outcomes = self._answer(asked)
        return [self._answered(*clip) for clip in zip(messages, asked, outcomes, strict=True)]

    def _asked(self, message: ClipMessage) -> _Asked:
        clip, name = message.clip, self.tokens.name(message.clip.content_key)
        wanted = frozenset(clip.question_ids)
        questions = tuple(q for q in self._questions.for_video(clip.video_id) if q.question_id in wanted)
        if message.tokens is not None:
            return _Asked(clip, decode_tokens(message.tokens, name), questions)
        return _Asked(clip, self.tokens.read(clip.content_key), questions)

    def _answered(
        self, message: ClipMessage, asked: _Asked, outcome: _Outcome
    ) -> tuple[ClipMessage, Mapping[str, int]]:
        counts = {
            "clips_answered": 1,
            "answers": len(outcome.rows),
            "visual_tokens_before": len(asked.compressed.assignment),
            "visual_tokens_after": len(asked.compressed.tokens),
            "prompt_tokens": outcome.prompt_tokens,
            "prompt_tokens_prefilled": outcome.prompt_tokens_prefilled,
        }
        if outcome.visual_token_layers:
            num_layers = self._model.language.decoder.num_layers
            counts["visual_token_layers_before"] = len(asked.compressed.assignment) * num_layers
            counts["visual_token_layers_after"] = round(fmean(outcome.visual_token_layers))
        return replace(message, tokens=None, answers=outcome.rows, failures=outcome.failures), counts

    def _ask(self, asked: _Asked) -> _Outcome:
        """Answer a clip's questions together; if that fails, each alone, so that one costs no other."""
        try:
            (outcome,) = self._answer([asked])
        except FatalError:
            raise
        except Exception as error:  # noqa: BLE001 - becomes a row of failures/ with its traceback
            if len(asked.questions) == 1:
                (question,) = asked.questions
                words = question_hash(asked.text(question), question.options)
                return _Outcome(failures=(Failure.of(error, self.name, question.question_id, words),))
            return sum((self._ask(replace(asked, questions=(question,))) for question in asked.questions), _Outcome())
        return outcome

    def _answer(self, clips: Sequence[_Asked]) -> list[_Outcome]:
        job, started = self.settings.job, time.perf_counter()
        found = self._model.answer_many([asked.prompts() for asked in clips], job.generation, pruning=job.inner_pruning)
        seconds = (time.perf_counter() - started) / sum(len(asked.questions) for asked in clips)
        return [_outcome(asked, answers, seconds) for asked, answers in zip(clips, found, strict=True)]


@dataclass(frozen=True, eq=False)
class _Asked:
    """A clip's tokens and the questions that are open."""

    clip: Clip
    compressed: CompressedVideo
    questions: tuple[Question, ...]

    def text(self, question: Question) -> str:
        return question.render(self.clip.columns)

    def prompts(self) -> ClipQuestions:
        return ClipQuestions(
            self.compressed,
            [question_prompt(self.text(question), question.options) for question in self.questions],
            # The prompt shows the options with letters and asks for one: letters are what is scored.
            options=[option_letters(question.options or ()) for question in self.questions],
            keys=[f"{self.clip.clip_id}/{question.question_id}" for question in self.questions],
        )


@dataclass(frozen=True)
class _Outcome:
    """What became of some questions of a clip.

    Attributes:
        rows: Answers.
        failures: Of questions that could not be answered.
        visual_token_layers: For each answer, the prompt's visual tokens times the layers that had them.
        prompt_tokens: Of all prompts together.
        prompt_tokens_prefilled: Those that were run: what prompts share once (prefixes of one length count as one).
    """

    rows: tuple[Mapping[str, object], ...] = ()
    failures: tuple[Failure, ...] = ()
    visual_token_layers: tuple[int, ...] = ()
    prompt_tokens: int = 0
    prompt_tokens_prefilled: int = 0

    def __add__(self, other: _Outcome) -> _Outcome:
        return _Outcome(
            self.rows + other.rows,
            self.failures + other.failures,
            self.visual_token_layers + other.visual_token_layers,
            self.prompt_tokens + other.prompt_tokens,
            self.prompt_tokens_prefilled + other.prompt_tokens_prefilled,
        )


def _outcome(asked: _Asked, answers: Sequence[Answer], seconds: float) -> _Outcome:
    """The rows of a clip's answers, which took so many seconds each."""
    rows = (
        {**_question_columns(question, asked.text(question)), **_answer_columns(answer), "answer_seconds": seconds}
        for question, answer in zip(asked.questions, answers, strict=True)
    )
    shared = sum({answer.num_shared_tokens for answer in answers})
    return _Outcome(
        rows=tuple(rows),
        visual_token_layers=tuple(answer.token_layers.visual for answer in answers),
        prompt_tokens=sum(answer.num_prompt_tokens for answer in answers),
        prompt_tokens_prefilled=shared + sum(answer.num_prompt_tokens - answer.num_shared_tokens for answer in answers),
    )


def _question_columns(question: Question, text: str) -> dict[str, object]:
    return {
        "question_id": question.question_id,
        "question": text,
        "question_hash": question_hash(text, question.options),
        "options": list(question.options) if question.options else None,
        "expected_answer": question.expected_answer,
    }


def _answer_columns(answer: Answer) -> dict[str, object]:
    return {
        "response": answer.response,
        "finish_reason": answer.finish_reason,
        "num_visual_tokens": answer.num_visual_tokens,
        "num_prompt_tokens": answer.num_prompt_tokens,
        "num_generated_tokens": answer.num_generated_tokens,
        "option_scores": None if answer.option_scores is None else list(answer.option_scores),
    }
