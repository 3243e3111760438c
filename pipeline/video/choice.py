"""Which decoder takes a file: decord where its frames are known to be exact, PyAV everywhere else."""

from __future__ import annotations

from typing import Literal

from pipeline.video.demux import PacketIndex

Decoder = Literal["decord", "pyav"]

_EXACT_CONTAINERS = ("mov", "matroska")
_EXACT_CODECS = ("h264", "hevc", "vp8", "vp9")


def objections_to_decord(index: PacketIndex) -> tuple[str, ...]:
    """Why decord's frames of a file might be others than the asked ones; empty where they are exact.

    decord 0.6.0 takes frames by their number. What that goes wrong with was measured (docs/decoding.md): whatever is
    not on the lists here counts as wrong.

    Args:
        index: The whole file's.
    """
    objections = list(index.traits)
    if not index.header.container.startswith(_EXACT_CONTAINERS):
        objections.append(f"the container {index.header.container}")
    if index.header.codec not in _EXACT_CODECS:
        objections.append(f"the codec {index.header.codec}")
    return tuple(objections)


def automatic(index: PacketIndex) -> Decoder:
    """The decoder for a whole file where the job leaves it open."""
    return "pyav" if objections_to_decord(index) else "decord"
