"""gc beside a run of an output that it does not know yet, in every order of their requests."""

from __future__ import annotations

import shutil
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest
import torch

from flashvid.errors import ConfigurationError
from pipeline.care.gc import find_garbage, named_fingerprints, remove_garbage
from pipeline.clip import ClipIdentity
from pipeline.errors import CorruptTokensError
from pipeline.store.cache_users import cache_users, note_cache_user
from pipeline.store.storage import Storage
from pipeline.store.tokens import TokenStore
from tests.pipeline.care.test_care import Run, _age
from tests.support.helpers import compressed_video
from tests.support.turns import TakingTurns, Turns

KEYS = ("aa" + 30 * "0", "bb" + 30 * "0")
OLD, UNUSED = "0" * 16, "1" * 16


@pytest.fixture
def cache(tmp_path: Path) -> Storage:
    """Two fingerprints of an output that is gone, which no run names, and one of an output that uses the cache."""
    cache, user = Storage(str(tmp_path / "cache")), Storage(str(tmp_path / "user"))
    note_cache_user(cache, user)
    Run("20260101T000000-aa", tokens="2" * 16).record(user)
    origin = ClipIdentity("c", "v", "s", None, None)
    for fingerprint in (OLD, UNUSED):
        for key in KEYS:
            store = TokenStore(cache, fingerprint)
            assert store.commit(key, compressed_video(torch.ones(5, 6)), origin, thumbnails=[], run_id="r")
            _age(cache.path(store.name(key)))
    return cache


def outcome(cache: Storage, order: list[str]) -> tuple[list[str], dict[str, Exception], list[str]]:
    """Run gc and a new output's run; return what the run found in its plan, the errors, and the requests in order."""
    turns, planned = Turns(order), list[str]()
    output = f"{cache.root}-new-output"
    shutil.rmtree(output, ignore_errors=True)
    shared, mine = TakingTurns(cache.root, turns), TakingTurns(output, turns)

    def gc() -> None:
        garbage = find_garbage(shared, cache_users(shared, {}))
        remove_garbage(shared, garbage, lambda: cache_users(shared, {}), ())

    def run() -> None:
        note_cache_user(shared, mine)
        Run("20260201T000000-bb", tokens=OLD).record(mine)
        tokens = TokenStore(shared, OLD)
        planned.extend(sorted(tokens.committed()))
        for key in planned:
            tokens.read_or_quarantine(key)

    return planned, turns.run({"gc": gc, "run": run}), turns.requests


def orders() -> list[list[str]]:
    """Places of the run's first three requests (leave word, record, list) among gc's; it reads at the end."""
    return [["run" if place in places else "gc" for place in range(20)] for places in combinations(range(20), 3)][::6]


def test_what_a_run_found_is_there_or_is_made_again(tmp_path: Path, cache: Storage) -> None:
    """If the run left word before gc read the users for the last time, nothing that it uses is removed.

    In the moment after that, tokens that it planned with can be gone: a transient failure, after which the next run
    makes them again. Without a record of the run, gc stops. What nobody uses is gone in every other order.
    """
    kept = shutil.copytree(cache.root, tmp_path / "kept")
    ends = Counter[str]()
    for order in orders():
        shutil.rmtree(cache.root)
        shutil.copytree(kept, cache.root)
        planned, failed, requests = outcome(cache, order)
        left_word = next(i for i, request in enumerate(requests) if request.startswith("run: create used-by"))
        last_reading = max(i for i, request in enumerate(requests) if request == "gc: find /used-by")
        if "gc" in failed:
            assert "finds no runs" in str(failed["gc"])
            assert "run" not in failed
            assert TokenStore(cache, OLD).committed() == frozenset(KEYS)
            ends["gc stopped"] += 1
            continue
        # What a run takes into use after the listing is known when the users are read.
        assert requests.index("gc: find /tokens") < last_reading
        if "run" in failed:
            assert isinstance(failed["run"], CorruptTokensError)
            assert "the next run makes it again" in failed["run"].message
            assert left_word > last_reading
            ends["made again by the next run"] += 1
        elif planned:
            ends["nothing removed"] += 1
        if left_word < last_reading:
            assert TokenStore(cache, OLD).committed() == frozenset(KEYS)
        assert TokenStore(cache, UNUSED).committed() == frozenset()
    assert set(ends) == {"gc stopped", "made again by the next run", "nothing removed"}


def test_named_fingerprints_need_records(tmp_path: Path) -> None:
    """Without any, or with damaged ones in quarantine, everything would look unused."""
    root = Storage(str(tmp_path))
    with pytest.raises(ConfigurationError, match="--used-by"):
        named_fingerprints(root, ())
    Run("20260101T000000-aa", tokens=OLD).record(root)
    assert named_fingerprints(root, ()) == {OLD}
    assert root.create("quarantine/runs/20260102T000000-bb.json", b"{")
    with pytest.raises(ConfigurationError, match="which tokens are in use is not known"):
        named_fingerprints(root, ())
