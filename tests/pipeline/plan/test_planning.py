"""The plan against sets: (clips x questions) minus what is committed, and every rule about failures."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.clip import AnswerKey, FailureKey
from pipeline.errors import QuestionChangedError
from pipeline.inputs import Question, QuestionTable, Video
from pipeline.inputs.videos import Source
from pipeline.plan.plan import Plan, changed_sources, deal, plan, row_clip
from pipeline.store.keys import clip_id, content_key, question_hash

MAX_ATTEMPTS = 3
WHAT = Question("what", "What happens?")
COLOUR = Question("colour", "Which colour?", options=("red", "blue"))
TITLE = Question("title", 'Is this "{title}"?')


def video(video_id: str, **fields: object) -> Video:
    """A row of the videos table."""
    return replace(Video(video_id, f"/videos/{video_id}"), **fields)


def source_of(row: Video) -> Source:
    """The same bytes whenever the path is the same."""
    return Source(f"bytes of {row.video_path}", 1)


def clip_of(row: Video) -> str:
    """The clip's id, by the published rule."""
    return clip_id(row.video_id, content_key(source_of(row).source_id, row.start_s, row.end_s))


def answered(row: Video, question: Question, text: str) -> AnswerKey:
    """A committed answer."""
    return AnswerKey(row.video_id, clip_of(row), question.question_id, question_hash(text, question.options))


def failed(row: Video, question: Question | None, kind: str = "transient", attempt: int = 1) -> FailureKey:
    """A committed failure."""
    return FailureKey(clip_of(row), question.question_id if question else None, kind, attempt)


def make_plan(
    videos: Sequence[Video],
    questions: Iterable[Question],
    *,
    tokens_of: Collection[Video] = (),
    answers: Iterable[AnswerKey] = (),
    failures: Iterable[FailureKey] = (),
    max_attempts: int = MAX_ATTEMPTS,
) -> Plan:
    """A plan with every source unchanged."""
    table = QuestionTable(questions)
    return plan(
        [row_clip(row, source_of(row), table.columns) for row in videos],
        table,
        committed_tokens={content_key(source_of(row).source_id, row.start_s, row.end_s) for row in tokens_of},
        answered=answers,
        failed=failures,
        max_attempts=max_attempts,
    )


