"""The training loop both stages share: resumable, and the same whether it was interrupted or not."""

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, distributed, nn

from jobs.lab.tiny_model.progress import RunFolder

Metrics = dict[str, float]
_BETAS = (0.9, 0.98)
# Parts of a step's batch, for any number of workers.
PARTS = 2


@dataclass(frozen=True)
class Worker:
    """One of the processes that train together; two at most.

    Attributes:
        rank: From 0.
        number: Number of workers.
    """

    rank: int = 0
    number: int = 1

    @property
    def parts(self) -> range:
        """Return this worker's parts of a step's batch: the result does not depend on the number of workers."""
        return range(self.rank, PARTS, self.number)

    def add_gradients(self, parameters: Iterable[nn.Parameter], *, stop: bool) -> bool:
        """Add up the gradients over all workers, and stop if any of them wants to."""
        if self.number == 1:
            return stop
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([*(gradient.flatten() for gradient in gradients), torch.tensor([float(stop)])])
        distributed.all_reduce(flat)
        pieces = torch.split(flat[:-1], [gradient.numel() for gradient in gradients])
        for gradient, piece in zip(gradients, pieces, strict=True):
            gradient.copy_(piece.view_as(gradient))
        return bool(flat[-1] > 0)


@dataclass(frozen=True)
class Schedule:
    """Learning rate over a stage.

    Attributes:
        steps: Of the whole stage.
        peak: Highest learning rate.
        warmup: Steps up to it.
        decay_from: Step after which it falls, as a cosine, to nothing at the last.
        weight_decay: Of matrices.
        save_every: Steps between saved states.
        check_every: Steps between measurements on held-out clips.
    """

    steps: int
    peak: float
    warmup: int = 100
    decay_from: int = 0
    weight_decay: float = 0.02
    save_every: int = 50
    check_every: int = 250

    def rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        start = max(self.warmup, self.decay_from)
        if step < start:
            return self.peak
        return self.peak * 0.5 * (1 + math.cos(math.pi * (step - start) / (self.steps - start)))


class Stage(Protocol):
    """What is trained. The data of a part of a step depends on these two numbers alone.

    Attributes:
        name: Of its files.
        schedule: For how long, and how fast.
    """

    name: str
    schedule: Schedule

    @property
    def module(self) -> nn.Module:
        """The module with all trained weights."""

    def loss(self, step: int, part: int) -> tuple[Tensor, Metrics]:
        """Return the loss of a part of a step's batch, and metrics to log."""

    def check(self) -> Metrics:
        """Measure on held-out clips."""


def train(stage: Stage, folder: RunFolder, worker: Worker, *, max_seconds: float = math.inf) -> bool:
    """Train a stage from the state in its folder.

    Args:
        stage: The stage.
        folder: Its state and log.
        worker: Which of the processes this is.
        max_seconds: Stop after this time, with a saved state.

    Returns:
        Whether the stage is finished.
    """
    began = time.monotonic()
    schedule, parameters = stage.schedule, [*stage.module.parameters()]
    matrices = [parameter for parameter in parameters if parameter.ndim > 1]
    vectors = [parameter for parameter in parameters if parameter.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": schedule.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=schedule.peak, betas=_BETAS)
    first, seconds_before = 0, 0.0
    if (state := folder.load()) is not None:
        stage.module.load_state_dict(state["module"])
        optimizer.load_state_dict(state["optimizer"])
        first, seconds_before = state["step"], state["seconds"]
    sums: Metrics = {}
    for step in range(first, schedule.steps):
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step)
        optimizer.zero_grad(set_to_none=True)
        for part in worker.parts:
            loss, metrics = stage.loss(step, part)
            torch.autograd.backward(loss / PARTS)
            _add(sums, {"loss": loss.item(), **metrics})
        stopping = worker.add_gradients(parameters, stop=time.monotonic() - began > max_seconds)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        done = step + 1
        seconds = seconds_before + time.monotonic() - began
        if worker.rank == 0 and (stopping or done % schedule.save_every == 0 or done == schedule.steps):
            row = {"step": done, "seconds": round(seconds), "rate": schedule.rate(step), **_means(sums)}
            if done % schedule.check_every == 0 or done == schedule.steps:
                row |= {f"held_out_{name}": value for name, value in stage.check().items()}
            folder.log(**{name: round(value, 6) for name, value in row.items()})
            states = {"module": stage.module.state_dict(), "optimizer": optimizer.state_dict()}
            folder.save({**states, "step": done, "seconds": seconds})
            sums = {}
        if stopping:
            return done == schedule.steps
    return True


def _add(sums: Metrics, metrics: Metrics) -> None:
    """Add up metrics; `name_right` of `name_asked` become one accuracy in `_means`."""
    for name, value in {**metrics, "batches": 1}.items():
        sums[name] = sums.get(name, 0.0) + value


def _means(sums: Metrics) -> Metrics:
    means = {}
    for name, value in sums.items():
        if name.endswith("_asked"):
            family = name.removesuffix("_asked")
            means[family] = sums.get(f"{family}_right", 0.0) / value
        elif name != "batches" and not name.endswith("_right"):
            means[name] = value / sums["batches"]
    return means
