"""Commands for an existing output: export, gc, forget, verify, retry. None of them starts Ray.

They take a folder or URL, not a job file: an output outlives the job files that wrote to it.
"""

from contextlib import ExitStack
from dataclasses import asdict
from typing import Annotated, Any, Literal

import typer

from jobs.cli.options import AsJson, Fingerprint, Output, StorageOptions, assignments, open_storage
from jobs.cli.printing import PROBLEM, print_result
from pipeline.printable import printable

Kind = Literal["permanent", "transient"]
Stage = Literal["probe", "decode", "encode", "answer"]


def export(
    output: Output,
    to: Annotated[str, typer.Argument(help="an empty folder or URL")],
    fingerprint: Fingerprint = None,
    storage_option: StorageOptions = None,
    as_json: AsJson = False,
) -> None:
    """Write the answers to a new place: the latest of each, sorted by video, in few large files.

    Example: flashvid export output answers-for-us --json
    """
    from pipeline.care.export import export_answers

    done = export_answers(open_storage(output, storage_option), open_storage(to, storage_option), fingerprint)
    text = f"{done.rows} answers in {len(done.files)} files in {to}; {done.superseded} superseded answers left out"
    print_result(asdict(done), text, as_json=as_json)


def gc(
    root: Annotated[str, typer.Argument(help="folder or URL of an output or a cache")],
    used_by: Annotated[list[str] | None, typer.Option(help="an output that uses this cache; may be repeated")] = None,
    gone: Annotated[list[str] | None, typer.Option(help="a deleted output that used it; may be repeated")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="remove it; default: only list what would be removed")] = False,
    storage_option: StorageOptions = None,
    as_json: AsJson = False,
) -> None:
    """Remove tokens of settings that no run used, and uploads that were never completed, if they are an hour old.

    A cache records the outputs that use it in `used-by/`. Name outputs that are older than this record.

    Example: flashvid gc /shared/tokens --used-by output --used-by other-output --yes
    """
    from pipeline.care.gc import find_garbage, remove_garbage
    from pipeline.store.cache_users import cache_users
    from pipeline.store.lease import Lease
    from pipeline.store.run_records import new_run_id

    storage = open_storage(root, storage_option)
    options = assignments(storage_option, "--storage-option")
    named = [open_storage(user, storage_option) for user in used_by or []]

    def users() -> list[Any]:
        return [*named, *cache_users(storage, options, gone or ())]

    if yes:
        # No run of a known user may start meanwhile.
        with ExitStack() as stack:
            leases = [
                stack.enter_context(Lease.acquire(written, f"gc-{new_run_id()}"))
                for written in (storage, *users())
                if written.names("runs")
            ]
            garbage = find_garbage(storage, users(), now=storage.now())
            garbage = remove_garbage(storage, garbage, users, leases)
    else:
        garbage = find_garbage(storage, users())
    size = sum(piece.size_bytes for piece in garbage.pieces)
    found = [{"name": piece.name, "why": piece.why, "size_bytes": piece.size_bytes} for piece in garbage.pieces]
    lines = [printable(f"{piece.name}: {piece.why}") for piece in garbage.pieces]
    lines.append(f"{len(found)} objects, {size} bytes: {'removed' if yes else 'add --yes to remove them'}")
    if garbage.spared:
        lines.append(f"{garbage.spared} objects that no run uses are less than an hour old and stay")
    shape = {"removed": yes, "size_bytes": size, "garbage": found, "spared": garbage.spared}
    print_result(shape, "\n".join(lines), as_json=as_json)


def forget(
    output: Output,
    video_id: Annotated[str, typer.Option(help="the video")],
    storage_option: StorageOptions = None,
    as_json: AsJson = False,
) -> None:
    """Remove a video from an output and its cache: answers, failures, compressed tokens, probes.

    The next run adds it again if it is still among the job's videos.

    Example: flashvid forget output --video-id 0001.mp4
    """
    from pipeline.care.forget import forget_video, token_roots
    from pipeline.store.lease import Lease
    from pipeline.store.run_records import new_run_id

    storage = open_storage(output, storage_option)
    with Lease.acquire(storage, f"forget-{new_run_id()}") as lease:
        tokens = token_roots(storage, assignments(storage_option, "--storage-option"))
        done = forget_video(storage, tokens, lease, video_id)
    text = (
        f"{printable(video_id)}: removed {done.answers} answers, {done.failures} failures, "
        f"the tokens of {done.tokens} clips, {done.probes} probes"
    )
    print_result(asdict(done), text, as_json=as_json)


def verify(
    output: Output,
    repair: Annotated[bool, typer.Option("--repair", help="move damaged objects to quarantine/")] = False,
    storage_option: StorageOptions = None,
    as_json: AsJson = False,
) -> None:
    """Read everything in an output and its cache, and report duplicates, orphans and damaged objects.

    With --repair, damaged objects move to quarantine/, and the next run makes again what they held. Exit code 1 if
    anything is wrong, or is still wrong after a repair.

    Example: flashvid verify output
    """
    from pipeline.care.forget import token_roots
    from pipeline.care.verify import verify as verify_output
    from pipeline.store.lease import Lease
    from pipeline.store.run_records import new_run_id

    storage = open_storage(output, storage_option)
    with ExitStack() as stack:
        lease = stack.enter_context(Lease.acquire(storage, f"verify-{new_run_id()}")) if repair else None
        roots = token_roots(storage, assignments(storage_option, "--storage-option"))
        done = verify_output(storage, roots, lease)
    lines = [printable(f"{finding.kind}: {finding.name}: {finding.message}") for finding in done.findings]
    moved = [finding for finding in done.findings if finding.quarantined is not None]
    lines += [printable(f"moved: {finding.name} to {finding.quarantined}") for finding in moved]
    lines.append(f"{done.objects} objects, {done.answers} answers, {len(done.findings)} findings, {len(moved)} moved")
    print_result(asdict(done), "\n".join(lines), as_json=as_json)
    if len(moved) < len(done.findings):
        raise typer.Exit(PROBLEM)


def retry(
    output: Output,
    kind: Annotated[Kind | None, typer.Option(help="only failures of this kind")] = None,
    error_type: Annotated[str | None, typer.Option("--type", help="only this error, e.g. VideoNotFoundError")] = None,
    stage: Annotated[Stage | None, typer.Option(help="only failures of this stage")] = None,
    storage_option: StorageOptions = None,
    as_json: AsJson = False,
) -> None:
    """Make the next run retry failures, including permanent ones and those that were tried too often.

    Example: flashvid retry output --type UnreadableVideoError --stage decode
    """
    from pipeline.store.retries import RetryRequest, request_retry
    from pipeline.store.run_records import new_run_id

    request = RetryRequest(new_run_id(), kind, error_type, stage)
    failures = request_retry(open_storage(output, storage_option), request)
    print_result({"failures": failures}, f"the next run retries {failures} failures", as_json=as_json)
