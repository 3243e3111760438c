"""The command that shows what a run would read of a file: probe."""

from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.cli.options import AsJson, StorageOptions, assignments
from jobs.cli.printing import PROBLEM, print_json, print_table, print_text

if TYPE_CHECKING:
    from pipeline.clip import DecodedClip
    from pipeline.video.probing import Probe

_NUM_FRAMES = 8


def probe(
    file: Annotated[str, typer.Argument(help="path or URL of a video")],
    num_frames: Annotated[int | None, typer.Option(min=1, help="frames to sample, spread evenly; default: 8")] = None,
    fps: Annotated[float | None, typer.Option(min=0.001, help="frames to sample per second, instead")] = None,
    start_s: Annotated[float | None, typer.Option(min=0.0, help="start of the span in seconds")] = None,
    end_s: Annotated[float | None, typer.Option(min=0.0, help="end of the span in seconds")] = None,
    output: Annotated[Path | None, typer.Option(help="folder for the sampled frames, frame-0000.png and so on")] = None,
    storage_option: StorageOptions = None,
    as_json: AsJson = False,
) -> None:
    """Show what a run would read of a file: container, codec, length, pictures, decoder and why, and the sampled times.

    Exit code 1, with the message that the run would record, if a run would refuse the file.

    Example: flashvid probe video.mp4 --num-frames 4 --output frames
    """
    from flashvid.errors import ConfigurationError, PermanentError
    from pipeline.config import SamplingConfig
    from pipeline.inputs.sources import stat_sources
    from pipeline.inputs.videos import Video
    from pipeline.plan.plan import row_clip
    from pipeline.plan.probe import probe_file
    from pipeline.resources_config import DecodePoolConfig
    from pipeline.store.filesystem import is_local, resolve
    from pipeline.video.process import DecodeProcess
    from pipeline.video.remote_file import RemoteVideo

    if num_frames is not None and fps is not None:
        raise ConfigurationError("give --num-frames or --fps, not both")
    count = _NUM_FRAMES if num_frames is None and fps is None else num_frames
    sampling = SamplingConfig.model_validate({"num_frames": count, "fps": fps})
    options = assignments(storage_option, "--storage-option")
    video = Video(file, str(Path(file).absolute()) if "://" not in file else file, start_s, end_s)
    (source,) = stat_sources([video], source_id_column=None, storage_options=options)
    limits = DecodePoolConfig()
    with closing(DecodeProcess(time_limit_s=limits.time_limit_s, memory_limit_gb=limits.memory_limit_gb)) as process:
        try:
            found = probe_file(row_clip(video, source), options, process.probe)
            fs, inner = resolve(str(video.video_path), options)
            read = inner if is_local(fs) else RemoteVideo(str(video.video_path), options)
            clip = process.decode_clip(read, sampling, start_s, end_s)
        except PermanentError as error:
            if as_json:
                print_json({"error_type": type(error).__name__, "error_message": error.message})
            else:
                print_text(f"{type(error).__name__}: {error.message}", "red", to_stderr=True)
            raise typer.Exit(PROBLEM) from None
    if output is not None:
        _write(clip, output)
    if as_json:
        print_json(_described(found, clip))
    else:
        print_table((), _rows(found, clip))


def _described(found: "Probe", clip: "DecodedClip") -> dict[str, Any]:
    header = asdict(found.header)
    reasons = list(found.objections)
    return {**header, "decoder": found.decoder, "traits": reasons, "frame_timestamps": clip.frame_timestamps.tolist()}


def _rows(found: "Probe", clip: "DecodedClip") -> list[tuple[str, str]]:
    header = found.header
    rate = "of unknown rate" if header.fps is None else f"{header.fps:.3f} per second on average"
    why = "its frames are exact" if not found.objections else "; ".join(found.objections)
    return [
        ("container, codec", f"{header.container}, {header.codec}"),
        ("length", f"{header.duration_s:.3f} s"),
        ("pictures", f"{header.num_frames:,} of {header.width} x {header.height}, {rate}"),
        ("decoder (auto)", f"{found.decoder}: {why}"),
        ("frame_timestamps", ", ".join(f"{time:.3f}" for time in clip.frame_timestamps)),
    ]


def _write(clip: "DecodedClip", folder: Path) -> None:
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(clip.frames):
        Image.fromarray(frame).save(folder / f"frame-{number:04d}.png")
