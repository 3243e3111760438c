"""Chooses the device of an actor's model: the GPU that Ray reserved for it, without a silent fallback to the CPU."""

import os

import ray

from flashvid.errors import ConfigurationError
from flashvid.models.devices import usable_device

# Environment variable that sets the device of every model, whether or not Ray reserved a GPU. It is for machines whose
# Ray is configured with GPUs that do not exist, as in the tests.
DEVICE_VARIABLE = "FLASHVID_DEVICE"


def reserved_device() -> str | None:
    """Return the device for `load_model` in this process; None if Ray reserved no GPU, so that `load_model` chooses.

    Raises:
        ConfigurationError: a GPU is reserved but torch does not find it; a run on the CPU would take weeks.
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
            f"a GPU is reserved for this process, but {error.message}; see GPUs in docs/operations.md for the driver, "
            f"or start Ray's nodes with {DEVICE_VARIABLE}=cpu in their environment to run the model on CPUs",
            f"node {context.get_node_id()}",
        ) from None
    return "cuda"
