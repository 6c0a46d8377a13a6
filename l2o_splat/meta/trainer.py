"""Trainer of update rules: unrolls of many scenes move the weights of one rule."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch

from l2o_splat.meta.buffer import CheckpointBuffer
from l2o_splat.meta.episode import Episode, start_episode
from l2o_splat.meta.evaluation import Evaluation
from l2o_splat.meta.options import MetaOptions
from l2o_splat.meta.starts import Start, start_from_points
from l2o_splat.meta.unroll import DivergedEpisodeError, roll_out, unroll
from l2o_splat.optim.gain import REFERENCE_STEPS
from l2o_splat.optim.proposal import ProposingRule
from l2o_splat.scenes.capture import Capture
from l2o_splat.training.errors import UnusableCaptureError
from l2o_splat.training.options import Schedule
from l2o_splat.training.outer_loop import OuterLoop
from l2o_splat.training.prefetch import Prefetched, prefetched
from l2o_splat.training.sources import Source
from l2o_splat.training.statistics import StepStatistics
from l2o_splat.weights.format import gain_behaviour


@dataclass(frozen=True)
class MetaStatistics(StepStatistics):
    """Numbers of one meta-iteration."""

    gain_per_step: float
    """Mean decrease of the logarithm of the error on target views per inner step; 0 if every scene was skipped."""
    age: float
    """Mean number of inner steps that the episodes had taken before."""
    skipped: int
    """Scenes that no step could be made from, that diverged, or that did not fit into memory."""
    waited_seconds: float
    """Time spent waiting for captures."""
    learning_rate: float
    """Rate of the next meta-iteration."""


class MetaTrainer(OuterLoop):
    """Trains one rule.

    Every random draw is a function of the seed, the meta-iteration and the scene's slot in it, so that states hold no
    random numbers, and two processes with one scene each do what one process does with two.

    Args:
        fabric: Lightning Fabric, launched: devices, processes, reductions.
        rule: The rule; its network is trained in place.
        source: Captures to train on.
        validation: Measures the averaged weights.
        options: Options of the training.
        schedule: When to evaluate and save.
        folder: Folder of the run: states, curves, logs.
        start: Makes the scenes that episodes begin with.
    """

    def __init__(
        self,
        fabric: Any,
        rule: ProposingRule,
        source: Source,
        validation: Evaluation,
        options: MetaOptions,
        schedule: Schedule,
        folder: Path,
        start: Start = start_from_points,
    ) -> None:
        self.start = start
        self.rule = rule.to(fabric.device)
        super().__init__(fabric, self.rule.network, options, schedule, folder)
        self.source, self.validation, self.objective = source, validation, options.objective
        # Scene slots of this process among those of all.
        self.slots = [
            fabric.global_rank * options.scenes_per_iteration + i for i in range(options.scenes_per_iteration)
        ]
        self.buffers = {slot: CheckpointBuffer(options.buffer) for slot in self.slots}
        self.fresh = dict.fromkeys(self.slots, 0)
        """Fresh episodes that each slot has started."""

    @property
    def averaged_rule(self) -> ProposingRule:
        """The rule with the running average of its weights."""
        return self.rule.with_network(self.average.module)

    def iterate(self, captures: dict[int, Prefetched]) -> MetaStatistics:
        """One update from a scene per slot; a scene that cannot be used or diverges is dropped."""
        self.optimizer.zero_grad()
        gains, waited, ages, skipped = [], -_waited(captures), [], 0
        terms = self.options.terms
        if self.iteration < terms.uphill_start:
            terms = replace(terms, uphill=0.0)
        if self.options.buffer.clear_every and self.iteration % self.options.buffer.clear_every == 0:
            for buffer in self.buffers.values():
                buffer.clear()
        for slot in self.slots:
            # One random stream per scene and meta-iteration, so that states need not hold any.
            random = np.random.default_rng((self.options.seed, self.iteration, slot))
            buffer = self.buffers[slot]
            episode = buffer.draw(random)
            resumed = episode is not None
            if episode is None:
                try:
                    episode = self._fresh(slot, next(captures[slot]))
                except UnusableCaptureError as error:
                    self.leave_out(str(error))
                    skipped += 1
                    continue
            ages.append(episode.step)
            steps = int(random.integers(self.options.unroll_steps[0], self.options.unroll_steps[1] + 1))
            try:
                result = unroll(self.rule, episode, steps, self.options.loop, self.options.objective, terms, random)
                (result.loss / len(self.slots)).backward()
                gains.append(math.log(result.target_errors[0] / result.target_errors[-1]) / steps)
                episode = roll_out(self.rule, result.episode, self._rollout_length(random), self.options.loop)
            except (DivergedEpisodeError, UnusableCaptureError, torch.OutOfMemoryError) as error:
                # The episode is lost, the other scenes count.
                self.leave_out(str(error).partition("\n")[0])
                skipped += 1
                continue
            self.use()
            buffer.offer(episode, resumed, random)
        self.average_gradients()
        return MetaStatistics(
            gradient_norm=self.step(),
            gain_per_step=float(np.mean(gains)) if gains else 0.0,
            age=float(np.mean(ages)) if ages else 0.0,
            skipped=skipped,
            waited_seconds=waited + _waited(captures),
            learning_rate=self.scheduler.get_last_lr()[0],
        )

    def _fresh(self, slot: int, capture: Capture) -> Episode:
        index = self._index(slot, self.fresh[slot])
        self.fresh[slot] += 1
        return self._start(index, capture)

    def _start(self, index: int, capture: Capture | None = None) -> Episode:
        """The episode of an index at its start; without the capture, the source makes it again."""
        capture = self.source.capture(index) if capture is None else capture
        return start_episode(
            self.rule,
            capture,
            index,
            self.options.episode,
            self.options.seed,
            self.fabric.device,
            self.start,
            self.rule.frame_convention,
        )

    def _index(self, slot: int, number: int) -> int:
        """Index in the source of a slot's captures; slots take turns."""
        return number * self.fabric.world_size * len(self.slots) + slot

    @contextmanager
    def captures(self) -> Iterator[dict[int, Prefetched]]:
        """A stream of fresh captures for every slot."""
        streams = {
            slot: prefetched(
                self.source, map(partial(self._index, slot), count(self.fresh[slot])), self.schedule.workers
            )
            for slot in self.slots
        }
        try:
            yield streams
        finally:
            for stream in streams.values():
                stream.close()

    def _rollout_length(self, random: np.random.Generator) -> int:
        if not self.options.rollout_steps:
            return 0
        grown = min(self.iteration / max(self.options.rollout_growth * self.options.iterations, 1), 1.0)
        longest = 1 + grown * (self.options.rollout_steps - 1)
        if self.options.rollout_draw == "uniform":
            return int(random.integers(1, round(longest), endpoint=True))
        return round(math.exp(random.uniform(0, math.log(longest)))) if longest > 1 else 1

    def evaluate(self) -> dict[str, float]:
        """Held-out PSNR of the averaged weights; only the first process computes, the others wait."""
        numbers: dict[str, float] = {}
        if self.fabric.global_rank == 0:
            values = self.validation.run(self.averaged_rule, self.options.loop, self.fabric.device).mean(dim=0)
            numbers = {f"psnr_{step}": float(v) for step, v in zip(self.validation.steps, values, strict=True)}
            numbers["psnr"] = float(values.mean())
        return self.fabric.broadcast(numbers)

    def dependencies(self) -> dict[str, Any]:
        return {
            "rule": asdict(self.rule.config),
            "shape": asdict(self.rule.network.shape),
            "source": repr(self.source),
            "scene_frame": self.rule.frame_convention,
        }

    def migrated_options(self, saved: dict[str, Any]) -> dict[str, Any]:
        # An objective used to hold the network of LPIPS.
        objective = {name: value for name, value in saved.get("objective", {}).items() if name != "_lpips"}
        saved = {"scene_frame": "raw"} | saved | {"objective": objective}
        if self.rule.system != "gain":
            return saved
        rule = saved.get("rule", {})
        rule = gain_behaviour(rule, "a saved state") if "look_growth" in rule else rule
        # Episodes have no time budget, so that states from before runs could have one were trained alike.
        return saved | {"rule": {"reference_steps": REFERENCE_STEPS} | rule} if rule else saved

    def own_state(self) -> dict[str, Any]:
        return {"fresh": self.fresh, "buffers": {slot: buffer.to_state() for slot, buffer in self.buffers.items()}}

    def restore_own(self, own: dict[str, Any]) -> None:
        self.fresh = own["fresh"]
        for slot, buffer in self.buffers.items():
            buffer.restore(own["buffers"][slot], self._start)


def _waited(captures: dict[int, Prefetched]) -> float:
    return sum(stream.waited_seconds for stream in captures.values())
