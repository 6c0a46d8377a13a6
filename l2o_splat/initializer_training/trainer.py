"""The training loop of both stages: a stopped and resumed run gives the same weights (on the CPU)."""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from l2o_splat.initializer_training.batches import Batch, BatchOptions, draw_batch
from l2o_splat.meta.prefetch import prefetched
from l2o_splat.meta.sources import Source
from l2o_splat.meta.training_state import latest_state, load_state, save_state


class Stage(Protocol):
    """What is trained, and how it is judged."""

    network: nn.Module
    """Trained in place; parameters that need no gradient stay as they are."""

    def loss(self, batch: Batch, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        """Loss with a graph to the network, and numbers to watch."""
        ...

    def evaluate(self, network: nn.Module, batches: Sequence[Batch]) -> dict[str, float]:
        """Quality of a network of the same kind; ``psnr`` chooses the best one."""
        ...

    def tensors(self, network: nn.Module) -> dict[str, Tensor]:
        """Of the whole model, without the prefix of the released names."""
        ...


@dataclass(frozen=True)
class TrainingOptions:
    """What the weights depend on, besides networks, losses and scenes."""

    iterations: int = 6000
    """Updates of the weights, each from one scene."""
    seed: int = 0
    """Another seed starts with other weights and draws other views."""
    learning_rate: float = 1e-3
    """Highest rate of AdamW; OneCycle brings it up and down."""
    warm_up: float = 0.03
    """Share of the training in which the rate rises."""
    weight_decay: float = 0.01
    clip_norm: float = 0.5
    """Largest norm of a gradient."""
    averaging: float = 0.995
    """Decay of the running average of the weights, which is what is evaluated and kept."""
    batch: BatchOptions = field(default_factory=BatchOptions)


@dataclass(frozen=True)
class Schedule:
    """When a run evaluates and saves, and who makes its scenes; changes no number of the training."""

    evaluate_every: int = 500
    """Iterations between evaluations on the validation captures."""
    save_every: int = 250
    """Iterations between saved states."""
    workers: int = 0
    """Processes that make captures ahead of time."""


class InitializerTrainer:
    """Trains one stage.

    Every random draw is a function of the seed and the iteration, so that nothing about random numbers needs saving.

    Args:
        fabric: Lightning Fabric, launched, with one process.
        stage: What is trained.
        source: Captures; iteration i takes the one of index i.
        validation: Batches that curves and the best weights are measured on.
        options: Of the training.
        schedule: Of reports.
        folder: Of the run.
        description: All else that the weights depend on, compared with that of a saved state.
    """

    def __init__(
        self,
        fabric: Any,
        stage: Stage,
        source: Source,
        validation: Sequence[Batch],
        options: TrainingOptions,
        schedule: Schedule,
        folder: Path,
        description: dict[str, Any],
    ) -> None:
        self.fabric, self.stage, self.source, self.validation = fabric, stage, source, validation
        self.options, self.schedule, self.folder, self.description = options, schedule, folder, description
        self.network = stage.network.to(fabric.device)
        trained = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=options.learning_rate, weight_decay=options.weight_decay)
        self.scheduler = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer,
            options.learning_rate,
            total_steps=options.iterations + 10,
            pct_start=options.warm_up,
            cycle_momentum=False,
        )
        self.average = AveragedModel(self.network, multi_avg_fn=get_ema_multi_avg_fn(options.averaging))
        self.iteration = 0
        self.seconds = 0.0
        self.best = -math.inf
        self.stopping = False

    def run(self, report: Callable[[InitializerTrainer, dict[str, float]], None]) -> None:
        """Train to the end, or until SIGTERM or SIGINT asks to save and stop.

        Args:
            report: Called with the numbers of every iteration.
        """
        self._resume()
        with prefetched(self.source, count(self.iteration), self.schedule.workers) as captures, self._stop_signals():
            while self.iteration < self.options.iterations and not self.stopping:
                start = time.perf_counter()
                numbers = self._iterate(next(captures))
                self.iteration += 1
                self.seconds += time.perf_counter() - start
                done = self.iteration == self.options.iterations
                if done or self.iteration % self.schedule.evaluate_every == 0:
                    numbers |= self.stage.evaluate(self.average.module, self.validation)
                report(self, numbers)
                if done or self.stopping or self.iteration % self.schedule.save_every == 0:
                    self.save()

    def _iterate(self, capture: Any) -> dict[str, float]:
        rng = np.random.default_rng((self.options.seed, self.iteration))
        numbers: dict[str, float] = {}
        norm = math.nan
        self.optimizer.zero_grad()
        try:
            batch = draw_batch(capture, self.options.batch, rng, self.fabric.device)
        except ValueError:
            batch = None  # Too few points where the drawn views look: the scene is left out.
        if batch is not None:
            loss, numbers = self.stage.loss(batch, rng)
            loss.backward()
            norm = float(nn.utils.clip_grad_norm_(self.network.parameters(), self.options.clip_norm))
        if math.isfinite(norm):
            self.optimizer.step()
            self.average.update_parameters(self.network)
        self.scheduler.step()
        return numbers | {"gradient_norm": norm}

    def plain_options(self) -> dict[str, Any]:
        """Options as plain data."""
        return json.loads(json.dumps(asdict(self.options) | self.description))

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
        save_state(self.fabric, self.folder / "states", self.iteration, shared, {})

    def _resume(self) -> None:
        state = latest_state(self.folder / "states")
        if state is None:
            return
        shared, _ = load_state(self.fabric, state, self.plain_options())
        self.iteration, self.seconds, self.best = shared["iteration"], shared["seconds"], shared["best"]
        for name in ("network", "average", "optimizer", "scheduler"):
            getattr(self, name).load_state_dict(shared[name])

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
