"""A loop over the layers of a Hugging Face decoder: embeddings, rotary positions, layers, norm, head.

It runs Qwen2 and the text models of Qwen2.5-VL and Qwen3-VL. It uses the modules' weights, not their forward methods,
which support neither a cache whose layers differ in length, nor stopping between two layers, nor sequences of different
lengths in a batch without padding. Tokens are packed: `[L, D]`, sequence after sequence.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from flashvid.engine.constants import CPU_DECODE_ROWS, GPU_DECODE_ROWS, QUESTION_ROWS
from flashvid.engine.decoder_attention import Attend, CausalAttention, SlotAttention, SlotTokens
from flashvid.engine.decoder_layer import DecoderLayer, Rotary, rms_norm
from flashvid.engine.kv_cache import KVCache
from flashvid.engine.kv_slots import KVSlots
from flashvid.engine.row_sizes import Product, RowSizes
from flashvid.errors import ConfigurationError

# Only a CPU is faster with fewer rows, so these sizes are tried there.
_CPU_DECODE_SIZES = (4, 8, CPU_DECODE_ROWS)
_CPU_QUESTION_SIZES = (8, 16, 24, 32, 48, 64, 96, 128, 192, QUESTION_ROWS)


@dataclass(frozen=True, eq=False)
class Deepstack:
    """Features that some families add to the visual tokens after each of the first layers.

    Attributes:
        features: For each of these layers `[V, D]`.
        is_visual: `[L]` bool with V true: the tokens of a forward pass that the features are added to.
    """

    features: tuple[Tensor, ...]
    is_visual: Tensor


class Decoder:
    """Decoder layers and output head. It keeps no state between calls: sequences are in their caches.

    Attributes:
        num_layers: Number of layers.
        dtype: Dtype of weights, embeddings and logits.
        device: Device of the weights.
        decode_rows: Row counts of the matmuls in `step` and `first_logits`.
        question_rows: Row counts of the matmuls in `forward_together`.
    """

    def __init__(self, model: nn.Module, head: Tensor) -> None:
        """Take the modules of a model; afterwards they must not be moved, cast or loaded again.

        Args:
            model: Qwen2Model, Qwen2_5_VLTextModel or Qwen3VLTextModel, in evaluation mode.
            head: `[V, D]`: the output head's weight.

        Raises:
            ConfigurationError: A layer uses sliding-window attention, or the attention implementation is unsupported.
        """
        # The classes of submodules differ between families; the attributes used here do not.
        self._model = cast("Any", model)
        self._head = head
        self._layers = [DecoderLayer(index, layer) for index, layer in enumerate(self._model.layers)]
        self.num_layers = len(self._layers)
        if head.device.type == "cuda":
            # Free the memory of the projections before they were fused, for other processes on the GPU.
            torch.cuda.empty_cache()
        self.dtype = head.dtype
        self.device = head.device
        # The first layer is enough: all layers have the same shapes.
        products = self._layers[0].products
        output: Product = (lambda states: functional.linear(states, head), head.shape[1])
        on_cpu = head.device.type == "cpu"
        decode_sizes = _CPU_DECODE_SIZES if on_cpu else (GPU_DECODE_ROWS,)
        question_sizes = _CPU_QUESTION_SIZES if on_cpu else (QUESTION_ROWS,)
        self.decode_rows = RowSizes([*products, output], decode_sizes, self.dtype, self.device)
        self.question_rows = RowSizes(products, question_sizes, self.dtype, self.device)
        if any(kind != "full_attention" for kind in getattr(self._model.config, "layer_types", None) or ()):
            raise ConfigurationError("a decoder with sliding-window attention is not supported")
        self._implementation: str = self._model.config._attn_implementation or "eager"
        if self._implementation not in ("eager", "sdpa") and "flash_attention" not in self._implementation:
            raise ConfigurationError(
                f"attention implementation {self._implementation!r} is not one of eager, sdpa, flash_attention"
            )

    @torch.no_grad()
    def embed(self, ids: Sequence[int]) -> Tensor:
        """Return the embeddings `[L, D]` of token ids."""
        return cast("Tensor", self._model.embed_tokens(torch.tensor(ids, dtype=torch.int64, device=self.device)))

    @torch.no_grad()
    def logits(self, hidden: Tensor) -> Tensor:
        """Return logits `[L, V]` for hidden states `[L, D]` after the last layer."""
        return functional.linear(rms_norm(self._model.norm, hidden), self._head)

    @torch.no_grad()
    def forward(
        self, hidden: Tensor, positions: Tensor, cache: KVCache, layers: range, deepstack: Deepstack | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Run tokens of one sequence through some layers, after the tokens that their caches hold.

        Args:
            hidden: `[L, D]`: embeddings, or the states before the first of the layers.
            positions: `[R, L]` int64.
            cache: The sequence's cache; grows by L tokens in these layers. A token attends to itself and all before it.
            layers: The layers to run.
            deepstack: Features to add after the first layers.

        Returns:
            `[L, D]`: states after the layers, and `[H, d]`: the last token's rotated query in the last of these layers,
            None without tokens or layers.
        """
        if len(hidden) == 0:
            return hidden, None
        causal = CausalAttention(self._implementation)

        def attend(layer: int, attention: nn.Module, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            cached = cache[layer].append(keys.transpose(0, 1), values.transpose(0, 1))
            return causal(attention, queries.transpose(0, 1), *cached)

        hidden, queries = self._run(hidden, positions, attend, layers, deepstack=deepstack)
        return hidden, None if queries is None else queries[-1]

    @torch.no_grad()
    def forward_together(
        self, hidden: Tensor, positions: Tensor, batches: Sequence[SlotTokens], layers: range
    ) -> tuple[Tensor, Tensor | None]:
        """Run tokens of several slots through some layers, after the tokens that the slots hold.

        Args:
            hidden: `[L, D]`, slot after slot, batch after batch.
            positions: `[R, L]` int64.
            batches: The slots and their numbers of tokens; the slots grow by these.
            layers: The layers to run.

        Returns:
            `[L, D]`: states after the layers, and `[S, H, d]`: for each of S slots the last token's rotated query in
            the last of these layers, None without layers. The bits of a slot do not depend on the other slots.
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
            tokens: One id for each slot, batch after batch; at most `decode_rows.most`.
            positions: The position of each token, the same in every row of positions.
            batches: The slots; each grows by one token.

        Returns:
            `[B, V]`: each slot's logits. Their bits do not depend on the other slots.

        Raises:
            ValueError: There are more slots than rows.
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
        """Return logits `[B, V]` for the last states `[D]` of prompts, at most as many as a step has rows.

        The bits of a prompt's logits do not depend on the other prompts.
        """
        filling = self.decode_rows.filled(len(hidden)) - len(hidden)
        return self.logits(functional.pad(torch.stack([*hidden]), (0, 0, 0, filling)))[: len(hidden)]

    @property
    def no_tokens(self) -> Tensor:
        """Return the keys, or the values, of zero tokens: `[G, 0, d]`."""
        attention = self._model.layers[0].self_attn
        width = attention.head_dim
        return self._head.new_empty(attention.k_proj.out_features // width, 0, width)

    @property
    def token_bytes(self) -> int:
        """Return the bytes of a token's keys and values in all layers."""
        groups, _, width = self.no_tokens.shape
        return 2 * groups * width * self.num_layers * self.dtype.itemsize

    def last_query_scaling(self, layer: int) -> float:
        """Return the factor that a layer's attention multiplies its scores by."""
        return float(self._model.layers[layer].self_attn.scaling)

    def _rotary(self, hidden: Tensor, positions: Tensor) -> Rotary:
        # The module expects [batch, L], or [3, batch, L] for M-RoPE.
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
        """Run packed tokens through some layers.

        Tokens after those of `attend` are padding: nothing attends to them and they attend to nothing.

        Returns:
            `[L, D]`: states after the layers, and `[L, H, d]`: rotated queries of the last layer, None without layers.
        """
        rotary, queries = self._rotary(hidden, positions), None
        for layer in layers:
            hidden, queries = self._layers[layer](hidden, rotary, attend, rows)
            if deepstack is not None and layer < len(deepstack.features):
                hidden = hidden.clone()
                hidden[deepstack.is_visual] += deepstack.features[layer].to(hidden)
        return hidden, queries
