"""The three stages, each a thin callable around functions that know no Ray."""

from pipeline.stages.answer import AnswerStage
from pipeline.stages.decode import DecodeStage
from pipeline.stages.encode import EncodeStage
from pipeline.stages.stage import StageSettings

__all__ = ["AnswerStage", "DecodeStage", "EncodeStage", "StageSettings"]
