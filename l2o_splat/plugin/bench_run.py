"""One run of ``l2o bench`` in a process of its own: a registered method in nerfstudio's own trainer, watched.

``python -m l2o_splat.plugin.bench_run FOLDER/spec.json [--pictures]`` runs what the spec says and writes
``FOLDER/log.jsonl``; ``--describe`` tells what methods a sweep names. Nothing of the training loop is written again
here: clock and evaluation are training callbacks around the trainer's own iterations.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import statistics
import sys
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from nerfstudio.configs.base_config import InstantiateConfig
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackLocation
from nerfstudio.engine.trainer import Trainer, TrainerConfig
from nerfstudio.models.splatfacto import SplatfactoModelConfig

from l2o_splat.bench.clock import RunClock, StepTime, StepTimer
from l2o_splat.bench.memory import PeakMemory
from l2o_splat.bench.pictures import error_map, picture_path, save_picture, shown_views
from l2o_splat.bench.run import Status
from l2o_splat.bench.run_log import LOG_NAME, LogContents, RunLog, read_log
from l2o_splat.bench.spec import RunSpec
from l2o_splat.environment import commit, machine
from l2o_splat.losses import equal_where_masked
from l2o_splat.metrics import Lpips, psnr, ssim
from l2o_splat.plugin.bench_config import describe, run_config
from l2o_splat.plugin.capture_checks import CaptureError
from l2o_splat.plugin.datamanager import photograph_and_mask
from l2o_splat.plugin.trainer import L2OTrainer
from l2o_splat.rendering.trial import draw_trial_image
from l2o_splat.weights import WeightsError

CHECKPOINT_SECONDS = 60.0
"""A killed run loses no more than this (methods whose trainer resumes exactly)."""


class UnavailableError(RuntimeError):
    """The method cannot run on this machine; the message says why."""


def run(spec: RunSpec, folder: Path, pictures: bool) -> None:
    """Run, or go on with, what the spec says; the log ends with how it went."""
    with RunLog(folder / LOG_NAME) as log:
        try:
            Watcher(spec, folder, log, pictures).train()
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            status, reason = explain(error)
            log.write("end", status=status, reason=reason)
        # Also after a failure: from the same checkpoint it would fail again.
        shutil.rmtree(folder / "train", ignore_errors=True)


def explain(error: BaseException) -> tuple[Status, str]:
    """Status and one sentence for a run that an error ended."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    text = " ".join(str(error).split())
    if any(isinstance(cause, (UnavailableError, WeightsError)) for cause in chain):
        return "unavailable", text
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in text:
        return "out_of_memory", text or "out of memory"
    if isinstance(error, EOFError):
        return "failed", (
            "The dataparser asked a question, and nobody is there to answer; answer it once with ns-train (it may "
            "write to the capture's folder, which a benchmark does not)."
        )
    says_why = isinstance(error, SystemExit) and isinstance(error.code, str)
    return "failed", text if says_why else f"{type(error).__name__}: {text}"


