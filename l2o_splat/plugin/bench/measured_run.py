"""One measured run: a registered method in nerfstudio's own trainer, with callbacks around its iterations.

Nothing of the training loop is rewritten here. Clock, evaluation, checkpoints and pictures are callbacks around the
iterations of the trainer.
"""

from __future__ import annotations

import random
import shutil
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import torch
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackLocation
from nerfstudio.engine.trainer import Trainer, TrainerConfig
from nerfstudio.models.splatfacto import SplatfactoModelConfig

from l2o_splat.bench.clock import RunClock, StepTime
from l2o_splat.bench.memory import PeakMemory
from l2o_splat.bench.run_log import LOG_NAME, LogContents, RunLog, read_log
from l2o_splat.bench.spec import RunSpec
from l2o_splat.bench.step_timer import StepTimer
from l2o_splat.budget.clock import CLOCKS, BudgetClock, other_clock
from l2o_splat.environment import commit, machine
from l2o_splat.errors import L2OError
from l2o_splat.plugin.bench.config import run_config
from l2o_splat.plugin.bench.held_out import HeldOutViews
from l2o_splat.plugin.bench.setup_clock import SetupClock
from l2o_splat.plugin.trainer import L2OTrainer
from l2o_splat.rendering.trial import draw_trial_image

CHECKPOINT_SECONDS = 60.0
"""A killed run loses at most this much work, if its trainer resumes exactly."""


class UnavailableError(L2OError, RuntimeError):
    """The method cannot run on this machine; the message says why."""


