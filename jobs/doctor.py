"""The checks of `flashvid doctor`: each finds out one thing by doing it, and says what to do where it fails."""

from __future__ import annotations

import platform
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any, Literal

from pipeline.config import JobConfig
from pipeline.store.storage import Storage

State = Literal["ok", "note", "failed"]
_GB = 1_000_000_000
_CONTENT = b"flashvid doctor"
_ACCESS = "check the name, the credentials in the environment, and storage_options"


@dataclass(frozen=True)
class Check:
    """What one check found.

    Attributes:
        area: installation, GPU, tables, storage or cluster.
        name: What was looked at.
        state: `note`: it works, and a person should know this about it.
        found: What is there.
        fix: What to do; empty where nothing is to be done.
    """

    area: str
    name: str
    state: State
    found: str
    fix: str = ""


class CheckFailedError(Exception):
    """What a check found is not what a run needs."""


def check_installation() -> Iterator[Check]:
    """Packages against the versions that we ask for, the decoders, and the embedded model answering a question."""
    yield _checked("installation", "packages", _packages, "pip install -c constraints.txt flashvid-pipeline")
    yield _checked("installation", "decord", _decord, "pip install decord, or sampling.decoder: pyav in the job")
    yield _checked("installation", "PyAV", _pyav, "pip install --force-reinstall av")
    yield _checked(
        "installation", "model", _model_answers, "reinstall flashvid-pipeline: its embedded model is damaged"
    )


def check_gpu() -> Iterator[Check]:
    """Each GPU's memory, and a product of matrices in bfloat16 on it.

    None is no failure, the CPU does the same; one that is here and that CUDA can't use is.
    """
    import torch

    if not torch.cuda.is_available():
        yield _no_cuda()
        return
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        found = f"{torch.cuda.get_device_name(index)}, {free / _GB:.1f} of {total / _GB:.1f} GB free"
        yield Check("GPU", f"cuda:{index}", "ok", f"{found}, CUDA {torch.version.cuda}")
        yield _checked("GPU", f"cuda:{index}, bfloat16", partial(_bfloat16, index), "model.dtype: float16 in the job")


def _no_cuda() -> Check:
    import torch

    from flashvid.models.devices import why_no_cuda

    if torch.version.cuda is None:
        found = (
            f"torch {torch.__version__}, without CUDA: models run on the CPU, and a job that reserves GPUs is refused"
        )
        return Check("GPU", "CUDA", "note", found)
    why = f"{why_no_cuda() or 'torch does not say why'} (torch {torch.__version__}, for CUDA {torch.version.cuda})"
    # The driver's management library counts, and works with drivers that are too old for CUDA.
    if counted := torch.cuda.device_count():
        fix = "a newer driver: GPUs in docs/operations.md; nvidia-smi shows the one that is here"
        return Check("GPU", "CUDA", "failed", f"{counted} here, and CUDA can't use any: {why}", fix)
    found = f"no GPU: models run on the CPU, and a job that reserves GPUs is refused: {why}"
    return Check("GPU", "CUDA", "note", found, "if there is one: nvidia-smi says whether its driver works")


def check_tables(job: JobConfig) -> Iterator[Check]:
    """The tables of a job, and that the first video is where its row says."""
    from pipeline.inputs.job_inputs import read_tables
    from pipeline.inputs.sources import stat_sources

    def first_video() -> str:
        videos, questions = read_tables(job)
        first = next(iter(videos))
        (source,) = stat_sources([first], source_id_column=job.source_id_column, storage_options=job.storage_options)
        if not source.exists:
            raise CheckFailedError(first.problem or source.unreachable or f"there is no {first.video_path}")
        return (
            f"{len(videos)} videos, {len(questions.common)} questions for all; the first has {source.size_bytes} bytes"
        )

    yield _checked("tables", "videos, questions", first_video, f"flashvid validate names what is wrong; {_ACCESS}")


def check_storage(key: str, url: str, storage_options: Mapping[str, Any]) -> Iterator[Check]:
    """List a place, create an object there, read it back, be refused to write over one, and remove it again.

    Args:
        key: What it is to the job: output or cache.
        url: Folder or URL.
        storage_options: For fsspec.
    """
    area = f"storage, {key}"
    opened: list[Storage] = []

    def names() -> str:
        storage = Storage(url, storage_options)
        opened.append(storage)
        return f"{url}, {len(storage.names('runs'))} records in runs/"

    yield _checked(area, "list", names, _ACCESS)
    if not opened:
        return
    (storage,) = opened
    name = f"doctor/{uuid.uuid4().hex}"
    steps: tuple[tuple[str, Callable[[], str], str], ...] = (
        ("write", lambda: _write(storage, name), f"may this user write here? {_ACCESS}"),
        ("read back", lambda: _read(storage, name), "do not use this store: it does not keep what it is given"),
        ("conditional write", lambda: _refuses(storage), "let one run at a time write here: docs/guarantees.md"),
        ("delete", lambda: _delete(storage, name), f"may this user delete? Remove {name} by hand"),
    )
    try:
        for step, look, fix in steps:
            done = _checked(area, step, look, fix)
            yield done
            if step == "write" and done.state == "failed":
                return
    finally:
        # Whatever happened; what is gone already is no news.
        with suppress(Exception):
            storage.remove(name)


