"""The checks of `flashvid doctor`: each tries one thing, and says what to do if it fails."""

import platform
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any, Literal

from flashvid.errors import first_line
from pipeline.config import JobConfig
from pipeline.store.storage import Storage

State = Literal["ok", "note", "failed"]
_CONTENT = b"flashvid doctor"
_ACCESS = "check the name, the credentials in the environment, and storage_options"
_REINSTALL = "pip install -c constraints.txt flashvid-pipeline"
# Packages whose versions are shown.
_SHOWN = ("torch", "transformers", "ray", "pyarrow")
_CODECS = ("h264", "hevc", "vp9")


@dataclass(frozen=True)
class Check:
    """Result of one check.

    Attributes:
        area: installation, GPU, tables, storage or cluster.
        name: What was checked.
        state: `note`: it works, and the user should know this about it.
        found: What is there.
        fix: What to do; empty if there is nothing to do.
    """

    area: str
    name: str
    state: State
    found: str
    fix: str = ""


class CheckFailedError(Exception):
    """Something that a run needs is missing or wrong; the message says what was found."""


def check_installation() -> Iterator[Check]:
    """Check the versions of required packages, the decoders, and that the embedded model answers a question."""
    yield _checked("installation", "packages", _packages, _REINSTALL)
    yield _checked("installation", "decord", _decord, "pip install decord, or sampling.decoder: pyav in the job")
    yield _checked("installation", "PyAV", _pyav, "pip install --force-reinstall av")
    damaged = "reinstall flashvid-pipeline: its embedded model is damaged"
    yield _checked("installation", "model", _model_answers, damaged)


def check_gpu() -> Iterator[Check]:
    """Check each GPU's memory, and a bfloat16 matrix product on it.

    A machine without a GPU passes: models run on its CPU. A GPU that CUDA can't use is a failure.
    """
    import torch

    if not torch.cuda.is_available():
        yield _no_cuda()
        return
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        found = f"{torch.cuda.get_device_name(index)}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free"
        yield Check("GPU", f"cuda:{index}", "ok", f"{found}, CUDA {torch.version.cuda}")
        yield _checked("GPU", f"cuda:{index}, bfloat16", partial(_bfloat16, index), "model.dtype: float16 in the job")


def _no_cuda() -> Check:
    import torch

    from flashvid.models.devices import why_no_cuda

    on_cpu = "models run on the CPU, and a job that reserves GPUs is refused"
    if torch.version.cuda is None:
        return Check("GPU", "CUDA", "note", f"torch {torch.__version__}, without CUDA: {on_cpu}")
    why = f"{why_no_cuda() or 'torch gives no reason'} (torch {torch.__version__}, for CUDA {torch.version.cuda})"
    # Counting uses the driver's management library, which also works with drivers that are too old for CUDA.
    if counted := torch.cuda.device_count():
        fix = "install a newer driver: GPUs in docs/operations.md; nvidia-smi shows the installed one"
        return Check("GPU", "CUDA", "failed", f"{counted} here, and CUDA can't use any: {why}", fix)
    fix = "if there is a GPU, nvidia-smi says whether its driver works"
    return Check("GPU", "CUDA", "note", f"no GPU: {on_cpu}: {why}", fix)


def check_tables(job: JobConfig) -> Iterator[Check]:
    """Check the tables of a job, and that the first video is where its row says."""
    from pipeline.inputs.job_inputs import read_tables
    from pipeline.inputs.sources import stat_sources

    def first_video() -> str:
        videos, questions = read_tables(job)
        first = next(iter(videos))
        (source,) = stat_sources([first], source_id_column=job.source_id_column, storage_options=job.storage_options)
        if not source.exists:
            raise CheckFailedError(first.problem or source.unreachable or f"there is no {first.video_path}")
        counts = f"{len(videos)} videos, {len(questions.common)} questions for all"
        return f"{counts}; the first has {source.size_bytes} bytes"

    yield _checked("tables", "videos, questions", first_video, f"flashvid validate names what is wrong; {_ACCESS}")


def check_storage(key: str, url: str, storage_options: Mapping[str, Any]) -> Iterator[Check]:
    """List a place, create an object there, read it back, check that it can't be overwritten, and remove it.

    Args:
        key: The job's key: output or cache.
        url: Folder or URL.
        storage_options: For fsspec.
    """
    area, name = f"storage, {key}", f"doctor/{uuid.uuid4().hex}"
    storage: Storage | None = None

    def names() -> str:
        nonlocal storage
        storage = Storage(url, storage_options)
        return f"{url}, {len(storage.names('runs'))} records in runs/"

    yield _checked(area, "list", names, _ACCESS)
    if storage is None:
        return

    def write() -> str:
        _require(storage.create(name, _CONTENT), "another object was there already")
        return f"{name}, {len(_CONTENT)} bytes"

    def read() -> str:
        _require(storage.read(name) == _CONTENT, "what is read is not what was written")
        return f"the same {len(_CONTENT)} bytes"

    def overwrite() -> str:
        _require(storage.is_exclusive, "not supported: two runs at the same time may write over each other")
        return "it refuses to write over an object"

    def delete() -> str:
        storage.remove(name)
        _require(not storage.exists(name), "the object is still there")
        return "the object is gone"

    try:
        written = _checked(area, "write", write, f"may this user write here? {_ACCESS}")
        yield written
        if written.state == "failed":
            return
        yield _checked(area, "read back", read, "do not use this store: it does not keep what is written")
        yield _checked(area, "conditional write", overwrite, "let one run at a time write here: docs/guarantees.md")
        yield _checked(area, "delete", delete, f"may this user delete? Remove {name} by hand")
    finally:
        # Also after an error; the object is usually gone already.
        with suppress(Exception):
            storage.remove(name)


