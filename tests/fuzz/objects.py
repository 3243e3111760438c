"""Stored objects with damaged bytes: tables, tokens and records."""

from __future__ import annotations

import json
from functools import cache
from io import BytesIO

import torch
from hypothesis import strategies as st

from pipeline.clip import ClipIdentity
from pipeline.store import schemas
from pipeline.store.cache_users import read_cache_user
from pipeline.store.lease import Lease, read_lease
from pipeline.store.parquet import DamagedParquetError, read_columns, to_bytes
from pipeline.store.retries import RetryRequest, read_retry
from pipeline.store.run_records import RunRecords
from pipeline.store.storage import Storage
from pipeline.store.token_codec import decode_tokens, encode_tokens
from tests.fuzz.kind import Kind, folder, mutated, refused
from tests.pipeline.store.test_ledger import answer, failure
from tests.support.helpers import compressed_video
from tests.support.outputs import start_record

_TABLES = {
    "answers": (schemas.ANSWERS, to_bytes([answer(video) for video in "abc"], schemas.ANSWERS)),
    "failures": (schemas.FAILURES, to_bytes([failure(video) for video in "abc"], schemas.FAILURES)),
}
_RUN = "20260101T000000-aa"
_RECORDS = {
    f"runs/{_RUN}.json": json.dumps(start_record(_RUN, "print")).encode(),
    f"retries/{_RUN}.json": json.dumps(vars(RetryRequest(_RUN))).encode(),
    "used-by/a.json": b'{"output": "s3://bucket/out"}',
    "lease/00000001.json": b'{"run_id": "r", "host": "h", "pid": 1, "started": "1", "nonce": "n", "released": false}',
}


@cache
def _tokens() -> bytes:
    video = compressed_video(torch.ones(5, 6))
    return encode_tokens(video, ClipIdentity("c", "v", "s", None, None), cache_dtype=None, thumbnails=[], run_id="r")


def check_table(table: tuple[str, bytes]) -> None:
    """The rows as they were, or an error."""
    schema, right = _TABLES[table[0]]
    try:
        found = read_columns(BytesIO(table[1]), schema, schema.names)
    except DamagedParquetError:
        return
    assert found.equals(read_columns(BytesIO(right), schema, schema.names))


def check_tokens(content: bytes) -> None:
    """The tokens as they were, or an error."""
    found, right = refused(lambda: decode_tokens(content, "n")), decode_tokens(_tokens(), "n")
    if found is not None:
        assert torch.equal(found.tokens, right.tokens)
        assert torch.equal(found.indices, right.indices)
        assert torch.equal(found.assignment, right.assignment)


def check_record(record: tuple[str, bytes]) -> None:
    """A record with every key, or one error; a lease that can't be read is waited for."""
    name, content = record
    with folder() as place:
        storage = Storage(str(place))
        assert storage.create(name, content)
        reader = {
            "runs": lambda: RunRecords(storage).all(),
            "retries": lambda: read_retry(storage, name),
            "used-by": lambda: read_cache_user(storage, name),
            "lease": lambda: read_lease(storage, name),
        }[name.split("/", maxsplit=1)[0]]
        refused(reader)
        if name.startswith("lease/"):
            refused(lambda: Lease.acquire(storage, "mine", sleep=lambda _: None))


TABLES_ON_STORAGE = Kind(
    st.sampled_from(sorted(_TABLES)).flatmap(lambda name: st.tuples(st.just(name), mutated(_TABLES[name][1]))),
    check_table,
    seeds=(("answers", b""), ("failures", _TABLES["failures"][1][:-1])),
)
TOKENS = Kind(st.deferred(lambda: mutated(_tokens())), check_tokens, seeds=(b"", b"PAR1"))
RECORDS = Kind(
    st.sampled_from(sorted(_RECORDS)).flatmap(
        lambda name: st.tuples(st.just(name), mutated(_RECORDS[name]) | st.binary(max_size=30))
    ),
    check_record,
    seeds=tuple((name, content) for name in _RECORDS for content in (b"", b"[]", b"{}", b'{"run_id": []}', b"9" * 400)),
)
