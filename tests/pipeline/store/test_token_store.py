"""Compressed tokens: bit for bit what was committed, once per clip, readable with numpy alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from flashvid import InvalidFeaturesError
from flashvid.quantisation import quantise
from pipeline.clip import ClipIdentity
from pipeline.errors import CorruptTokensError
from pipeline.store import schemas
from pipeline.store.storage import Storage
from pipeline.store.tokens import TokenStore
from tests.support.helpers import compressed_video

PRINT = "0123456789abcdef"
KEY = "a7" + 30 * "0"
ORIGIN = ClipIdentity(clip_id="clip", video_id="0001", source_id="source", start_s=0.5, end_s=None)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@pytest.fixture
def store(tmp_path: Path) -> TokenStore:
    """An empty store in a folder."""
    return TokenStore(Storage(str(tmp_path)), PRINT)


def random_bits(dtype: torch.dtype, rows: int = 5, width: int = 6) -> torch.Tensor:
    """Every bit pattern there is: denormals, infinities, NaNs with payloads."""
    generator = torch.Generator().manual_seed(1)
    raw = torch.randint(0, 256, (rows, width * dtype.itemsize), dtype=torch.uint8, generator=generator)
    return raw.view(dtype)


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equality that takes NaNs and signs of zero seriously."""
    return one.dtype == other.dtype and torch.equal(
        one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8)
    )


def commit(store: TokenStore, tokens: torch.Tensor, key: str = KEY) -> bool:
    """Commit a clip with the given tokens."""
    return store.commit(key, compressed_video(tokens), ORIGIN, thumbnails=[b"\xff\xd8jpeg"], run_id="run-1")


@pytest.mark.parametrize("name", DTYPES)
def test_tokens_come_back_bit_for_bit(store: TokenStore, name: str) -> None:
    """And with them everything else that answering needs."""
    sent = compressed_video(random_bits(DTYPES[name]), num_steps=3)
    assert store.commit(KEY, sent, ORIGIN, thumbnails=[], run_id="run-1") is True
    received = store.read(KEY)
    assert received.tokens.shape == (5, 6)
    assert same_bits(received.tokens, sent.tokens)
    assert torch.equal(received.indices, sent.indices)
    assert torch.equal(received.assignment, sent.assignment)
    assert (received.indices.dtype, received.assignment.dtype) == (torch.int64, torch.int64)
    assert (received.grid_thw, received.segment_lengths) == ((3, 4, 8), (1, 2))
    np.testing.assert_array_equal(received.frame_timestamps, sent.frame_timestamps)
    assert received.frame_timestamps.dtype == np.float64
    received.tokens[0] = 0  # writable: nothing downstream has to copy it first


@pytest.mark.parametrize("name", DTYPES)
def test_deepstack_comes_back_bit_for_bit(store: TokenStore, name: str) -> None:
    """Every level beside the tokens, in order and whatever its memory looks like."""
    bits = random_bits(DTYPES[name], rows=15)
    levels = (bits[5:10], random_bits(DTYPES[name], rows=10)[::2])
    sent = replace(compressed_video(bits[:5]), deepstack=levels)
    store.commit(KEY, sent, ORIGIN, thumbnails=[], run_id="run-1")
    received = store.read(KEY)
    assert same_bits(received.tokens, sent.tokens)
    assert len(received.deepstack) == 2
    assert all(same_bits(got, level) for got, level in zip(received.deepstack, levels, strict=True))
    received.deepstack[1][0] = 0  # writable, and memory of its own
    assert same_bits(received.tokens, sent.tokens)


def test_families_without_deepstack_store_none(store: TokenStore, tmp_path: Path) -> None:
    """Null, not an empty list; an object from before there was such a column is read all the same."""
    tokens = random_bits(torch.float32)
    commit(store, tokens)
    path = tmp_path / store.name(KEY)
    assert pq.ParquetFile(path).read()["deepstack"].to_pylist() == [None]
    assert store.read(KEY).deepstack == ()
    pq.write_table(pq.ParquetFile(path).read().drop_columns("deepstack"), path)
    received = store.read(KEY)
    assert same_bits(received.tokens, tokens)
    assert received.deepstack == ()


