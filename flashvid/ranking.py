"""Orders and shares with one rule for ties, for many groups at once."""

from __future__ import annotations

import torch
from torch import Tensor


def first_ranked(values: Tensor, count: int, *, largest: bool, reference_compatible: bool) -> Tensor:
    """Positions of the `count` largest (or smallest) values along the last dimension, best first.

    Ties go to the lowest position. The reference leaves them to `torch.topk`, so what it does with ties can only
    be reproduced by calling that: its order is deterministic but follows no rule.
    """
    if reference_compatible:
        return values.topk(count, largest=largest).indices
    return values.sort(descending=largest, stable=True).indices[..., :count]


def group_starts(sizes: Tensor) -> Tensor:
    """Where each of a row of groups begins: `[G]` int64 sizes to `[G]` int64."""
    return sizes.cumsum(0) - sizes


def order_in_groups(values: Tensor, groups: Tensor) -> Tensor:
    """The order that has group after group, and within each the largest value first, ties by position.

    Args:
        values: `[n]`.
        groups: `[n]` int64.

    Returns:
        `[n]` int64, positions in `values`.
    """
    order = values.sort(descending=True, stable=True).indices
    return order[groups[order].sort(stable=True).indices]


def sums_of_groups(values: Tensor, groups: Tensor, num_groups: int) -> Tensor:
    """Sums of `[n]` integers by their group: `[num_groups]` int64."""
    return torch.zeros(num_groups, dtype=torch.int64, device=values.device).index_add_(0, groups, values.long())


def spread_evenly(total: int, count: int, device: torch.device) -> Tensor:
    """`[count]` int64 adding up to `total`, any two of which differ by at most one, the larger ones spread out."""
    borders = torch.arange(count + 1, device=device) * total // count
    return borders.diff()


def apportion(totals: Tensor, weights: Tensor, groups: Tensor) -> Tensor:
    """Split each group's total in proportion to the weights of its members, by the largest remainder.

    Args:
        totals: `[G]` int64, each at most the sum of its group's weights.
        weights: `[n]` int64, not negative.
        groups: `[n]` int64, the group of each member.

    Returns:
        `[n]` int64, none above its weight, adding up to `totals` exactly. Ties go to the first.
    """
    sums = sums_of_groups(weights, groups, len(totals))
    products = totals[groups] * weights
    divisors = sums[groups].clamp_min(1)
    shares, remainders = products // divisors, products % divisors
    left = totals - sums_of_groups(shares, groups, len(totals))
    order = order_in_groups(remainders, groups)
    starts = group_starts(groups.bincount(minlength=len(totals)))
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(len(order), device=order.device) - starts[groups[order]]
    return shares + (ranks < left[groups])
