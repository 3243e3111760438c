"""Our loop over the layers of a Hugging Face decoder: embed, rotary, layers, norm, head.

One runner for Qwen2, Qwen2.5-VL's text model and Qwen3-VL's. It takes the modules and leaves their forward methods
alone, since those allow neither a cache whose layers differ in length, nor stopping between two layers, nor sequences
of different lengths in a batch without padding. Tokens are packed: `[L, D]`, sequence after sequence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb, eager_attention_forward

from flashvid.errors import ConfigurationError
from flashvid.models.kv_cache import KVCache

# Rows of every matrix product while decoding, filled up with rows that count for nothing. Kernels add up a row's
# products in an order that depends on how many rows there are, never on which; so a token's logits are the same bits
# in any company. Reading the weights is what a step costs, and 16 rows read them once.
DECODE_ROWS = 16
# Likewise while questions are prefilled, on a CPU and on a GPU: as many as one pass over the weights is worth. A GPU
# takes as long for 128 rows as for one, a CPU's products are as fast with 64 as with more.
CPU_QUESTION_ROWS, GPU_QUESTION_ROWS = 64, 128

# Sequences packed one behind the other: each one's cache, and how many of the tokens are its own.
_Packed = Sequence[tuple[KVCache, int]]


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
        question_rows: Rows of every matrix product in `forward_together`.
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
        self.question_rows = CPU_QUESTION_ROWS if head.device.type == "cpu" else GPU_QUESTION_ROWS
        if any(kind != "full_attention" for kind in getattr(self._model.config, "layer_types", None) or ()):
            raise ConfigurationError("a decoder with sliding-window attention is not supported")
        self._implementation: str = self._model.config._attn_implementation or "eager"
        self._attention = _attention_named(self._implementation)

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
        hidden, queries = self._run(hidden, positions, [(cache, len(hidden))], layers, deepstack=deepstack)
        return hidden, None if queries is None else queries[-1]

    @torch.no_grad()
    def forward_together(
        self, hidden: Tensor, positions: Tensor, sequences: _Packed, layers: range
    ) -> tuple[Tensor, Tensor | None]:
        """Run tokens of several sequences through some layers, each on top of what these layers hold of it.

        Args:
            hidden: `[L, D]`, one sequence behind the other.
            positions: `[R, L]` int64.
            sequences: Each one's cache, which grows, and how many of the tokens are its own: at least one, L together.
            layers: Which.

        Returns:
            As `forward`, of every sequence: `[L, D]`, and `[S, H, d]` or None. Bit for bit the same whichever other
            sequences are there.
        """
        total = len(hidden)
        filling = -total % self.question_rows
        hidden, queries = self._run(
            functional.pad(hidden, (0, 0, 0, filling)),
            functional.pad(positions, (0, filling)),
            sequences,
            layers,
            rows=self.question_rows,
        )
        last = torch.tensor([length for _, length in sequences], device=self.device).cumsum(dim=0) - 1
        return hidden[:total], None if queries is None else queries[last]

    @torch.no_grad()
    def step(self, tokens: Sequence[int], positions: Sequence[int], caches: Sequence[KVCache]) -> Tensor:
        """Run the newest token of up to `DECODE_ROWS` sequences through all layers, as one batch.

        Args:
            tokens: One id for each sequence.
            positions: And its position, the same in every row of positions.
            caches: Each grows by one token.

        Returns:
            `[B, V]`: each sequence's logits, bit for bit the same whichever other sequences are in the batch.

        Raises:
            ValueError: more sequences than rows.
        """
        filling = DECODE_ROWS - len(tokens)
        if filling < 0:
            raise ValueError(f"a step has {DECODE_ROWS} rows, not {len(tokens)}")
        hidden = self.embed([*tokens, *[0] * filling])
        places = torch.tensor([[*positions, *[0] * filling]])
        hidden, _ = self._run(hidden, places, [(cache, 1) for cache in caches], range(self.num_layers))
        return self.logits(hidden)[: len(tokens)]

    @torch.no_grad()
    def first_logits(self, hidden: Sequence[Tensor]) -> Tensor:
        """Logits `[B, V]` of the last states `[D]` of up to `DECODE_ROWS` prompts, the same bits in any company."""
        filling = DECODE_ROWS - len(hidden)
        return self.logits(functional.pad(torch.stack([*hidden]), (0, 0, 0, filling)))[: len(hidden)]

    def last_query_scaling(self, layer: int) -> float:
        """What a layer's attention multiplies its products by."""
        return float(self._model.layers[layer].self_attn.scaling)

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
        sequences: _Packed,
        layers: range,
        *,
        rows: int | None = None,
        deepstack: Deepstack | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Packed tokens through some layers: states `[L, D]`, and rotated queries `[L, H, d]` of the last of them."""
        rotary, queries = self._rotary(hidden, positions), None
        # One mask for all layers of a length: out of a bool, torch would make another in every layer.
        masks: dict[tuple[int, int], Tensor | None] = {}
        for layer in layers:
            hidden, queries = self._layer(layer, hidden, rotary, sequences, masks, rows)
            if deepstack is not None:
                hidden = deepstack.add_to(hidden, layer)
        return hidden, queries

    def _layer(
        self,
        index: int,
        hidden: Tensor,
        rotary: tuple[Tensor, Tensor],
        sequences: _Packed,
        masks: dict[tuple[int, int], Tensor | None],
        rows: int | None,
    ) -> tuple[Tensor, Tensor]:
        """One layer over packed tokens `[L, D]`: new states, and the rotated queries `[L, H, d]`.

        Tokens behind those that the sequences add up to fill rows; nothing attends to them and they attend to nothing.
        Matrix products are made of `rows` tokens at a time, of all without. `masks` are those made so far, by a
        sequence's new tokens and all of them.
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
        attended = hidden.new_zeros(len(hidden), queries.shape[1] * attention.head_dim)
        first = 0
        for cache, length in sequences:
            span = slice(first, first + length)
            all_keys, all_values = cache[index].append(keys[0, :, span], values[0, :, span])
            shape_of_mask = (length, all_keys.shape[1])
            if shape_of_mask not in masks:
                masks[shape_of_mask] = _causal_mask(self._implementation, *shape_of_mask, hidden)
            mask = masks[shape_of_mask]
            attended[span] = self._attend(attention, queries[:, :, span], all_keys, all_values, mask)
            first += length
        hidden = hidden + _in_blocks(attention.o_proj, attended, rows)
        hidden = hidden + _in_blocks(layer.mlp, layer.post_attention_layernorm(hidden), rows)
        return hidden, queries[0].transpose(0, 1)

    def _attend(
        self, attention: nn.Module, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Causal attention of one sequence's newest L tokens `[1, H, L, d]` to all `[G, P + L, d]`; `[L, H * d]`."""
        scaling = cast("float", attention.scaling)
        if mask is not None and self._implementation == "sdpa" and self.device.type == "cpu":
            # Transformers repeats every key and value for its group of queries here, since masked kernels of CUDA want
            # that; the CPU's does not, and the sums are the same bits.
            grouped = functional.scaled_dot_product_attention(
                queries, keys.unsqueeze(0), values.unsqueeze(0), mask, scale=scaling, enable_gqa=True
            )
            return grouped.transpose(1, 2).reshape(queries.shape[2], -1)
        output, _ = self._attention(
            attention,
            queries,
            keys.unsqueeze(0),
            values.unsqueeze(0),
            mask,
            scaling=scaling,
            dropout=0.0,
        )
        return cast("Tensor", output.reshape(queries.shape[2], -1))


def _in_blocks(module: Callable[[Tensor], Tensor], states: Tensor, rows: int | None) -> Tensor:
    """What a module makes of states `[L, D]`, so many rows at a time."""
    if rows is None or len(states) == rows:
        return module(states)
    return torch.cat([module(block) for block in torch.split(states, rows)])


def _causal_mask(implementation: str, length: int, total: int, like: Tensor) -> Tensor | None:
    """Which of `total` keys each of the newest `length` tokens sees, as an attention implementation wants it."""
    # Without a mask, sdpa and flash attention are causal; but sdpa only if nothing is cached.
    if length == 1 or "flash" in implementation or (implementation == "sdpa" and length == total):
        return None
    seen = torch.ones(length, total, dtype=torch.bool, device=like.device).tril(total - length)
    # Transformers' own eager masks hold the least number, sdpa makes an infinite one of False.
    unseen = torch.finfo(like.dtype).min if implementation == "eager" else -math.inf
    return like.new_zeros(length, total).masked_fill_(~seen, unseen)[None, None]


def _attention_named(implementation: str) -> Any:  # noqa: ANN401 - a function of transformers
    if implementation not in ("eager", "sdpa") and "flash_attention" not in implementation:
        raise ConfigurationError(f"attention implementation {implementation!r} is none of eager, sdpa, flash_attention")
    return ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
