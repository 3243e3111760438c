"""Small inputs that stand for enormous ones: each ends soon, with one message that names the place and the bound."""

from __future__ import annotations

import io
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from flashvid.bounded_json import MAX_DEPTH, parse_json
from flashvid.engine import json_grammar
from flashvid.errors import ConfigurationError, ModelLoadError
from flashvid.models import GenerationConfig, check_answering, resolve_model
from flashvid.models.chat import ChatPrompt
from flashvid.models.source import read_json
from jobs import bounded_yaml
from jobs.bounded_yaml import compose_yaml, read_yaml
from jobs.cli.options import assignments
from jobs.job_file import check_job, load_job
from pipeline.errors import DamagedObjectError, InputTableError
from pipeline.inputs.parquet_table import read_parquet
from pipeline.inputs.questions_table import read_question_rows
from pipeline.inputs.tables import MAX_COLUMNS, read_table
from pipeline.inputs.videos_table import read_videos
from pipeline.store.cache_users import cache_users
from pipeline.store.lease import read_lease
from pipeline.store.results import Results
from pipeline.store.retries import read_retries
from pipeline.store.run_records import RunRecords
from pipeline.store.storage import Storage

MINIMAL = "videos: v\nquestions: [What]\noutput: o\nmodel: {name: tiny-random}\n"
DEEP = "[" * 5000 + "]" * 5000
LAUGHS = "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10) if n else 'x'}]" for n in range(12))

MERGES = "a: &a {x: 1}\n" + "\n".join(
    f"b{n}: &b{n} {{<<: [{', '.join([f'*b{n - 1}' if n else '*a'] * 9)}]}}" for n in range(9)
)


@pytest.fixture(autouse=True)
def soon() -> Iterator[None]:
    """Every test of this file ends within seconds of computing."""
    begun = time.process_time()
    yield
    assert time.process_time() - begun < 10


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (LAUGHS, "aliases are written out"),
        ("a: &a " + "x" * 100_000 + "\nb: [" + "*a, " * 200 + "*a]", "aliases are written out"),
        (MERGES, "aliases are written out"),
        ("a: &a [*a]", "what it is a part of"),
        ("a: &a {b: {c: [*a]}}", "what it is a part of"),
        ("a: &a\n  <<: *a", "what it is a part of"),
        ("a: " + DEEP, "nests deeper"),
        ("a: " + "{a: " * 3000 + "1" + "}" * 3000, "nests deeper"),
        ("a0: &a0 [1]\n" + "\n".join(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 90)), "nests deeper"),
        ("a: " + "9" * 100_000, "beyond 64 bits"),
        ("a: 0x" + "f" * 17, "beyond 64 bits"),
        ("a: 1" + ":59" * 100_000, "beyond 64 bits"),
        ("a: 18446744073709551616", "beyond 64 bits"),
        ("a: 2001-99-99", "can't be read"),
        ("a: !!int ''", "can't be read"),
        ("a: !!timestamp x", "can't be read"),
        ("a: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("# " + "x" * (9 << 20), "more than 8 MiB"),
    ],
)
def test_a_job_file(tmp_path: Path, text: str, part: str) -> None:
    """The message has the name of the file; `--set` and `--storage-option` are read in the same way."""
    (tmp_path / "job.yaml").write_text(text)
    with pytest.raises(ConfigurationError, match=part) as refused:
        check_job(tmp_path / "job.yaml")
    assert str(refused.value).startswith(str(tmp_path / "job.yaml"))
    assert len(str(refused.value)) < 1000
    if "\n" not in text:
        with pytest.raises(ConfigurationError, match="the value is not YAML"):
            assignments([f"a={text[3:]}"], "--set")


@pytest.mark.parametrize(
    "text",
    [
        MINIMAL,
        "a: &a {x: 1, y: [1, 2]}\nb: {<<: *a, y: 3}\nc: [*a, *a]\nd: &d text\ne: *d\n",
        "a: 18446744073709551615\nb: -9223372036854775808\nc: 0x1F\nd: 0b101\ne: 1_000\nf: 1:30\n",
        "g: 1.5e3\nh: .inf\ni: ~\n",
        "a: 2001-12-14\nb: 2001-12-14t21:59:43.10-05:00\nc: !!binary aGk=\nd: !!set {x, y}\ne: on\nf: 010\n",
        "", "[1, 2]", "- &a [x]\n- *a\n", "? a\n: b\n",
    ],
)  # fmt: skip
def test_other_yaml_is_read_as_before(text: str) -> None:
    """By the loader of the library."""
    assert repr(read_yaml(text)) == repr(yaml.safe_load(text))
    node, expected = compose_yaml(text), yaml.compose(text)
    assert (node and yaml.serialize(node)) == (expected and yaml.serialize(expected))


