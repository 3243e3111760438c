"""How many rows a matrix product is filled up to, so that a row's bits do not hang on what else is computed with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# A module or a weight's product, and the width of what goes in.
Product = tuple[Callable[[Tensor], Tensor], int]
_SEED = 20261126
# That are compared of every product, at least: in float32 one try shows another order.
_ENTRIES = 1_000_000


class RowSizes:
    """The sizes that give a row the same bits as the largest, for some products on one device.

    Kernels add up a row's products in an order that may depend on how many rows there are. Which numbers of rows share
    an order is a matter of processor, library and shape, so it is tried out: on states of random numbers every entry of
    every product has to agree. Another order shows in most entries of float32; in bfloat16 rounding hides it in nearly
    all, so a million of them are looked at. A row also has to be the same in another place of the largest.
    """

    def __init__(
        self,
        products: Sequence[Product],
        candidates: Sequence[int],
        dtype: torch.dtype,
        device: torch.device,
        *,
        entries: int | None = None,
    ) -> None:
        """Try nothing yet.

        Args:
            products: All that rows go through.
            candidates: Numbers of rows, ascending; the last one is always used.
            dtype: Of the states.
            device: Theirs.
            entries: That are compared of every product, at least; None for as many as the dtype needs.
        """
        self._products = products
        self._candidates = candidates
        self._dtype, self._device = dtype, device
        self._entries = entries or (1 if dtype.itemsize >= torch.float32.itemsize else _ENTRIES)
        # By the number of threads, which decides how products are cut.
        self._found: dict[int, tuple[int, ...]] = {}

    @property
    def most(self) -> int:
        """The largest."""
        return self._candidates[-1]

    @property
    def interchangeable(self) -> tuple[int, ...]:
        """The sizes, ascending, with the number of threads that there is now."""
        threads = torch.get_num_threads()
        if threads not in self._found:
            self._found[threads] = self._try()
        return self._found[threads]

    def filled(self, rows: int) -> int:
        """What so many rows are filled up to: blocks of the largest size, and the smallest that holds the rest."""
        whole, rest = divmod(rows, self.most)
        smallest = next(size for size in self.interchangeable if size >= rest) if rest else 0
        return whole * self.most + smallest

    @torch.no_grad()
    def _try(self) -> tuple[int, ...]:
        generator = torch.Generator().manual_seed(_SEED)
        smaller = [*self._candidates[:-1]]
        for product, width in self._products:
            compared = 0
            while smaller and compared < self._entries:
                states = torch.randn(self.most, width, generator=generator).to(self._device, self._dtype)
                expected = product(states)
                if not torch.equal(product(states.roll(1, dims=0)).roll(-1, dims=0), expected):
                    return (self.most,)
                # The last rows and not the first: there they stand in another place, too.
                smaller = [size for size in smaller if torch.equal(product(states[-size:]), expected[-size:])]
                compared += expected.numel()
        return (*smaller, self.most)
