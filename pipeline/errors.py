"""The pipeline's leaves on the library's error tree; the branch decides what happens next (see `flashvid.errors`).

FlashVidError
├── TransientError          tried again by later runs, up to `max_attempts`
│   ├── WorkerDiedError
│   ├── SuspectedClipError
│   ├── SourceUnreachableError
│   ├── StorageUnavailableError
│   ├── ClusterUnreachableError
│   ├── DecodeTimeoutError
│   └── CorruptTokensError
├── PermanentError          recorded once; tried again only when the source changed
│   ├── InputRowError
│   ├── VideoNotFoundError
│   ├── UnreadableVideoError
│   ├── DecoderDiedError
│   ├── DecodeMemoryError
│   └── PoisonClipError
└── FatalError              the run stops; what is committed stays
    ├── InputTableError
    ├── NewerFormatError
    ├── SettingsChangedError
    ├── QuestionChangedError
    ├── OutputLockedError
    ├── MonitorLostError
    ├── TooManyFailuresError
    └── ClusterTooSmallError
"""

from __future__ import annotations

from flashvid.errors import FatalError, PermanentError, TransientError


class WorkerDiedError(TransientError):
    """A process that read or decoded the file was killed; the next run tries again."""


class SuspectedClipError(TransientError):
    """Two of the run's processes died while they worked on this clip: the run tries it again alone at its end."""


class PoisonClipError(PermanentError):
    """Processes died of this clip also while they worked on nothing else."""


class InputRowError(PermanentError):
    """A row of the videos table with an impossible value; the other rows are not affected."""


class VideoNotFoundError(PermanentError):
    """There is no file at the row's `video_path`."""


class UnreadableVideoError(PermanentError):
    """The file is there, and it is not a video that can be decoded to its end."""


class DecoderDiedError(PermanentError):
    """The process that decoded the file died of it, and so did a new one."""


class DecodeMemoryError(PermanentError):
    """Decoding the file takes more memory than `resources.decode.memory_limit_gb`."""


class SourceUnreachableError(TransientError):
    """The storage did not say whether the file is there: no permission, no credentials, or no answer."""


class StorageUnavailableError(TransientError):
    """The store of the output, the cache or the input tables did not answer, however often it was asked."""


class ClusterUnreachableError(TransientError):
    """Nothing answers at the cluster's address, or it refuses us: no run was started there."""


class DecodeTimeoutError(TransientError):
    """Decoding a file took longer than `resources.decode.time_limit_s`: it hangs, or the machine was busy."""


class CorruptTokensError(TransientError):
    """A committed tokens object that does not hold what its columns say; deleting it has it made again."""


class InputTableError(FatalError):
    """A table of videos or questions that can't be read as one: the message names the row or the column."""


class NewerFormatError(FatalError):
    """A later version of flashvid wrote this output in a format that this version can't read."""


class SettingsChangedError(FatalError):
    """The output was made with other settings; going on needs `--fork`."""


class QuestionChangedError(FatalError):
    """A `question_id` that already has answers now stands for another text."""


class OutputLockedError(FatalError):
    """Another run writes to this output."""


class MonitorLostError(FatalError):
    """The process that keeps the run's books is gone; the next run goes on from what is committed."""


class TooManyFailuresError(FatalError):
    """More clips failed than `on_error` or `max_failures` of the job allow; they and all answers are committed."""


class ClusterTooSmallError(FatalError):
    """The actor pools can't all be placed on this cluster: the run would hang."""
