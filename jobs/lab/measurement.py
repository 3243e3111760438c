"""One measured answer, from which the tables of `bench quality` are computed."""

from dataclasses import dataclass

FULL = "full tokens"


@dataclass(frozen=True)
class Measurement:
    """One answer.

    Attributes:
        method: Name of the arm.
        retention: Asked for, as a fraction.
        clip: Index of the clip.
        question: Of the clip.
        family: Of the question.
        tokens: Visual tokens the answer was given from, averaged over the decoder's layers.
        exact: Whether it is exactly the right answer.
        first: Whether it begins with the right answer.
    """

    method: str
    retention: float
    clip: int
    question: int
    family: str
    tokens: float
    exact: bool
    first: bool