class Watcher:
    """Sets a trainer up, and watches its iterations through callbacks: clock, evaluation, checkpoints, pictures."""

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
        self.timer, self.memory = StepTimer(device), PeakMemory(device)
        self.clock = RunClock(started.start["initializer_seconds"], started.steps)
        self.evaluated = set(started.evaluations)
        self.last_save = time.monotonic()

    def _set_up(self, config: TrainerConfig) -> tuple[Trainer, LogContents]:
        """The trainer, ready to begin or to go on, and what the log holds of the steps behind it."""
        resume = self._resumable(config)
        if resume is None:
            shutil.rmtree(config.output_dir, ignore_errors=True)
        else:
            config.load_dir = config.get_checkpoint_dir()
            config.max_num_iterations = self.spec.steps - resume
        # As nerfstudio's own launcher does.
        random.seed(self.spec.seed)
        np.random.seed(self.spec.seed)
        torch.manual_seed(self.spec.seed)
        _leave_out_lpips_of_splatfacto()
        # The pipeline draws the same image; by then its kernels are compiled.
        kernel_seconds = draw_trial_image(config.machine.device_type)
        seconds: dict[str, float] = {}
        _time_setup(config.pipeline.datamanager, "loading", seconds)
        _time_setup(config.pipeline, "all", seconds)
        trainer = config.setup(local_rank=0, world_size=1)
        trainer.setup()
        if resume is None:
            datamanager = trainer.pipeline.datamanager
            self.log.write(
                "start",
                loading_seconds=seconds["loading"],
                initializer_seconds=seconds["all"] - seconds["loading"],
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
        """Steps behind the last checkpoint, if the run can go on from there exactly as if it had never stopped."""
        if not issubclass(config._target, L2OTrainer):
            return None
        checkpoints = sorted(config.get_checkpoint_dir().glob("step-*.ckpt"))
        if not checkpoints:
            return None
        taken = int(checkpoints[-1].stem.removeprefix("step-")) + 1
        return taken if len(read_log(self.folder / LOG_NAME).steps) >= taken else None

    def train(self) -> None:
        """All steps that are left, by the trainer's own loop."""
        trainer = self.trainer
        before, after = TrainingCallbackLocation.BEFORE_TRAIN_ITERATION, TrainingCallbackLocation.AFTER_TRAIN_ITERATION
        # First and last, so that what other callbacks do (densification) is on the clock. Those after training only
        # evaluate again.
        others = [one for one in trainer.callbacks if set(one.where_to_run) & {before, after}]
        trainer.callbacks = [TrainingCallback([before], self.begin), *others, TrainingCallback([after], self.end)]
        self._split_step()
        self.first = True
        if 0 not in self.evaluated:
            self.evaluate(0)
            self.picture("start")
        trainer.train()
        taken = len(self.clock.steps)
        if taken not in self.evaluated and not self.ended:
            self.evaluate(taken)
        self.picture("end")
        self.log.write("end", status="ok", reason="", peak_memory_mib=self.memory.mib)

    def _split_step(self) -> None:
        """Mark on the timer where one part of an iteration ends and the next begins."""
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
            part = timer.part
            timer.mark(None)
            save_checkpoint(*args, **kwargs)
            timer.mark(part)
            self.last_save = time.monotonic()

        self.pipeline.get_train_loss_dict = render_and_loss
        trainer.optimizers.optimizer_scaler_step_some = update
        trainer.save_checkpoint = save_off_the_clock

    def begin(self, step: int) -> None:
        """Before an iteration."""
        self.timer.start("render")

    def end(self, step: int) -> None:
        """After an iteration: note its time, evaluate if it is time, stop if the budget is used up."""
        parts = self.timer.stop()
        self.log.write("step", step=step + 1, seconds=parts, first=self.first)
        self.clock.add(StepTime(parts, self.first))
        self.first = False
        taken, now = len(self.clock.steps), self.clock.now
        if self.spec.seconds is not None and now >= self.spec.seconds:
            self.trainer.stop_training = self.ended = True
            return
        next_step = statistics.median(one.total for one in self.clock.steps[-5:])
        if taken in self.spec.evaluated_steps or any(
            now < second <= now + next_step for second in self.spec.evaluated_seconds
        ):
            self.evaluate(taken)
        if isinstance(self.trainer, L2OTrainer) and time.monotonic() - self.last_save > CHECKPOINT_SECONDS:
            self.trainer.save_checkpoint(step)

    def evaluate(self, taken: int) -> None:
        """Held-out quality, mean over the views that have it, by the same measures for every method.

        Raises:
            CaptureError: when masks leave nothing of the held-out views to measure.
            FloatingPointError: when it is not finite.
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
        """Render, photograph and mask of each held-out view."""
        self.pipeline.eval()
        # Measuring must not move the random numbers that training draws.
        with torch.random.fork_rng(), torch.no_grad(), self.memory.left_out():
            for camera, batch in self.pipeline.datamanager.fixed_indices_eval_dataloader:
                outputs = self.pipeline.model.get_outputs_for_camera(camera)
                rendered = outputs["rgb"].clamp(0, 1)
                photograph, mask = photograph_and_mask(batch, outputs["background"].to(rendered))
                yield rendered, photograph, mask
        self.pipeline.train()

    def picture(self, when: str) -> None:
        """Save some held-out views for the report."""
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


def _time_setup(config: InstantiateConfig, name: str, seconds: dict[str, float]) -> None:
    """Note under ``name`` how long it takes to build what this config builds."""

    def build(target: Callable, built: InstantiateConfig, **kwargs):
        begin = time.perf_counter()
        result = target(built, **kwargs)
        if name == "loading":
            # Images that are cached at their first use are loaded now.
            for split in ("cached_train", "cached_eval"):
                getattr(result, split, None)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds[name] = time.perf_counter() - begin
        return result

    config._target = partial(build, config._target)


def _leave_out_lpips_of_splatfacto() -> None:
    """splatfacto would download a network for LPIPS, which is measured here instead."""
    import torchmetrics.image.lpip

    torchmetrics.image.lpip.LearnedPerceptualImagePatchSimilarity = lambda **_: torch.nn.Identity()


def _end_with(parent: int) -> None:
    """End this process when the one that started it is gone: nobody would read the run, and another may be started."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main(arguments: list[str] | None = None) -> None:
    """Entry point; started by :mod:`l2o_splat.bench.processes`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("spec", type=Path, nargs="?", help="spec.json in the folder of the run")
    parser.add_argument("--pictures", action="store_true", help="save some held-out views")
    parser.add_argument("--describe", metavar="JSON", help="print what the sweep must know")
    options = parser.parse_args(arguments)
    _end_with(os.getppid())
    if options.describe:
        print(json.dumps(describe(json.loads(options.describe))))
    else:
        run(RunSpec.read(options.spec), options.spec.parent, options.pictures)


if __name__ == "__main__":
    main(sys.argv[1:])
