"""Storage through the fault proxy: every operation comes out right, whatever happens to its requests."""

from __future__ import annotations

import uuid

import pytest

from pipeline.store.storage import Storage
from tests.support.fault_proxy import FAULTS, fault_proxy
from tests.support.object_stores import ObjectStore


def test_a_proxy_without_faults_changes_nothing(moto: ObjectStore) -> None:
    """What is read through it is what was written through it."""
    url, content = moto.folder(), bytes(range(256)) * 100
    with fault_proxy(moto.endpoint_url, share=0.0, seed=1) as proxy:
        through = Storage(url, {"endpoint_url": proxy.endpoint_url})
        assert through.create("a", content)
        assert (through.names(""), through.read("a"), through.exists("b")) == (["a"], content, False)
        assert proxy.requests > 5
        assert not proxy.faults
    assert moto.storage(url).read("a") == content


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_storage_survives_a_bad_network(moto: ObjectStore, seed: int) -> None:
    """A third of all requests goes wrong; each object is written once, and a taken name is still refused."""
    url = moto.folder()
    with fault_proxy(moto.endpoint_url, share=0.3, seed=seed, hang_s=0.2) as proxy:
        through = Storage(url, {"endpoint_url": proxy.endpoint_url})
        contents = {f"objects/{number}": uuid.uuid4().bytes * 1000 for number in range(12)}
        assert through.is_exclusive
        for name, content in contents.items():
            assert through.create(name, content) is True
            assert through.create(name, b"another's") is False
        assert through.names("objects") == sorted(contents)
        assert {name: through.read(name) for name in contents} == contents
        assert set(proxy.faults) == set(FAULTS)
    direct = moto.storage(url)
    assert {name: direct.read(name) for name in direct.names("")} == contents
