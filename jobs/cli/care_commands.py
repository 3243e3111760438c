"""Commands for an output that is there: export, gc, forget, verify, retry. None of them starts Ray.

They take a folder or URL, not a job file: an output outlives the job files that made it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.text import Text

from jobs.cli.options import AsJson, Output, StorageOptions, assignments, open_storage

if TYPE_CHECKING:
    from pipeline.store.lease import Lease
    from pipeline.store.storage import Storage

_FOUND = 1


def register(app: typer.Typer) -> None:
    """Add the commands to `flashvid`."""
    for command in (export, gc, forget, verify, retry):
        app.command()(command)


def export(
    output: Output,
    to: Annotated[str, typer.Argument(help="an empty folder or URL")],
    fingerprint: Annotated[str | None, typer.Option(help="whose answers; default: those of the latest run")] = None,
    storage_option: StorageOptions = None,
    as_json: AsJson = False,
) -> None:
    """Write the answers to a new place: the latest of each, sorted by video, in few large files.

    Example: flashvid export output answers-for-us --json
    """
    from pipeline.care.export import export_answers

    done = export_answers(open_storage(output, storage_option), open_storage(to, storage_option), fingerprint)
    sentence = f"{done.rows} answers in {len(done.files)} files in {to}; {done.superseded} superseded ones left out"
    _report(asdict(done), sentence, as_json=as_json)


def gc(
    root: Annotated[str, typer.Argument(help="folder or URL of an output or a cache")],
    used_by: Annotated[
        list[str] | None, typer.Option("--used-by", help="an output that uses this cache; may be repeated")
    ] = None,
    gone: Annotated[
        list[str] | None, typer.Option("--gone", help="an output that used this cache and does not exist any more")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="remove it; default: only say what would be removed")] = False,
    storage_option: StorageOptions = None,
    as_json: AsJson = False,
) -> None:
    """Remove tokens of fingerprints that no run names, and uploads that nobody will complete.

    A cache knows the outputs that have used it since there is `used-by/`; name older ones.

    Example: flashvid gc /shared/tokens --used-by output --used-by other-output --yes
    """
    from pipeline.care.gc import find_garbage
    from pipeline.store.cache_users import cache_users

    storage = open_storage(root, storage_option)
    users = [open_storage(user, storage_option) for user in used_by or []]
    users += cache_users(storage, assignments(storage_option, "--storage-option"), gone or ())
    with _leases([one for one in (storage, *users) if one.names("runs")] if yes else [], "gc"):
        garbage = find_garbage(storage, users)
        if yes:
            for piece in garbage:
                piece.remove()
    size = sum(piece.size_bytes for piece in garbage)
    found = [{"name": piece.name, "why": piece.why, "size_bytes": piece.size_bytes} for piece in garbage]
    lines = [f"{piece.name}: {piece.why}" for piece in garbage]
    last = f"{len(garbage)} objects, {size} bytes: " + ("removed" if yes else "with --yes they are removed")
    _report({"removed": yes, "size_bytes": size, "garbage": found}, "\n".join([*lines, last]), as_json=as_json)


def forget(
    output: Output,
    video_id: Annotated[str, typer.Option("--video-id", help="the video")],
    storage_option: StorageOptions = None,
    as_json: AsJson = False,
) -> None:
    """Take a video out of an output and its cache: answers, failures, compressed tokens, probes.

    It comes back with the next run if it is still among the job's videos.

    Example: flashvid forget output --video-id 0001.mp4
    """
    from pipeline.care.forget import forget_video, token_roots

    options = assignments(storage_option, "--storage-option")
    storage = open_storage(output, storage_option)
    with _leases([storage], "forget") as (lease,):
        done = forget_video(storage, token_roots(storage, options), lease, video_id)
    sentence = (
        f"{video_id}: removed {done.answers} answers, {done.failures} failures, the tokens of {done.tokens} clips, "
        f"{done.probes} probes"
    )
    _report(asdict(done), sentence, as_json=as_json)


def verify(output: Output, storage_option: StorageOptions = None, as_json: AsJson = False) -> None:
    """Read everything in an output and its cache, and find duplicates, orphans and damaged objects.

    Exit code 1 if there are any.

    Example: flashvid verify output
    """
    from pipeline.care.forget import token_roots
    from pipeline.care.verify import verify as verify_output

    options = assignments(storage_option, "--storage-option")
    storage = open_storage(output, storage_option)
    done = verify_output(storage, token_roots(storage, options))
    lines = [f"{finding.kind}: {finding.name}: {finding.message}" for finding in done.findings]
    last = f"{done.objects} objects, {done.answers} answers, {len(done.findings)} findings"
    _report(asdict(done), "\n".join([*lines, last]), as_json=as_json)
    if done.findings:
        raise typer.Exit(_FOUND)


def retry(
    output: Output,
    kind: Annotated[Literal["permanent", "transient"] | None, typer.Option(help="only failures of this kind")] = None,
    error_type: Annotated[str | None, typer.Option("--type", help="only this error, e.g. VideoNotFoundError")] = None,
    stage: Annotated[
        Literal["probe", "decode", "encode", "answer"] | None, typer.Option(help="only failures of this stage")
    ] = None,
    storage_option: StorageOptions = None,
    as_json: AsJson = False,
) -> None:
    """Have failures tried again by the next run, permanent ones and those that were tried too often included.

    Example: flashvid retry output --type UnreadableVideoError --stage decode
    """
    from pipeline.store.retries import RetryRequest, request_retry
    from pipeline.store.run_records import new_run_id

    request = RetryRequest(new_run_id(), kind, error_type, stage)
    failures = request_retry(open_storage(output, storage_option), request)
    _report({"failures": failures}, f"{failures} failures are tried again by the next run", as_json=as_json)


@contextmanager
def _leases(outputs: Sequence[Storage], purpose: str) -> Iterator[list[Lease]]:
    """No run writes to the outputs meanwhile."""
    from pipeline.store.lease import Lease
    from pipeline.store.run_records import new_run_id

    with ExitStack() as stack:
        leases = []
        for output in outputs:
            leases.append(Lease.acquire(output, f"{purpose}-{new_run_id()}"))
            stack.callback(leases[-1].release)
        yield leases


def _report(result: Mapping[str, Any], text: str, *, as_json: bool) -> None:
    # Whole lines, and no markup: names may hold brackets.
    console = Console()
    if as_json:
        console.file.write(json.dumps(result, ensure_ascii=False) + "\n")
    else:
        console.print(Text(text), soft_wrap=True)