def check_cluster(address: str) -> Iterator[Check]:
    """Connect to a cluster, add up its resources, and compare a node's versions with ours."""
    import ray

    from pipeline.cluster.connection import connected

    try:
        with connected(address) as size:
            nodes = sum(node["Alive"] for node in ray.nodes())  # type: ignore[no-untyped-call]
            yield Check("cluster", "address", "ok", f"{address}, {nodes} nodes")
            num_cpus = sum(size.cpus_per_node)
            found = f"{num_cpus:.0f} CPUs, {sum(size.gpus_per_node)} GPUs"
            needed = "" if num_cpus >= 1 else "add nodes with CPUs: decoding needs at least one"
            yield Check("cluster", "resources", "failed" if needed else "ok", found, needed)
            there = ray.get(ray.remote(num_cpus=0)(_versions).remote(), timeout=120)
            found = ", ".join(f"{name} {number}" for name, number in there.items())
            differ = there != _versions()
            advice = "install the same versions on the nodes, or send them: flashvid submit" if differ else ""
            yield Check("cluster", "versions", "failed" if differ else "ok", found, advice)
    except Exception as error:  # noqa: BLE001 - any error of Ray is the result of this check
        fix = "is it up, and the token right (RAY_AUTH_MODE, RAY_AUTH_TOKEN)? Same Python and Ray here and there?"
        yield _failed("cluster", "address", error, fix)


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise CheckFailedError(message)


def _checked(area: str, name: str, look: Callable[[], str], fix: str) -> Check:
    try:
        return Check(area, name, "ok", look())
    except Exception as error:  # noqa: BLE001 - any error is the result of this check
        return _failed(area, name, error, fix)


def _failed(area: str, name: str, error: Exception, fix: str) -> Check:
    named = "" if isinstance(error, CheckFailedError) else f"{type(error).__name__}: "
    return Check(area, name, "failed", named + first_line(error), fix)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _versions() -> dict[str, str]:
    packages = {name: _version(name) or "missing" for name in ("ray", "flashvid-pipeline")}
    return {"Python": platform.python_version(), **packages}


def _packages() -> str:
    """Compare installed packages with what our own metadata requires, without the extras."""
    from packaging.requirements import Requirement

    wrong, found = [], {}
    for requirement in map(Requirement, requires("flashvid-pipeline") or []):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        installed = _version(requirement.name)
        if installed is None:
            wrong.append(f"{requirement} is missing")
        elif not requirement.specifier.contains(installed, prereleases=True):
            wrong.append(f"{requirement.name} {installed} is not {requirement.specifier}")
        else:
            found[requirement.name] = installed
    _require(not wrong, "; ".join(wrong))
    shown = ", ".join(f"{name} {found[name]}" for name in found if name in _SHOWN)
    return f"Python {platform.python_version()}, {shown}; all {len(found)} as required"


def _decord() -> str:
    return str(import_module("decord").__version__)


def _pyav() -> str:
    import av

    missing = [name for name in _CODECS if name not in av.codecs_available]
    _require(not missing, f"its FFmpeg can't decode {', '.join(missing)}")
    return f"{av.__version__}, FFmpeg's libavcodec {'.'.join(map(str, av.library_versions['libavcodec']))}"


def _model_answers() -> str:
    """Ask the embedded model about a red square on grey."""
    import numpy as np

    from flashvid import CompressionConfig
    from flashvid.models import GenerationConfig, load_model

    frames = np.full((8, 112, 112, 3), 128, np.uint8)
    frames[:, 40:72, 40:72] = (220, 30, 30)
    model = load_model("tiny")
    visual = model.encode(frames, np.arange(8, dtype=np.float64))
    video = model.compress(visual, CompressionConfig(retention_ratio=0.25))
    (answer,) = model.answer(video, ["What colour is the object?"], generation=GenerationConfig(max_new_tokens=8))
    _require(bool(answer.response.strip()), "the embedded model gives an empty answer")
    return f"tiny sees a red square and answers {answer.response.strip()!r}"


def _bfloat16(index: int) -> str:
    import torch

    _require(torch.cuda.is_bf16_supported(including_emulation=False), "this GPU has no bfloat16 hardware")
    ones = torch.ones(16, 16, dtype=torch.bfloat16, device=f"cuda:{index}")
    _require(bool((ones @ ones == 16).all()), "a matrix product is wrong")
    return "a matrix product is right"
