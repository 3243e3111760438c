"""Check that a device can be used, and that a model and its KV cache fit its memory."""

import torch

from flashvid.errors import ConfigurationError, ModelLoadError, first_line
from flashvid.models.source import ModelSource

# Share of the memory that is free when answering begins; a prefill needs the rest for intermediate results.
_SHARE_FOR_TOKENS = 0.6


def usable_device(device: str | torch.device | None) -> torch.device:
    """Return the given device; without one, cuda if torch finds a GPU, else cpu.

    Raises:
        ConfigurationError: This machine has no such device.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError:
        raise ConfigurationError(f"device {device!r} is unknown to torch; use cpu, cuda or cuda:0") from None
    if found.type == "cuda" and (found.index or 0) >= (gpus := usable_gpus()):
        reason = f" ({why})" if (why := why_no_cuda()) else ""
        raise ConfigurationError(f"device {str(found)!r} is not here: torch finds {gpus} GPUs{reason}")
    try:
        # For other kinds of device, torch has no check: only use shows whether one works.
        if found.type != "cuda":
            torch.empty(1, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigurationError(f"device {str(found)!r} can't be used here: {first_line(error)}") from None
    return found


def usable_gpus() -> int:
    """Return the number of GPUs that tensors can be moved to."""
    # `device_count` asks the driver's management library, which counts GPUs even with a driver too old for CUDA.
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def why_no_cuda() -> str | None:
    """Return why torch can't use CUDA: no driver, a driver that is too old, a build without CUDA; None if it can."""
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:
        return first_line(error)
    return None


def free_bytes(device: torch.device) -> int | None:
    """Return the bytes that tensors can still take on a device; None on devices other than CUDA."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    # Memory that torch has reserved and not allocated is free too, but the driver counts it as used.
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def fitting_tokens(most: int, token_bytes: int, device: torch.device) -> int:
    """Return how many tokens may keep their keys and values in memory together: `most`, or fewer if memory is short.

    Args:
        most: The upper bound.
        token_bytes: Bytes of the keys and values of one token in all layers.
        device: The device that holds them.
    """
    free = free_bytes(device)
    return most if free is None else max(1, min(most, int(free * _SHARE_FOR_TOKENS) // token_bytes))


def refuse_too_large(source: ModelSource, needed: int, device: torch.device) -> None:
    """Refuse weights that exceed the free memory of a device.

    Args:
        source: The model.
        needed: Bytes of the weights to be read, in the precision they will have.
        device: The device that the weights are loaded to.

    Raises:
        ModelLoadError: The weights do not fit; the message names the needed and the free memory.
    """
    free = free_bytes(device)
    if free is not None and needed > free:
        raise ModelLoadError(
            f"the weights take {needed / 1e9:.2f} GB and {device} has {free / 1e9:.2f} GB free: "
            "load one part of the model, in a smaller dtype, or on another device",
            str(source.path),
        )
