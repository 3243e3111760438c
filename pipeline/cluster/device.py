"""Where an actor's model goes: to the GPU that Ray reserved for it, and nowhere else in silence."""

from __future__ import annotations

import os

import ray

from flashvid.errors import ConfigurationError
from flashvid.models.devices import usable_device

# The device of every model, whatever is reserved: for machines whose GPUs are a number given to Ray, as in our tests.
DEVICE_VARIABLE = "FLASHVID_DEVICE"


def reserved_device() -> str | None:
    """The device for `load_model` in this process; None, its own choice, where Ray reserved no GPU.

    Raises:
        ConfigurationError: a GPU is reserved and torch does not find it; on the CPU a run would take weeks.
    """
    if named := os.environ.get(DEVICE_VARIABLE):
        return named
    context = ray.get_runtime_context()
    if not context.get_accelerator_ids().get("GPU"):
        return None
    try:
        usable_device("cuda")
    except ConfigurationError as error:
        raise ConfigurationError(
            f"a GPU is reserved for this process, but {error.message}: see GPUs in docs/operations.md for the driver; "
            f"{DEVICE_VARIABLE}=cpu in the environment that Ray's nodes were started with runs the model on CPUs",
            f"node {context.get_node_id()}",
        ) from None
    return "cuda"
