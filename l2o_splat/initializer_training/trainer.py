"""The training loop of both stages: a stopped and resumed run gives the same weights (on the CPU)."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn

from l2o_splat.initializer_training.batches import Batch, BatchOptions, draw_batch
from l2o_splat.meta.outer_loop import OuterLoop, Schedule
from l2o_splat.meta.prefetch import Prefetched, prefetched
from l2o_splat.meta.sources import Source


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


class InitializerTrainer(OuterLoop):
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
        super().__init__(fabric, stage.network.to(fabric.device), options, schedule, folder)
        self.stage, self.source, self.validation, self.description = stage, source, validation, description

    def captures(self) -> Prefetched:
        return prefetched(self.source, count(self.iteration), self.schedule.workers)

    def evaluate(self) -> dict[str, float]:
        return self.stage.evaluate(self.average.module, self.validation)

    def iterate(self, captures: Prefetched) -> dict[str, float]:
        rng = np.random.default_rng((self.options.seed, self.iteration))
        numbers: dict[str, float] = {}
        norm = math.nan
        self.optimizer.zero_grad()
        try:
            batch = draw_batch(next(captures), self.options.batch, rng, self.fabric.device)
        except ValueError:
            batch = None  # Too few points where the drawn views look: the scene is left out.
        if batch is not None:
            loss, numbers = self.stage.loss(batch, rng)
            loss.backward()
            norm = float(nn.utils.clip_grad_norm_(self.network.parameters(), self.options.clip_norm))
        self.step(norm)
        return numbers | {"gradient_norm": norm}

    def plain_options(self) -> dict[str, Any]:
        return json.loads(json.dumps(asdict(self.options) | self.description))