def test_a_job_file_with_aliases(tmp_path: Path) -> None:
    """Shared parts are what aliases are for."""
    (tmp_path / "job.yaml").write_text(
        "videos: v\noutput: o\nmodel: {name: tiny-random}\n"
        "questions: [{question: 'A?', options: &colours [red, blue]}, {question: 'B?', options: *colours}]\n"
    )
    assert load_job(tmp_path / "job.yaml").questions[1].options == ("red", "blue")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (DEEP, "nest deeper"),
        ('{"a":' * 200 + "1" + "}" * 200, "nest deeper"),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "nest deeper"),
        ("9" * 5000, "beyond 64 bits"),
        ("[18446744073709551616]", "beyond 64 bits"),
        ("-9223372036854775809", "beyond 64 bits"),
    ],
)
def test_json(tmp_path: Path, text: str, part: str) -> None:
    """As a row of a table, as options of a question, as a schema, and as a file of a model."""
    with pytest.raises(ValueError, match=part):
        parse_json(text)
    table = tmp_path / "videos.jsonl"
    table.write_text(
        '{"video_id": "a", "video_path": "a.mp4"}\n{"video_id": "b", "video_path": "b.mp4", "x": ' + text + "}\n"
    )
    with pytest.raises(InputTableError, match=f"videos.jsonl.*line 2: .*{part}"):
        read_videos(str(table))
    (tmp_path / "questions.csv").write_text(f'question,options\nWhat?,"{text.replace(chr(34), chr(34) * 2)}"\n')
    with pytest.raises(InputTableError, match=r"questions.csv, row 1: options") as refused:
        read_question_rows(str(tmp_path / "questions.csv"), {})
    assert len(str(refused.value)) < 1000
    with pytest.raises(ValueError, match=part):
        GenerationConfig.model_validate({"json_schema": '{"type": "integer", "minimum": ' + text + "}"})
    (tmp_path / "job.yaml").write_text(MINIMAL + "generation: {json_schema: schema.json}\n")
    (tmp_path / "schema.json").write_text('{"type": "integer", "minimum": ' + text + "}")
    with pytest.raises(ConfigurationError, match=f"generation.json_schema.*{part}"):
        load_job(tmp_path / "job.yaml")
    (tmp_path / "config.json").write_text('{"x": ' + text + "}")
    if part == "nest deeper":
        with pytest.raises(ModelLoadError, match=f"config.json can't be read: .*{part}"):
            read_json(tmp_path / "config.json")


def test_json_that_is_fine(tmp_path: Path) -> None:
    """64 bits, as deep as the bound, and the large integer that many published tokenizers have."""
    text = '{"a": [18446744073709551615, -9223372036854775808, 1e300, NaN], "b": ' + "[" * 98 + "]" * 98 + "}"
    assert repr(parse_json(text)) == repr(json.loads(text))
    assert parse_json(b'\xef\xbb\xbf{"a": "\xc3\xa9"}') == {"a": "é"}
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 1000000000000000019884624838656}')
    assert read_json(tmp_path / "tokenizer_config.json")["model_max_length"] == 10**30 + 19884624838656


def parquet(table: pa.Table, **options: Any) -> bytes:
    """The bytes of a file."""
    file = io.BytesIO()
    pq.write_table(table, file, compression="zstd", **options)
    return file.getvalue()


LONG = "y" * 1_000_000
ZEROS = np.zeros(1000, "i4")
BOMBS = {
    "one text a thousand times": lambda: parquet(pa.table({"a": pa.DictionaryArray.from_arrays(ZEROS, [LONG])})),
    "in a list": lambda: parquet(
        pa.table({"a": pa.ListArray.from_arrays(np.arange(1001), pa.DictionaryArray.from_arrays(ZEROS, [LONG]))})
    ),
    "in an object": lambda: parquet(
        pa.table({"a": pa.StructArray.from_arrays([pa.DictionaryArray.from_arrays(ZEROS, [LONG])], ["b"])})
    ),
    "without a dictionary": lambda: parquet(pa.table({"a": [LONG] * 80}), use_dictionary=False),
    "with shared prefixes": lambda: parquet(
        pa.table({"a": [LONG] * 80}), use_dictionary=False, column_encoding={"a": "DELTA_BYTE_ARRAY"}
    ),
    "numbers": lambda: parquet(pa.table({"a": np.zeros(9_000_000, "i8")})),
    "nulls": lambda: parquet(pa.table({"a": pa.nulls(9_000_000)})),
}


