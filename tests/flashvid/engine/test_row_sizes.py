"""Row counts of a product: only those that give the same bits as the largest."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from flashvid.engine.decoder_layer import activated_by_rows
from flashvid.engine.row_sizes import RowSizes

CPU = torch.device("cpu")
WEIGHT = torch.randn(48, 96, generator=torch.Generator().manual_seed(1))


def linear(states: Tensor) -> Tensor:
    """Return the library's product."""
    return functional.linear(states, WEIGHT.to(states.dtype))


def halves_below(rows: int) -> Callable[[Tensor], Tensor]:
    """Return a product that sums in two parts below a number of rows, in float32."""

    def product(states: Tensor) -> Tensor:
        parts = states.float().unsqueeze(1) * WEIGHT
        if len(states) >= rows:
            return parts.cumsum(dim=2)[..., -1].to(states.dtype)
        return parts.unflatten(2, (2, -1)).cumsum(dim=3)[..., -1].sum(dim=2).to(states.dtype)

    return product


def sizes_of(
    *products: Callable[[Tensor], Tensor],
    candidates: tuple[int, ...] = (2, 4, 8, 16),
    dtype: torch.dtype = torch.float32,
    entries: int = 1,
) -> RowSizes:
    """Return the row sizes on the CPU, from one trial if `entries` is 1."""
    return RowSizes([(product, 96) for product in products], candidates, dtype, CPU, entries=entries)


@pytest.mark.parametrize(("rows", "found"), [(1, (2, 4, 8, 16)), (3, (4, 8, 16)), (16, (16,)), (17, (2, 4, 8, 16))])
def test_sizes_that_add_up_otherwise_are_left_out(rows: int, found: tuple[int, ...]) -> None:
    """One differing product is enough to exclude a size."""
    assert sizes_of(halves_below(1), halves_below(rows)).interchangeable == found


def test_rounding_hides_another_order_for_a_while() -> None:
    """In bfloat16 a different order shows in few of a million entries."""
    product = halves_below(8)
    assert sizes_of(product, dtype=torch.bfloat16).interchangeable == (2, 4, 8, 16)
    assert sizes_of(product, dtype=torch.bfloat16, entries=1_000_000).interchangeable == (8, 16)


def test_rows_that_depend_on_their_place_are_left_out() -> None:
    """A row must be the same at any place; if the largest size fails that, no smaller size is used."""
    uneven = torch.where(torch.arange(16) == 3, 1.5, 1.0).unsqueeze(1)
    assert sizes_of(lambda states: linear(states) * uneven[: len(states)]).interchangeable == (16,)
    scale = torch.linspace(1, 2, 16)
    assert sizes_of(lambda states: linear(states) * scale[: len(states), None]).interchangeable == (16,)


def test_what_rows_are_filled_up_to() -> None:
    """Rows are padded to whole blocks and the smallest size that holds the rest."""
    sizes = sizes_of(halves_below(3))
    assert [sizes.filled(rows) for rows in (0, 1, 4, 5, 16, 17, 31, 32, 41)] == [0, 4, 4, 8, 16, 20, 32, 32, 48]


def test_products_of_this_machine_are_tried() -> None:
    """Every size found gives every row the bits of the largest, also on states that were not tried."""
    sizes = sizes_of(linear)
    states = torch.randn(16, 96, generator=torch.Generator().manual_seed(2))
    expected = linear(states)
    for size in sizes.interchangeable:
        for first in range(0, 16, size):
            assert torch.equal(linear(states[first : first + size]), expected[first : first + size])


def test_one_candidate_runs_nothing() -> None:
    """A single candidate is not tried, as on a GPU, where fewer rows save nothing."""

    def never(_: Tensor) -> Tensor:
        raise AssertionError("a product was run")

    assert sizes_of(never, candidates=(128,)).interchangeable == (128,)


def test_each_number_of_threads_is_tried() -> None:
    """The sizes are found again for another number of threads, which splits products differently."""
    calls: list[int] = []

    def counted(states: Tensor) -> Tensor:
        calls.append(torch.get_num_threads())
        return linear(states)

    sizes, before = sizes_of(counted), torch.get_num_threads()
    try:
        for threads in (1, 2, 1, 2):
            torch.set_num_threads(threads)
            assert sizes.interchangeable[-1] == 16
    finally:
        torch.set_num_threads(before)
    # The whole block, turned by a row, and three sizes; once for each.
    assert calls == [1] * 5 + [2] * 5


@pytest.mark.parametrize("width", [18944, 1536, 7])
@pytest.mark.parametrize("threads", [1, 2, 3, 6])
def test_an_activation_is_not_cut_within_a_row(threads: int, width: int) -> None:
    """Every row of a view has the bits that it has alone, for any number of threads."""
    whole, before = torch.randn(47, 2 * width, generator=torch.Generator().manual_seed(3)), torch.get_num_threads()
    states, _ = whole.chunk(2, dim=-1)
    alone = torch.cat([functional.silu(row) for row in states.split(1)])
    try:
        torch.set_num_threads(threads)
        assert torch.equal(activated_by_rows(functional.silu, states), alone)
    finally:
        torch.set_num_threads(before)
