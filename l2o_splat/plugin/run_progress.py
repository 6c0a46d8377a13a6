"""What a run reports about itself while it trains, see :mod:`l2o_splat.progress`."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import Tensor

from l2o_splat.progress import Phase, ProgressReporter

if TYPE_CHECKING:
    from l2o_splat.plugin.trainer import L2OTrainer

RECENT_STEPS = 20
"""Steps that tell how long a step takes."""
STOPPED = (130, 143)
"""Exit codes after SIGINT and SIGTERM."""


class StepReports:
    """Reports the steps of a trainer, as often as is due."""

    def __init__(self, trainer: L2OTrainer) -> None:
        self._trainer = trainer
        self._seconds: deque[float] = deque(maxlen=RECENT_STEPS)
        self._metrics: Mapping[str, Tensor] = {}

    @contextmanager
    def timed(self) -> Iterator[None]:
        """A step is taken inside."""
        begin = time.perf_counter()
        yield
        self._seconds.append(time.perf_counter() - begin)

    def step_done(self, step: int, metrics: Mapping[str, Tensor]) -> None:
        """Report the step that was taken, if that is due; only then numbers are asked of the device."""
        self._metrics = metrics
        progress = self._trainer.progress
        if progress.current.phase != "training" or progress.is_due:
            progress.report(phase="training", **self.after(step))

    def after(self, step: int) -> dict[str, object]:
        """What is known of the run after ``step``, as fields of :class:`l2o_splat.progress.RunProgress`."""
        trainer, schedule = self._trainer, self._trainer.run_schedule
        loss, psnr = trainer.optimizers.optimizers["gaussians"].loss, self._metrics.get("psnr")
        taken = step + 1
        if schedule.seconds is None:
            last = trainer._start_step + trainer.plan.num_steps
            share = (taken - trainer._start_step) / trainer.plan.num_steps
            left = 0.0 if taken == last else trainer.estimate.seconds_left
        else:
            last = taken + schedule.steps_left(taken)
            share = schedule.clock.spent / schedule.seconds
            left = max(schedule.seconds - schedule.clock.spent, 0.0)
        return {
            "step": taken,
            "last_step": last,
            "share": min(share, 1.0),
            "seconds_left": left,
            "loss": None if loss is None else float(loss),
            "psnr": None if psnr is None else float(psnr),
            "step_seconds": statistics.median(self._seconds) if self._seconds else None,
            "num_gaussians": trainer.pipeline.model.num_points,
        }


@contextmanager
def phase(progress: ProgressReporter | None, name: Phase) -> Iterator[None]:
    """What happens inside is another phase of the run; None follows no run."""
    if progress is None:
        yield
        return
    before = progress.current.phase
    progress.report(phase=name)
    yield
    progress.report(phase=before)


@contextmanager
def reported_failure(progress: ProgressReporter) -> Iterator[None]:
    """Report that the run has failed, or was stopped, if an error ends what happens inside."""
    try:
        yield
    except BaseException as error:
        if not progress.current.is_over:
            stopped = isinstance(error, KeyboardInterrupt) or (isinstance(error, SystemExit) and error.code in STOPPED)
            says_why = isinstance(error, SystemExit) and isinstance(error.code, str)
            message = error.code if says_why else f"{type(error).__name__}: {error}"
            progress.report(phase="stopped" if stopped else "failed", message="" if stopped else message)
        raise
