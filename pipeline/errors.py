"""Define the errors of the pipeline. The branch of an error decides what happens next (see `flashvid/errors.py`).

FlashVidError
├── TransientError          later runs retry the clip, up to `max_attempts`
│   ├── WorkerDiedError
│   ├── SuspectedClipError
│   ├── SourceUnreachableError
│   ├── DecodeTimeoutError
│   └── CorruptTokensError
├── PermanentError          recorded once; retried only if the source changes
│   ├── InputRowError
│   ├── VideoNotFoundError
│   ├── UnreadableVideoError
│   ├── DecoderDiedError
│   ├── DecodeMemoryError
│   └── PoisonClipError
└── FatalError              the run stops; committed results stay
    ├── OutageError         no input is at fault: the same command works once the cause is gone (exit code 3)
    │   ├── StorageUnavailableError
    │   ├── DiskError
    │   └── ClusterUnreachableError
    ├── DamagedObjectError
    ├── InputTableError
    ├── NewerFormatError
    ├── SettingsChangedError
    ├── QuestionChangedError
    ├── OutputLockedError
    ├── MonitorLostError
    ├── TooManyFailuresError
    └── ClusterTooSmallError
"""

import errno
import os
from typing import Self

from flashvid.errors import FatalError, PermanentError, TransientError

# A disk that is full, or has a limit for this user or file, or is read-only.
FULL_NUMBERS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})
# The same, or a disk that fails. Where input files are read, EIO is an error of that file alone.
DISK_NUMBERS = FULL_NUMBERS | {errno.EIO}


class WorkerDiedError(TransientError):
    """A process that read or decoded the file was killed. The next run retries the clip."""


class SuspectedClipError(TransientError):
    """Two processes died while they worked on this clip. The run retries the clip alone at its end."""


class PoisonClipError(PermanentError):
    """Processes died on this clip again when it was retried alone."""


class InputRowError(PermanentError):
    """A row of the videos table has an impossible value. Other rows are not affected."""


class VideoNotFoundError(PermanentError):
    """There is no file at the row's `video_path`."""


class UnreadableVideoError(PermanentError):
    """The file exists but can't be decoded to its end as a video."""


class DecoderDiedError(PermanentError):
    """The process that decoded the file crashed, and so did a new one."""


class DecodeMemoryError(PermanentError):
    """Reading or decoding the file needs more memory than `resources.decode.memory_limit_gb`."""


class SourceUnreachableError(TransientError):
    """Storage did not say whether the file exists: no permission, no credentials, or no reply."""


class DecodeTimeoutError(TransientError):
    """Decoding a file took longer than `resources.decode.time_limit_s`: the decoder hangs, or the machine was busy."""


class CorruptTokensError(TransientError):
    """A committed tokens object was damaged. It was moved to `quarantine/`, and the next run makes the tokens again."""


class OutageError(FatalError):
    """Something that the whole run needs is away. No clip is at fault, so no attempt is counted."""


class StorageUnavailableError(OutageError):
    """The store of the output, the cache or the input tables did not reply to repeated requests."""


class DiskError(OutageError):
    """A disk that the run writes to is full, over its quota, read-only or failing."""

    @classmethod
    def of(cls, error: OSError, where: str | None = None) -> Self:
        """Describe an error of the operating system whose number is one of `DISK_NUMBERS`.

        Args:
            error: The error.
            where: Path or URL; None for the file that the error names.
        """
        place = where if where is not None else error.filename
        reason = f"disk error: {os.strerror(error.errno or 0)}; fix that, then run the same command again"
        return cls(reason, None if place is None else str(place))


class ClusterUnreachableError(OutageError):
    """The cluster's address does not reply or rejects the connection. No run was started there."""


class DamagedObjectError(FatalError):
    """An object of an output or a cache is not what was written: `flashvid verify --repair` moves it away.

    Args:
        reason: What is wrong with it.
        root: URL of the output or the cache.
        name: Name of the object below it.
    """

    def __init__(self, reason: str, root: str, name: str) -> None:
        super().__init__(
            f"is damaged ({reason}): flashvid verify OUTPUT --repair moves it to quarantine/, and the next run makes "
            "its content again",
            f"{root.rstrip('/')}/{name}",
        )
        self.args = (reason, root, name)  # what unpickling passes to __init__
        self.reason = reason


class InputTableError(FatalError):
    """A table of videos or questions is missing or invalid. The message names the row or the column."""


class NewerFormatError(FatalError):
    """A later version of flashvid wrote this output, in a format that this version can't read."""


class SettingsChangedError(FatalError):
    """The output was made with other settings. Continuing requires `--fork`."""


class QuestionChangedError(FatalError):
    """A `question_id` that already has answers now has another text."""


class OutputLockedError(FatalError):
    """Another run or care command writes to this output."""


class MonitorLostError(FatalError):
    """The run's monitor process died. The next run continues from the committed results."""


class TooManyFailuresError(FatalError):
    """More clips failed than `on_error` or `max_failures` allows. Their failures and all answers are committed."""


class ClusterTooSmallError(FatalError):
    """The cluster has no room for all actor pools, so the run would wait forever."""
