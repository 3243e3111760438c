"""Answer: the committed bytes of a clip and all its questions to responses."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import ray

from flashvid.errors import FatalError
from flashvid.models import CompressedVideo, load_model
from pipeline.inputs import Question, QuestionTable
from pipeline.keys import question_hash
from pipeline.messages import ClipMessage, Failure
from pipeline.prompts import question_prompt
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
        texts = [question.render(clip.columns) for question in questions]
        rows, failures = self._ask(compressed, questions, texts)
        counts = {
            "clips_answered": 1,
            "answers": len(rows),
            "visual_tokens_before": len(compressed.assignment),
            "visual_tokens_after": len(compressed.tokens),
        }
        return replace(message, answers=rows, failures=failures), counts

    def _ask(
        self, compressed: CompressedVideo, questions: Sequence[Question], texts: Sequence[str]
    ) -> tuple[tuple[Mapping[str, object], ...], tuple[Failure, ...]]:
        """Answer questions together; if that fails, each alone, so that one costs no other."""
        prompts = [question_prompt(text, question.options) for question, text in zip(questions, texts, strict=True)]
        started = time.perf_counter()
        try:
            answers = self._model.answer(compressed, prompts, generation=self.settings.job.generation)
        except FatalError:
            raise
        except Exception as error:  # noqa: BLE001 - becomes a row of failures/ with its traceback
            if len(questions) == 1:
                return (), (Failure.of(error, self.name, questions[0].question_id),)
            alone = [self._ask(compressed, [question], [text]) for question, text in zip(questions, texts, strict=True)]
            return tuple(row for rows, _ in alone for row in rows), tuple(f for _, failed in alone for f in failed)
        seconds = (time.perf_counter() - started) / len(questions)
        rows = (
            {
                **_question_columns(question, text),
                "response": answer.response,
                "finish_reason": answer.finish_reason,
                "num_visual_tokens": answer.num_visual_tokens,
                "num_prompt_tokens": answer.num_prompt_tokens,
                "num_generated_tokens": answer.num_generated_tokens,
                "answer_seconds": seconds,
            }
            for question, text, answer in zip(questions, texts, answers, strict=True)
        )
        return tuple(rows), ()


def _question_columns(question: Question, text: str) -> dict[str, object]:
    return {
        "question_id": question.question_id,
        "question": text,
        "question_hash": question_hash(text, question.options),
        "options": list(question.options) if question.options else None,
        "expected_answer": question.expected_answer,
    }
