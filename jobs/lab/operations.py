"""What an action costs on any machine: operations and memory."""

from collections.abc import Callable
from typing import Any

from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode


class CountOperations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what reaches PyTorch's dispatcher: on a GPU, about the number of launches."""

    count = 0

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        """Count the operation and run it."""
        self.count += 1
        return func(*args, **(kwargs or {}))


def peak_extra_bytes(action: Callable[[], object]) -> int:
    """Return the most memory that tensors made by `action` take at one time, by the allocator's own record."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        action()
    held = peak = 0
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak
