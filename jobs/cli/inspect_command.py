"""`flashvid inspect`: what compression did to one clip."""

from __future__ import annotations

from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.cli.options import AsJson, Fingerprint, Output, StorageOptions, open_storage
from jobs.cli.printing import print_result, write_file

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray

    from pipeline.config import JobConfig
    from pipeline.store.parquet import Row
    from pipeline.store.results import Results


def inspect(
    output: Output,
    video_id: Annotated[str, typer.Argument(help="the video's id")],
    to: Annotated[Path, typer.Option(help="the PNG to write; an existing one is replaced")] = Path("clip.png"),
    clip_id: Annotated[str | None, typer.Option(help="which clip, if the video was cut into several")] = None,
    video_path: Annotated[str | None, typer.Option(help="the video's file; default: where it was probed")] = None,
    columns: Annotated[int, typer.Option(min=1, help="frames in a row")] = 4,
    max_steps: Annotated[int, typer.Option(min=1, help="the most frames to draw, spread evenly")] = 60,
    fingerprint: Fingerprint = None,
    storage_option: StorageOptions = None,
    as_json: AsJson = False,
) -> None:
    """Draw a clip's frames as a contact sheet with kept tokens framed, merged ones coloured, dropped ones dark.

    The frames are decoded again. --json adds segments and counts of every temporal step.

    Example: flashvid inspect output clip_1.mp4 --to clip_1.png
    """
    from flashvid.errors import ConfigurationError
    from jobs.inspection import account, contact_sheet
    from pipeline.plan.probe import ProbeTable
    from pipeline.store.keys import content_key
    from pipeline.store.results import Results
    from pipeline.store.storage import Storage
    from pipeline.store.tokens import TokenStore

    storage = open_storage(output, storage_option)
    results = Results(storage, fingerprint)
    clip = _clip(results, video_id, clip_id)
    job = results.job
    # The output may have been copied since; its tokens were then copied too.
    root = Storage(job.cache, job.storage_options) if job.cache else storage
    key = content_key(clip["source_id"], clip["start_s"], clip["end_s"])
    try:
        compressed = TokenStore(root, results.record["tokens_fingerprint"]).read(key)
    except FileNotFoundError:
        raise ConfigurationError("the clip's tokens are not there", root.url) from None
    path = video_path or ProbeTable(storage).paths().get(clip["source_id"])
    if path is None:
        raise ConfigurationError("the path of this video is not recorded: give it with --video-path", video_id)
    frames = _frames(job, path, clip)
    if len(frames) != len(compressed.frame_timestamps):
        raise ConfigurationError("is not the file that was encoded: the number of sampled frames differs", path)
    retention = job.compression.retention_ratio
    title = f"{video_id}, retention_ratio {retention} ({job.compression.method})"
    png = BytesIO()
    contact_sheet(frames, compressed, title, sheet_columns=columns, max_steps=max_steps).save(png, format="PNG")
    write_file(to, png.getvalue(), replace=True)
    counted = account(compressed)
    described = {"video_id": video_id, "clip_id": clip["clip_id"], "picture": str(to), **asdict(counted)}
    text = f"{to}: {counted.kept} of {counted.total} tokens kept in {len(counted.segment_lengths)} segments"
    print_result({**described, "retention_ratio": retention}, text, as_json=as_json)


def _frames(job: JobConfig, path: str, clip: Row) -> NDArray[uint8]:
    """Decode the frames that were encoded. Raises ConfigurationError with the path."""
    from flashvid.errors import ConfigurationError, PermanentError
    from flashvid.models import load_preprocessor
    from pipeline.errors import VideoNotFoundError
    from pipeline.video.frame_blocks import decode_clip, local_copy

    preprocessor = load_preprocessor(
        job.model.name,
        revision=job.model.revision,
        min_pixels=job.sampling.min_pixels,
        max_pixels=job.sampling.max_pixels,
    )
    try:
        with local_copy(path, job.storage_options) as file:
            return decode_clip(
                file,
                job.sampling,
                clip["start_s"],
                clip["end_s"],
                transform_for=lambda num_frames: preprocessor.for_video(num_frames).resize,
            ).frames
    except VideoNotFoundError:
        raise ConfigurationError("the video is not there any more: give its path with --video-path", path) from None
    except PermanentError as error:
        raise ConfigurationError(error.message, path) from None


def _clip(results: Results, video_id: str, clip_id: str | None) -> Row:
    """Return an answer about the clip. Raises ConfigurationError if there is none, or if several clips match."""
    from difflib import get_close_matches

    from flashvid.errors import ConfigurationError

    answers = results.answers(("source_id",))
    found = {row["clip_id"]: row for row in answers if row["video_id"] == video_id}
    if not found:
        near = get_close_matches(video_id, {row["video_id"] for row in answers}, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigurationError(f"there is no answer about this video{hint}", f"video_id {video_id!r}")
    if clip_id is None and len(found) == 1:
        return next(iter(found.values()))
    if clip_id in found:
        return found[clip_id]
    spans = "".join(
        f"\n  {name}: {row['start_s'] or 0} s to {'the end' if row['end_s'] is None else row['end_s']}"
        for name, row in found.items()
    )
    raise ConfigurationError(f"choose one of its clips with --clip-id:{spans}", f"video_id {video_id!r}")