@dataclass
class World:
    """A small world: which pairs are answered or have failed, which videos have tokens."""

    videos: list[Video]
    questions: list[Question]
    tokens_of: list[Video]
    answered: list[tuple[str, str]]
    failures: list[tuple[str, str | None, str, int]]


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Few of everything, so that all of them meet."""
    ids = draw(st.lists(st.sampled_from("abcd"), unique=True))
    titles = st.sampled_from(["a title", "{braces}", None])
    videos = [video(name, columns={"title": draw(titles)}) for name in ids]
    pool = [WHAT, COLOUR, TITLE, *(Question(f"own-{name}", f"Only {name}?", video_id=name) for name in "ab")]
    questions = draw(st.lists(st.sampled_from(pool), unique_by=lambda q: q.question_id, min_size=1))
    pairs = [(v.video_id, q.question_id) for v in videos for q in questions if q.video_id in (None, v.video_id)]
    some_pairs = st.lists(st.sampled_from(pairs), unique=True) if pairs else st.just([])
    spots: list[tuple[str, str | None]] = [*pairs, *((name, None) for name in ids)]
    kinds = st.tuples(st.sampled_from(["transient", "transient", "permanent"]), st.integers(1, 4))
    failures = draw(st.lists(st.tuples(st.sampled_from(spots), kinds), max_size=6)) if spots else []
    return World(
        videos,
        questions,
        draw(st.lists(st.sampled_from(videos), unique_by=lambda v: v.video_id)) if videos else [],
        draw(some_pairs),
        [(*spot, *kind) for spot, kind in failures],
    )


@settings(max_examples=150, deadline=None)
@given(worlds())
def test_the_plan_is_the_set_difference(world: World) -> None:
    """Against sets of pairs, nothing of the plan's own machinery."""
    by_id = {v.video_id: v for v in world.videos}
    text = {
        (v.video_id, q.question_id): q.template.replace("{title}", str(v.columns["title"]))
        for v in world.videos
        for q in world.questions
        if q.video_id in (None, v.video_id)
    }
    question = {q.question_id: q for q in world.questions}
    unaskable = {(v, q) for v, q in text if q == "title" and by_id[v].columns["title"] is None}
    done = set(world.answered) - unaskable
    given_up = {(v, q) for v, q, kind, attempt in world.failures if kind == "permanent" or attempt >= MAX_ATTEMPTS}
    exhausted = {(v, q) for v, q in text.keys() - done - unaskable if (v, q) in given_up}
    exhausted |= {(v, q) for v, q in text.keys() - done - unaskable if (v, None) in given_up}
    to_do = text.keys() - done - exhausted - unaskable

    made = make_plan(
        world.videos,
        world.questions,
        tokens_of=world.tokens_of,
        answers=[answered(by_id[v], question[q], text[v, q]) for v, q in done],
        failures=[failed(by_id[v], question[q] if q else None, kind, n) for v, q, kind, n in world.failures],
    )

    clips = [*made.to_encode, *made.cached]
    assert sorted((c.video_id, q) for c in clips for q in c.question_ids) == sorted(to_do)
    assert len({c.video_id for c in clips}) == len(clips)
    have_tokens = {v.video_id for v in world.tokens_of}
    assert all(c.video_id in have_tokens for c in made.cached)
    assert not any(c.video_id in have_tokens for c in made.to_encode)
    assert sorted((c.video_id, failure.question_id) for c, failure in made.failures) == sorted(unaskable)
    assert (made.counts.clips_total, made.counts.answers_total) == (len(world.videos), len(text))
    assert (made.counts.answers_done, made.counts.answers_exhausted) == (len(done), len(exhausted))
    assert made.counts.answers_unaskable == len(unaskable)
    assert made.counts.answers_planned == len(to_do)
    for clip in clips:
        for wanted in (None, *clip.question_ids):
            tries = [n for v, q, _, n in world.failures if (v, q) == (clip.video_id, wanted)]
            if tries or wanted is None:
                assert clip.attempt_of(wanted) == 1 + max(tries, default=0)
        assert clip.clip_id == clip_of(by_id[clip.video_id])


def test_a_clip_carries_what_the_stages_need() -> None:
    """Path, span, source and the columns that questions use, nothing else of the row."""
    row = video("a", start_s=1.0, end_s=2.5, columns={"title": "Big", "secret": "x"})
    (clip,) = make_plan([row], [TITLE, WHAT]).to_encode
    assert (clip.video_path, clip.start_s, clip.end_s) == ("/videos/a", 1.0, 2.5)
    assert (clip.source_id, clip.content_key) == ("bytes of /videos/a", content_key("bytes of /videos/a", 1.0, 2.5))
    assert clip.columns == {"title": "Big"}
    assert clip.question_ids == ("title", "what")
    assert TITLE.render(clip.columns) == 'Is this "Big"?'


def test_a_question_may_use_the_columns_every_video_has() -> None:
    """`video_id`, `video_path` and the span are columns like others; braces are written twice."""
    question = Question("q", "{video_id} from {start_s} to {end_s}: {{not a column}}")
    (clip,) = make_plan([video("a", start_s=1.0, end_s=2.5)], [question]).to_encode
    assert question.render(clip.columns) == "a from 1.0 to 2.5: {not a column}"


def test_a_column_name_with_a_dot_is_a_column_name() -> None:
    """As flattened tables have them."""
    question = Question("q", "By {meta.author} in {tags[0]}?")
    (clip,) = make_plan([video("a", columns={"meta.author": "me", "tags[0]": 7})], [question]).to_encode
    assert question.render(clip.columns) == "By me in 7?"


