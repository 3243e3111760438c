"""Settings of the generation of answers."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from flashvid.engine.json_grammar import schema_text


class GenerationConfig(BaseModel):
    """Settings of the generation of answers: greedy, unless a temperature is set.

    With a temperature, every clip and question has its own random stream, derived from `seed`. An answer does not
    depend on the rest of its batch, and the same question gets the same answer again.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    max_new_tokens: int = Field(default=64, ge=1, description="tokens after which an answer is cut")
    system_prompt: str = Field(default="You are a helpful assistant.", description="system message")
    chat_template: str | None = Field(
        default=None,
        min_length=1,
        description="Jinja text instead of the model's own template; it gets the same messages and must write the "
        "model's video placeholder once",
    )
    temperature: float = Field(default=0.0, ge=0.0, description="divides the logits; 0: always the most likely token")
    top_k: int | None = Field(default=None, ge=1, description="draw from this many most likely tokens; all if not set")
    top_p: float = Field(
        default=1.0,
        gt=0.0,
        le=1.0,
        description="draw from the fewest tokens with at least this much of the probability, after top_k",
    )
    seed: int = Field(default=0, ge=0, description="random seed; used only with a temperature")
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        default=(), description="an answer ends before the first of these texts in it"
    )
    choice: Literal["letter", "likelihood"] = Field(
        default="letter",
        description="questions with options: generate the answer (letter), or choose the option with the highest "
        "likelihood as the continuation of the prompt (likelihood)",
    )
    reference_compatible: bool = Field(
        default=False,
        description="Qwen3-VL: leave out the markers around the steps of a compressed video, as the published "
        "implementation does",
    )
    # Text, since it is hashable and immutable, and the order of its keys matters.
    json_schema: Annotated[str, BeforeValidator(schema_text)] | None = Field(
        default=None, description="answers are JSON that satisfies this schema, a mapping or JSON text"
    )

    @model_validator(mode="after")
    def _json_is_not_cut(self) -> Self:
        if self.json_schema is not None and self.stop:
            raise ValueError("stop and json_schema exclude each other: a stop text would cut the JSON")
        return self