@pytest.mark.parametrize("name", BOMBS)
def test_parquet(tmp_path: Path, name: str) -> None:
    """Hundreds of times its size; little of it is ever in memory."""
    content = BOMBS[name]()
    (tmp_path / "videos.parquet").write_bytes(content)
    before = pa.default_memory_pool().bytes_allocated()
    with pytest.raises(InputTableError, match=r"videos\.parquet: .* bytes unpack to more than [0-9,]+") as refused:
        read_videos(str(tmp_path / "videos.parquet"))
    assert pa.default_memory_pool().bytes_allocated() - before < 64 << 20
    assert len(content) < 1 << 20
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize(
    "options", [{}, {"row_group_size": 100}, {"use_dictionary": False}, {"dictionary_pagesize_limit": 100}]
)
def test_other_parquet_is_read_as_before(options: dict[str, Any]) -> None:
    """Every kind of column, in one or many groups of rows, with and without dictionaries."""
    words = [f"word {n % 50}" for n in range(1000)]
    table = pa.table(
        {
            "text": words,
            "empty": pa.nulls(1000, pa.string()),
            "options": [[word, "no"] if n % 3 else None for n, word in enumerate(words)],
            "object": [{"a": word, "b": [n]} for n, word in enumerate(words)],
            "map": pa.array([[("k", word)] for word in words], pa.map_(pa.string(), pa.string())),
            "lists": [[[word], []] for word in words],
            "number": range(1000),
            "time": pa.array(range(1000), pa.timestamp("us")),
            "large": pa.array(words, pa.large_string()),
            "bytes": pa.array([b"ab"] * 1000, pa.binary(2)),
            "dictionary": pa.array(words).dictionary_encode(),
        }
    )
    content = parquet(table, **options)
    expected = pq.ParquetFile(io.BytesIO(content)).read()
    found = read_parquet(content)
    assert found.equals(expected)
    assert found.schema == expected.schema


def test_a_column_for_every_row(tmp_path: Path) -> None:
    """A table of lines times lines."""
    (tmp_path / "v.jsonl").write_text("\n".join(json.dumps({f"k{n}": n}) for n in range(20_000)))
    (tmp_path / "v.csv").write_text(",".join(f"k{n}" for n in range(20_000)) + "\n")
    (tmp_path / "v.parquet").write_bytes(parquet(pa.table({f"k{n}": [1] for n in range(MAX_COLUMNS + 1)})))
    for ending in ("jsonl", "csv", "parquet"):
        with pytest.raises(InputTableError, match=f"v.{ending}.*columns, more than 1,000"):
            read_table(str(tmp_path / f"v.{ending}"), {})


def test_integers_that_no_column_holds(tmp_path: Path) -> None:
    """Each has 64 bits, but not of the same kind."""
    (tmp_path / "v.jsonl").write_text('{"a": 18446744073709551615}\n{"a": -1}\n')
    with pytest.raises(InputTableError, match=r"v\.jsonl"):
        read_table(str(tmp_path / "v.jsonl"), {})


def test_a_schema_that_takes_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler runs in a process that ends."""
    monkeypatch.setattr(json_grammar, "_COMPILE_SECONDS", 1)
    patterns = [{"type": "string", "pattern": f"a.{{{n}}}b"} for n in range(20, 120)]
    with pytest.raises(ValueError, match="can't be enforced: compiling it takes more than 1 s"):
        json_grammar.schema_text({"allOf": patterns})


def test_a_schema_of_megabytes() -> None:
    """Refused before it is compiled."""
    with pytest.raises(ValueError, match="characters, more than"):
        json_grammar.schema_text({"enum": [f"{n:09d}" for n in range(200_000)]})


@pytest.mark.parametrize(
    "content", [DEEP.encode(), b'{"epoch": 18446744073709551616}', b"[1]", b"\xff\xfe", b'{"a": ' * 300]
)
def test_records(tmp_path: Path, content: bytes) -> None:
    """Of runs, leases, retries and users of a cache."""
    storage = Storage(str(tmp_path / "output"))
    for name in ("runs/20260101T000000-00000000.json", "lease/00000001.json", "retries/r.json", "used-by/u.json"):
        storage.create(name, content)
    for name, read in {
        "runs/": lambda: RunRecords(storage).all(),
        "runs/2": lambda: Results(storage),
        "lease/": lambda: read_lease(storage, "lease/00000001.json"),
        "retries/": lambda: read_retries(storage),
        "used-by/": lambda: cache_users(storage, {}),
    }.items():
        with pytest.raises(DamagedObjectError, match=f"{storage.root}/{name}.*is damaged"):
            read()


def test_the_template_of_a_model(tmp_path: Path) -> None:
    """Refused when the model is loaded, with the folder; that of a job when it is checked."""
    bomb = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    source = resolve_model("tiny-random")
    with pytest.raises(ConfigurationError, match="the chat template can't be filled in: it takes more than 2 s"):
        check_answering(source, GenerationConfig(chat_template=bomb), None)
    folder = Path(shutil.copytree(source.path, tmp_path / "model"))
    (folder / "chat_template.jinja").write_text("{{ 'a' * 9999999999 }}")
    with pytest.raises(ModelLoadError, match=f"{folder}.*the chat template can't be filled in: it makes a text"):
        ChatPrompt.load(folder, video_token="<|video_pad|>")  # noqa: S106 - a token of a vocabulary


def test_the_bound_is_the_documented_one() -> None:
    """docs/security.md names it."""
    assert (bounded_yaml.MAX_BYTES, bounded_yaml.MAX_DEPTH, MAX_DEPTH) == (8 << 20, 50, 100)
