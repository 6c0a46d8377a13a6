"""What a training leaves behind: a curve as JSON lines, and weights with their training record."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from l2o_splat.environment import environment
from l2o_splat.implicit.uncertainty_head import PREFIX as HEAD_PREFIX
from l2o_splat.initializer_training.initial_stage import RASTER
from l2o_splat.initializer_training.trainer import InitializerTrainer
from l2o_splat.meta.record import BEST_NAME, CURVE_NAME, LAST_NAME, LICENCE
from l2o_splat.nets.resplat.config import ReSplatConfig
from l2o_splat.rendering import RasterSettings
from l2o_splat.weights.format import Weights, WeightsCard, save_weights
from l2o_splat.weights.resplat_original import PREFIX

_SMOOTHING = 0.98
LOG_EVERY = 50
"""Iterations between printed lines."""


class InitializerRecord:
    """Printed lines, ``curve.jsonl``, and weights at every evaluation.

    ``best.safetensors`` holds the averaged weights with the highest mean PSNR on the validation captures so far,
    ``last.safetensors`` the newest ones, both in half precision but for the head of diff3r, whose numbers may be tiny.

    Args:
        folder: Of the run.
        config: Behaviour of the weights.
        history: Training records of the stages before, last first.
    """

    def __init__(self, folder: Path, config: ReSplatConfig, history: list[dict[str, Any]]) -> None:
        self.folder, self.config, self.history = folder, config, history
        folder.mkdir(parents=True, exist_ok=True)
        self._environment = environment()
        self._smooth: dict[str, float] = {}

    def __call__(self, trainer: InitializerTrainer, numbers: dict[str, float]) -> None:
        """Take the numbers of one iteration."""
        for name, value in numbers.items():
            if math.isfinite(value):
                self._smooth[name] = _SMOOTHING * self._smooth.get(name, value) + (1 - _SMOOTHING) * value
        if trainer.iteration % LOG_EVERY == 0:
            shown = ", ".join(
                f"{name} {self._smooth.get(name, math.nan):.4f}" for name in numbers if "psnr" not in name
            )
            print(f"{trainer.iteration} iterations, {trainer.seconds:.0f} s: {shown}", flush=True)
        if "psnr" not in numbers:
            return
        evaluated = {name: round(value, 4) for name, value in numbers.items()}
        line = {"iteration": trainer.iteration, "seconds": round(trainer.seconds, 1)} | evaluated
        print(json.dumps(line), flush=True)
        with (self.folder / CURVE_NAME).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self._save(trainer, LAST_NAME, evaluated)
        if numbers["psnr"] > trainer.best:
            trainer.best = numbers["psnr"]
            self._save(trainer, BEST_NAME, evaluated)

    def _save(self, trainer: InitializerTrainer, name: str, validation: dict[str, float]) -> None:
        tensors: dict[str, Tensor] = trainer.stage.tensors(trainer.average.module)
        behaviour, plain = asdict(self.config), asdict(ReSplatConfig())
        raster, plain_raster = asdict(RASTER), asdict(RasterSettings())
        training = {
            "iterations": trainer.iteration,
            "hours": round(trainer.seconds / 3600, 3),
            "validation": validation,
            "options": trainer.plain_options(),
            "environment": self._environment,
            "curve": [json.loads(text) for text in (self.folder / CURVE_NAME).read_text().splitlines()],
            "before": self.history,
        }
        numbers = sum(tensor.numel() for tensor in tensors.values())
        head = {key: tensor for key, tensor in tensors.items() if key.startswith(HEAD_PREFIX)}
        card = WeightsCard(
            "diff3r" if head else "resplat",
            {"tensors": len(tensors), "numbers": numbers},
            behaviour={key: value for key, value in behaviour.items() if value != plain[key]},
            raster={key: value for key, value in raster.items() if value != plain_raster[key]},
            licence=LICENCE,
            source=self._environment["command"],
            training=training,
        )
        half = {
            PREFIX + key: tensor.half() if tensor.is_floating_point() else tensor
            for key, tensor in tensors.items()
            if key not in head
        }
        save_weights(self.folder / name, Weights(half | head, card))
