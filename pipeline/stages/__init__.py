"""Defines the stages of a run, each a thin callable around functions that do not use Ray."""

from pipeline.stages.answer import AnswerStage
from pipeline.stages.decode import DecodeStage
from pipeline.stages.encode import EncodeStage
from pipeline.stages.stage import Stage, StageSettings

# In the order in which a clip passes them. To add a stage, add a file to this folder and a line here.
STAGES: tuple[type[Stage], ...] = (DecodeStage, EncodeStage, AnswerStage)

__all__ = ["STAGES", "AnswerStage", "DecodeStage", "EncodeStage", "Stage", "StageSettings"]
