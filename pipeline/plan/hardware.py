"""Describes the hardware that a previewed run may use."""

from __future__ import annotations

import os
from dataclasses import dataclass

from flashvid.models.devices import usable_gpus


@dataclass(frozen=True)
class Hardware:
    """Describes the hardware that a run may use.

    Attributes:
        num_cpus: Number of CPUs.
        num_gpus: Number of GPUs, all on one node.
        gpu_bytes: Bytes of memory of one GPU; None if unknown.
        machine_bytes: Bytes of memory of the machine; None if unknown.
    """

    num_cpus: int
    num_gpus: int = 0
    gpu_bytes: int | None = None
    machine_bytes: int | None = None

    @classmethod
    def here(cls) -> Hardware:
        """Return the hardware of this machine."""
        import torch

        gpus = usable_gpus()
        return cls(
            num_cpus=os.cpu_count() or 1,
            num_gpus=gpus,
            gpu_bytes=torch.cuda.get_device_properties(0).total_memory if gpus else None,
            machine_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        )
