"""The stages of a run, each a thin callable around functions that know no Ray."""

from pipeline.stages.answer import AnswerStage
from pipeline.stages.decode import DecodeStage
from pipeline.stages.encode import EncodeStage
from pipeline.stages.stage import Stage, StageSettings

# In their order. A further stage is a line here and a file beside these.
STAGES: tuple[type[Stage], ...] = (DecodeStage, EncodeStage, AnswerStage)

__all__ = ["STAGES", "AnswerStage", "DecodeStage", "EncodeStage", "Stage", "StageSettings"]
