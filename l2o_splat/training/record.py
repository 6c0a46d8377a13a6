"""What a training leaves in its folder: a curve, and weights that say how they were trained."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from l2o_splat.environment import environment
from l2o_splat.files import write_text_whole
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
        self._curve: list[dict[str, float]] | None = None

    def __call__(self, trainer: OuterLoop, report: IterationReport) -> None:
        """Show an iteration; after an evaluation write the curve and the weights."""
        if self._curve is None:
            self._curve = self._curve_before(trainer.iteration)
        self.show(trainer, report)
        if report.validation is None:
            return
        self._curve.append(self.curve_line(trainer, report))
        self._write_curve()
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
        if trainer.unusable:
            position["unusable"] = trainer.unusable
        # JSON has no NaN, which is the norm of a gradient that there was not.
        return position | {
            name: value for name, value in self.rounded(report.numbers()).items() if math.isfinite(value)
        }

    def outcome(self, trainer: OuterLoop) -> str:
        """One sentence about a run that has ended."""
        done = trainer.iteration == trainer.options.iterations
        state = "Trained" if done else "Saved; the same command goes on"
        sentence = f"{state} after {trainer.iteration} {self.unit}: {self.folder / BEST_NAME}.safetensors"
        if trainer.unusable:
            sentence += f" ({trainer.unusable} captures could not be used; the last one: {trainer.reason})"
        return sentence

    def _curve_before(self, iteration: int) -> list[dict[str, float]]:
        """The lines of earlier iterations; those that a killed run wrote after its last saved state are dropped."""
        path = self.folder / CURVE_NAME
        found = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        lines = [line for line in map(_parsed, found) if line is not None and line["iteration"] < iteration]
        if len(lines) < len(found):
            self._curve = lines
            self._write_curve()
        return lines

    def _write_curve(self) -> None:
        text = "".join(json.dumps(line) + "\n" for line in self._curve)
        write_text_whole(self.folder / CURVE_NAME, text)

    def _training(self, trainer: OuterLoop, report: IterationReport) -> dict[str, Any]:
        return {
            "iterations": trainer.iteration,
            "hours": round(trainer.seconds / 3600, 3),
            "options": trainer.plain_options(),
            "environment": self.environment,
            "perceptual": None if trainer.objective is None else trainer.objective.perceptual_used,
            "unusable_captures": trainer.unusable,
            "curve": self.recorded_curve(list(self._curve)),
        } | self.particulars(trainer, report)


def _parsed(line: str) -> dict[str, float] | None:
    """A line of the curve; None for one that a kill has cut off."""
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None


def changed_from(defaults: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """The values that differ from the defaults."""
    return {name: value for name, value in values.items() if value != defaults[name]}
