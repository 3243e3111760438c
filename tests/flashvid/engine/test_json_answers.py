"""JSON answers: the answer of any model satisfies the schema."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from pydantic import ValidationError

from flashvid.config import InnerPruningConfig
from flashvid.engine.json_grammar import JsonGrammar
from flashvid.engine.sampling import TokenSampler
from flashvid.errors import ConfigurationError
from flashvid.models import Answer, CompressedVideo, GenerationConfig, VideoModel, load_model
from jobs.job_file import load_job
from tests.support.embedded_model import QUESTIONS, TIMES, video
from tests.support.tiny_families import write_llava, write_qwen3

PRUNING = InnerPruningConfig(pruning_layer=1, llm_retention_ratio=0.3)
SCENE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "maxLength": 12},
        "people": {"type": "integer", "minimum": 0, "maximum": 120},
        "colours": {"type": "array", "items": {"enum": ["red", "grün", "blue"]}, "minItems": 1, "maxItems": 3},
        "camera": {"type": ["boolean", "null"]},
    },
    "required": ["title", "people", "colours", "camera"],
    "additionalProperties": False,
}
SCHEMAS: dict[str, dict[str, Any]] = {
    "object": SCENE,
    "list of objects": {"type": "array", "items": SCENE, "minItems": 1, "maxItems": 2},
    "choice": {"enum": ["yes", "no", 3, None]},
    "number": {"type": "integer", "minimum": 10, "maximum": 99},
    "alternatives": {"anyOf": [{"type": "boolean"}, {"$ref": "#/$defs/short"}], "$defs": {"short": {"const": "a b ."}}},
    "pattern": {"type": "string", "pattern": "^[a-f]{3}-[0-9]{2}$"},
}
GREEDY = {"max_new_tokens": 400}
DRAWN = {"max_new_tokens": 400, "temperature": 30.0, "top_p": 0.9, "seed": 5}


def as_json(answer: Answer) -> Any:
    """Parse an answer strictly."""
    return json.loads(answer.response)


@pytest.mark.parametrize("how", [GREEDY, DRAWN], ids=["greedy", "drawn"])
@pytest.mark.parametrize("name", SCHEMAS)
def test_every_answer_satisfies_the_schema(
    model: VideoModel, compressed: CompressedVideo, name: str, how: dict[str, Any]
) -> None:
    """A model with random weights writes valid JSON."""
    generation = GenerationConfig(json_schema=SCHEMAS[name], **how)
    for answer in model.answer(compressed, QUESTIONS, generation):
        jsonschema.validate(as_json(answer), SCHEMAS[name])
        assert answer.finish_reason == "stop"
        assert answer.response.encode().decode() == answer.response


def test_keys_come_in_the_order_of_the_schema(model: VideoModel, compressed: CompressedVideo) -> None:
    """Values are written without extra blanks."""
    backwards = {**SCENE, "properties": dict(reversed(SCENE["properties"].items()))}
    for schema in (SCENE, backwards):
        (answer,) = model.answer(compressed, QUESTIONS[:1], GenerationConfig(json_schema=schema, **GREEDY))
        assert list(as_json(answer)) == list(schema["properties"])
        assert "\n" not in answer.response


@pytest.mark.parametrize("how", [GREEDY, DRAWN], ids=["greedy", "drawn"])
def test_an_answer_does_not_depend_on_its_company(
    model: VideoModel, compressed: CompressedVideo, how: dict[str, Any]
) -> None:
    """Each answer has its own grammar state; a halved or small batch gives the same answers."""
    generation = GenerationConfig(json_schema=SCENE, **how)
    together = model.answer(compressed, QUESTIONS, generation, pruning=PRUNING)
    assert len({answer.response for answer in together}) > 1
    assert model.answer(compressed, QUESTIONS[::-1], generation, pruning=PRUNING) == together[::-1]
    assert model.answer(compressed, QUESTIONS, generation, pruning=PRUNING, max_batch_tokens=1) == together
    for question, answer in zip(QUESTIONS, together, strict=True):
        assert model.answer(compressed, [question], generation, pruning=PRUNING) == [answer]


def test_json_that_is_cut_says_so(model: VideoModel, compressed: CompressedVideo) -> None:
    """One token less than a complete answer gives its beginning and "length", the same number "stop"."""
    (whole,) = model.answer(compressed, QUESTIONS[:1], GenerationConfig(json_schema=SCENE, **GREEDY))
    needed = whole.num_generated_tokens
    for length, reason in ((needed, "stop"), (needed - 1, "length"), (1, "length")):
        generation = GenerationConfig(json_schema=SCENE, max_new_tokens=length)
        (answer,) = model.answer(compressed, QUESTIONS[:1], generation)
        assert (answer.finish_reason, answer.num_generated_tokens) == (reason, length)
        assert whole.response.startswith(answer.response)
        assert (answer == whole) == (reason == "stop")
        if reason == "length":
            # The last token closed the object: none was spent on an end token.
            with pytest.raises(json.JSONDecodeError):
                as_json(answer)


def test_an_end_token_ends_what_could_go_on(model: VideoModel, compressed: CompressedVideo) -> None:
    """A number has no closing bracket, so the model's end token ends it, and is counted."""
    generation = GenerationConfig(json_schema={"type": "integer"}, max_new_tokens=400, temperature=50.0)
    answers = model.answer(compressed, QUESTIONS, generation)
    assert {answer.finish_reason for answer in answers} == {"stop"}
    assert all(str(as_json(answer)) == answer.response for answer in answers)
    assert any(answer.num_generated_tokens > 1 for answer in answers)


