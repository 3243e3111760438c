"""Our loop over the layers of a Hugging Face decoder: embed, rotary, layers, norm, head.

One runner for Qwen2, Qwen2.5-VL's text model and Qwen3-VL's. It takes the modules' weights and not their forward
methods, since those allow neither a cache whose layers differ in length, nor stopping between two layers, nor sequences
of different lengths in a batch without padding. Tokens are packed: `[L, D]`, sequence after sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from flashvid.engine.constants import CPU_DECODE_ROWS, GPU_DECODE_ROWS, QUESTION_ROWS
from flashvid.engine.decoder_attention import (
    Attend,
    SequenceAttention,
    SlotAttention,
    SlotTokens,
    check_implementation,
)
from flashvid.engine.decoder_layer import DecoderLayer, Rotary, rms_norm
from flashvid.engine.kv_cache import KVCache
from flashvid.engine.kv_slots import KVSlots
from flashvid.engine.row_sizes import Product, RowSizes
from flashvid.errors import ConfigurationError

# Fewer rows are less work on a CPU only, where these are tried.
_CPU_DECODE_SIZES = (4, 8, CPU_DECODE_ROWS)
_CPU_QUESTION_SIZES = (8, 16, 24, 32, 48, 64, 96, 128, 192, QUESTION_ROWS)


@dataclass(frozen=True, eq=False)
class Deepstack:
    """What some families add to the visual tokens behind each of the first layers.

    Attributes:
        features: For each of these layers `[V, D]`.
        is_visual: `[L]` bool with V true: which of a forward pass's tokens get them.
    """

    features: tuple[Tensor, ...]
    is_visual: Tensor

    def add_to(self, hidden: Tensor, layer: int) -> Tensor:
        """Hidden states `[L, D]` behind that layer, with its features added."""
        if layer >= len(self.features):
            return hidden
        added = hidden.clone()
        added[self.is_visual] += self.features[layer].to(hidden)
        return added


class Decoder:
    """Decoder layers and output head. Nothing in it changes by being used; sequences live in their caches.

    Attributes:
        num_layers: Layers there are.
        dtype: Of weights, embeddings and logits.
        device: Where it runs.
        decode_rows: Sizes of the matrix products in `step` and `first_logits`.
        question_rows: And in `forward_together`.
    """

    def __init__(self, model: nn.Module, head: Tensor) -> None:
        """Take the modules of a model; from then on they must not be moved, cast or loaded again.

        Args:
            model: Qwen2Model, Qwen2_5_VLTextModel or Qwen3VLTextModel, in evaluation mode.
            head: `[V, D]`: the output head's weight.

        Raises:
            ConfigurationError: a layer attends to a window only, or the attention implementation can't be used here.
        """
        # Submodules differ in class between the families and not in what is used of them.
        self._model = cast("Any", model)
        self._head = head
        self._layers = [DecoderLayer(index, layer) for index, layer in enumerate(self._model.layers)]
        self.num_layers = len(self._layers)
        if head.device.type == "cuda":
            # What projections stood in before they were joined, of use to whoever shares the GPU.
            torch.cuda.empty_cache()
        self.dtype = head.dtype
        self.device = head.device
        self.decode_rows, self.question_rows = self._row_sizes()
        if any(kind != "full_attention" for kind in getattr(self._model.config, "layer_types", None) or ()):
            raise ConfigurationError("a decoder with sliding-window attention is not supported")
        self._implementation: str = self._model.config._attn_implementation or "eager"
        check_implementation(self._implementation)

    @torch.no_grad()
    def embed(self, ids: Sequence[int]) -> Tensor:
        """Token ids to embeddings `[L, D]`."""
        return cast("Tensor", self._model.embed_tokens(torch.tensor(ids, dtype=torch.int64, device=self.device)))

    @torch.no_grad()
    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states `[L, D]` behind the last layer to logits `[L, V]`."""
        return functional.linear(rms_norm(self._model.norm, hidden), self._head)

    @torch.no_grad()
    def forward(
        self, hidden: Tensor, positions: Tensor, cache: KVCache, layers: range, deepstack: Deepstack | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Run tokens of one sequence through some layers, on top of what these layers hold of it.

        Args:
            hidden: `[L, D]`: embeddings, or the states before the first of the layers.
            positions: `[R, L]` int64.
            cache: The sequence's; grows by L tokens in these layers. A token attends to all that came before it.
            layers: Which.
            deepstack: What to add behind the first layers.

        Returns:
            States behind the layers `[L, D]`, and the last token's rotated query in the last of them, `[H, d]`; None
            if there were no tokens or no layers.
        """
        if len(hidden) == 0:
            return hidden, None
        attend = SequenceAttention(self._implementation, cache)
        hidden, queries = self._run(hidden, positions, attend, layers, deepstack=deepstack)
        return hidden, None if queries is None else queries[-1]

    @torch.no_grad()
    def forward_together(
        self, hidden: Tensor, positions: Tensor, batches: Sequence[SlotTokens], layers: range
    ) -> tuple[Tensor, Tensor | None]:
        """Run tokens of several slots through some layers, each on top of what these layers hold of it.

        Args:
            hidden: `[L, D]`, one slot's tokens behind the other's, batch after batch.
            positions: `[R, L]` int64.
            batches: Whose they are; the slots grow by them.
            layers: Which.

        Returns:
            States behind the layers `[L, D]`, and of each of S slots the last token's rotated query in the last of
            them `[S, H, d]`; None if there were no layers. Bit for bit the same whichever other slots are there.
        """
        counts = [count for batch in batches for count in batch.counts]
        total = len(hidden)
        filling = self.question_rows.filled(total) - total
        hidden, queries = self._run(
            functional.pad(hidden, (0, 0, 0, filling)),
            functional.pad(positions, (0, filling)),
            SlotAttention(self._implementation, batches),
            layers,
            rows=self.question_rows.most,
        )
        last = torch.tensor(counts, device=self.device).cumsum(dim=0) - 1
        return hidden[:total], None if queries is None else queries[last]

    @torch.no_grad()
    def step(self, tokens: Sequence[int], positions: Sequence[int], batches: Sequence[KVSlots]) -> Tensor:
        """Run the newest token of some slots through all layers.

        Args:
            tokens: One id for each slot, batch after batch; as many as there are `decode_rows` at most.
            positions: And its position, the same in every row of positions.
            batches: Each slot grows by one token.

        Returns:
            `[B, V]`: each slot's logits, bit for bit the same whichever others are in the step.

        Raises:
            ValueError: more slots than rows.
        """
        if len(tokens) > self.decode_rows.most:
            raise ValueError(f"a step has at most {self.decode_rows.most} rows, not {len(tokens)}")
        filling = self.decode_rows.filled(len(tokens)) - len(tokens)
        hidden = self.embed([*tokens, *[0] * filling])
        places = torch.tensor([[*positions, *[0] * filling]])
        singles = [SlotTokens(slots, [1] * len(slots), padded=1) for slots in batches]
        attend = SlotAttention(self._implementation, singles)
        hidden, _ = self._run(hidden, places, attend, range(self.num_layers), rows=self.decode_rows.most)
        return self.logits(hidden)[: len(tokens)]

    @torch.no_grad()
    def first_logits(self, hidden: Sequence[Tensor]) -> Tensor:
        """Logits `[B, V]` of the last states `[D]` of as many prompts as a step has rows, the same in any company."""
        filling = self.decode_rows.filled(len(hidden)) - len(hidden)
        return self.logits(functional.pad(torch.stack([*hidden]), (0, 0, 0, filling)))[: len(hidden)]

    @property
    def no_tokens(self) -> Tensor:
        """The keys, or the values, of no token: `[G, 0, d]`."""
        attention = self._model.layers[0].self_attn
        width = attention.head_dim
        return self._head.new_empty(attention.k_proj.out_features // width, 0, width)

    @property
    def token_bytes(self) -> int:
        """Bytes of a token's keys and values in all layers."""
        groups, _, width = self.no_tokens.shape
        return 2 * groups * width * self.num_layers * self.dtype.itemsize

    def last_query_scaling(self, layer: int) -> float:
        """What a layer's attention multiplies its products by."""
        return float(self._model.layers[layer].self_attn.scaling)

    def _row_sizes(self) -> tuple[RowSizes, RowSizes]:
        """For decoding steps and for questions. One layer stands for all: they are of the same shapes."""
        products = self._layers[0].products
        head: Product = (lambda states: functional.linear(states, self._head), self._head.shape[1])
        on_cpu = self.device.type == "cpu"
        decode = _CPU_DECODE_SIZES if on_cpu else (GPU_DECODE_ROWS,)
        questions = _CPU_QUESTION_SIZES if on_cpu else (QUESTION_ROWS,)
        return (
            RowSizes([*products, head], decode, self.dtype, self.device),
            RowSizes(products, questions, self.dtype, self.device),
        )

    def _rotary(self, hidden: Tensor, positions: Tensor) -> Rotary:
        # The module wants [batch, L], or [3, batch, L] where there are three rows or may be.
        ids = positions.to(self.device)
        multimodal = getattr(self._model.rotary_emb, "mrope_section", None) is not None
        cos, sin = self._model.rotary_emb(hidden.unsqueeze(0), ids.unsqueeze(1) if multimodal else ids)
        first, second = sin[0].chunk(2, dim=-1)
        return cos[0].unsqueeze(1), torch.cat([-first, second], dim=-1).unsqueeze(1)

    def _run(
        self,
        hidden: Tensor,
        positions: Tensor,
        attend: Attend,
        layers: range,
        *,
        rows: int | None = None,
        deepstack: Deepstack | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Packed tokens through some layers: states `[L, D]`, and rotated queries `[L, H, d]` of the last of them.

        Tokens behind those that attention knows of fill rows; nothing attends to them and they attend to nothing.
        """
        rotary, queries = self._rotary(hidden, positions), None
        for layer in layers:
            hidden, queries = self._layers[layer](hidden, rotary, attend, rows)
            if deepstack is not None:
                hidden = deepstack.add_to(hidden, layer)
        return hidden, queries
