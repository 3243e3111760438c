"""A Qwen vision tower's run, and the attention that every patch receives in its last block (spec 7)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision

from flashvid.models.vision import received_attention


def run_tower(tower: nn.Module, patches: Tensor, grid_thw: tuple[int, int, int]) -> tuple[Any, Tensor]:
    """Run a tower of Qwen2.5-VL or Qwen3-VL.

    Args:
        tower: Transformers' vision model.
        patches: `[T * rows * columns, P]` in its dtype.
        grid_thw: `(T, rows, columns)`.

    Returns:
        The tower's output, and what each patch receives within its step, `[T, rows * columns]` float32, in the order in
        which the tower works.
    """
    captured: dict[str, Any] = {}

    def capture(_: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        captured.update(hidden=arguments[0], rotary=keywords["position_embeddings"])

    blocks: Any = tower.blocks
    attention = blocks[-1].attn
    hook = attention.register_forward_pre_hook(capture, with_kwargs=True)
    try:
        output = tower(patches, grid_thw=torch.tensor([grid_thw], device=patches.device))
    finally:
        hook.remove()
    hidden, steps = captured["hidden"], grid_thw[0]
    qkv = attention.qkv(hidden).reshape(len(hidden), 3, attention.num_heads, -1)
    queries, keys, _ = qkv.permute(1, 0, 2, 3).unbind(0)
    queries, keys = apply_rotary_pos_emb_vision(queries, keys, *captured["rotary"])
    queries, keys = (part.reshape(steps, -1, *part.shape[1:]).transpose(1, 2) for part in (queries, keys))
    return output, received_attention(queries, keys, attention.scaling)