def test_options_are_scored_and_not_written(model: VideoModel, compressed: CompressedVideo) -> None:
    """With `choice` "likelihood", options take precedence over a schema; questions without options follow it."""
    generation = GenerationConfig(json_schema=SCENE, choice="likelihood", max_new_tokens=400)
    scored, written = model.answer(compressed, QUESTIONS[:2], generation, options=[("bal", "ber"), None])
    assert (scored.response in ("bal", "ber"), scored.finish_reason) == (True, "choice")
    jsonschema.validate(as_json(written), SCENE)


@pytest.mark.parametrize("family", ["llava", "qwen3"])
def test_every_family_writes_json(tmp_path: Path, family: str) -> None:
    """JSON works if a model has more logits than its tokenizer has tokens, and its own placeholders."""
    (write_llava if family == "llava" else write_qwen3)(tmp_path)
    model = load_model(str(tmp_path), dtype="float32", device="cpu")
    compressed = model.compress(model.encode(video(1), TIMES), None)
    for how in (GREEDY, DRAWN):
        for answer in model.answer(compressed, QUESTIONS, GenerationConfig(json_schema=SCENE, **how)):
            jsonschema.validate(as_json(answer), SCENE)


def test_the_mask_comes_before_everything_else(model: VideoModel) -> None:
    """Forbidden tokens are neither candidates of top_k and top_p nor drawn, even if they are likely."""
    grammar = JsonGrammar('{"enum": [1, 2]}', model.language.chat.constraint)
    one, two = (model.language.chat.continuation(digit)[0] for digit in "12")
    # More logits than the tokenizer has tokens, as with padded vocabularies.
    logits = torch.full((512,), 50.0)
    logits[one], logits[two] = -3.0, -2.0
    assert TokenSampler(GenerationConfig(), "key", grammar.begin()).choose(logits) == two
    drawn = {
        TokenSampler(GenerationConfig(temperature=1.0, **bounds), str(key), grammar.begin()).choose(logits)
        for key in range(40)
        for bounds in ({}, {"top_k": 5}, {"top_p": 0.99})
    }
    assert drawn == {one, two}
    assert logits[0] == 50.0


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "strin"}, "can't be enforced: Invalid type: strin"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, "minimum .5. is greater than maximum .3."),
        ({"not": {"type": "string"}}, 'Unimplemented keys: ."not".'),
        ({"x-guidance": {"lenient": True}, "not": {}}, 'Unimplemented keys: ."not".'),
        ({"$ref": "https://example.org/schema"}, "does not fetch resources"),
        ({"type": "string", "pattern": "("}, "unclosed group"),
        ([1], "must be an object"),
        ("{", "is not JSON"),
        ({"const": {1, 2}}, "is not JSON"),
        ({"maximum": float("nan")}, "is not JSON"),
    ],
)
def test_an_impossible_schema_is_refused(schema: object, message: str) -> None:
    """Creating the settings fails with the reason, also for keywords that cannot be enforced."""
    with pytest.raises(ValidationError, match=message):
        GenerationConfig(json_schema=schema)


def test_a_job_with_an_impossible_schema_is_one_error(tmp_path: Path) -> None:
    """A job file with an invalid schema fails before any work, with the line."""
    job = tmp_path / "job.yaml"
    head = "videos: v\nquestions: [What]\noutput: o\nmodel: {name: tiny-random}\n"
    job.write_text(f"{head}generation:\n  json_schema: {{type: strin}}\n")
    with pytest.raises(ConfigurationError, match=r"line 6, generation.json_schema: .*Invalid type: strin"):
        load_job(job)
    job.write_text(f"{head}generation:\n  json_schema: {{type: integer}}\n")
    assert load_job(job).generation.json_schema == '{"type": "integer"}'


def test_a_schema_that_was_not_checked_is_refused_before_any_work(
    model: VideoModel, compressed: CompressedVideo
) -> None:
    """Settings changed without validation fail when the schema is compiled."""
    unchecked = GenerationConfig().model_copy(update={"json_schema": '{"type": "strin"}'})
    with pytest.raises(ConfigurationError, match="Invalid type: strin"):
        model.answer(compressed, QUESTIONS, unchecked)


def test_a_schema_is_frozen_with_its_settings() -> None:
    """Settings with a schema can be hashed, compared, pickled and written to a file."""
    given = json.loads(json.dumps(SCENE))
    generation = GenerationConfig(json_schema=given)
    given["required"] = []
    assert generation == GenerationConfig(json_schema=SCENE) == GenerationConfig(json_schema=json.dumps(SCENE))
    assert len({generation, pickle.loads(pickle.dumps(generation))}) == 1  # noqa: S301 - our own bytes
    assert GenerationConfig.model_validate_json(generation.model_dump_json()) == generation
    assert generation != GenerationConfig(json_schema={**SCENE, "required": ["title"]})


def test_stop_texts_exclude_a_schema() -> None:
    """Stop texts would cut the JSON, so both together are an error."""
    with pytest.raises(ValidationError, match="stop and json_schema exclude each other"):
        GenerationConfig(json_schema=SCENE, stop=("}",))
