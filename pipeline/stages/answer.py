"""Answer: the committed bytes of a clip and all its questions to responses."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

import ray

from flashvid.models import load_model
from pipeline.inputs import Question, QuestionTable
from pipeline.keys import question_hash
from pipeline.messages import ClipMessage
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
        prompts = [question_prompt(text, question.options) for text, question in zip(texts, questions, strict=True)]
        started = time.perf_counter()
        answers = self._model.answer(compressed, prompts, generation=self.settings.job.generation)
        seconds = (time.perf_counter() - started) / len(questions)
        rows = tuple(
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
        counts = {
            "clips_answered": 1,
            "answers": len(rows),
            "visual_tokens_before": len(compressed.assignment),
            "visual_tokens_after": len(compressed.tokens),
        }
        return replace(message, answers=rows), counts


def _question_columns(question: Question, text: str) -> dict[str, object]:
    return {
        "question_id": question.question_id,
        "question": text,
        "question_hash": question_hash(text, question.options),
        "options": list(question.options) if question.options else None,
        "expected_answer": question.expected_answer,
    }
