"""Record of meta-training: progress bar, TensorBoard curves, and weights of the rule."""

from __future__ import annotations

import math
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from l2o_splat.meta.trainer import MetaStatistics, MetaTrainer
from l2o_splat.rendering import RasterSettings
from l2o_splat.training.record import LICENCE, TrainingRecord, changed_from
from l2o_splat.training.statistics import IterationReport
from l2o_splat.weights.format import Weights, WeightsCard

_SMOOTHING = 0.95
"""Decay of the running average of the gain per step that the progress bar shows."""


class MetaRecord(TrainingRecord):
    """Beside curve and weights, a progress bar and TensorBoard curves; as a context manager it ends both.

    Args:
        folder: Folder of the run.
        data: Description of the training data.
        total: Meta-iterations of the whole training.
    """

    unit = "meta-iterations"

    def __init__(self, folder: Path, data: str, total: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        super().__init__(folder)
        self.data = data
        self._new_writer = partial(SummaryWriter, str(folder / "tensorboard"))
        self._writer: SummaryWriter | None = None
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

    def __enter__(self) -> MetaRecord:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        if self._writer is not None:
            self._writer.close()

    def show(self, trainer: MetaTrainer, report: IterationReport[MetaStatistics]) -> None:
        if self._writer is None:
            # TensorBoard drops what a killed run wrote after its last saved state.
            self._writer = self._new_writer(purge_step=trainer.iteration)
        gain = report.step.gain_per_step
        self._gain = gain if self._gain is None else _SMOOTHING * self._gain + (1 - _SMOOTHING) * gain
        for name, value in report.numbers().items():
            if math.isfinite(value):
                self._writer.add_scalar(f"meta/{name}", value, trainer.iteration)
        if report.validation is not None:
            quality = ", ".join(
                f"{value:.2f} dB" + name.replace("psnr_", " at ")
                for name, value in report.validation.items()
                if name != "psnr"
            )
            self._progress.console.print(f"After {trainer.iteration} meta-iterations: {quality} on validation captures")
        quality = f"error per step -{self._gain:.1%}, waited {report.step.waited_seconds:.2f} s"
        if trainer.unusable:
            quality += f", {trainer.unusable} scenes unusable"
        self._progress.update(self._task, completed=trainer.iteration, quality=quality)

    def particulars(self, trainer: MetaTrainer, report: IterationReport[MetaStatistics]) -> dict[str, Any]:
        return {
            "processes": trainer.fabric.world_size,
            "data": self.data,
            "validation_psnr_db": {name: round(value, 3) for name, value in report.validation.items()},
        }

    def recorded_curve(self, lines: list[dict[str, float]]) -> list[dict[str, float]]:
        kept = ("iteration", "seconds", "psnr")
        return [{name: round(value, 3) for name, value in line.items() if name.startswith(kept)} for line in lines]

    def weights(self, trainer: MetaTrainer, training: dict[str, Any]) -> Weights:
        rule = trainer.averaged_rule
        card = WeightsCard(
            rule.system,
            {},
            scene_frame=rule.frame_convention,
            raster=changed_from(asdict(RasterSettings()), asdict(trainer.options.loop.raster)),
            licence=LICENCE,
            source=self.environment["command"],
            training=training,
        )
        return rule.to_weights(card)
