"""Read the packets of a file, to learn its length and which decoder reads it exactly."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import IO, Any

from pipeline.video.containers import opened
from pipeline.video.demux import read_index
from pipeline.video.packet_index import VideoHeader
from pipeline.video.reader_choice import Decoder, automatic, objections_to_decord


@dataclass(frozen=True)
class Probe:
    """Holds what the packets of a file show.

    Attributes:
        header: Header of the file.
        decoder: Video decoder that reads the whole file exactly, for `sampling.decoder: auto`.
        objections: Why decord might read it wrongly; empty if `decoder` is decord.
    """

    header: VideoHeader
    decoder: Decoder
    objections: tuple[str, ...]


def read_probe(file: str | IO[bytes]) -> Probe:
    """Read the packets of a local file, by its path, or of an open file, and decode only the first picture.

    Raises:
        UnreadableVideoError: the file has no pictures or is cut short; the message says which.
    """
    with opened(file) as container:
        index = read_index(container)
    return Probe(index.header, automatic(index), objections_to_decord(index))


def probes(file: str | IO[bytes]) -> Iterator[dict[str, Any]]:
    """Yield the fields of a file's probe, as the video decoding process serves requests."""
    yield asdict(read_probe(file))
