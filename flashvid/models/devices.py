"""The device a model is loaded to: whether it is there, and whether the model fits."""

from __future__ import annotations

import torch

from flashvid.errors import ConfigurationError, ModelLoadError
from flashvid.models.source import ModelSource

# Of the memory that is free when answering begins; the rest is for what a prefill computes in passing.
_SHARE_FOR_TOKENS = 0.6


def usable_device(device: str | torch.device | None) -> torch.device:
    """The device that was asked for; cuda if there is one, else cpu, when none was.

    Raises:
        ConfigurationError: there is no such device here.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError:
        raise ConfigurationError(f"device {device!r} is none that torch knows; cpu and cuda, cuda:0 are") from None
    if found.type == "cuda" and (found.index or 0) >= (gpus := usable_gpus()):
        reason = f" ({why})" if (why := why_no_cuda()) else ""
        raise ConfigurationError(f"device {str(found)!r} is not here: torch finds {gpus} GPUs{reason}")
    try:
        # Of any other kind torch tells only by failing.
        if found.type != "cuda":
            torch.empty(1, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigurationError(f"device {str(found)!r} can't be used here: {reason}") from None
    return found


def usable_gpus() -> int:
    """GPUs that tensors can go to."""
    # `device_count` asks the driver's management library, which counts GPUs for a driver that is too old for CUDA, too.
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def why_no_cuda() -> str | None:
    """What torch says of a driver that is missing or too old, or of a build without CUDA; None if CUDA works."""
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:
        return str(error).strip().splitlines()[0]
    return None


def free_bytes(device: torch.device) -> int | None:
    """Memory that tensors can still take on a device; None where torch can't tell, which is everywhere but on CUDA."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    # What torch holds and has no tensor in is free for us, and the driver does not know it.
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def fitting_tokens(most: int, token_bytes: int, device: torch.device) -> int:
    """Tokens whose keys and values may be in memory together: `most`, or fewer where a device has not the room.

    Args:
        most: As many as are wanted.
        token_bytes: That a token's keys and values take in all layers.
        device: Where they are.
    """
    free = free_bytes(device)
    return most if free is None else max(1, min(most, int(free * _SHARE_FOR_TOKENS) // token_bytes))


def refuse_too_large(source: ModelSource, needed: int, device: torch.device) -> None:
    """Refuse weights that a device has no room for.

    Args:
        source: The model.
        needed: Bytes of the weights to be read, in the precision they will have.
        device: Where they go.

    Raises:
        ModelLoadError: says how much is needed and how much is free.
    """
    free = free_bytes(device)
    if free is not None and needed > free:
        raise ModelLoadError(
            f"the weights take {needed / 1e9:.2f} GB and {device} has {free / 1e9:.2f} GB free: "
            "load one part of the model, in a smaller dtype, or on another device",
            str(source.path),
        )
