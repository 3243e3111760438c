"""`flashvid report`: one HTML file about a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jobs.cli.options import Fingerprint, Output, StorageOptions, open_storage
from jobs.cli.printing import print_text, write_file


def report(
    output: Output,
    to: Annotated[Path, typer.Option(help="the file to write; an existing one is replaced")] = Path("report.html"),
    fingerprint: Fingerprint = None,
    cache: Annotated[str | None, typer.Option(help="where the tokens are; default: where the run put them")] = None,
    max_clips: Annotated[int, typer.Option(min=0, help="clips in the file")] = 20_000,
    max_pictures: Annotated[int, typer.Option(min=0, help="clips with a picture, 5 kB each")] = 1_000,
    max_picture_mb: Annotated[float, typer.Option(min=0, help="megabytes of pictures in the file")] = 10.0,
    storage_option: StorageOptions = None,
) -> None:
    """Write a report that opens in any browser, without a network: summary, throughput, failures, clips with answers.

    Example: flashvid report output --to report.html
    """
    from jobs.report.content import collect
    from jobs.report.page import render

    content = collect(
        open_storage(output, storage_option),
        None if cache is None else open_storage(cache, storage_option),
        fingerprint,
        max_clips=max_clips,
        max_pictures=max_pictures,
        max_picture_bytes=max_picture_mb * 1e6,
    )
    page = render(content).encode()
    write_file(to, page, replace=True)
    print_text(f"{to}: {len(content.clips)} clips, {content.answers} answers, {len(page) / 1e6:.1f} MB")
