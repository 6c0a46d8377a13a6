"""nerfstudio's trainer, with the device this machine has and checkpoints that are whole or not there."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from nerfstudio.engine.optimizers import Optimizers
from nerfstudio.engine.trainer import Trainer, TrainerConfig
from nerfstudio.utils import writer
from nerfstudio.utils.decorators import check_main_thread
from nerfstudio.utils.rich_utils import CONSOLE

from l2o_splat.budget import BudgetClock
from l2o_splat.budget.clock import CLOCKS, ClockKind
from l2o_splat.devices import wait_for
from l2o_splat.errors import L2OError
from l2o_splat.files import write_text_whole
from l2o_splat.plugin.checkpoints import checkpoint_path, open_checkpoint
from l2o_splat.plugin.compilation import compiling, trials_of_rule
from l2o_splat.plugin.console import quiet_console
from l2o_splat.plugin.errors import one_sentence
from l2o_splat.plugin.large_coordinates import OFFSET
from l2o_splat.plugin.option_checks import check_trainer_options
from l2o_splat.plugin.pipeline import SCHEDULE, SOURCE
from l2o_splat.plugin.run_estimate import RunEstimate, spoken
from l2o_splat.plugin.run_plan import default_seconds, effective_config, resolve
from l2o_splat.plugin.run_progress import StepReports, reported_failure
from l2o_splat.plugin.step_table import StepTable
from l2o_splat.plugin.stop_signals import StopRequest, default_signals, stop_signals
from l2o_splat.plugin.third_party_warnings import silence_third_parties
from l2o_splat.progress import Phase, ProgressReporter
from l2o_splat.schedule.controller import Controller
from l2o_splat.schedule.presets import PresetName, ScheduleConfig
from l2o_splat.schedule.run_schedule import RunSchedule

EFFECTIVE_NAME = "effective.json"
"""File of a run's effective values."""


class CheckpointError(L2OError, OSError):
    """The last checkpoint of a run could not be written."""


