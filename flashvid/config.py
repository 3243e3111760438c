"""Settings of compression and of pruning inside the LLM, and the token budgets that follow from them."""

import math
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from flashvid.errors import ConfigurationError
from flashvid.method_registry import METHODS


def _known_method(name: str) -> str:
    if name not in METHODS:
        known = [f"'{method}'" for method in METHODS]
        raise ValueError(f"Input should be {', '.join(known[:-1])} or {known[-1]}")
    return name


class _MethodsInSchema:
    """Lists the methods, those of other packages included, when a JSON schema is made."""

    def __get_pydantic_json_schema__(self, *_: object) -> dict[str, object]:
        return {"type": "string", "enum": [*METHODS]}


MethodName = Annotated[str, AfterValidator(_known_method), _MethodsInSchema()]
TokenSelectionMethod = Literal["attn_div", "attn_div_v2", "attn", "div"]
EventRelevance = Literal["segment", "clip"]


class CompressionConfig(BaseModel):
    """How many visual tokens to keep and how to choose them (FlashVID, arXiv 2602.08024; docs/flashvid.md).

    Objects are frozen, so one object may serve any number of videos, threads and runs. An impossible value raises
    `pydantic.ValidationError`; a combination that is impossible only for a given video raises `ConfigurationError` in
    `compress`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    method: MethodName = Field(default="flashvid", description="FlashVID, one of its parts, or another method")
    retention_ratio: float = Field(
        default=0.25, gt=0.0, le=1.0, description="share of the visual tokens to keep, before expansion"
    )
    # DySeg: docs/flashvid.md, section 1.
    do_segment: bool = Field(
        default=True, description="cut the video into segments of similar frames; false: one segment"
    )
    segment_threshold: float = Field(
        default=0.9,
        description="neighbouring frames are cut apart where the cosine of their mean features is below this",
    )
    min_segment_num: int = Field(
        default=8, ge=1, description="least number of segments; fewer are cut further, where frames differ most"
    )
    complementary_segment: bool = Field(default=True, description="whether min_segment_num is enforced")
    # ADTS: docs/flashvid.md, section 2.
    token_selection_method: TokenSelectionMethod = Field(
        default="attn_div",
        description="what selects tokens: attention and diversity (attn_div), these and event relevance (attn_div_v2), "
        "attention alone (attn), diversity alone (div)",
    )
    alpha: float = Field(
        default=0.7,
        ge=0.0,
        le=1.0,
        description="share of the kept tokens that are selected unchanged; the rest are merged ones",
    )
    # TSTM: docs/flashvid.md, section 3.
    temporal_threshold: float = Field(
        default=0.8,
        description="tokens of neighbouring frames join one tree where their cosine is above this; from 1 on, none do",
    )
    # Hybrid compression: docs/flashvid.md, section 6.
    expansion: float = Field(
        default=1.0,
        gt=0.0,
        le=1e6,
        description="multiplies the number of kept tokens; 1.25 goes with pruning inside the LLM, which takes it back, "
        "1 without",
    )
    event_relevance: EventRelevance = Field(
        default="segment",
        description="what attn_div_v2 compares tokens with: the mean of their segment (published) or of the clip",
    )
    reference_compatible: bool = Field(
        default=False, description="reproduce the published implementation to the last index, its defects included"
    )

    seed: int = Field(default=0, ge=0, lt=2**63, description="random seed; used only by method: random")

    @model_validator(mode="before")
    @classmethod
    def _fill_from_method(cls, settings: object) -> object:
        if isinstance(settings, dict) and isinstance(name := settings.get("method"), str) and name in METHODS:
            return {**METHODS[name].defaults, **settings}
        return settings

    @model_validator(mode="after")
    def _keeps_what_is_pruned_later(self) -> Self:
        if METHODS[self.method].question_dependent and self.retention_ratio * self.expansion < 1:
            raise ValueError(
                f"{self.method} keeps every token on the vision side: leave out retention_ratio and expansion, "
                "its ratio is inner_pruning.llm_retention_ratio"
            )
        return self

    def clip_budget(self, num_frames: int, num_tokens: int) -> int:
        """Return how many of the `num_frames` * `num_tokens` tokens of a clip are kept, exactly.

        With `reference_compatible`, `budget` applies frame by frame instead, and is exceeded.
        """
        asked = math.ceil(self.retention_ratio * self.expansion * num_frames * num_tokens)
        return min(asked, num_frames * num_tokens)

    def budget(self, num_tokens: int) -> int:
        """Return how many of a frame's `num_tokens` tokens to keep; `expansion` above 1 may yield more than all."""
        # The order of the products affects rounding, so it is that of the published implementation.
        return math.ceil((num_tokens * self.retention_ratio) * self.expansion)

    def n_select(self, num_tokens: int) -> int:
        """Return how many tokens of a frame's budget ADTS selects and keeps unchanged."""
        return math.ceil(self.budget(num_tokens) * self.alpha)

    def n_merge(self, num_tokens: int) -> int:
        """Return how many tokens of a frame's budget TSTM and DPC-kNN merge, on average over its segment."""
        return self.budget(num_tokens) - self.n_select(num_tokens)


class InnerPruningConfig(BaseModel):
    """Where and how much to prune inside the LLM; frozen. An impossible value raises `pydantic.ValidationError`."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    pruning_layer: int = Field(
        default=20,
        ge=1,
        description="layers that run on every token; the attention in the last of them decides what is pruned",
    )
    llm_retention_ratio: float = Field(
        default=0.3, gt=0.0, le=1.0, description="share of the prunable tokens that the later layers get, rounded up"
    )

    def prunes(self, num_layers: int) -> bool:
        """Return whether a decoder of `num_layers` layers has layers after the pruning layer."""
        return self.pruning_layer < num_layers

    def check_deepstack(self, num_deepstack: int) -> None:
        """Refuse pruning before the last of the `num_deepstack` layers that add features to the visual tokens.

        Raises:
            ConfigurationError: The pruning layer is one of these layers.
        """
        if self.pruning_layer < num_deepstack:
            raise ConfigurationError(
                f"pruning_layer {self.pruning_layer} is too early: this model adds visual features after its first "
                f"{num_deepstack} layers, and all of them must run on every token"
            )
