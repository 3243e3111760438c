"""Rankings, and proportional shares for many groups at once, with one rule for ties.

Budgets are counts per frame and segment. They are computed on the host, where the lengths of segments already are.
"""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Counts = NDArray[np.int64]


def first_ranked(values: Tensor, count: int, *, largest: bool, reference_compatible: bool) -> Tensor:
    """Return the positions of the `count` largest (or smallest) values along the last dimension, best first.

    Ties go to the lowest position. With `reference_compatible` they are in the order of `torch.topk`, which the
    reference calls: deterministic, but without a documented rule.
    """
    if reference_compatible:
        return values.topk(count, largest=largest).indices
    return values.sort(descending=largest, stable=True).indices[..., :count]


def sum_by_group(values: Counts, groups: Counts, num_groups: int) -> Counts:
    """Return the sums of `[n]` integers by group: `[num_groups]`."""
    sums = np.zeros(num_groups, dtype=np.int64)
    np.add.at(sums, groups, values)
    return sums


def apportion(totals: Counts, weights: Counts, groups: Counts) -> Counts:
    """Split each group's total in proportion to the weights of its members, by the largest remainder.

    Args:
        totals: `[G]`, each at most the sum of its group's weights.
        weights: `[n]`, not negative.
        groups: `[n]`, the group of each member, ascending.

    Returns:
        `[n]`, none above its weight, adding up to `totals` exactly. Ties go to the first.
    """
    products = totals[groups] * weights
    divisors = np.maximum(sum_by_group(weights, groups, len(totals)), 1)[groups]
    shares, remainders = np.divmod(products, divisors)
    left = totals - sum_by_group(shares, groups, len(totals))
    order = np.lexsort((-remainders, groups))
    ranks = np.empty_like(order)
    ranks[order] = np.arange(len(order)) - np.searchsorted(groups, groups)
    return shares + (ranks < left[groups])
