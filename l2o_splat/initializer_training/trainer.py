"""Trainer of the stages of initializer training."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from l2o_splat.initializer_training.batches import Batch, draw_batch
from l2o_splat.initializer_training.options import InitializerTrainingOptions
from l2o_splat.rendering import RasterSettings
from l2o_splat.scenes.capture import Capture
from l2o_splat.training.errors import UnusableCaptureError
from l2o_splat.training.objective import Objective
from l2o_splat.training.options import Schedule
from l2o_splat.training.outer_loop import OuterLoop
from l2o_splat.training.prefetch import Prefetched, prefetched
from l2o_splat.training.saved_state import with_defaults
from l2o_splat.training.sources import Source
from l2o_splat.training.statistics import Statistics, StepStatistics
from l2o_splat.weights.format import System


class Stage(Protocol):
    """Which network is trained, and how it is judged."""

    system: System
    """System of the weights that it trains."""
    raster: RasterSettings
    """How scenes are drawn."""
    network: nn.Module
    """Trained in place; parameters that require no gradient stay as they are."""
    objective: Objective | None
    """Error of rendered views; None for a stage with an error of its own."""

    def backbone(self) -> Iterable[nn.Parameter]:
        """Parameters that ``backbone_learning_rate`` is for."""
        ...

    def loss(self, batch: Batch, rng: np.random.Generator) -> tuple[Tensor, Statistics]:
        """Loss with a graph to the network, and its terms as numbers for logs.

        Raises:
            UnusableCaptureError: If the scene has none.
        """
        ...

    def heaviest(self) -> Stage:
        """The same stage, whose every step takes as much memory as any of this one can; for estimates."""
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

    terms: tuple[Statistics, ...]
    """Terms of the loss of this process's scenes, those of the stage, without unusable ones."""

    def numbers(self) -> dict[str, float]:
        found = [terms.numbers() for terms in self.terms]
        means = {name: float(np.mean([row[name] for row in found])) for name in (found[0] if found else {})}
        return means | {"gradient_norm": self.gradient_norm}


class InitializerTrainer(OuterLoop):
    """Trains one stage.

    Every random draw is a function of the seed, the iteration and the scene's slot in it, so that states hold no random
    numbers, and two processes with one scene each do what one process does with two.

    Args:
        fabric: Lightning Fabric, launched: devices, processes, reductions.
        stage: What is trained.
        source: Captures; slots take turns, so that with one slot iteration i takes the one of index i.
        validation: Batches that curves and the best weights are measured on.
        options: Options of the training.
        schedule: When to evaluate and save.
        folder: Folder of the run.
        description: Everything else that the weights depend on, to compare with a saved state.
        range_of_points: Whether ranges of depths come from points, see :func:`draw_batch`.
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
        range_of_points: bool = True,
    ) -> None:
        self.stage = stage
        super().__init__(fabric, stage.network.to(fabric.device), options, schedule, folder)
        self.objective = stage.objective
        self.source, self.validation, self.description = source, validation, description
        self.range_of_points = range_of_points
        scenes = options.scenes_per_iteration
        self.slots = range(fabric.global_rank * scenes, (fabric.global_rank + 1) * scenes)
        """Scenes of this process among those of one iteration."""

    def learning_rates(self) -> dict[nn.Parameter, float]:
        rates = super().learning_rates()
        if self.options.backbone_learning_rate is not None:
            slow = {parameter for parameter in self.stage.backbone() if parameter in rates}
            rates |= dict.fromkeys(slow, self.options.backbone_learning_rate)
        return rates

    def captures(self) -> Prefetched:
        in_all = self.fabric.world_size * len(self.slots)
        indices = (iteration * in_all + slot for iteration in count(self.iteration) for slot in self.slots)
        return prefetched(self.source, indices, self.schedule.workers)

    def evaluate(self) -> dict[str, float]:
        """Quality of the averaged weights; only the first process computes, the others wait."""
        numbers: dict[str, float] = {}
        if self.fabric.global_rank == 0:
            numbers = self.stage.evaluate(self.average.module, self.validation)
        return self.fabric.broadcast(numbers)

    def iterate(self, captures: Prefetched) -> InitializerStatistics:
        """One update from a scene per slot; a scene that cannot be used counts as one without a gradient.

        If none of any process can be used, the weights stay as they are.
        """
        self.optimizer.zero_grad()
        terms, used = [], 0
        for slot in self.slots:
            found, reason = self._add_gradient(next(captures), slot)
            terms += [] if found is None else [found]
            used += reason is None
            if reason is not None:
                self.leave_out(reason)
        if not self.fabric.all_reduce(torch.tensor(float(used)), reduce_op="sum"):
            self.skip()
            return InitializerStatistics(math.nan, tuple(terms))
        self.average_gradients()
        norm = self.step()
        if not math.isfinite(norm):
            self.leave_out("The gradient of its loss is not finite.")
        elif used:
            self.use()
        return InitializerStatistics(norm, tuple(terms))

    def _add_gradient(self, capture: Capture, slot: int) -> tuple[Statistics | None, str | None]:
        """Add the gradient of one scene; the terms of its loss, and why it cannot be used if it cannot."""
        # With one slot, the stream of iteration and slot is that of the iteration alone, as numpy mixes seeds.
        rng = np.random.default_rng((self.options.seed, self.iteration, slot))
        try:
            batch = draw_batch(capture, self.options.batch, rng, self.fabric.device, self.range_of_points)
            loss, terms = self.stage.loss(batch, rng)
        except UnusableCaptureError as error:
            return None, str(error)
        if not loss.isfinite():
            return terms, "Its loss is not finite."
        (loss / len(self.slots)).backward()
        return terms, None

    def dependencies(self) -> dict[str, Any]:
        return self.description

    def migrated_options(self, saved: dict[str, Any]) -> dict[str, Any]:
        # A stage has only some of the groups.
        groups = {name: added for name, added in _ADDED.items() if name in saved or not isinstance(added, dict)}
        return with_defaults(saved, groups)


_ADDED: dict[str, Any] = {
    "data": {"chunks": None, "validation_chunks": None},
    "losses": {"mean_over_updates": True, "perceptual": "lpips", "perceptual_scale": 1.0},
    "refinement": {
        "drawn": "log-uniform",
        "error": "log-mse",
        "lpips_weight": 0.0,
        "exposure_offset": 0.0,
        "rates": "splatfacto",
    },
    "update_weights": None,
    "backbone": None,
}
"""Options that states of earlier versions do not name, with what these versions did."""
