"""Defines the answer stage, which answers a clip's open questions from its compressed tokens."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import ray

from flashvid.models import Answer, ClipQuestions, CompressedVideo, load_model
from pipeline.clip import Clip, ClipMessage, Failure
from pipeline.cluster.connection import raise_if_fatal
from pipeline.cluster.device import reserved_device
from pipeline.cluster.resources import Pool, clips_per_batch
from pipeline.inputs import Question, QuestionTable
from pipeline.inputs.prompts import option_letters
from pipeline.plan.plan import PlanCounts
from pipeline.stages.stage import Stage, StageSettings
from pipeline.store.token_codec import decode_tokens

_ANSWER_COLUMNS = (
    "response", "finish_reason", "num_visual_tokens", "num_prompt_tokens", "num_generated_tokens", "option_scores",
)  # fmt: skip
# A clip, its tokens and its open questions.
_Asked = tuple[Clip, CompressedVideo, Sequence[Question]]
# Questions that were answered in one call, their answers or the failure of the call, and the seconds per answer.
_Answered = tuple[Sequence[Question], Sequence[Answer] | Failure, float]


class AnswerStage(Stage):
    """Answers clips on a GPU actor with the language side of the model; prefills a clip once for all its questions."""

    name = "answer"
    counted: ClassVar[Mapping[str, str]] = {
        "clips_answered": "clips whose questions were answered",
        "answers": "answers made",
        "visual_tokens_before": "visual tokens of the answered clips, uncompressed",
        "visual_tokens_after": "visual tokens of the answered clips, compressed",
        "visual_token_layers_before": "uncompressed visual tokens times the decoder's layers",
        "visual_token_layers_after": "visual tokens processed by each of the decoder's layers, summed",
        "prompt_tokens": "tokens of the answered questions' prompts",
        "prompt_tokens_prefilled": "prompt tokens prefilled; the others were shared with another question of the clip",
    }

    def __init__(self, settings: StageSettings) -> None:
        super().__init__(settings)
        self._questions: QuestionTable = ray.get(settings.questions)
        self._model = load_model(
            settings.model(), part="language", dtype=self.job.model.dtype, device=reserved_device()
        )
        self.announce()

    @classmethod
    def batch_size(cls, planned: PlanCounts, pool: Pool) -> int:
        """Return how many clips an actor gets at a time, so that their questions fill a decode step."""
        encodes = planned.clips_to_encode > 0
        return clips_per_batch(planned.clips_planned, planned.answers_planned, pool, encodes=encodes)

    def process(self, message: ClipMessage) -> tuple[ClipMessage, Mapping[str, int]]:
        """Answer a clip from its committed tokens, even in the run that wrote them, so that every run answers alike."""
        asked = self._asked(message, self.tokens.read_or_quarantine)
        return self._outcome(message, asked[1], self._ask(*asked))

    def process_together(self, messages: Sequence[ClipMessage]) -> list[tuple[ClipMessage, Mapping[str, int]]]:
        """Answer several clips, whose questions form one batch."""
        # Clips that fail together are tried one by one, so damaged tokens stay where they are until then.
        asked = [self._asked(message, self.tokens.read) for message in messages]
        return [
            self._outcome(message, compressed, [answered])
            for message, (_, compressed, _), answered in zip(messages, asked, self._answer(asked), strict=True)
        ]

    def _asked(self, message: ClipMessage, read: Callable[[str], CompressedVideo]) -> _Asked:
        clip, wanted = message.clip, frozenset(message.clip.question_ids)
        questions = [q for q in self._questions.for_video(clip.video_id) if q.question_id in wanted]
        if message.tokens is not None:
            return clip, decode_tokens(message.tokens, self.tokens.name(clip.content_key)), questions
        return clip, read(clip.content_key), questions

    def _ask(self, clip: Clip, compressed: CompressedVideo, questions: Sequence[Question]) -> list[_Answered]:
        """Answer a clip's questions together or, if that fails, one by one, so that one does not fail the others."""
        try:
            return self._answer([(clip, compressed, questions)])
        except Exception as error:  # noqa: BLE001 - becomes a row of failures/ with its traceback
            raise_if_fatal(error)
            if len(questions) > 1:
                return [answered for question in questions for answered in self._ask(clip, compressed, [question])]
            (question,) = questions
            failure = Failure.of(error, self.name, question.question_id, question.hash(clip.columns))
            return [(questions, failure, 0.0)]

    def _answer(self, several: Sequence[_Asked]) -> list[_Answered]:
        job, started = self.job, time.perf_counter()
        clips = [_clip_questions(*asked) for asked in several]
        found = self._model.answer_many(clips, job.generation, pruning=job.inner_pruning)
        seconds = (time.perf_counter() - started) / sum(map(len, found))
        return [(questions, answers, seconds) for (_, _, questions), answers in zip(several, found, strict=True)]

    def _outcome(
        self, message: ClipMessage, compressed: CompressedVideo, several: Iterable[_Answered]
    ) -> tuple[ClipMessage, Mapping[str, int]]:
        """Return the clip with its answer rows and failures, and the counts of the work."""
        rows: list[dict[str, object]] = []
        failures: list[Failure] = []
        counts, layers = Counter[str](), 0
        for questions, answers, seconds in several:
            if isinstance(answers, Failure):
                failures.append(answers)
                continue
            for question, answer in zip(questions, answers, strict=True):
                row = question.row(message.clip.columns)
                row.update((name, getattr(answer, name)) for name in _ANSWER_COLUMNS)
                rows.append({**row, "answer_seconds": seconds})
                counts["prompt_tokens"] += answer.num_prompt_tokens
                counts["prompt_tokens_prefilled"] += answer.num_prompt_tokens - answer.num_shared_tokens
                layers += answer.token_layers.visual
            # A prefix shared by prompts is prefilled once; prefixes of equal length are the same one.
            counts["prompt_tokens_prefilled"] += sum({answer.num_shared_tokens for answer in answers})
        visual = len(compressed.assignment)
        counts.update(clips_answered=1, answers=len(rows), visual_tokens_before=visual)
        counts["visual_tokens_after"] = len(compressed.tokens)
        if rows:
            counts["visual_token_layers_before"] = visual * self._model.language.decoder.num_layers
            counts["visual_token_layers_after"] = round(layers / len(rows))
        return replace(message, tokens=None, answers=tuple(rows), failures=tuple(failures)), counts


def _clip_questions(clip: Clip, compressed: CompressedVideo, questions: Sequence[Question]) -> ClipQuestions:
    return ClipQuestions(
        compressed,
        [question.prompt(clip.columns) for question in questions],
        # The prompt shows the options with letters and asks for one letter, so the letters are scored.
        options=[option_letters(question.options or ()) for question in questions],
        keys=[f"{clip.clip_id}/{question.question_id}" for question in questions],
    )
