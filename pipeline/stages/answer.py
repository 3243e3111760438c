"""Answer: the committed bytes of a clip and all its questions to responses."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import ray

from flashvid.errors import FatalError
from flashvid.models import Answer, CompressedVideo, load_model
from pipeline.inputs import Question, QuestionTable
from pipeline.keys import question_hash
from pipeline.messages import ClipMessage, Failure
from pipeline.planning import Clip
from pipeline.prompts import option_letters, question_prompt
from pipeline.stages.stage import Stage, StageSettings


class AnswerStage(Stage):
    """GPU actor with the language side of the model; one prefill of a clip serves all its questions."""

    name = "answer"

    def __init__(self, settings: StageSettings, questions: ray.ObjectRef[QuestionTable]) -> None:
        super().__init__(settings)
        self._questions: QuestionTable = ray.get(questions)
        job = settings.job
        self._model = load_model(job.model.name, revision=job.model.revision, part="language", dtype=job.model.dtype)
        self.announce()

    def process(self, message: ClipMessage) -> tuple[ClipMessage, Mapping[str, int]]:
        """Answer from what storage holds, also in the run that just wrote it: cold equals warm."""
        clip = message.clip
        compressed = self.tokens.read(clip.content_key)
        wanted = frozenset(clip.question_ids)
        questions = [q for q in self._questions.for_video(clip.video_id) if q.question_id in wanted]
        outcome = self._ask(clip, compressed, questions)
        counts = {
            "clips_answered": 1,
            "answers": len(outcome.rows),
            "visual_tokens_before": len(compressed.assignment),
            "visual_tokens_after": len(compressed.tokens),
        }
        if outcome.visual_token_layers:
            num_layers = self._model.language.decoder.num_layers
            counts["visual_token_layers_before"] = len(compressed.assignment) * num_layers
            counts["visual_token_layers_after"] = round(fmean(outcome.visual_token_layers))
        return replace(message, answers=outcome.rows, failures=outcome.failures), counts

    def _ask(self, clip: Clip, compressed: CompressedVideo, questions: Sequence[Question]) -> _Outcome:
        """Answer questions together; if that fails, each alone, so that one costs no other."""
        job, texts = self.settings.job, [question.render(clip.columns) for question in questions]
        started = time.perf_counter()
        try:
            answers = self._model.answer(
                compressed,
                [question_prompt(text, question.options) for question, text in zip(questions, texts, strict=True)],
                job.generation,
                pruning=job.inner_pruning,
                # The prompt shows the options with letters and asks for one: letters are what is scored.
                options=[option_letters(question.options or ()) for question in questions],
                keys=[f"{clip.clip_id}/{question.question_id}" for question in questions],
            )
        except FatalError:
            raise
        except Exception as error:  # noqa: BLE001 - becomes a row of failures/ with its traceback
            if len(questions) == 1:
                return _Outcome(failures=(Failure.of(error, self.name, questions[0].question_id),))
            return sum((self._ask(clip, compressed, [question]) for question in questions), _Outcome())
        seconds = (time.perf_counter() - started) / len(questions)
        rows = (
            {**_question_columns(question, text), **_answer_columns(answer), "answer_seconds": seconds}
            for question, text, answer in zip(questions, texts, answers, strict=True)
        )
        return _Outcome(rows=tuple(rows), visual_token_layers=tuple(answer.token_layers.visual for answer in answers))


@dataclass(frozen=True)
class _Outcome:
    """What became of some questions of a clip.

    Attributes:
        rows: Answers.
        failures: Of questions that could not be answered.
        visual_token_layers: For each answer, the prompt's visual tokens times the layers that had them.
    """

    rows: tuple[Mapping[str, object], ...] = ()
    failures: tuple[Failure, ...] = ()
    visual_token_layers: tuple[int, ...] = ()

    def __add__(self, other: _Outcome) -> _Outcome:
        return _Outcome(
            self.rows + other.rows,
            self.failures + other.failures,
            self.visual_token_layers + other.visual_token_layers,
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
