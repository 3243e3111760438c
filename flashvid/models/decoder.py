"""Our loop over the layers of a Hugging Face decoder: embed, rotary, layers, norm, head.

One runner for Qwen2, Qwen2.5-VL's text model and Qwen3-VL's. It takes the modules and leaves their forward methods
alone, since those allow neither a cache whose layers differ in length, nor stopping between two layers, nor sequences
of different lengths in a batch without padding. Tokens are packed: `[L, D]`, sequence after sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb

from flashvid.errors import ConfigurationError
from flashvid.models.decoder_attention import (
    Attend,
    SequenceAttention,
    SlotAttention,
    SlotTokens,
    check_implementation,
)
from flashvid.models.kv_cache import KVCache
from flashvid.models.kv_slots import KVSlots
from flashvid.models.row_sizes import Product, RowSizes

# Rows of a matrix product while decoding, at most. Fewer are filled up with rows that count for nothing, so that a
# token's logits are the same bits in any company (row_sizes.py). Reading the weights is what a step costs: a GPU takes
# as long for 64 rows as for one (and for 128, whose caches would seldom fit), a CPU gains little beyond 16.
CPU_DECODE_ROWS, GPU_DECODE_ROWS = 16, 64
# Likewise while questions are prefilled: as many as one pass over the weights is worth.
CPU_QUESTION_ROWS, GPU_QUESTION_ROWS = 64, 256
# Fewer rows are less work on a CPU only, where these are tried.
_CPU_DECODE_SIZES = (4, 8, CPU_DECODE_ROWS)
_CPU_QUESTION_SIZES = (8, 16, 24, 32, 48, CPU_QUESTION_ROWS)


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
        """Take the modules of a model.

        Args:
            model: Qwen2Model, Qwen2_5_VLTextModel or Qwen3VLTextModel, in evaluation mode.
            head: `[V, D]`: the output head's weight.

        Raises:
            ConfigurationError: a layer attends to a window only, or the attention implementation can't be used here.
        """
        # Submodules differ in class between the families and not in what is used of them.
        self._model = cast("Any", model)
        self._head = head
        self.num_layers = len(self._model.layers)
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
        return functional.linear(self._model.norm(hidden), self._head)

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
        hidden, _ = self._run(hidden, places, attend, range(self.num_layers))
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

    def last_query_scaling(self, layer: int) -> float:
        """What a layer's attention multiplies its products by."""
        return float(self._model.layers[layer].self_attn.scaling)

    def _row_sizes(self) -> tuple[RowSizes, RowSizes]:
        """For decoding steps and for questions. One layer stands for all: they are of the same shapes."""
        layer = self._model.layers[0]
        attention = layer.self_attn
        linear = (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj)
        products: list[Product] = [(module, module.in_features) for module in linear]
        products.append((layer.mlp, self._head.shape[1]))
        heads: list[Product] = [(lambda states: functional.linear(states, self._head), self._head.shape[1])]
        on_cpu = self.device.type == "cpu"
        decode = _CPU_DECODE_SIZES if on_cpu else (GPU_DECODE_ROWS,)
        questions = _CPU_QUESTION_SIZES if on_cpu else (GPU_QUESTION_ROWS,)
        return (
            RowSizes([*products, *heads], decode, self.dtype, self.device),
            RowSizes(products, questions, self.dtype, self.device),
        )

    def _rotary(self, hidden: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        # The modules want [batch, L], or [3, batch, L] where there are three rows or may be.
        ids = positions.to(self.device)
        multimodal = getattr(self._model.rotary_emb, "mrope_section", None) is not None
        cos, sin = self._model.rotary_emb(hidden.unsqueeze(0), ids.unsqueeze(1) if multimodal else ids)
        return cos, sin

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
        """Packed tokens through some layers: states `[L, D]`, and rotated queries `[L, H, d]` of the last of them."""
        rotary, queries = self._rotary(hidden, positions), None
        for layer in layers:
            hidden, queries = self._layer(layer, hidden, rotary, attend, rows)
            if deepstack is not None:
                hidden = deepstack.add_to(hidden, layer)
        return hidden, queries

    def _layer(
        self, index: int, hidden: Tensor, rotary: tuple[Tensor, Tensor], attend: Attend, rows: int | None
    ) -> tuple[Tensor, Tensor]:
        """One layer over packed tokens `[L, D]`: new states, and the rotated queries `[L, H, d]`.

        Tokens behind those that the sequences add up to fill rows; nothing attends to them and they attend to nothing.
        Matrix products are made of `rows` tokens at a time, of all without.
        """
        layer = self._model.layers[index]
        attention = layer.self_attn
        normed = layer.input_layernorm(hidden)
        shape = (len(hidden), -1, attention.head_dim)
        queries = _in_blocks(attention.q_proj, normed, rows).view(shape)
        keys = _in_blocks(attention.k_proj, normed, rows).view(shape)
        values = _in_blocks(attention.v_proj, normed, rows).view(shape)
        if hasattr(attention, "q_norm"):
            queries, keys = attention.q_norm(queries), attention.k_norm(keys)
        # [1, heads, L, d], as rotary embedding and attention functions want them.
        queries, keys, values = (part.transpose(0, 1).unsqueeze(0) for part in (queries, keys, values))
        queries, keys = apply_rotary_pos_emb(queries, keys, *rotary)
        attended = attend(index, attention, queries[0], keys[0], values[0])
        hidden = hidden + _in_blocks(attention.o_proj, attended, rows)
        hidden = hidden + _in_blocks(layer.mlp, layer.post_attention_layernorm(hidden), rows)
        return hidden, queries[0].transpose(0, 1)


def _in_blocks(module: Callable[[Tensor], Tensor], states: Tensor, rows: int | None) -> Tensor:
    """What a module makes of states `[L, D]`, so many rows at a time."""
    if rows is None or len(states) == rows:
        return module(states)
    return torch.cat([module(block) for block in torch.split(states, rows)])
