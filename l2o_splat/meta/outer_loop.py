"""What every training here does around its iterations: AdamW under OneCycle, averages, evaluations, states, signals."""

from __future__ import annotations

import math
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from l2o_splat.meta.training_state import latest_state, load_state, save_state


class OuterOptions(Protocol):
    """What the loop needs of a training's options."""

    iterations: int
    learning_rate: float
    warm_up: float
    weight_decay: float
    averaging: float


@dataclass(frozen=True)
class Schedule:
    """When a run evaluates and saves, and who makes its scenes; changes no number of the training."""

    evaluate_every: int = 200
    """Iterations between evaluations on the validation captures."""
    save_every: int = 100
    """Iterations between saved states."""
    workers: int = 1
    """Processes that make captures ahead of time."""


class OuterLoop(ABC):
    """Trains one network; the same weights come out however often a run was stopped and resumed (on the CPU).

    Args:
        fabric: Lightning Fabric, launched: devices, processes, reductions.
        network: Trained in place, on the device; parameters that need no gradient stay as they are.
        options: Of the training.
        schedule: Of evaluations and saved states.
        folder: Of the run.
    """

    def __init__(
        self, fabric: Any, network: nn.Module, options: OuterOptions, schedule: Schedule, folder: Path
    ) -> None:
        self.fabric, self.network, self.options = fabric, network, options
        self.schedule, self.folder = schedule, folder
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=options.learning_rate, weight_decay=options.weight_decay)
        self.scheduler = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer,
            options.learning_rate,
            total_steps=options.iterations + 10,
            pct_start=options.warm_up,
            cycle_momentum=False,
        )
        self.average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(options.averaging))
        self.iteration = 0
        self.seconds = 0.0
        self.best = -math.inf
        self.stopping = False

    @abstractmethod
    def plain_options(self) -> dict[str, Any]:
        """Options as plain data, for comparing with those of a saved state."""

    @abstractmethod
    def captures(self) -> AbstractContextManager[Any]:
        """Where iterations take their captures from, from the present one on."""

    @abstractmethod
    def iterate(self, captures: Any) -> dict[str, float]:
        """One iteration, ended by :meth:`step`; numbers to watch."""

    @abstractmethod
    def evaluate(self) -> dict[str, float]:
        """Quality of the averaged weights; ``psnr`` chooses the best ones."""

    def own_state(self) -> dict[str, Any]:
        """What this process saves besides what all share."""
        return {}

    def restore_own(self, own: dict[str, Any]) -> None:  # noqa: B027 - nothing, where nothing was saved
        """Take up what :meth:`own_state` gave."""

    def run(self, report: Callable[[Any, dict[str, float]], None]) -> None:
        """Train to the end, or until SIGTERM or SIGINT asks to save and stop.

        Args:
            report: Called with the loop and a dict of numbers after every iteration.
        """
        self._resume()
        with self.captures() as captures, self._stop_signals():
            while self.iteration < self.options.iterations and not self.stopping:
                start = time.perf_counter()
                numbers = self.iterate(captures)
                self.iteration += 1
                self.seconds += time.perf_counter() - start
                done = self.iteration == self.options.iterations
                if done or self.iteration % self.schedule.evaluate_every == 0:
                    numbers |= self.evaluate()
                report(self, numbers)
                self.stopping = bool(self.fabric.all_reduce(torch.tensor(float(self.stopping)), reduce_op="sum"))
                if done or self.stopping or self.iteration % self.schedule.save_every == 0:
                    self.save()

    def step(self, norm: float) -> None:
        """Move the weights by their gradients, if the norm of these is finite, and the rate along its cycle."""
        if math.isfinite(norm):
            self.optimizer.step()
            self.average.update_parameters(self.network)
        self.scheduler.step()

    def save(self) -> None:
        """Write the state of the training atomically."""
        shared = {
            "options": self.plain_options(),
            "iteration": self.iteration,
            "seconds": self.seconds,
            "best": self.best,
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
        }
        save_state(self.fabric, self.folder / "states", self.iteration, shared, self.own_state())

    def _resume(self) -> None:
        state = latest_state(self.folder / "states")
        if state is None:
            return
        shared, own = load_state(self.fabric, state, self.plain_options())
        self.iteration, self.seconds, self.best = shared["iteration"], shared["seconds"], shared["best"]
        for name in ("network", "average", "optimizer", "scheduler"):
            getattr(self, name).load_state_dict(shared[name])
        self.restore_own(own)

    @contextmanager
    def _stop_signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT let the iteration end, save and stop."""

        def stop(*_: Any) -> None:
            self.stopping = True

        before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
