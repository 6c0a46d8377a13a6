"""What a training leaves behind: curves while it runs, weights with their training record."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from l2o_splat.environment import environment
from l2o_splat.meta.trainer import MetaTrainer
from l2o_splat.rendering import RasterSettings
from l2o_splat.weights.format import WeightsCard, save_weights

LICENCE = "Apache-2.0"
CURVE_NAME = "curve.jsonl"
BEST_NAME, LAST_NAME = "best", "last"
_SMOOTHING = 0.95


class TrainingRecord:
    """Progress bar, TensorBoard curves, ``curve.jsonl``, and weights at every evaluation.

    ``best.safetensors`` holds the averaged weights with the highest mean PSNR on the validation captures so far,
    ``last.safetensors`` the newest ones.
    """

    def __init__(self, folder: Path, data: str, total: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.folder, self.data = folder, data
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = SummaryWriter(str(folder / "tensorboard"))
        self._environment = environment()
        self._gain: float | None = None
        self._progress = Progress(
            TextColumn("meta-training"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} {task.fields[quality]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self._task = self._progress.add_task("", total=total, quality="")

    def __enter__(self) -> TrainingRecord:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        self._writer.close()

    def __call__(self, trainer: MetaTrainer, numbers: dict[str, float]) -> None:
        """Take the numbers of one meta-iteration."""
        gain = numbers["gain_per_step"]
        self._gain = gain if self._gain is None else _SMOOTHING * self._gain + (1 - _SMOOTHING) * gain
        for name, value in numbers.items():
            if math.isfinite(value):
                self._writer.add_scalar(f"meta/{name}", value, trainer.iteration)
        waiting = numbers["waited_seconds"]
        quality = f"error per step -{self._gain:.1%}, waited {waiting:.2f} s"
        if "psnr" in numbers:
            values = {name: value for name, value in numbers.items() if name.startswith("psnr")}
            self._progress.console.print(
                f"After {trainer.iteration} meta-iterations: "
                + ", ".join(
                    f"{value:.2f} dB" + name.replace("psnr_", " at ")
                    for name, value in values.items()
                    if name != "psnr"
                )
                + " on validation captures"
            )
            line = {"iteration": trainer.iteration, "seconds": round(trainer.seconds, 1)} | numbers
            with (self.folder / CURVE_NAME).open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            self._save(trainer, LAST_NAME, values)
            if numbers["psnr"] > trainer.best:
                trainer.best = numbers["psnr"]
                self._save(trainer, BEST_NAME, values)
        self._progress.update(self._task, completed=trainer.iteration, quality=quality)

    def _save(self, trainer: MetaTrainer, name: str, values: dict[str, float]) -> None:
        raster, plain = asdict(trainer.options.loop.raster), asdict(RasterSettings())
        training: dict[str, Any] = {
            "iterations": trainer.iteration,
            "hours": round(trainer.seconds / 3600, 3),
            "processes": trainer.fabric.world_size,
            "data": self.data,
            "validation_psnr_db": {key: round(value, 3) for key, value in values.items()},
            "options": trainer.plain_options(),
            "environment": self._environment,
            "curve": _read_curve(self.folder / CURVE_NAME),
        }
        card = WeightsCard(
            "learn2splat",
            {},
            raster={key: value for key, value in raster.items() if value != plain[key]},
            licence=LICENCE,
            source=self._environment["command"],
            training=training,
        )
        save_weights(self.folder / name, trainer.averaged_rule.to_weights(card))


def _read_curve(path: Path) -> list[dict[str, float]]:
    """Iteration and quality of every evaluation so far."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    kept = ("iteration", "seconds", "psnr")
    return [{name: round(value, 3) for name, value in line.items() if name.startswith(kept)} for line in lines]
