"""Row counts that matmuls are padded to, so that each row is bit-identical whatever its batch."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# A module or a matmul with a weight, and the width of its input.
Product = tuple[Callable[[Tensor], Tensor], int]
_SEED = 20261126
# Least number of output entries compared per product. In float32 a single trial shows a different order.
_ENTRIES = 1_000_000


class RowSizes:
    """Row counts that give a row the same bits as the largest one, for some products on one device.

    Kernels sum a row's products in an order that may depend on the number of rows. Which row counts share an order
    depends on processor, library and shape, so it is measured: on random states, every entry of every product has to
    agree. A different order shows in most entries of float32. In bfloat16 rounding hides it in nearly all, so a million
    entries are compared. A row also has to be the same at another place among the largest number of rows.
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
        """Store the arguments; the trials run on first use.

        Args:
            products: All functions that rows go through.
            candidates: Row counts, ascending; the last one is always used.
            dtype: Dtype of the states.
            device: Device of the states.
            entries: Least number of entries compared per product; None for as many as the dtype needs.
        """
        self._products = products
        self._candidates = candidates
        self._dtype, self._device = dtype, device
        self._entries = entries or (1 if dtype.itemsize >= torch.float32.itemsize else _ENTRIES)
        # By the number of threads, which decides how products are split.
        self._found: dict[int, tuple[int, ...]] = {}

    @property
    def most(self) -> int:
        """Return the largest row count."""
        return self._candidates[-1]

    @property
    def interchangeable(self) -> tuple[int, ...]:
        """Return the interchangeable row counts, ascending, for the current number of threads."""
        threads = torch.get_num_threads()
        if threads not in self._found:
            self._found[threads] = self._try()
        return self._found[threads]

    def filled(self, rows: int) -> int:
        """Return the padded number of rows: blocks of the largest size, and the smallest size that holds the rest."""
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
                # The last rows, not the first: they are also at another place.
                smaller = [size for size in smaller if torch.equal(product(states[-size:]), expected[-size:])]
                compared += expected.numel()
        return (*smaller, self.most)
