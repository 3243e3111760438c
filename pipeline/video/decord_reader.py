"""Read frames by number with decord, which is fast and exact for files without `PacketIndex.traits`."""

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
        """Return the number of frames that decord finds in the file."""
        return len(self._reader)

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Decode frames.

        Args:
            indices: `[f]` numbers of frames, counted in presentation order.

        Returns:
            uint8 `[f, H, W, 3]`, RGB.

        Raises:
            UnreadableVideoError: decord can't decode them.
        """
        try:
            frames: NDArray[np.uint8] = self._reader.get_batch(indices).asnumpy()
        except (decord.DECORDError, RuntimeError) as error:
            raise _unreadable(error) from error
        return frames


def _unreadable(error: BaseException) -> UnreadableVideoError:
    """Return an error with decord's first line of text, without the time and source line that it starts with."""
    lines = str(error).strip().splitlines() or ["no message"]
    cause = re.sub(r"^(\[[\d:]+\] \S+:\d+: )+", "", lines[0])
    return UnreadableVideoError(f"the file can't be decoded; it may be cut short or damaged (decord: {cause})")
