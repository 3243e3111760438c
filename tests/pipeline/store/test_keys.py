"""Identities are stable for ever and never confuse two things."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.store.keys import clip_id, content_key, digest, question_hash, shard_of

PARTS = st.lists(st.one_of(st.none(), st.text(max_size=4), st.integers(), st.lists(st.text(max_size=2), max_size=2)))


@pytest.mark.parametrize(
    ("key", "canonical"),
    [
        (digest("a", None, 1, 1.5, ["x"], {"b": 1, "a": 2}), '["a",null,1,1.5,["x"],{"a":2,"b":1}]'),
        (digest("Straße", "日本"), '["Straße","日本"]'),
        (content_key("s3://bucket/a.mp4 7 etag", None, 2.5), '["content","s3://bucket/a.mp4 7 etag",null,2.5]'),
        (clip_id("0001", "abcd"), '["clip","0001","abcd"]'),
        (question_hash("What?", ["red", "blue"]), '["question","What?",["red","blue"]]'),
        (question_hash("What?", None), '["question","What?",null]'),
    ],
)
def test_a_key_is_the_sha256_of_canonical_json(key: str, canonical: str) -> None:
    """Anyone can compute a key again, in any language, and no release may change it: caches hang on it."""
    assert key == hashlib.sha256(canonical.encode("utf-8")).hexdigest()[:32]


def test_keys_have_their_golden_values() -> None:
    """Written down once, so that a change of both the code and the rule above is seen, too."""
    assert content_key("source", 0.0, 10.0) == "cebd5d2cf1afb758714300ce320cc2e0"
    assert clip_id("video", content_key("source", None, None)) == "94ad221aa1f0c79c6e414b08b1c9f605"
    assert question_hash("What happens?", None) == "a849962a627804ac4ff8f4de2a51d736"
    assert [shard_of(name) for name in ("", "0001", "a.mp4")] == ["49", "d8", "6a"]


@given(PARTS, PARTS)
def test_different_parts_never_share_a_key(one: list[object], other: list[object]) -> None:
    """Equal keys mean equal parts."""
    assert (digest(*one) == digest(*other)) == (one == other)


@given(st.text(min_size=1, max_size=12), st.data())
def test_the_boundary_between_parts_counts(text: str, data: st.DataObject) -> None:
    """("ab", "c") is not ("a", "bc"), whatever separators the text holds."""
    first, second = (data.draw(st.integers(0, len(text))) for _ in range(2))
    one, other = digest(text[:first], text[first:]), digest(text[:second], text[second:])
    assert (one == other) == (first == second)


def test_look_alikes_differ() -> None:
    """None is not "None" or "null", a number is not its text, a list is not its items, kinds of keys do not mix."""
    alike = [
        digest("1"), digest(1), digest(1.0), digest(True), digest(["1"]), digest("1", None), digest("1", ""),
        digest(None), digest("None"), digest("null"), digest([]), digest(),
        content_key("1", None, None), clip_id("1", ""), question_hash("1", None), question_hash("1", ["1"]),
    ]  # fmt: skip
    assert len(set(alike)) == len(alike)


def test_what_makes_a_question_another_one() -> None:
    """Its text, its options and their order; having no options is one thing, however it is written."""
    different = {question_hash("Q", options) for options in (None, ["a", "b"], ["b", "a"], ["a"], ["ab"])}
    assert len(different) == 5
    assert question_hash("Q", ()) == question_hash("Q", None)
    assert question_hash("Q", ("a", "b")) == question_hash("Q", ["a", "b"])


def test_rows_spread_over_all_256_shards() -> None:
    """Two hexadecimal digits, none of them much fuller than another."""
    shards = [shard_of(f"{number:04}") for number in range(25_600)]
    counts = {shard: shards.count(shard) for shard in set(shards)}
    assert set(counts) == {f"{number:02x}" for number in range(256)}
    assert max(counts.values()) < 200