def check_cluster(address: str) -> Iterator[Check]:
    """Connect to a cluster, add up what it has, and compare a node's versions with ours."""
    import ray

    from pipeline.cluster.connection import connected

    fix = "is it up, and the token right (RAY_AUTH_MODE, RAY_AUTH_TOKEN)? Same Python and Ray here and there?"
    try:
        with connected(address) as size:
            nodes = sum(node["Alive"] for node in ray.nodes())  # type: ignore[no-untyped-call]
            yield Check("cluster", "address", "ok", f"{address}, {nodes} nodes")
            enough = size.num_cpus >= 1
            found = f"{size.num_cpus:.0f} CPUs, {sum(size.gpus_per_node)} GPUs"
            needed = "" if enough else "add nodes with CPUs: decoding needs at least one"
            yield Check("cluster", "resources", "ok" if enough else "failed", found, needed)
            there = ray.get(ray.remote(num_cpus=0)(_versions).remote(), timeout=120)
            shown = ", ".join(f"{name} {number}" for name, number in there.items())
            same = there == _versions()
            advice = "" if same else "install the same versions on the nodes, or send them: flashvid submit"
            yield Check("cluster", "versions", "ok" if same else "failed", shown, advice)
    except Exception as error:  # noqa: BLE001 - whatever Ray raises is what this check found
        yield _failed("cluster", "address", error, fix)


def _checked(area: str, name: str, look: Callable[[], str], fix: str) -> Check:
    try:
        return Check(area, name, "ok", look())
    except Exception as error:  # noqa: BLE001 - whatever is raised is what this check found
        return _failed(area, name, error, fix)


def _failed(area: str, name: str, error: Exception, fix: str) -> Check:
    reason = next((line for line in str(error).splitlines() if line.strip()), "no reason given")
    named = reason if isinstance(error, CheckFailedError) else f"{type(error).__name__}: {reason}"
    return Check(area, name, "failed", named, fix)


def _versions() -> dict[str, str]:
    found = {"Python": platform.python_version()}
    for name in ("ray", "flashvid-pipeline"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found


def _packages() -> str:
    """What our own metadata asks for, without the extras."""
    from packaging.requirements import Requirement

    wrong, found = [], []
    for requirement in map(Requirement, requires("flashvid-pipeline") or []):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            wrong.append(f"{requirement} is missing")
            continue
        found.append(f"{requirement.name} {installed}")
        if not requirement.specifier.contains(installed, prereleases=True):
            wrong.append(f"{requirement.name} {installed} is not {requirement.specifier}")
    if wrong:
        raise CheckFailedError("; ".join(wrong))
    shown = [text for text in found if re.match(r"(torch|transformers|ray|pyarrow) ", text)]
    return f"Python {platform.python_version()}, {', '.join(shown)}; all {len(found)} as required"


def _decord() -> str:
    import decord

    return str(decord.__version__)


def _pyav() -> str:
    import av

    if missing := [name for name in ("h264", "hevc", "vp9") if name not in av.codecs_available]:
        raise CheckFailedError(f"its FFmpeg can't decode {', '.join(missing)}")
    return f"{av.__version__}, FFmpeg's libavcodec {'.'.join(map(str, av.library_versions['libavcodec']))}"


def _model_answers() -> str:
    """The embedded model is asked about a red square on grey."""
    import numpy as np

    from flashvid import CompressionConfig
    from flashvid.models import GenerationConfig, load_model

    frames = np.full((8, 112, 112, 3), 128, np.uint8)
    frames[:, 40:72, 40:72] = (220, 30, 30)
    model = load_model("tiny")
    visual = model.encode(frames, np.arange(8, dtype=np.float64))
    video = model.compress(visual, CompressionConfig(retention_ratio=0.25))
    (answer,) = model.answer(video, ["What colour is the object?"], generation=GenerationConfig(max_new_tokens=8))
    if not answer.response.strip():
        raise CheckFailedError("the embedded model gives an empty answer")
    return f"tiny is shown a red square and answers {answer.response.strip()!r}"


def _bfloat16(index: int) -> str:
    import torch

    if not torch.cuda.is_bf16_supported(including_emulation=False):
        raise CheckFailedError("not in this GPU's hardware")
    ones = torch.ones(16, 16, dtype=torch.bfloat16, device=f"cuda:{index}")
    if not bool((ones @ ones == 16).all()):
        raise CheckFailedError("a product of matrices is wrong")
    return "a product of matrices is right"


def _write(storage: Storage, name: str) -> str:
    if not storage.create(name, _CONTENT):
        raise CheckFailedError("something else is there than what was written")
    return f"{name}, {len(_CONTENT)} bytes"


def _read(storage: Storage, name: str) -> str:
    if storage.read(name) != _CONTENT:
        raise CheckFailedError("what is read is not what was written")
    return f"the same {len(_CONTENT)} bytes"


def _refuses(storage: Storage) -> str:
    if not storage.is_exclusive:
        raise CheckFailedError("none: two runs at the same time may write over each other")
    return "it refuses to write over an object"


def _delete(storage: Storage, name: str) -> str:
    storage.remove(name)
    if storage.exists(name):
        raise CheckFailedError("the object is still there")
    return "the object is gone"
