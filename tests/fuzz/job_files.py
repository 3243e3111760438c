"""Job files: trees of the right keys with wrong values, and bytes that are hardly YAML."""

from __future__ import annotations

import math
from typing import Any

import yaml
from hypothesis import strategies as st

from jobs.job_file import check_job, load_job
from pipeline.config import JobConfig
from tests.fuzz.kind import Kind, folder, mutated, refused

_VALID: dict[str, Any] = {
    "videos": "v.csv", "questions": ["What?"], "output": "o", "model": {"name": "tiny-random", "dtype": "float32"},
    "sampling": {"num_frames": 4}, "compression": {"method": "flashvid", "retention_ratio": 0.2},
    "generation": {"max_new_tokens": 4, "temperature": 0.5}, "resources": {"decode": {"concurrency": 1}},
    "storage_options": {"anon": True}, "window_s": 4.0, "cache": "c", "limit": 3,
}  # fmt: skip
_KEYS = sorted(
    {*JobConfig.model_fields, *(key for value in _VALID.values() if isinstance(value, dict) for key in value)}
)
_SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.binary(max_size=4), st.dates(),
    st.sampled_from([2**70, -(2**70), math.nan, math.inf, -0.0, "\x1b[31m", "nul\0", "s3://", "auto", "off", "\ud800"]),
)  # fmt: skip
_KEY = st.one_of(st.sampled_from(_KEYS), st.text(max_size=6), st.integers(), st.none(), st.booleans())
_TREES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEY, inner, max_size=4), max_leaves=8
)


def _written(tree: object) -> bytes:
    try:
        return yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "surrogatepass")
    except yaml.YAMLError:
        return repr(tree).encode("utf-8", "surrogatepass")


_JOBS = st.dictionaries(st.sampled_from(_KEYS), _TREES, max_size=4).map(lambda changes: _written({**_VALID, **changes}))


def check(content: bytes) -> None:
    """A job, or messages; `validate` and `run` agree whether it is one."""
    with folder() as place:
        path = place / "job.yaml"
        path.write_bytes(content)
        found = refused(lambda: check_job(path))
        loaded = refused(lambda: load_job(path))
        assert isinstance(found, JobConfig) == (loaded is not None)
        if isinstance(loaded, JobConfig):
            assert JobConfig.model_validate(loaded.model_dump(mode="json")) == loaded


JOB_FILES = Kind(
    st.one_of(_JOBS, mutated(_written(_VALID)), _TREES.map(_written), st.binary(max_size=64)),
    check,
    seeds=(
        b"a: &a [*a]",
        b"{" * 3000,
        b"videos: !!python/object/apply:os.system [true]",
        b"model: {name: .nan}\nvideos: 1e999\nquestions: [2024-01-01]\noutput: 0x10\n",
        b"\xff\xfe\x00v",
        _written({**_VALID, "limit": 2**70}),
        _written({**_VALID, "videos": "nul\0"}),
        _written({**_VALID, "window_s": math.inf}),
    ),
)
