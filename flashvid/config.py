"""The settings of compression and of pruning inside the LLM, and the budgets that follow from them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from flashvid.errors import ConfigurationError

METHOD_NAMES = (
    "adts",
    "attention_topk",
    "fastv",
    "fastvid",
    "flashvid",
    "random",
    "spatial_pooling",
    "tome",
    "tstm",
    "uniform_frames",
    "vidcom2",
    "visionzip",
)
if TYPE_CHECKING:
    MethodName = str
else:
    MethodName = Literal[METHOD_NAMES]
TokenSelectionMethod = Literal["attn_div", "attn_div_v2", "attn", "div"]
EventRelevance = Literal["segment", "clip"]


class CompressionConfig(BaseModel):
    """How many visual tokens to keep and how to choose them (FlashVID, arXiv 2602.08024).

    Frozen and free of mutable state: one object may serve any number of videos, threads and runs. In the
    descriptions, "paper" is the part of the paper a setting belongs to and "spec n" section n of the written
    specification of the published implementation. An impossible value raises `pydantic.ValidationError`; a
    combination that is impossible only for a given video raises `ConfigurationError` in `compress`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    method: MethodName = Field(default="flashvid", description="FlashVID (spec 0-5), one of its parts, or a rival.")
    retention_ratio: float = Field(
        default=0.25,
        gt=0.0,
        le=1.0,
        description="Share of the visual tokens to keep, before `expansion` (paper: experiments; spec 0, 9).",
    )
    do_segment: bool = Field(
        default=True,
        description="Cut the video into segments of similar frames, or treat it as one (paper: DySeg; spec 1).",
    )
    segment_threshold: float = Field(
        default=0.9,
        description="Neighbouring frames whose mean features have a smaller cosine are cut apart (paper: DySeg; "
        "spec 1).",
    )
    min_segment_num: int = Field(
        default=8,
        ge=1,
        description="Fewer segments than this are cut further, where frames differ most (paper: DySeg; spec 1).",
    )
    complementary_segment: bool = Field(
        default=True,
        description="Whether `min_segment_num` is enforced (paper: DySeg; spec 1).",
    )
    token_selection_method: TokenSelectionMethod = Field(
        default="attn_div",
        description="What selects tokens: attention and diversity (attn_div), these and event relevance "
        "(attn_div_v2), attention alone (attn), diversity alone (div) (paper: ADTS; spec 2).",
    )
    alpha: float = Field(
        default=0.7,
        ge=0.0,
        le=1.0,
        description="Share of the budget for tokens selected as they are; merging gets the rest (paper: ADTS; spec 0).",
    )
    temporal_threshold: float = Field(
        default=0.8,
        description="Tokens of neighbouring frames with a larger cosine join one tree; from 1 on none do (paper: "
        "TSTM; spec 3).",
    )
    expansion: float = Field(
        default=1.0,
        gt=0.0,
        le=1e6,
        description="Multiplies the budget. 1.25 goes with pruning inside the LLM, which divides it out again; "
        "without inner pruning leave it at 1 (paper: hybrid compression; spec 0, 6).",
    )
    event_relevance: EventRelevance = Field(
        default="segment",
        description="What attn_div_v2 compares tokens with: the mean of their segment, as published, or of the whole "
        "clip (paper: ADTS; spec 2).",
    )
    reference_compatible: bool = Field(
        default=False,
        description="Reproduce the published implementation to the last index, its defects included (spec, marked "
        "[bug]), instead of the method as the paper means it.",
    )

    seed: int = Field(
        default=0, ge=0, lt=2**63, description="Of the method `random`; nothing else draws (spec: no randomness)."
    )

    @model_validator(mode="before")
    @classmethod
    def _fastv_keeps_everything(cls, settings: object) -> object:
        if isinstance(settings, dict) and settings.get("method") == "fastv":
            return {"retention_ratio": 1.0, **settings}
        return settings

    @model_validator(mode="after")
    def _fastv_prunes_elsewhere(self) -> Self:
        if self.method == "fastv" and self.retention_ratio * self.expansion < 1:
            raise ValueError(
                "fastv keeps every token on the vision side: leave out retention_ratio and expansion, "
                "its ratio is inner_pruning.llm_retention_ratio"
            )
        return self

    def clip_budget(self, num_frames: int, num_tokens: int) -> int:
        """Tokens to keep of a clip of `num_frames` frames of `num_tokens`: exactly these, at most all.

        With `reference_compatible`, `budget` decides frame by frame instead, and is exceeded.
        """
        asked = math.ceil(self.retention_ratio * self.expansion * num_frames * num_tokens)
        return min(asked, num_frames * num_tokens)

    def budget(self, num_tokens: int) -> int:
        """Tokens to keep per frame of `num_tokens`; may exceed them where `expansion` does (spec 0)."""
        # The order of the products decides what ceil sees, so it is the reference's.
        return math.ceil((num_tokens * self.retention_ratio) * self.expansion)

    def n_select(self, num_tokens: int) -> int:
        """Of the budget of one frame: tokens that ADTS selects and keeps as they are (spec 0)."""
        return math.ceil(self.budget(num_tokens) * self.alpha)

    def n_merge(self, num_tokens: int) -> int:
        """Of the budget of one frame: tokens left to TSTM and DPC-kNN, an average over its segment (spec 0)."""
        return self.budget(num_tokens) - self.n_select(num_tokens)


class InnerPruningConfig(BaseModel):
    """Where and how much to prune inside the LLM. Frozen; an impossible value raises `pydantic.ValidationError`."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    pruning_layer: int = Field(
        default=20,
        ge=1,
        description="Layers that run on every token; pruning decides by the attention in the last of them, so there "
        "must be one. A model with no more layers than this is never pruned (paper: hybrid compression; spec 6, 9).",
    )
    llm_retention_ratio: float = Field(
        default=0.3,
        gt=0.0,
        le=1.0,
        description="Share of the prunable tokens that the layers behind get, rounded up (spec 6, 9).",
    )

    def prunes(self, num_layers: int) -> bool:
        """Whether a decoder of that many layers has any behind the pruning."""
        return self.pruning_layer < num_layers

    def check_deepstack(self, num_deepstack: int) -> None:
        """Features that are added to visual tokens behind the first layers must all be added before pruning.

        Raises:
            ConfigurationError: the pruning layer comes too early for this model.
        """
        if self.pruning_layer < num_deepstack:
            raise ConfigurationError(
                f"pruning_layer {self.pruning_layer} is below the {num_deepstack} layers behind which this model adds "
                "visual features: no layer before the last of them can be pruned"
            )