def test_an_empty_column_fails_that_question_for_that_video() -> None:
    """Named; the other questions and videos go on."""
    rows = [video("a", columns={"title": None}), video("b", columns={"title": ""})]
    made = make_plan(rows, [TITLE, WHAT])
    ((clip, failure),) = made.failures
    assert (failure.question_id, clip.video_id, failure.stage) == ("title", "a", "plan")
    assert (failure.error_type, failure.error_kind) == ("InputRowError", "permanent")
    assert "video_id 'a'" in failure.error_message
    assert "{title}" in failure.error_message
    assert [clip.question_ids for clip in made.to_encode] == [("what",), ("title", "what")]
    again = make_plan(rows, [TITLE, WHAT], failures=[replace(failed(rows[0], TITLE, "permanent"), stage="plan")])
    # `flashvid retry` releases what is exhausted, but not these.
    for counts in (made.counts, again.counts):
        assert (counts.answers_unaskable, counts.answers_exhausted) == (1, 0)
    assert again.failures == ()


def test_a_repaired_row_is_asked() -> None:
    """What an earlier plan noted of the row holds as long as the row is as it was, and no longer."""
    broken, repaired = video("a", columns={"title": None}), video("a", columns={"title": "Big"})
    noted = [replace(failed(broken, TITLE, "permanent"), stage="plan")]
    (clip,) = make_plan([repaired], [TITLE], failures=noted).to_encode
    assert clip.question_ids == ("title",)
    # A row with an impossible span is another clip than the video, which it becomes again when it is repaired.
    impossible = replace(video("a"), problem="start_s is 'abc'")
    (bad,) = make_plan([impossible], [WHAT]).to_encode
    history = [FailureKey(bad.clip_id, None, "permanent", 1, "probe")]
    assert make_plan([impossible], [WHAT], failures=history).counts.answers_exhausted == 1
    assert len(make_plan([video("a")], [WHAT], failures=history).to_encode) == 1


def test_failures_of_other_words_do_not_count() -> None:
    """A question that could never be answered is put in other words, or its options change: it is tried anew."""
    row, mended = video("a"), replace(WHAT, template="What happens here?")
    failures = [
        replace(failed(row, WHAT, attempt=MAX_ATTEMPTS), question_hash=question_hash(WHAT.template, WHAT.options)),
        replace(failed(row, COLOUR, "permanent"), question_hash="of other words"),
    ]
    assert make_plan([row], [WHAT], failures=failures).counts.answers_exhausted == 1
    (clip,) = make_plan([row], [mended, COLOUR], failures=failures).to_encode
    assert set(clip.question_ids) == {WHAT.question_id, COLOUR.question_id}
    assert [clip.attempt_of(question_id) for question_id in clip.question_ids] == [1, 1]
    # Failures from before they told the words count for any.
    old = [replace(failure, question_hash=None) for failure in failures]
    assert make_plan([row], [mended, COLOUR], failures=old).counts.answers_exhausted == 2


@pytest.mark.parametrize("order", [1, -1])
def test_a_retry_counts_from_the_last_try_that_it_covers(order: int) -> None:
    """Whatever order the failures are read in: after it, there are as many tries as a new clip has."""
    row = video("a")
    before = [replace(failed(row, None, attempt=n + 1), retried=True) for n in range(MAX_ATTEMPTS)]
    since = [failed(row, None, attempt=MAX_ATTEMPTS + n + 1) for n in range(MAX_ATTEMPTS)]
    (clip,) = make_plan([row], [WHAT], failures=[*before, *since[:-1]][::order]).to_encode
    assert clip.attempt == 2 * MAX_ATTEMPTS
    assert make_plan([row], [WHAT], failures=[*before, *since][::order]).counts.answers_exhausted == 1


def test_a_later_answer_supersedes_the_failures_of_its_clip() -> None:
    """A new question of a clip that failed, and then worked, starts to count from one."""
    row = video("a")
    failures = [replace(failed(row, None, attempt=n), run_id=f"2026-0{n}") for n in (1, 2)]
    answers = [replace(answered(row, WHAT, WHAT.template), run_id="2026-03")]
    (clip,) = make_plan([row], [WHAT, COLOUR], answers=answers, failures=failures).to_encode
    assert (clip.question_ids, clip.attempt) == (("colour",), 1)
    # What fails after that answer counts, though it counts from one again.
    failures += [replace(failed(row, None, attempt=n), run_id=f"2026-1{n}") for n in (1, 2)]
    (clip,) = make_plan([row], [WHAT, COLOUR], answers=answers, failures=failures).to_encode
    assert clip.attempt == 3
    failures.append(replace(failed(row, None, "permanent", attempt=1), run_id="2026-13"))
    assert make_plan([row], [WHAT, COLOUR], answers=answers, failures=failures).counts.answers_exhausted == 1


