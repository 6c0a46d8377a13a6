"""Record of the training of initializers: printed lines, and weights of the whole model."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from l2o_splat.implicit.uncertainty_head import PREFIX as HEAD_PREFIX
from l2o_splat.initializer_training.trainer import InitializerStatistics, InitializerTrainer
from l2o_splat.nets.resplat.config import ReSplatConfig
from l2o_splat.rendering import RasterSettings
from l2o_splat.training.record import LICENCE, TrainingRecord, changed_from
from l2o_splat.training.statistics import IterationReport
from l2o_splat.weights.format import Weights, WeightsCard
from l2o_splat.weights.resplat_original import PREFIX

_SMOOTHING = 0.98
"""Decay of the running averages that are printed."""
LOG_EVERY = 50
"""Iterations between printed lines."""


class InitializerRecord(TrainingRecord):
    """Beside curve and weights, printed lines.

    Weights are in half precision, apart from small heads: diff3r's, whose numbers may be tiny, and the dense start's.

    Args:
        folder: Folder of the run.
        config: Behaviour of the weights.
        history: Training records of the stages before, last first.
        origin: Where other parts come from that the training starts with; None for random numbers.
    """

    def __init__(
        self,
        folder: Path,
        config: ReSplatConfig,
        history: list[dict[str, Any]],
        origin: dict[str, str | None] | None = None,
    ) -> None:
        super().__init__(folder)
        self.config, self.history, self.origin = config, history, origin or {}
        self._smooth: dict[str, float] = {}

    def show(self, trainer: InitializerTrainer, report: IterationReport[InitializerStatistics]) -> None:
        numbers = report.numbers()
        for name, value in numbers.items():
            if math.isfinite(value):
                self._smooth[name] = _SMOOTHING * self._smooth.get(name, value) + (1 - _SMOOTHING) * value
        if trainer.iteration % LOG_EVERY == 0:
            shown = ", ".join(
                f"{name} {self._smooth.get(name, math.nan):.4f}" for name in numbers if "psnr" not in name
            )
            unusable = f", {trainer.unusable} captures unusable" if trainer.unusable else ""
            print(f"{trainer.iteration} iterations, {trainer.seconds:.0f} s: {shown}{unusable}", flush=True)
        if report.validation is not None:
            print(json.dumps(self.curve_line(trainer, report)), flush=True)

    def rounded(self, numbers: dict[str, float]) -> dict[str, float]:
        return {name: round(value, 4) for name, value in numbers.items()}

    def particulars(
        self, trainer: InitializerTrainer, report: IterationReport[InitializerStatistics]
    ) -> dict[str, Any]:
        origin = {name: source or "random" for name, source in self.origin.items()}
        return {"validation": self.rounded(report.numbers()), "origin": origin, "before": self.history}

    def weights(self, trainer: InitializerTrainer, training: dict[str, Any]) -> Weights:
        tensors = trainer.stage.tensors(trainer.average.module)
        stage = trainer.stage
        head = {
            name: tensor for name, tensor in tensors.items() if stage.system == "dense" or name.startswith(HEAD_PREFIX)
        }
        card = WeightsCard(
            stage.system,
            {"tensors": len(tensors), "numbers": sum(tensor.numel() for tensor in tensors.values())},
            behaviour=changed_from(asdict(ReSplatConfig()), asdict(self.config)),
            raster=changed_from(asdict(RasterSettings()), asdict(stage.raster)),
            licence=LICENCE,
            source=self.environment["command"],
            training=training,
        )
        half = {
            PREFIX + name: tensor.half() if tensor.is_floating_point() else tensor
            for name, tensor in tensors.items()
            if name not in head
        }
        return Weights(half | head, card)
