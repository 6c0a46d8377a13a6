"""One measured run: a registered method in nerfstudio's own trainer, with callbacks around its iterations.

Nothing of the training loop is rewritten here. Clock, evaluation, checkpoints and pictures are callbacks around the
iterations of the trainer.
"""

from __future__ import annotations

import math
import random
import shutil
import statistics
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackLocation
from nerfstudio.engine.trainer import Trainer, TrainerConfig
from nerfstudio.models.splatfacto import SplatfactoModelConfig

from l2o_splat.bench.clock import RunClock, StepTime
from l2o_splat.bench.memory import PeakMemory
from l2o_splat.bench.pictures import error_map, picture_path, save_picture, shown_views
from l2o_splat.bench.run_log import LOG_NAME, LogContents, RunLog, read_log
from l2o_splat.bench.spec import RunSpec
from l2o_splat.bench.step_timer import StepTimer
from l2o_splat.budget.clock import CLOCKS
from l2o_splat.environment import commit, machine
from l2o_splat.errors import L2OError
from l2o_splat.losses import equal_where_masked
from l2o_splat.metrics import Lpips, psnr, ssim
from l2o_splat.plugin.bench.config import run_config
from l2o_splat.plugin.bench.setup_clock import SetupClock
from l2o_splat.plugin.capture_checks import CaptureError
from l2o_splat.plugin.photographs import photograph_and_mask
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
        self.lpips = Lpips()
        self.ended = False
        config = run_config(spec, folder)
        if isinstance(config.pipeline.model, SplatfactoModelConfig) and not torch.cuda.is_available():
            raise UnavailableError(
                f"{spec.method} needs a CUDA device for gsplat's rasterizer, and this machine has none."
            )
        self.trainer, started = self._set_up(config)
        self.pipeline = self.trainer.pipeline
        device = self.trainer.device
        self.timer, self.memory = StepTimer(device, CLOCKS[spec.clock]), PeakMemory(device)
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
        clock = SetupClock(config, CLOCKS[self.spec.clock])
        trainer = config.setup(local_rank=0, world_size=1)
        trainer.setup()
        if resume is None:
            datamanager = trainer.pipeline.datamanager
            self.log.write(
                "start",
                loading_seconds=clock.loading_seconds,
                initializer_seconds=_initializer_seconds(trainer, clock),
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
            save_checkpoint(*args, **kwargs)
            timer.mark(part)
            self.last_save = time.monotonic()

        self.pipeline.get_train_loss_dict = render_and_loss
        trainer.optimizers.optimizer_scaler_step_some = update
        trainer.save_checkpoint = save_off_the_clock

    def begin(self, step: int) -> None:
        """Start the timer; called before an iteration."""
        self.timer.start("render")

    def end(self, step: int) -> None:
        """Log the time of an iteration, evaluate if it is due, stop if the budget is used up; called after it."""
        parts = self.timer.stop()
        self.log.write("step", step=step + 1, seconds=parts, first=self.first)
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
        """Measure and log held-out quality, mean over the views that have it, by the same code for every method.

        Raises:
            CaptureError: If masks leave nothing of the held-out views to measure.
            FloatingPointError: If it is not finite.
        """
        measures = {"psnr": psnr, "ssim": ssim, "lpips": self.lpips}
        measured: dict[str, list[float]] = {name: [] for name in measures}
        for view in self._held_out():
            for name, measure in measures.items():
                if (value := measure(*view)) is not None:
                    measured[name].append(value)
        quality = {name: statistics.fmean(values) if values else None for name, values in measured.items()}
        if quality["psnr"] is None:
            raise CaptureError(
                "Every pixel of the held-out views is masked, so there is no quality to measure; check the masks "
                "(white counts, black does not), or hold other views out."
            )
        broken = [name for name, value in quality.items() if value is not None and not math.isfinite(value)]
        if broken:
            raise FloatingPointError(f"After {taken} steps the held-out {broken[0].upper()} is not a finite number.")
        num_gaussians = getattr(self.pipeline.model, "num_points", None)
        self.log.write("evaluation", step=taken, num_gaussians=num_gaussians, **quality)
        self.evaluated.add(taken)

    def _held_out(self):
        """Yield render, photograph and mask of each held-out view."""
        self.pipeline.eval()
        # Measuring must not change the random numbers that training draws, and is not on the clock.
        clock = self.trainer.run_schedule.clock.left_out() if has_budget(self.trainer) else nullcontext()
        with clock, torch.random.fork_rng(), torch.no_grad(), self.memory.left_out():
            for camera, batch in self.pipeline.datamanager.fixed_indices_eval_dataloader:
                outputs = self.pipeline.model.get_outputs_for_camera(camera)
                rendered = outputs["rgb"].clamp(0, 1)
                photograph, mask = photograph_and_mask(batch, outputs["background"].to(rendered))
                yield rendered, photograph, mask
        self.pipeline.train()

    def picture(self, when: str) -> None:
        """Save some held-out views for the report; ``when`` is ``start`` or ``end``."""
        if not self.pictures:
            return
        views = [[None if image is None else image.cpu() for image in view] for view in self._held_out()]
        names = [path.stem for path in self.pipeline.datamanager.eval_dataset.image_filenames]
        for index in shown_views(len(views)):
            rendered, photograph, mask = views[index]
            view = f"{index:03d}-{names[index]}"
            save_picture(picture_path(self.folder, view, when), rendered.numpy())
            if when == "end":
                save_picture(picture_path(self.folder, view, "photograph"), photograph.numpy())
                compared = (image.numpy() for image in equal_where_masked(rendered, photograph, mask))
                save_picture(picture_path(self.folder, view, "error"), error_map(*compared))


def has_budget(trainer: Trainer) -> bool:
    """Whether a run plans its time by itself, and ends when it is up."""
    return isinstance(trainer, L2OTrainer) and trainer.run_schedule.seconds is not None


def _initializer_seconds(trainer: Trainer, clock: SetupClock) -> float:
    return trainer.run_schedule.clock.spent if has_budget(trainer) else clock.initializer_seconds


def _leave_out_lpips_of_splatfacto() -> None:
    """Keep splatfacto from downloading a network for LPIPS, which is measured here instead."""
    import torchmetrics.image.lpip

    torchmetrics.image.lpip.LearnedPerceptualImagePatchSimilarity = lambda **_: torch.nn.Identity()