@pytest.mark.parametrize(
    "changed",
    [
        replace(WHAT, template="What happens now?"),
        replace(WHAT, options=("red", "blue")),
        replace(WHAT, template="What happens? "),
    ],
)
def test_an_id_for_another_question_is_refused_by_name(changed: Question) -> None:
    """Whatever the state of the clip: its tokens, its failures, its source."""
    row = video("a")
    answers = [answered(row, WHAT, WHAT.template)]
    assert make_plan([row], [WHAT], answers=answers).counts.answers_done == 1
    for moved in (row, replace(row, video_path="/videos/replaced")):
        with pytest.raises(QuestionChangedError, match=r"question_id 'what'.*video_id 'a'"):
            make_plan(
                [moved], [changed], answers=answers, tokens_of=[moved], failures=[failed(moved, None, "permanent")]
            )


def test_an_id_for_another_question_is_refused_for_new_videos_too() -> None:
    """Next month's videos with last month's id and another text would put two questions under one id."""
    answers = [answered(video("a"), WHAT, WHAT.template)]
    assert make_plan([video("b")], [WHAT], answers=answers).counts.answers_planned == 1
    with pytest.raises(QuestionChangedError, match=r"question_id 'what'.*other videos"):
        make_plan([video("b")], [replace(WHAT, template="What happens now?")], answers=answers)


def test_another_video_may_have_another_question_under_the_same_id() -> None:
    """Per-video questions share ids freely."""
    rows = [video("a"), video("b")]
    own = [Question("q", f"About {name}?", video_id=name) for name in "ab"]
    made = make_plan(rows, own, answers=[answered(rows[0], own[0], "About a?")])
    assert [(clip.video_id, clip.question_ids) for clip in made.to_encode] == [("b", ("q",))]


@pytest.mark.parametrize(
    ("failures", "planned"),
    [
        ([], {"what", "colour"}),
        ([("transient", None, 1)], {"what", "colour"}),
        ([("transient", None, 1), ("transient", None, 2)], {"what", "colour"}),
        ([("transient", None, n) for n in (1, 2, 3)], set()),
        ([("permanent", None, 1)], set()),
        ([("transient", WHAT, 3)], {"colour"}),
        ([("permanent", WHAT, 1)], {"colour"}),
        ([("transient", WHAT, 2), ("transient", COLOUR, 2)], {"what", "colour"}),
    ],
)
def test_what_failed_is_tried_again_or_not(failures: list[tuple[str, Question | None, int]], planned: set[str]) -> None:
    """Transient failures `max_attempts` times over all runs, permanent ones never; a question's are its own."""
    row = video("a")
    made = make_plan([row], [WHAT, COLOUR], failures=[failed(row, q, kind, n) for kind, q, n in failures])
    assert {question for clip in made.to_encode for question in clip.question_ids} == planned
    assert made.counts.answers_exhausted == 2 - len(planned)


def test_a_new_question_counts_from_one() -> None:
    """However often its neighbours have failed: their tries are not its own."""
    row = video("a")
    failures = [failed(row, WHAT, attempt=n) for n in (1, 2)]
    (clip,) = make_plan([row], [WHAT, COLOUR], failures=failures).to_encode
    assert (clip.attempt_of("what"), clip.attempt_of("colour"), clip.attempt_of(None)) == (3, 1, 1)
    assert clip.is_tried_again


def test_max_attempts_is_the_jobs() -> None:
    """Raising it gives what was exhausted another try, with the count going on."""
    row = video("a")
    failures = [failed(row, None, attempt=n) for n in (1, 2, 3)]
    assert make_plan([row], [WHAT], failures=failures, max_attempts=3).to_encode == ()
    (clip,) = make_plan([row], [WHAT], failures=failures, max_attempts=4).to_encode
    assert clip.attempt == 4


