"""The loop around the iterations of every training: weights, running average, evaluations, states, signals."""

from __future__ import annotations

import json
import math
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from l2o_splat.nets.recompute import recomputing
from l2o_splat.training.errors import TrainingError
from l2o_splat.training.objective import Objective
from l2o_splat.training.options import OuterOptions, Schedule
from l2o_splat.training.saved_state import ResumeError, latest_state, load_state, save_state, with_defaults
from l2o_splat.training.statistics import IterationReport, StepStatistics

MAX_UNUSABLE = 50
"""After so many captures in a row that no step could use, the training ends."""

_FREE = {"activation_checkpointing"}
"""Options that may change when a run goes on."""
_STATEFUL = ("network", "average", "optimizer", "scheduler")


class OuterLoop(ABC):
    """Base class of trainers. On the CPU the weights do not depend on how often a run was stopped and resumed.

    Args:
        fabric: Lightning Fabric, launched: devices, processes, reductions.
        network: Trained in place, on the device; parameters that require no gradient stay as they are.
        options: Options of the training.
        schedule: When to evaluate and save.
        folder: Folder of the run.
    """

    def __init__(
        self, fabric: Any, network: nn.Module, options: OuterOptions, schedule: Schedule, folder: Path
    ) -> None:
        self.fabric, self.network, self.options = fabric, network, options
        self.schedule, self.folder = schedule, folder
        self.objective: Objective | None = None
        """Error of rendered views, if the training has one."""
        rates = self.learning_rates()
        groups = [
            {"params": [parameter for parameter in network.parameters() if rates.get(parameter) == rate], "lr": rate}
            for rate in dict.fromkeys(rates.values())
        ]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=options.weight_decay)
        self.scheduler = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer,
            [group["lr"] for group in groups],
            total_steps=options.iterations + 10,
            pct_start=options.warm_up,
            cycle_momentum=False,
        )
        self.average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(options.averaging))
        self.iteration = 0
        """Iterations done."""
        self.seconds = 0.0
        """Time spent in iterations, without evaluations."""
        self.best = -math.inf
        """Highest PSNR (dB) on the validation captures so far."""
        self.stopping = False
        self.unusable = 0
        """Captures that no step of this process could use so far."""
        self.reason = ""
        """Why the last of them could not be used."""
        self._unusable_in_row = 0

    @abstractmethod
    def captures(self) -> AbstractContextManager[Any]:
        """Captures for the iterations from the present one on."""

    @abstractmethod
    def iterate(self, captures: Any) -> StepStatistics:
        """One iteration, which ends with :meth:`step` or :meth:`skip`."""

    @abstractmethod
    def evaluate(self) -> dict[str, float]:
        """Quality of the averaged weights by name; the weights with the highest ``psnr`` are the best ones."""

    @abstractmethod
    def dependencies(self) -> dict[str, Any]:
        """Everything that the weights depend on besides ``options``, as plain data."""

    def learning_rates(self) -> dict[nn.Parameter, float]:
        """The highest rate of each trained parameter; those with the same rate are one group of the optimizer."""
        trained = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        return dict.fromkeys(trained, self.options.learning_rate)

    def migrated_options(self, saved: dict[str, Any]) -> dict[str, Any]:
        """Options of a state that an earlier version saved, under their present names."""
        return saved

    def plain_options(self) -> dict[str, Any]:
        """Everything that the weights depend on as JSON has it, to compare with a saved state and to record."""
        options = asdict(self.options) | self.dependencies()
        # LPIPS has one network, and states from before there was a choice do not name it.
        if self.objective is not None and self.objective.perceptual != "lpips":
            options["perceptual_network"] = self.objective.perceptual_used
        return _plain(options)

    def own_state(self) -> dict[str, Any]:
        """What this process saves besides what all processes share."""
        return {}

    def restore_own(self, own: dict[str, Any]) -> None:  # noqa: B027 - nothing to restore by default
        """Restore what :meth:`own_state` returned."""

    def run(self, report: Callable[[Any, IterationReport], None]) -> None:
        """Train to the end, or until SIGTERM or SIGINT asks to save and stop.

        Args:
            report: Called with this loop and a report after every iteration.

        Raises:
            ResumeError: If the saved state in the folder does not fit this run.
            TrainingError: If no process could use any of its last ``MAX_UNUSABLE`` captures.
        """
        self._resume()
        with self.captures() as captures, self._stop_signals():
            while self.iteration < self.options.iterations and not self.stopping:
                start = time.perf_counter()
                with recomputing(self.options.activation_checkpointing):
                    statistics = self.iterate(captures)
                self._check_usable()
                self.iteration += 1
                self.seconds += time.perf_counter() - start
                done = self.iteration == self.options.iterations
                evaluates = done or self.iteration % self.schedule.evaluate_every == 0
                report(self, IterationReport(statistics, self.evaluate() if evaluates else None))
                self.stopping = bool(self.fabric.all_reduce(torch.tensor(float(self.stopping)), reduce_op="sum"))
                if done or self.stopping or self.iteration % self.schedule.save_every == 0:
                    self.save()

    def average_gradients(self) -> None:
        """Average the gradients over processes; a parameter that no scene of any of them reached keeps none."""
        if self.fabric.world_size == 1:
            return
        trained = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        reached = torch.tensor([float(parameter.grad is not None) for parameter in trained])
        for parameter, anywhere in zip(trained, self.fabric.all_reduce(reached, reduce_op="sum").tolist(), strict=True):
            if anywhere:
                own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                parameter.grad = self.fabric.all_reduce(own, reduce_op="mean")

    def step(self) -> float:
        """Clip the gradient, move the weights by it and the rate along its cycle.

        A gradient that is not finite moves the rate alone.

        Returns:
            Norm of the gradient before it was clipped.
        """
        norm = float(nn.utils.clip_grad_norm_(self.network.parameters(), self.options.clip_norm))
        if math.isfinite(norm):
            self.optimizer.step()
            self.average.update_parameters(self.network)
        self.scheduler.step()
        return norm

    def skip(self) -> None:
        """Move the rate along its cycle and leave the weights alone: the iteration has no gradient."""
        self.scheduler.step()

    def use(self) -> None:
        """Note that a step was made from a capture."""
        self._unusable_in_row = 0

    def leave_out(self, reason: str) -> None:
        """Note that no step could be made from a capture, and why."""
        self.unusable += 1
        self.reason = reason
        self._unusable_in_row += 1

    def _check_usable(self) -> None:
        # All processes end together; one that ended alone would leave the others waiting.
        fewest = self.fabric.all_reduce(torch.tensor(float(self._unusable_in_row)), reduce_op="min")
        if fewest >= MAX_UNUSABLE:
            raise TrainingError(
                f"None of the last {self._unusable_in_row} captures could be used. The last one: {self.reason} Change "
                "the captures, or the options that choose views and points from them."
            )

    def save(self) -> None:
        """Save the state of the training; it appears as a whole or not at all."""
        shared = {
            "options": self.plain_options(),
            "iteration": self.iteration,
            "seconds": self.seconds,
            "best": self.best,
        } | {name: getattr(self, name).state_dict() for name in _STATEFUL}
        save_state(self.fabric, self.folder / "states", self.iteration, shared, self._own())

    def _resume(self) -> None:
        state = latest_state(self.folder / "states")
        if state is None:
            return
        compared = {name: value for name, value in self.plain_options().items() if name not in _FREE}

        def migrate(saved: dict[str, Any]) -> dict[str, Any]:
            return with_defaults(self.migrated_options(saved), _defaults(self.options))

        shared, own = load_state(self.fabric, state, compared, migrate)
        try:
            self.iteration, self.seconds, self.best = shared["iteration"], shared["seconds"], shared["best"]
            for name in _STATEFUL:
                getattr(self, name).load_state_dict(shared[name])
        # What dictionaries and torch raise for names and shapes that differ.
        except (KeyError, RuntimeError, ValueError) as error:
            what = " ".join(f"{type(error).__name__}: {error}".split())
            raise ResumeError(
                f"{state} was saved by another version of the package ({what}); go on with that version, or train "
                "into another folder."
            ) from error
        self.unusable, self.reason = own.get("unusable", 0), own.get("reason", "")
        self.restore_own(own)

    def _own(self) -> dict[str, Any]:
        return self.own_state() | {"unusable": self.unusable, "reason": self.reason}

    @contextmanager
    def _stop_signals(self) -> Iterator[None]:
        """Let SIGTERM and SIGINT finish the iteration, save and stop."""

        def stop(*_: Any) -> None:
            self.stopping = True

        before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _defaults(options: Any) -> dict[str, Any]:
    """The defaults that the class of some options has, nested ones included."""
    made = {
        field.name: field.default if field.default_factory is MISSING else field.default_factory()
        for field in fields(options)
    }
    known = {name: value for name, value in made.items() if value is not MISSING}
    return _plain({name: asdict(value) if is_dataclass(value) else value for name, value in known.items()})


def _plain(values: Any) -> Any:
    """Values as JSON has them; files of the user, which may lie elsewhere when a run goes on, are None."""
    return json.loads(json.dumps(values, default=lambda value: None))
