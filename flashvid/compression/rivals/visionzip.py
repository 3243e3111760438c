"""VisionZip: dominant tokens by attention, and contextual tokens that merge the rest (arXiv 2412.04467).

Written from the paper's method section, frame by frame as in its video experiments. The paper matches keys of the last
vision block. This module matches features, since a cache of features does not contain keys.
"""

import torch
from torch.nn import functional

from flashvid.compression.method import frame_budgets, merge_into
from flashvid.compression.result import ClipFeatures, CompressionResult
from flashvid.config import CompressionConfig

# The paper keeps 64 tokens of an image, 54 of them dominant, and the same share of 128 and 192.
_DOMINANT_SHARE = 54 / 64


def compress(clip: ClipFeatures, config: CompressionConfig) -> CompressionResult:
    num_frames, num_tokens = clip.scores.shape
    assignment = clip.scores.new_full((num_frames, num_tokens), -1, dtype=torch.int64)
    ranked = clip.scores.float().sort(dim=-1, descending=True, stable=True).indices
    kept = []
    for frame, budget in enumerate(frame_budgets(config.clip_budget(*clip.scores.shape), num_frames)):
        first = frame * num_tokens
        dominant, rest = ranked[frame].tensor_split([round(budget * _DOMINANT_SHARE)])
        rest = rest.sort().values
        # Targets are evenly spaced over the other tokens, in reading order.
        num_targets = budget - len(dominant)
        targets = rest[torch.arange(num_targets, device=rest.device) * len(rest) // max(num_targets, 1)]
        assignment[frame, dominant] = first + dominant
        if num_targets:
            units = functional.normalize(clip.features[frame].float(), dim=-1)
            nearest = (units[rest] @ units[targets].T).argmax(dim=-1)
            assignment[frame, rest] = first + targets[nearest]
            assignment[frame, targets] = first + targets
        kept.append(first + torch.cat([dominant, targets]))
    return merge_into(clip, torch.cat(kept).sort().values, assignment.flatten())
