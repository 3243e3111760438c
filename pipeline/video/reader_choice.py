"""Choose the reader of a file: decord where its frames are known to be exact, PyAV for other files and for spans."""

from typing import Literal

from av.container import InputContainer

from pipeline.config import SamplingConfig
from pipeline.errors import UnreadableVideoError
from pipeline.video.decord_reader import DecordReader
from pipeline.video.packet_index import PacketIndex
from pipeline.video.pyav_reader import PyavReader

Decoder = Literal["decord", "pyav"]

_EXACT_CONTAINERS = ("mov", "matroska")
_EXACT_CODECS = ("h264", "hevc", "vp8", "vp9")


def objections_to_decord(index: PacketIndex) -> tuple[str, ...]:
    """Return the reasons why decord may return other frames of a file than the requested ones; empty if it is exact.

    decord 0.6.0 selects frames by number. docs/decoding.md lists the files where that gives wrong frames. Containers
    and codecs that are not listed in this module are treated as wrong.

    Args:
        index: The index of the whole file.
    """
    objections = list(index.traits)
    if not index.header.container.startswith(_EXACT_CONTAINERS):
        objections.append(f"the container {index.header.container}")
    if index.header.codec not in _EXACT_CODECS:
        objections.append(f"the codec {index.header.codec}")
    return tuple(objections)


def automatic(index: PacketIndex) -> Decoder:
    """Return the decoder that `sampling.decoder: auto` uses for a whole file."""
    return "pyav" if objections_to_decord(index) else "decord"


def choose_reader(
    path: str | None, sampling: SamplingConfig, container: InputContainer, index: PacketIndex
) -> DecordReader | PyavReader:
    """Return the reader of a clip's frames.

    Args:
        path: The local file, if the whole file was indexed; None for a span, or for a file that is read by ranges.
        sampling: Names the decoder.
        container: The file after `read_index`.
        index: Index of its pictures.

    Raises:
        UnreadableVideoError: the job requires decord, which is not exact for this file or can't open it. With `auto`,
            PyAV reads such files.
    """
    if sampling.decoder == "pyav" or path is None:
        return PyavReader(container, index)
    objections = objections_to_decord(index)
    if "%" in path:
        objections = (*objections, "a name that FFmpeg may take for the pattern of an image sequence")
    if not objections:
        try:
            reader = DecordReader(path)
        except UnreadableVideoError as error:
            objections = (error.message,)
        else:
            if len(reader) == index.header.num_frames:
                return reader
            objections = (f"decord counts {len(reader)} frames instead of {index.header.num_frames}",)
    if sampling.decoder == "decord":
        raise UnreadableVideoError(
            f"decord may return wrong frames of this file ({', '.join(objections)}): "
            "leave sampling.decoder at auto, or set it to pyav"
        )
    return PyavReader(container, index)