class MeasuredRun:
    """A trainer, set up for a spec, whose iterations are timed and evaluated.

    Args:
        spec: What to run.
        folder: Folder of the run: checkpoints and pictures.
        log: Log of the run, to write to.
        pictures: Save some held-out views.

    Raises:
        UnavailableError: If the method cannot run on this machine.
    """

    def __init__(self, spec: RunSpec, folder: Path, log: RunLog, pictures: bool) -> None:
        self.spec = spec
        self.folder = folder
        self.log = log
        self.pictures = pictures
        self.ended = False
        config = run_config(spec, folder)
        if spec.clock == "processor" and torch.cuda.is_available():
            raise UnavailableError(
                "The processors wait while a GPU works, so --clock processor cannot judge a run there; use --clock "
                "wall."
            )
        if isinstance(config.pipeline.model, SplatfactoModelConfig) and not torch.cuda.is_available():
            raise UnavailableError(
                f"{spec.method} needs a CUDA device for gsplat's rasterizer, and this machine has none."
            )
        self.trainer, started = self._set_up(config)
        self.pipeline = self.trainer.pipeline
        device = self.trainer.device
        self.timer, self.memory = StepTimer(device, CLOCKS[spec.clock]), PeakMemory(device)
        self.other_clock = BudgetClock(now=CLOCKS[other_clock(spec.clock)])
        self.held_out = HeldOutViews(self.pipeline, self._off_the_clock)
        self.clock = RunClock(started.start["initializer_seconds"], started.steps)
        self.evaluated = set(started.evaluations)
        self.last_save = time.monotonic()

    def _set_up(self, config: TrainerConfig) -> tuple[Trainer, LogContents]:
        """Return the trainer, ready to begin or to resume, and what the log holds of the steps already taken."""
        resume = self._resumable(config)
        if resume is None:
            shutil.rmtree(config.output_dir, ignore_errors=True)
        else:
            config.load_dir = config.get_checkpoint_dir()
            if self.spec.steps is not None:
                config.max_num_iterations = self.spec.steps - resume
        # nerfstudio's own launcher seeds these three too.
        random.seed(self.spec.seed)
        np.random.seed(self.spec.seed)
        torch.manual_seed(self.spec.seed)
        _leave_out_lpips_of_splatfacto()
        # The pipeline draws the same image; compiling its kernels now keeps that off the initializer's clock.
        kernel_seconds = draw_trial_image(config.machine.device_type)
        clock, other = (SetupClock(config, CLOCKS[kind]) for kind in (self.spec.clock, other_clock(self.spec.clock)))
        trainer = config.setup(local_rank=0, world_size=1)
        trainer.setup()
        if resume is None:
            datamanager = trainer.pipeline.datamanager
            self.log.write(
                "start",
                loading_seconds=clock.loading_seconds,
                initializer_seconds=_initializer_seconds(trainer, clock),
                other_initializer_seconds=_initializer_seconds(trainer, other),
                kernel_seconds=kernel_seconds,
                training_views=len(datamanager.train_dataset),
                held_out_views=len(datamanager.eval_dataset),
                machine=machine(),
                commit=commit(),
            )
        else:
            self.log.write("resume", step=resume)
        return trainer, read_log(self.folder / LOG_NAME)

    def _resumable(self, config: TrainerConfig) -> int | None:
        """Return the number of steps of the last checkpoint, if the run resumes from it exactly; else None."""
        if not issubclass(config._target, L2OTrainer):
            return None
        checkpoints = sorted(config.get_checkpoint_dir().glob("step-*.ckpt"))
        if not checkpoints:
            return None
        taken = int(checkpoints[-1].stem.removeprefix("step-")) + 1
        return taken if len(read_log(self.folder / LOG_NAME).steps) >= taken else None

    def train(self) -> None:
        """Take all remaining steps in the trainer's own loop, evaluate, and log the end."""
        trainer = self.trainer
        before, after = TrainingCallbackLocation.BEFORE_TRAIN_ITERATION, TrainingCallbackLocation.AFTER_TRAIN_ITERATION
        # Ours come first and last, so that the work of the others (densification) is on the clock. Callbacks after
        # training are left out, because they only evaluate again.
        others = [one for one in trainer.callbacks if set(one.where_to_run) & {before, after}]
        trainer.callbacks = [TrainingCallback([before], self.begin), *others, TrainingCallback([after], self.end)]
        self._split_step()
        self.first = True
        if 0 not in self.evaluated:
            self.evaluate(0)
            self.picture("start")
        # A run that was killed after its last step has none left, and nerfstudio cannot train for 0 steps.
        if self.spec.steps is None or len(self.clock.steps) < self.spec.steps:
            trainer.train()
        taken = len(self.clock.steps)
        if taken not in self.evaluated and not self.ended:
            self.evaluate(taken)
        self.picture("end")
        self.log.write("end", status="ok", reason="", peak_memory_mib=self.memory.mib)

    def _split_step(self) -> None:
        """Let the trainer mark on the timer where one part of an iteration ends and the next begins."""
        trainer, timer = self.trainer, self.timer
        get_loss, step_optimizers = self.pipeline.get_train_loss_dict, trainer.optimizers.optimizer_scaler_step_some
        save_checkpoint = trainer.save_checkpoint

        def render_and_loss(*args, **kwargs):
            result = get_loss(*args, **kwargs)
            timer.mark("backward")
            return result

        def update(*args, **kwargs):
            timer.mark("update")
            return step_optimizers(*args, **kwargs)

        def save_off_the_clock(*args, **kwargs):
            if has_budget(trainer):
                # A run with a time budget pays for its checkpoints.
                save_checkpoint(*args, **kwargs)
                self.last_save = time.monotonic()
                return
            part = timer.part
            timer.mark(None)
            with self.other_clock.left_out():
                save_checkpoint(*args, **kwargs)
            timer.mark(part)
            self.last_save = time.monotonic()

        self.pipeline.get_train_loss_dict = render_and_loss
        trainer.optimizers.optimizer_scaler_step_some = update
        trainer.save_checkpoint = save_off_the_clock

    def begin(self, step: int) -> None:
        """Start the timer; called before an iteration."""
        self.timer.start("render")
        self.other_began = self.other_clock.spent
        self.other_clock.start()

    def end(self, step: int) -> None:
        """Log the time of an iteration, evaluate if it is due, stop if the budget is used up; called after it."""
        parts = self.timer.stop()
        self.other_clock.stop()
        other = self.other_clock.spent - self.other_began
        self.log.write("step", step=step + 1, seconds=parts, other_seconds=other, first=self.first)
        self.clock.add(StepTime(parts, self.first))
        self.first = False
        taken, now = len(self.clock.steps), self.clock.now
        if self.spec.seconds is not None and now >= self.spec.seconds:
            self.trainer.stop_training = True
            if not has_budget(self.trainer):
                self.ended = True
                return
        next_step = statistics.median(one.total for one in self.clock.steps[-5:])
        if taken in self.spec.evaluated_steps or any(
            now < second <= now + next_step for second in self.spec.evaluated_seconds
        ):
            self.evaluate(taken)
        if isinstance(self.trainer, L2OTrainer) and time.monotonic() - self.last_save > CHECKPOINT_SECONDS:
            self.trainer.save_checkpoint(step)

    def evaluate(self, taken: int) -> None:
        """Measure and log held-out quality, see :meth:`HeldOutViews.measure`."""
        self.log.write("evaluation", **self.held_out.measure(taken))
        self.evaluated.add(taken)

    @contextmanager
    def _off_the_clock(self) -> Iterator[None]:
        clock = self.trainer.run_schedule.clock.left_out() if has_budget(self.trainer) else nullcontext()
        with clock, self.memory.left_out():
            yield

    def picture(self, when: str) -> None:
        """Save some held-out views for the report; ``when`` is ``start`` or ``end``."""
        if self.pictures:
            self.held_out.save_pictures(self.folder, when)


def has_budget(trainer: Trainer) -> bool:
    """Whether a run plans its time by itself, and ends when it is up."""
    return isinstance(trainer, L2OTrainer) and trainer.run_schedule.seconds is not None


def _initializer_seconds(trainer: Trainer, clock: SetupClock) -> float:
    """A time budget counts the start alone, without the construction of the pipeline."""
    return clock.seconds["start"] if has_budget(trainer) else clock.initializer_seconds


def _leave_out_lpips_of_splatfacto() -> None:
    """Keep splatfacto from downloading a network for LPIPS, which is measured here instead."""
    import torchmetrics.image.lpip

    torchmetrics.image.lpip.LearnedPerceptualImagePatchSimilarity = lambda **_: torch.nn.Identity()
