"""ToMe: bipartite soft matching, repeated until the budget is met (arXiv 2210.09461).

Written from the paper's section on token merging. The paper merges between the layers of a vision transformer, by keys.
This module leaves the tower unchanged and merges its output by features, frame by frame.
"""

import torch
from torch import Tensor
from torch.nn import functional

from flashvid.compression.method import frame_budgets, merge_into
from flashvid.compression.result import ClipFeatures, CompressionResult
from flashvid.config import CompressionConfig


def compress(clip: ClipFeatures, config: CompressionConfig) -> CompressionResult:
    num_frames, num_tokens = clip.scores.shape
    budgets = frame_budgets(config.clip_budget(num_frames, num_tokens), num_frames)
    owners = [
        frame * num_tokens + merge_frame(features, max(budget, 1))
        for frame, (features, budget) in enumerate(zip(clip.features, budgets, strict=True))
    ]
    # With less than one token per frame, some frames have no token.
    heard = torch.tensor(budgets, device=clip.features.device) > 0
    assignment = torch.cat(owners).masked_fill(~heard.repeat_interleave(num_tokens), -1)
    return merge_into(clip, torch.unique(assignment[assignment >= 0]), assignment)


def merge_frame(features: Tensor, budget: int) -> Tensor:
    """Merge the tokens of one frame.

    Args:
        features: `[N, D]`, floating.
        budget: Tokens to leave, at least 1.

    Returns:
        `[N]` int64: for each token the one it was merged into, or the token itself.
    """
    owner = torch.arange(len(features), device=features.device)
    sums = features.float().clone()
    left = owner
    while len(left) > budget:
        # The sum of a group has the direction of its mean.
        units = functional.normalize(sums[left], dim=-1)
        # Every other token is a source, the rest are targets; a round merges at most half of the tokens.
        similarity, target = (units[0::2] @ units[1::2].T).max(dim=-1)
        count = min(len(left) - budget, len(similarity), len(left) - 1)
        merged = similarity.sort(descending=True, stable=True).indices[:count]
        sources, targets = left[0::2][merged], left[1::2][target[merged]]
        for source, goal in zip(sources.tolist(), targets.tolist(), strict=True):
            sums[goal] += sums[source]
            owner[owner == source] = goal
        left = torch.unique(owner)
    return owner