@dataclass
class L2OTrainerConfig(TrainerConfig):
    """nerfstudio's, with a budget in seconds or steps that may follow rule and device."""

    _target: type = field(default_factory=lambda: L2OTrainer)
    max_num_iterations: int | None = None
    """Steps of this run. None: with the preset fast as many as fit into the time; else as many as the weights of the
    rule are made for (resplat), 100 for the rule proximal, else 2000."""
    seconds: float | None = None
    """Time budget of the run, start included, and over all of its resumes; imports, compiling, reading the capture and
    evaluating are free. None: with the preset fast one that suits device and photographs, and is printed; else none."""
    clock: ClockKind = "wall"
    """What seconds are: those of the wall, or of the processors (all threads together)."""
    preset: PresetName | None = None
    """plain: one Gaussian per point, photographs at their size. fast: the best picture for the time there is. paper:
    the protocols of the papers, in steps. adc: plain with the density control of 3DGS, a baseline. None: fast for
    adam-own-scale, for learn2splat with our own weights, and for diff3r with seconds, else paper."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """What changes during the run."""

    def print_to_terminal(self) -> None:
        """Nothing: nerfstudio prints 150 lines here, and then saves the same as config.yml and prints its path."""


class L2OTrainer(Trainer):
    """Stock trainer; one joint optimizer steps or skips the scene as a whole.

    Raises:
        SystemExit: For options that do not go together, or would change the loss scale or split a step.
    """

    def __init__(self, config: TrainerConfig, local_rank: int = 0, world_size: int = 1) -> None:
        if not isinstance(config, L2OTrainerConfig):
            # Saved by a version whose methods had nerfstudio's own config.
            config = L2OTrainerConfig(**vars(config))
        self.progress = ProgressReporter(config.get_base_dir())
        """Tells other programs how far the run is."""
        self._reports = StepReports(self)
        silence_third_parties()
        self.run_schedule: RunSchedule | None = None
        """What the run does when; None before the capture is read."""
        self.completed_step: int | None = None
        """The last step that this process has taken as a whole; None before the first."""
        with reported_failure(self.progress), _one_sentence():
            check_trainer_options(config)
            path = _checkpoint_to_load(config)
            self._loaded = None if path is None else open_checkpoint(path)["pipeline"].get("_extra_state", {})
            self.plan = resolve(config, None if self._loaded is None else self._loaded.get(SCHEDULE, {}))
        self.progress.report(rule=", then ".join(self.plan.rules))
        with quiet_console():
            super().__init__(effective_config(config, self.plan), local_rank, world_size)
        self._stop_request = StopRequest()

    def setup(self, test_mode="val") -> None:
        trials = trials_of_rule(self.plan.cards, self.plan.needs)
        with quiet_console(), reported_failure(self.progress), _one_sentence(), compiling(self.device, trials):
            super().setup(test_mode)
            self.optimizers.optimizers["gaussians"].check_scene()
            if self.pipeline.saved_schedule is not None:
                self.run_schedule.load(self.pipeline.saved_schedule, self._start_step, self.plan.num_steps or 1)
            self.run_schedule.begin(self._start_step)
        if self.config.logging.local_writer.enable and isinstance(writer.EVENT_WRITERS[-1], StepTable):
            self.progress.listeners.append(writer.EVENT_WRITERS[-1].show)
        self.estimate = self._new_estimate()
        if self.plan.num_steps is not None:
            last = self._start_step + self.plan.num_steps
            if self.plan.horizon is not None and last != self.plan.horizon:
                CONSOLE.log(
                    f"Decaying rates reach their end at step {self.plan.horizon}, this run ends at step {last}; "
                    "--optimizers.gaussians.optimizer.horizon sets the former."
                )
        self._publish_plan()

    def _new_estimate(self) -> RunEstimate:
        """The estimate of the time of this run, which is notified when the update of the scene begins and ends."""
        optimizer = self.optimizers.optimizers["gaussians"]
        # With a time budget there is nothing to estimate.
        steps = range(optimizer.inner_step, optimizer.inner_step + (self.plan.num_steps or 0))
        estimate = RunEstimate([optimizer.rule.work_at(step) for step in steps], CONSOLE.log)

        on_cpu = torch.device(self.device).type == "cpu"

        def begins(*_) -> None:
            if on_cpu or estimate.is_young:
                wait_for(self.device)
                estimate.rule_begins()

        def ends(*_) -> None:
            if on_cpu or estimate.is_young:
                estimate.rule_ends()

        optimizer.register_step_pre_hook(begins)
        optimizer.register_step_post_hook(ends)
        return estimate

    def _publish_plan(self) -> None:
        """Print the effective values of the run, and save them beside ``config.yml``."""
        seconds = self.run_schedule.seconds
        budget = f"{self.plan.num_steps} steps" if seconds is None else spoken(seconds)
        values = self.plan.describe() | {
            "seconds": seconds,
            "clock": self.config.clock,
            "num_gaussians": self.pipeline.model.num_points,
            "raster": asdict(self.pipeline.model.raster_settings()),
        }
        offset = self.pipeline.datamanager.train_dataparser_outputs.metadata.get(OFFSET)
        if offset is not None:
            values[OFFSET] = offset
        # Those of the start have been told with it.
        told = None if self.plan.start_weights is None else Path(self.plan.start_weights).name
        cards = [card for card in self.plan.cards if card.name != told]
        weights = "".join(f" with weights {card.announcement}" for card in cards)
        CONSOLE.log(
            f"{budget} of {', then '.join(self.plan.rules)}{weights}, preset {self.plan.preset}; {EFFECTIVE_NAME} "
            "beside config.yml holds all effective values."
        )
        self.base_dir.mkdir(parents=True, exist_ok=True)
        text = json.dumps(values, indent=2) + "\n"
        write_text_whole(self.base_dir / EFFECTIVE_NAME, text)

    def setup_optimizers(self) -> Optimizers:
        """The joint optimizer, bound to the scene before a checkpoint is loaded into it."""
        self.run_schedule = self.pipeline.schedule = self._new_schedule()
        resumes = self._loaded is not None
        if resumes:
            # Before anything long, and before rule and start see the cameras.
            self.pipeline.follow(self._loaded)
            began_from = self._loaded.get(SCHEDULE, {}).get(SOURCE)
            if self.plan.guards_start and began_from not in (None, self.plan.source):
                self.plan = self.plan.without_prediction(began_from)
        self.progress.report(phase="starting")
        self.pipeline.progress = self.progress
        with self.run_schedule.clock.counting():
            self.plan = self.pipeline.start_scene(self.plan, resumes)
        self.progress.report(num_gaussians=self.pipeline.model.num_points, rule=", then ".join(self.plan.rules))
        optimizers = super().setup_optimizers()
        self.pipeline.bind(optimizers.optimizers["gaussians"])
        return optimizers

    def _new_schedule(self) -> RunSchedule:
        """The schedule of a run that begins; a checkpoint may change it."""
        seconds = self.plan.seconds
        if seconds == "auto":
            pixels = self.pipeline.datamanager.mean_pixels
            seconds = default_seconds(self.device, pixels)
            CONSOLE.log(
                f"This run takes {spoken(seconds)}, start included, for photographs of {pixels / 1e6:.1g} megapixels "
                f"on {self.device.split(':')[0]}; --seconds sets another time, --max-num-iterations a number of steps."
            )
        steps = self.config.optimizers["gaussians"]["optimizer"].horizon or self.plan.num_steps
        clock = BudgetClock(now=CLOCKS[self.config.clock])
        controller = None if self.plan.controller is None else Controller.from_weights(self.plan.controller)
        return RunSchedule(self.plan.schedule, seconds, steps or 1, clock, self.plan.fixed_steps, controller)

    @property
    def training_state(self) -> str:
        """nerfstudio's; the clock stands still while it is ``paused``."""
        return self._training_state

    @training_state.setter
    def training_state(self, state: str) -> None:
        self._training_state = state
        if self.completed_step is not None and self.run_schedule is not None:
            clock = self.run_schedule.clock
            clock.start() if state == "training" else clock.stop()
            if state != "completed":
                self.progress.report(phase=state)

    def train(self) -> None:
        """Train to the end, or until Ctrl-C or SIGTERM; a second one of them ends the process at once.

        Raises:
            SystemExit: With 130 after Ctrl-C and 143 after SIGTERM; the last whole step is saved.
        """

        def stop() -> None:
            self.stop_training = True

        with (
            reported_failure(self.progress),
            one_sentence(),
            stop_signals(stop) as self._stop_request,
            self.run_schedule.clock.counting(),
        ):
            super().train()
        if self._stop_request.number is not None:
            raise SystemExit(self._stop_request.exit_code)

    def _after_train(self) -> None:
        """Save the last step that was taken; nerfstudio would save the one that it was about to take."""
        self.run_schedule.clock.stop()
        if self.completed_step is not None:
            self.step = self.completed_step
            self.progress.report(phase="saving", **self._reports.after(self.step))
        if self._stop_request.number is None:
            super()._after_train()
            self._report_end("finished")
            return
        name = self._stop_request.number.name
        self.training_state = "completed"
        if self.completed_step is None:
            self._report_end("stopped")
            CONSOLE.log(f"Stopped by {name} before the first step; there is nothing to save.")
            return
        self.save_checkpoint(self.step)
        writer.write_out_storage()
        self._report_end("stopped")
        CONSOLE.log(f"Stopped by {name} after step {self.step}, which is saved in {self.checkpoint_dir}; {self._rest}.")

    def _report_end(self, phase: Phase) -> None:
        if not self.progress.current.is_over:
            done = {"share": 1.0, "seconds_left": 0.0} if phase == "finished" else {}
            self.progress.report(phase=phase, **done)

    @property
    def _rest(self) -> str:
        """How to go on with a run that was stopped, in words."""
        if self.plan.num_steps is None:
            seconds = self.run_schedule.seconds
            left = seconds - self.run_schedule.clock.spent
            if left <= 0:
                return "no time is left"
            goes_on = f"--load-dir {self.checkpoint_dir} --seconds {seconds:g} takes the {spoken(left)} that are left"
        else:
            left = self._start_step + self.plan.num_steps - self.step - 1
            if left == 0:
                return "no steps are left"
            goes_on = (
                f"--load-dir {self.checkpoint_dir} --max-num-iterations {left} takes the {left} steps that are left"
            )
        return f"the same command with {goes_on}"

    def _train_complete_viewer(self) -> None:
        """Wait for Ctrl-C beside the viewer, which ends the process as nerfstudio has it."""
        if self._stop_request.number is not None:
            return
        self._report_end("finished")
        with default_signals():
            super()._train_complete_viewer()

    def eval_iteration(self, step: int) -> None:
        with self.estimate.left_out(), self.run_schedule.clock.left_out():
            super().eval_iteration(step)
            if self.run_schedule.next_evaluation():
                measures = self.pipeline.get_average_eval_image_metrics(step=step)
                writer.put_dict(name="Eval Images Metrics Dict (all images)", scalar_dict=measures, step=step)

    def train_iteration(self, step: int):
        kind, begin = self.optimizers.optimizers["gaussians"].feedback_kind, time.perf_counter()
        self.estimate.begin()
        with self._reports.timed():
            loss, losses, metrics = super().train_iteration(step)
        self.completed_step = step
        self.estimate.end_step()
        self.run_schedule.end_step(step)
        self._reports.step_done(step, metrics)
        if self._stop_request.number is not None:
            self.stop_training = True  # The signal came before nerfstudio's loop had set it to False.
        if step == self._start_step and kind == "renders":
            # No trial tells the time of such a step beforehand.
            CONSOLE.log(
                f"An update takes {time.perf_counter() - begin:.2f} s for {self.pipeline.model.num_points} Gaussians "
                "on this machine."
            )
        # From the first step on a killed run leaves something to go on from. Right after a resume the pace stays as it
        # is, since the run that was not stopped would not revise it there.
        if step == 0 or self.run_schedule.checkpoint_is_due:
            self.save_checkpoint(step)
        elif step == self._start_step:
            self._save_as_it_is(step)
        if self.run_schedule.is_over:
            self.stop_training = True
        # Without the graph, which would keep the present number of Gaussians in the next step's backward pass.
        return loss.detach(), {name: value.detach() for name, value in losses.items()}, metrics

    @check_main_thread
    def save_checkpoint(self, step: int) -> None:
        """Revise the pace and save it with the scene."""
        if self.training_state != "completed":
            self.run_schedule.revise(step + 1)
            self._tell_steps(step + 1)
        self._save_as_it_is(step)

    def _save_as_it_is(self, step: int) -> None:
        """Save off the clock of the estimate, see :meth:`_save_whole`."""
        begin = self.run_schedule.clock.spent
        with self.estimate.left_out():
            self._save_whole(step)
        self.run_schedule.saved(self.run_schedule.clock.spent - begin)

    def _tell_steps(self, step: int) -> None:
        """Let nerfstudio's table know how many steps fit into the time."""
        left = self.run_schedule.steps_left(step)
        if left is not None and writer.is_initialized():
            writer.GLOBAL_BUFFER["max_iter"] = step + left

    def _save_whole(self, step: int) -> None:
        """Write beside the checkpoints, then move into place, so that a kill at any moment leaves a whole one.

        Where the write fails (a full disk), the last good checkpoint stays and training goes on.

        Raises:
            CheckpointError: when it fails at the end of training.
        """
        final_dir = self.checkpoint_dir
        # Not inside final_dir: nerfstudio takes every file there for a checkpoint.
        staging_dir = final_dir.parent / ".checkpoint-being-written"
        shutil.rmtree(staging_dir, ignore_errors=True)
        was_training = self.pipeline.training
        # What is saved is what evaluation shows.
        self.pipeline.eval()
        self.pipeline.measure_uncertainty()
        self.checkpoint_dir = staging_dir
        try:
            super().save_checkpoint(step)
            (staged,) = staging_dir.iterdir()
            with staged.open("rb") as file:
                os.fsync(file.fileno())
            final_dir.mkdir(parents=True, exist_ok=True)
            os.replace(staged, final_dir / staged.name)
        except (OSError, RuntimeError) as error:
            self._report_failed_save(step, final_dir, error)
            return
        finally:
            self.pipeline.train(was_training)
            self.checkpoint_dir = final_dir
            shutil.rmtree(staging_dir, ignore_errors=True)
        if self.config.save_only_latest_checkpoint:
            for older in set(final_dir.glob("*.ckpt")) - {final_dir / staged.name}:
                older.unlink()

    def _report_failed_save(self, step: int, final_dir: Path, error: Exception) -> None:
        kept = max((path.name for path in final_dir.glob("*.ckpt")), default="none yet")
        free = shutil.disk_usage(final_dir if final_dir.exists() else final_dir.parent).free / 2**20
        message = (
            f"The checkpoint of step {step} could not be saved to {final_dir} ({error}; {free:.0f} MiB free); the last "
            f"good one is {kept}: free some space or choose another --output-dir."
        )
        if self.training_state == "completed":
            raise CheckpointError(message) from error
        CONSOLE.log(f"[bold yellow]{message} Training goes on.")


def _checkpoint_to_load(config: TrainerConfig) -> Path | None:
    """The file that nerfstudio will load, or None.

    Raises:
        BrokenCheckpointError: If there is none in the folder that was named.
    """
    if config.load_dir is not None:
        return checkpoint_path(config.load_dir, config.load_step)
    return config.load_checkpoint


@contextmanager
def _one_sentence() -> Iterator[None]:
    """Expected errors, and Ctrl-C, in one sentence; a stack trace would bury it."""
    try:
        with one_sentence():
            yield
    except KeyboardInterrupt:
        # nerfstudio would print a stack trace and report success.
        CONSOLE.log("Stopped by SIGINT before the first step; nothing was saved.")
        raise SystemExit(StopRequest(signal.SIGINT).exit_code) from None
