"""The errors of the library, whose base class decides whether a run retries.

    FlashVidError
    ├── TransientError      may pass: retried
    ├── PermanentError      this input will never work: recorded, not retried
    │   └── InvalidFeaturesError
    └── FatalError          no input can work: stops the run
        ├── ConfigurationError
        └── ModelLoadError

`pipeline.errors` derives its errors from the same three classes. Retries depend on the class alone, never on messages.
"""

from typing import ClassVar, Literal

ErrorKind = Literal["transient", "permanent", "fatal"]


class FlashVidError(Exception):
    """Base of all errors that this project raises on purpose.

    Args:
        message: One sentence that names the cause, and the fix if there is one.
        row: The input row or key that the error belongs to, for example ``"video_id 'a7'"``.
    """

    kind: ClassVar[ErrorKind] = "fatal"

    def __init__(self, message: str, row: str | None = None) -> None:
        # Ray pickles errors to move them between processes, and unpickling passes Exception.args to __init__.
        super().__init__(message, row)
        self.message = message
        self.row = row

    def __str__(self) -> str:
        return f"{self.row}: {self.message}" if self.row else self.message


class TransientError(FlashVidError):
    """A cause that may pass, so that a retry may work."""

    kind = "transient"


class PermanentError(FlashVidError):
    """An input that will never work."""

    kind = "permanent"


class FatalError(FlashVidError):
    """A cause with which no input of the run can work."""

    kind = "fatal"


class InvalidFeaturesError(PermanentError, ValueError):
    """Visual features or scores that cannot be compressed: shape or dtype is wrong, or values are not finite."""


class ConfigurationError(FatalError, ValueError):
    """A setting with an impossible value, or settings that exclude each other."""


class ModelLoadError(FatalError):
    """Files of a model that are missing or incomplete, or an architecture that is not supported."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text that is not blank; without one, the name of its class."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
