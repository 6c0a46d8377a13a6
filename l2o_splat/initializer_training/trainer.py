"""Trainer of the stages of initializer training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn

from l2o_splat.initializer_training.batches import Batch, draw_batch
from l2o_splat.initializer_training.options import InitializerTrainingOptions
from l2o_splat.training.errors import UnusableCaptureError
from l2o_splat.training.objective import Objective
from l2o_splat.training.options import Schedule
from l2o_splat.training.outer_loop import OuterLoop
from l2o_splat.training.prefetch import Prefetched, prefetched
from l2o_splat.training.sources import Source
from l2o_splat.training.statistics import Statistics, StepStatistics


class Stage(Protocol):
    """Which network is trained, and how it is judged."""

    network: nn.Module
    """Trained in place; parameters that require no gradient stay as they are."""
    objective: Objective | None
    """Error of rendered views; None for a stage with an error of its own."""

    def loss(self, batch: Batch, rng: np.random.Generator) -> tuple[Tensor, Statistics]:
        """Loss with a graph to the network, and its terms as numbers for logs."""
        ...

    def evaluate(self, network: nn.Module, batches: Sequence[Batch]) -> dict[str, float]:
        """Quality of a network of the same kind; ``psnr`` chooses the best one."""
        ...

    def tensors(self, network: nn.Module) -> dict[str, Tensor]:
        """Tensors of the whole model, without the prefix of the released names."""
        ...


@dataclass(frozen=True)
class InitializerStatistics(StepStatistics):
    """Numbers of one update."""

    terms: Statistics | None
    """Terms of the loss, those of the stage; None if the capture was unusable."""

    def numbers(self) -> dict[str, float]:
        terms = {} if self.terms is None else self.terms.numbers()
        return terms | {"gradient_norm": self.gradient_norm}


class InitializerTrainer(OuterLoop):
    """Trains one stage.

    Every random draw is a function of the seed and the iteration, so that states hold no random numbers.

    Args:
        fabric: Lightning Fabric, launched, with one process.
        stage: What is trained.
        source: Captures; iteration i takes the one of index i.
        validation: Batches that curves and the best weights are measured on.
        options: Options of the training.
        schedule: When to evaluate and save.
        folder: Folder of the run.
        description: Everything else that the weights depend on, to compare with a saved state.
    """

    def __init__(
        self,
        fabric: Any,
        stage: Stage,
        source: Source,
        validation: Sequence[Batch],
        options: InitializerTrainingOptions,
        schedule: Schedule,
        folder: Path,
        description: dict[str, Any],
    ) -> None:
        super().__init__(fabric, stage.network.to(fabric.device), options, schedule, folder)
        self.stage, self.source, self.validation, self.description = stage, source, validation, description
        self.objective = stage.objective

    def captures(self) -> Prefetched:
        return prefetched(self.source, count(self.iteration), self.schedule.workers)

    def evaluate(self) -> dict[str, float]:
        return self.stage.evaluate(self.average.module, self.validation)

    def iterate(self, captures: Prefetched) -> InitializerStatistics:
        """One update from one capture; a capture that makes no batch leaves the weights as they are."""
        rng = np.random.default_rng((self.options.seed, self.iteration))
        self.optimizer.zero_grad()
        try:
            batch = draw_batch(next(captures), self.options.batch, rng, self.fabric.device)
        except UnusableCaptureError as error:
            self.leave_out(str(error))
            self.skip()
            return InitializerStatistics(gradient_norm=math.nan, terms=None)
        loss, terms = self.stage.loss(batch, rng)
        loss.backward()
        norm = self.step()
        if math.isfinite(norm):
            self.use()
        else:
            self.leave_out("The gradient of its loss is not finite.")
        return InitializerStatistics(norm, terms)

    def dependencies(self) -> dict[str, Any]:
        return self.description

    def migrated_options(self, saved: dict[str, Any]) -> dict[str, Any]:
        # There was LPIPS alone once.
        losses = {"perceptual": "lpips", "perceptual_scale": 1.0} | saved.get("losses", {})
        return saved | {"losses": losses} if "losses" in saved else saved
