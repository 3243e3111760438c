"""Frames by number, with decord: fast where a file's pictures simply follow each other (see `packet_index`)."""

from __future__ import annotations

import re

import decord
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UnreadableVideoError


class DecordReader:
    """Reads frames of one local file.

    Args:
        path: The file.

    Raises:
        UnreadableVideoError: decord can't open it.
    """

    def __init__(self, path: str) -> None:
        try:
            self._reader = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
        except (decord.DECORDError, RuntimeError) as error:
            raise _unreadable(error) from error

    def __len__(self) -> int:
        """Frames that decord has found."""
        return len(self._reader)

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Decode frames.

        Args:
            indices: `[f]` numbers of frames in presentation order.

        Returns:
            uint8 `[f, H, W, 3]`, RGB.

        Raises:
            UnreadableVideoError: they can't be decoded.
        """
        try:
            frames: NDArray[np.uint8] = self._reader.get_batch(indices).asnumpy()
        except (decord.DECORDError, RuntimeError) as error:
            raise _unreadable(error) from error
        return frames


def _unreadable(error: BaseException) -> UnreadableVideoError:
    """What decord says, as every trouble of its decoder in one of two types; without its time and source line."""
    lines = str(error).strip().splitlines() or ["no message"]
    cause = re.sub(r"^(\[[\d:]+\] \S+:\d+: )+", "", lines[0])
    return UnreadableVideoError(f"the file can't be decoded, it may be cut short or damaged (decord: {cause})")
