"""Open video files: only containers that hold their pictures themselves.

FFmpeg also opens playlists and descriptions (HLS, DASH, SDP, concat scripts, image sequences), which name other files
and addresses. It recognises them by content, whatever the file is called. None of them is a video file here, and a file
of these containers can't make FFmpeg open anything else.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import av
from av.container import InputContainer
from av.stream import Disposition

from flashvid.errors import FlashVidError, first_line
from pipeline.errors import UnreadableVideoError

# Names of FFmpeg's demuxers; the last two lines are of surveillance recorders, and of streams without a container.
CONTAINERS = (
    "mov", "matroska", "avi", "mpegts", "mpeg", "flv", "live_flv", "asf", "ogg", "mxf", "gxf", "lxf", "rm", "nut",
    "wtv", "nuv", "nsv", "dv", "ivf", "gif", "apng", "yuv4mpegpipe", "swf", "mlv", "cine", "ty", "pva", "kux", "smk",
    "bink", "roq", "flic",
    "dhav", "hxvs",
    "h264", "hevc", "vvc", "evc", "obu", "av1", "m4v", "mpegvideo", "h261", "h263", "vc1", "vc1test", "mjpeg", "avs2",
    "avs3", "cavsvideo", "dirac", "dnxhd",
)  # fmt: skip

# For a file that is opened in Python: these containers only, and no further file or address.
_OPTIONS = {"format_whitelist": ",".join(CONTAINERS), "protocol_whitelist": "none"}

MAX_PIXELS = 8192 * 8192
"""Pixels of the largest picture that is decoded: 8K (7680 x 4320) and square 8K pass."""

# What PyAV raises, besides its own errors, where a file has something that it does not know, for instance a codec.
_READER_FAULTS = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, AssertionError)


@contextmanager
def opened(file: str | IO[bytes]) -> Iterator[InputContainer]:
    """Open a local path or an open file for reading packets. FFmpeg can open no other file or address for it.

    Raises:
        UnreadableVideoError: the file can't be read, is not a video file of one of the `CONTAINERS`, or is damaged.
            Errors of FFmpeg and of PyAV inside the `with` block are converted too.
    """
    if isinstance(file, str):
        # FFmpeg would take a path as a URL or as the pattern of an image sequence, if it looks like one.
        try:
            if Path(file).stat().st_size == 0:
                raise UnreadableVideoError("not a readable video file (it is empty)")
            with Path(file).open("rb") as local, opened(local) as container:
                yield container
        except OSError as error:
            raise UnreadableVideoError(f"the file can't be read ({error.strerror})") from error
        return
    is_open = False
    try:
        # Titles and comments are not used, and old files have them in any encoding.
        with av.open(file, "r", metadata_errors="replace", container_options=dict(_OPTIONS)) as container:
            is_open = True
            yield container
    except av.error.ArgumentError as error:
        if is_open:
            raise UnreadableVideoError(f"not a readable video file ({error.strerror})") from None
        raise UnreadableVideoError(
            "its content is no container that is read (docs/security.md lists them), whatever its name says: playlists "
            "and other files that name their pictures' files or addresses are refused; give the video files themselves"
        ) from None
    except av.error.FFmpegError as error:
        raise UnreadableVideoError(f"not a readable video file ({error.strerror})") from None
    except FlashVidError:
        raise
    except _READER_FAULTS as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise UnreadableVideoError(f"PyAV can't handle this file ({reason})") from error


def video_stream(container: InputContainer) -> av.VideoStream:
    """Return the video stream to decode: the one that players choose, not a cover picture.

    Raises:
        UnreadableVideoError: the file has no video stream, only a cover picture, or pictures larger than `MAX_PIXELS`.
    """
    stream = container.streams.best("video")
    if not isinstance(stream, av.VideoStream):
        kinds = sorted({stream.type for stream in container.streams})
        raise UnreadableVideoError(f"no video stream, only {', '.join(kinds) or 'nothing'}")
    if stream.disposition & Disposition.attached_pic:
        raise UnreadableVideoError("it is sound with a cover picture, not a video")
    if stream.width * stream.height > MAX_PIXELS:
        raise UnreadableVideoError(
            f"its pictures have {stream.width} x {stream.height} pixels, more than {MAX_PIXELS:,} in all; "
            "scale it down first: ffmpeg -i IN -vf scale=7680:-2 OUT.mp4"
        )
    # For larger pictures later in the stream.
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
    return stream