@pytest.mark.parametrize("view", [lambda t: t[1:4, ::2], lambda t: t.T[:4], lambda t: t[:1].expand(3, 6)])
def test_any_memory_layout_is_stored_row_by_row(
    store: TokenStore, view: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    """Slices, transposed and expanded tensors hold more or less memory than they show."""
    tokens = view(random_bits(torch.bfloat16))
    commit(store, tokens)
    assert same_bits(store.read(KEY).tokens, tokens)


@pytest.mark.parametrize("name", DTYPES)
def test_numpy_reads_the_bytes_as_documented(store: TokenStore, tmp_path: Path, name: str) -> None:
    """The recipe of the README: `np.frombuffer`, little-endian; bfloat16 as the upper half of a float32."""
    tokens = torch.randn(5, 6, generator=torch.Generator().manual_seed(2)).to(DTYPES[name])
    commit(store, tokens)
    row = pd.read_parquet(tmp_path / "tokens").iloc[0]
    assert row["dtype"] == name
    if name == "bfloat16":
        flat = (np.frombuffer(row["tokens"], "<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        flat = np.frombuffer(row["tokens"], {"float32": "<f4", "float16": "<f2"}[name])
    np.testing.assert_array_equal(flat.reshape(row["num_tokens"], row["hidden_size"]), tokens.float().numpy())


def test_the_file_is_where_and_what_the_docs_say(store: TokenStore, tmp_path: Path) -> None:
    """`tokens/fingerprint=<f>/shard=<key's first digits>/<key>.parquet`, one row of `schemas.TOKENS`."""
    commit(store, random_bits(torch.float32))
    (path,) = (tmp_path / "tokens").rglob("*.*")
    assert path == tmp_path / f"tokens/fingerprint={PRINT}/shard=a7/{KEY}.parquet"
    assert pq.read_schema(path).equals(schemas.TOKENS)
    (row,) = pq.ParquetFile(path).read().to_pylist()
    assert {name: row[name] for name in vars(ORIGIN)} == vars(ORIGIN)
    assert (row["thumbnails"], row["run_id"]) == ([b"\xff\xd8jpeg"], "run-1")
    frame = pd.read_parquet(tmp_path / "tokens")
    assert frame[["fingerprint", "shard", "num_tokens"]].astype(str).to_numpy().tolist() == [[PRINT, "a7", "5"]]


def test_the_first_writer_of_a_clip_wins(store: TokenStore) -> None:
    """The second learns that it lost; its tokens are as good, so nobody is stopped."""
    first, second = random_bits(torch.float32), random_bits(torch.float32) + 1
    assert commit(store, first) is True
    assert commit(store, second) is False
    assert commit(store, first) is True  # a repeated write
    assert same_bits(store.read(KEY).tokens, first)


def test_what_is_committed_is_listed_per_fingerprint(store: TokenStore, tmp_path: Path) -> None:
    """Other settings have other tokens."""
    other = TokenStore(Storage(str(tmp_path)), "f" * 16)
    assert store.committed() == frozenset()
    keys = [f"{number:032x}" for number in range(5)]
    for key in keys:
        commit(store, random_bits(torch.float32), key)
    assert store.committed() == frozenset(keys)
    assert store.has(keys[0])
    assert not store.has(KEY)
    assert (other.committed(), other.has(keys[0])) == (frozenset(), False)
    with pytest.raises(FileNotFoundError):
        store.read(KEY)


@pytest.mark.parametrize("name", DTYPES)
def test_an_int8_cache_holds_values_and_scales(tmp_path: Path, name: str) -> None:
    """Deeper features too; any store reads it, and numpy does as documented."""
    store = TokenStore(Storage(str(tmp_path)), PRINT, "int8")
    parts = torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(3)).to(DTYPES[name])
    sent = replace(compressed_video(parts[0]), deepstack=(parts[1], parts[2]))
    store.commit(KEY, sent, ORIGIN, thumbnails=[], run_id="run-1")
    received = TokenStore(Storage(str(tmp_path)), PRINT).read(KEY)
    for got, part in zip((received.tokens, *received.deepstack), parts, strict=True):
        assert same_bits(got, quantise(part).restore(DTYPES[name]))
    row = pd.read_parquet(tmp_path / "tokens").iloc[0]
    values = np.frombuffer(row["tokens"], "i1").reshape(5, 6) * row["scales"][:, None]
    assert row["dtype"] == name
    np.testing.assert_array_equal(values.astype("f4"), quantise(parts[0]).restore(torch.float32).numpy())


@pytest.mark.parametrize(
    "columns",
    [{"scales": [1.0] * 4}, {"scales": [1.0] * 5, "deepstack": [b"\0" * 30]}, {"tokens": b"\0" * 60}, {"scales": None}],
)
def test_a_damaged_int8_object_is_named(tmp_path: Path, columns: dict[str, Any]) -> None:
    """One scale too few, none for deeper features, values of two bytes, no scales at all."""
    store = TokenStore(Storage(str(tmp_path)), PRINT, "int8")
    commit(store, torch.ones(5, 6))
    _changed(tmp_path / store.name(KEY), **columns)
    with pytest.raises(CorruptTokensError, match=KEY):
        store.read(KEY)


def test_tokens_that_have_no_scale_are_not_committed(tmp_path: Path) -> None:
    """The clip fails; nothing is left that looks done."""
    store = TokenStore(Storage(str(tmp_path)), PRINT, "int8")
    with pytest.raises(InvalidFeaturesError, match="not finite"):
        commit(store, torch.full((5, 6), torch.nan))
    assert not store.has(KEY)


def _changed(path: Path, **columns: Any) -> None:
    table = pq.ParquetFile(path).read()
    (row,) = table.to_pylist()
    pq.write_table(pa.Table.from_pylist([{**row, **columns}], schema=table.schema), path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: _changed(path, tokens=b"\0" * (5 * 6 * 4 - 1)),
        lambda path: _changed(path, num_tokens=4),
        lambda path: _changed(path, deepstack=[b"\0" * (5 * 6 * 4), b"\0" * (5 * 6 * 4 - 1)]),
        lambda path: _changed(path, deepstack=[b""]),
        lambda path: _changed(path, hidden_size=7),
        lambda path: _changed(path, dtype="bfloat16"),
        lambda path: _changed(path, dtype="int3"),
        lambda path: pq.write_table(pq.ParquetFile(path).read().drop_columns("segment_lengths"), path),
        lambda path: _changed(path, indices=[0, 1, 2, 3]),
        lambda path: pq.write_table(pa.Table.from_pylist([], schema=schemas.TOKENS), path),
        lambda path: path.write_bytes(path.read_bytes()[:-20]),
        lambda path: path.write_bytes(b""),
    ],
)
def test_a_damaged_object_is_named(store: TokenStore, tmp_path: Path, damage: Callable[[Path], object]) -> None:
    """Nothing is answered from tokens that contradict themselves."""
    commit(store, random_bits(torch.float32))
    damage(tmp_path / store.name(KEY))
    with pytest.raises(CorruptTokensError, match=KEY):
        store.read(KEY)
