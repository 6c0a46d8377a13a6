"""What a training leaves in its folder: a curve, and weights that say how they were trained."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from l2o_splat.environment import environment
from l2o_splat.training.outer_loop import OuterLoop
from l2o_splat.training.statistics import IterationReport
from l2o_splat.weights.format import Weights, save_weights

LICENCE = "Apache-2.0"
CURVE_NAME = "curve.jsonl"
BEST_NAME, LAST_NAME = "best", "last"


class TrainingRecord(ABC):
    """``curve.jsonl`` with a line for every evaluation, and the weights of that moment.

    ``best.safetensors`` holds the averaged weights with the highest mean PSNR on the validation captures so far,
    ``last.safetensors`` the newest ones; a JSON beside each has the training record.

    Args:
        folder: Folder of the run.
    """

    unit = "iterations"
    """Name of the iterations in messages."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.environment = environment()

    def __call__(self, trainer: OuterLoop, report: IterationReport) -> None:
        """Show an iteration; after an evaluation write the curve and the weights."""
        self.show(trainer, report)
        if report.validation is None:
            return
        with (self.folder / CURVE_NAME).open("a", encoding="utf-8") as file:
            file.write(json.dumps(self.curve_line(trainer, report)) + "\n")
        weights = self.weights(trainer, self._training(trainer, report))
        save_weights(self.folder / LAST_NAME, weights)
        if report.validation["psnr"] > trainer.best:
            trainer.best = report.validation["psnr"]
            save_weights(self.folder / BEST_NAME, weights)

    @abstractmethod
    def show(self, trainer: OuterLoop, report: IterationReport) -> None:
        """Show the user how the training goes."""

    @abstractmethod
    def particulars(self, trainer: OuterLoop, report: IterationReport) -> dict[str, Any]:
        """What the training record holds besides what every training has."""

    @abstractmethod
    def weights(self, trainer: OuterLoop, training: dict[str, Any]) -> Weights:
        """The averaged weights, with this training record."""

    def rounded(self, numbers: dict[str, float]) -> dict[str, float]:
        """Numbers as the curve has them."""
        return numbers

    def recorded_curve(self, lines: list[dict[str, float]]) -> list[dict[str, float]]:
        """Lines of the curve as the training record has them."""
        return lines

    def curve_line(self, trainer: OuterLoop, report: IterationReport) -> dict[str, float]:
        """The line of ``curve.jsonl`` after an evaluation."""
        position = {"iteration": trainer.iteration, "seconds": round(trainer.seconds, 1)}
        return position | self.rounded(report.numbers())

    def outcome(self, trainer: OuterLoop) -> str:
        """One sentence about a run that has ended."""
        done = trainer.iteration == trainer.options.iterations
        state = "Trained" if done else "Saved; the same command goes on"
        return f"{state} after {trainer.iteration} {self.unit}: {self.folder / BEST_NAME}.safetensors"

    def _training(self, trainer: OuterLoop, report: IterationReport) -> dict[str, Any]:
        lines = (self.folder / CURVE_NAME).read_text(encoding="utf-8").splitlines()
        return {
            "iterations": trainer.iteration,
            "hours": round(trainer.seconds / 3600, 3),
            "options": trainer.plain_options(),
            "environment": self.environment,
            "curve": self.recorded_curve([json.loads(line) for line in lines]),
        } | self.particulars(trainer, report)


def changed_from(defaults: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """The values that differ from the defaults."""
    return {name: value for name, value in values.items() if value != defaults[name]}
