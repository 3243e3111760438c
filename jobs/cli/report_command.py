"""`flashvid report`: one HTML file of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from jobs.cli.options import Fingerprint, Output, StorageOptions, open_storage, write_file, write_line


def report(
    output: Output,
    to: Annotated[Path, typer.Option(help="the file to write; one that is there is replaced")] = Path("report.html"),
    fingerprint: Fingerprint = None,
    cache: Annotated[str | None, typer.Option(help="where the tokens are; default: where the run says")] = None,
    max_clips: Annotated[int, typer.Option(min=0, help="clips that the file holds")] = 20_000,
    max_pictures: Annotated[int, typer.Option(min=0, help="clips that it holds with a picture, 5 kB each")] = 1_000,
    max_picture_mb: Annotated[float, typer.Option(min=0, help="megabytes that these pictures may take in it")] = 10.0,
    storage_option: StorageOptions = None,
) -> None:
    """Write a report that opens in any browser, without a network: summary, throughput, failures, clips with answers.

    Example: flashvid report output --to report.html
    """
    from jobs.report.content import collect
    from jobs.report.page import render

    tokens = None if cache is None else open_storage(cache, storage_option)
    storage = open_storage(output, storage_option)
    content = collect(
        storage,
        tokens,
        fingerprint,
        max_clips=max_clips,
        max_pictures=max_pictures,
        max_picture_bytes=max_picture_mb * 1e6,
    )
    page = render(content).encode()
    write_file(to, page, replace=True)
    sentence = f"{to}: {len(content.clips)} clips, {content.answers} answers, {len(page) / 1e6:.1f} MB"
    write_line(Console(), sentence)
