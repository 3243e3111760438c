"""The errors of the library, and with them the retry policy.

    FlashVidError
    ├── TransientError      may go away by itself: tried again
    ├── PermanentError      this input will never work: recorded, not tried again by itself
    │   └── InvalidFeaturesError
    └── FatalError          nothing can work: the whole run stops
        ├── ConfigurationError
        └── ModelLoadError

`pipeline.errors` hangs its own leaves on the same three branches. Which branch an error sits on *is* the decision
about what happens next; nobody inspects messages.
"""

from __future__ import annotations

from typing import ClassVar, Literal

ErrorKind = Literal["transient", "permanent", "fatal"]


class FlashVidError(Exception):
    """Base of every error this project raises on purpose.

    Args:
        message: One sentence that names the cause, and the fix where there is one.
        row: The input row or key the error belongs to, for example ``"video_id 'a7'"``.
    """

    kind: ClassVar[ErrorKind] = "fatal"

    def __init__(self, message: str, row: str | None = None) -> None:
        # Both go to Exception.args, so that pickling (Ray moves errors between processes) rebuilds the object.
        super().__init__(message, row)
        self.message = message
        self.row = row

    def __str__(self) -> str:
        return f"{self.row}: {self.message}" if self.row else self.message


class TransientError(FlashVidError):
    """May go away by itself."""

    kind = "transient"


class PermanentError(FlashVidError):
    """The input at fault will never work."""

    kind = "permanent"


class FatalError(FlashVidError):
    """Nothing in this run can work."""

    kind = "fatal"


class InvalidFeaturesError(PermanentError, ValueError):
    """Visual features or scores that cannot be compressed: wrong shape, wrong dtype, NaN or infinite."""


class ConfigurationError(FatalError, ValueError):
    """A setting with an impossible value, or two that exclude each other."""


class ModelLoadError(FatalError):
    """The model's files are missing, incomplete, or of an architecture that is not supported."""