def test_a_success_supersedes_a_failure() -> None:
    """Answered is done, whatever failed before it."""
    row = video("a")
    failures = [failed(row, None, "permanent"), failed(row, WHAT, "permanent")]
    made = make_plan([row], [WHAT], answers=[answered(row, WHAT, WHAT.template)], failures=failures)
    assert (made.counts.answers_done, made.counts.answers_exhausted, made.to_encode) == (1, 0, ())


def test_a_changed_source_is_planned_again_from_the_start() -> None:
    """Its answers, tokens and failures belong to the old bytes; the neighbour's stay."""
    rows = [video("a"), video("b")]
    answers = [answered(row, WHAT, WHAT.template) for row in rows]
    new_sources = [Source("other bytes", 1), source_of(rows[1])]
    made = plan(
        [row_clip(row, source) for row, source in zip(rows, new_sources, strict=True)],
        QuestionTable([WHAT]),
        committed_tokens={content_key(source_of(row).source_id, None, None) for row in rows},
        answered=answers,
        failed=[failed(rows[0], None, "permanent")],
        max_attempts=1,
    )
    (clip,) = made.to_encode
    assert (clip.video_id, clip.attempt, clip.source_id) == ("a", 1, "other bytes")
    assert (made.cached, made.counts.answers_done, made.counts.answers_exhausted) == ((), 1, 0)


def test_changed_sources_are_named() -> None:
    """Only a path that was probed before, and never with these bytes; a missing file is a failure instead."""
    rows = [video(name) for name in ("same", "changed", "new", "gone", "back")]
    sources = [Source("s1", 1), Source("c2", 1), Source("n1", 1), Source("missing", None), Source("b1", 1)]
    probed = {
        "/videos/same": {"s1"},
        "/videos/changed": {"c0", "c1"},
        "/videos/gone": {"g1"},
        "/videos/back": {"b1", "b2"},
    }
    clips = [row_clip(row, source) for row, source in zip(rows, sources, strict=True)]
    assert changed_sources(clips, probed) == ["changed"]


def test_a_row_with_a_problem_is_never_answered_from_the_cache() -> None:
    """Its span could not be read, so the whole video's tokens are not its own."""
    good = video("good", video_path="/videos/shared")
    bad = video("bad", video_path="/videos/shared", problem="start_s is 'abc', not a number of seconds")
    made = make_plan([good, bad], [WHAT], tokens_of=[good])
    assert [clip.video_id for clip in made.cached] == ["good"]
    assert [(clip.video_id, clip.problem) for clip in made.to_encode] == [("bad", bad.problem)]


def test_two_teams_may_call_different_videos_the_same() -> None:
    """Tokens are found by content, so one team's "0001" never gets the other's."""
    ours, theirs = video("0001", video_path="/ours/1"), video("0001", video_path="/theirs/1")
    assert make_plan([ours], [WHAT], tokens_of=[theirs]).cached == ()
    copy = video("another-name", video_path="/ours/1")
    assert len(make_plan([copy], [WHAT], tokens_of=[ours]).cached) == 1


@given(st.integers(0, 50), st.integers(1, 20))
def test_every_clip_is_dealt_out_once(num_clips: int, count: int) -> None:
    """As evenly as can be, none of them empty."""
    clips = make_plan([video(f"{n:02}") for n in range(num_clips)], [WHAT]).to_encode
    dealt = list(deal(clips, count))
    assert sorted(clip.video_id for part in dealt for clip in part) == [clip.video_id for clip in clips]
    sizes = [len(part) for part in dealt]
    assert len(sizes) == min(count, num_clips)
    assert not sizes or (max(sizes) - min(sizes) <= 1 and min(sizes) >= 1)


def test_planning_imports_neither_storage_nor_models() -> None:
    """Deciding what is left to do needs none of them."""
    heavy = ("botocore", "fsspec", "huggingface_hub", "ray", "torch")
    code = f"import sys, pipeline.plan.plan; print(sorted(set({heavy}) & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
