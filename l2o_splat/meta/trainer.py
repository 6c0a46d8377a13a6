"""The outer loop: unrolls of many scenes move the weights of one update rule."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch

from l2o_splat.meta.buffer import BufferOptions, CheckpointBuffer
from l2o_splat.meta.episode import Episode, EpisodeOptions, start_episode
from l2o_splat.meta.evaluation import Evaluation
from l2o_splat.meta.objective import Objective
from l2o_splat.meta.outer_loop import OuterLoop, Schedule
from l2o_splat.meta.prefetch import Prefetched, prefetched
from l2o_splat.meta.sources import Source
from l2o_splat.meta.training_state import buffer_state, restore_buffer
from l2o_splat.meta.unroll import InnerLoop, MetaLossWeights, roll_out, unroll
from l2o_splat.optim.learn2splat import Learn2SplatRule


@dataclass(frozen=True)
class MetaOptions:
    """Everything that the trained weights depend on, besides rule and source."""

    iterations: int = 400
    """Meta-iterations: updates of the weights."""
    scenes_per_iteration: int = 1
    """Unrolls whose gradients each process averages in one meta-iteration."""
    seed: int = 0
    """Another seed draws other scenes, lengths and resumptions."""
    unroll_steps: tuple[int, int] = (1, 6)
    """Fewest and most recorded inner steps of an unroll."""
    rollout_steps: int = 200
    """Most frozen steps before an episode enters the buffer; their number is drawn with equal chance per octave."""
    rollout_growth: float = 0.4
    """Share of the training over which that number grows from 1."""
    learning_rate: float = 1e-3
    """Highest rate of AdamW; OneCycle brings it up and down."""
    warm_up: float = 0.03
    """Share of the training in which the rate rises."""
    weight_decay: float = 0.01
    clip_norm: float = 0.5
    """Largest norm of a meta-gradient."""
    averaging: float = 0.98
    """Decay of the running average of the weights, which is what is evaluated and kept."""
    episode: EpisodeOptions = field(default_factory=EpisodeOptions)
    buffer: BufferOptions = field(default_factory=BufferOptions)
    objective: Objective = field(default_factory=Objective)
    terms: MetaLossWeights = field(default_factory=MetaLossWeights)
    loop: InnerLoop = field(default_factory=InnerLoop)


class MetaTrainer(OuterLoop):
    """Trains one rule; the same weights come out however often a run was stopped and resumed (on the CPU).

    Every random draw is a function of the seed, the meta-iteration and the scene's place in it, so that two processes
    with one scene each do what one process does with two.

    Args:
        fabric: Lightning Fabric, launched: devices, processes, reductions.
        rule: Moves the Gaussians; its network is trained in place.
        source: Captures to train on.
        validation: Measures the averaged weights.
        options: Of the training.
        schedule: Of reports.
        folder: Of the run: states, curves, logs.
    """

    def __init__(
        self,
        fabric: Any,
        rule: Learn2SplatRule,
        source: Source,
        validation: Evaluation,
        options: MetaOptions,
        schedule: Schedule,
        folder: Path,
    ) -> None:
        self.rule = rule.to(fabric.device)
        super().__init__(fabric, self.rule.network, options, schedule, folder)
        self.source, self.validation = source, validation
        # Scene slots of this process among those of all.
        self.slots = [
            fabric.global_rank * options.scenes_per_iteration + i for i in range(options.scenes_per_iteration)
        ]
        self.buffers = {slot: CheckpointBuffer(options.buffer) for slot in self.slots}
        self.fresh = dict.fromkeys(self.slots, 0)

    @property
    def averaged_rule(self) -> Learn2SplatRule:
        """The rule with the running average of its weights."""
        rule = Learn2SplatRule(self.average.module, self.rule.config)
        rule.trained_raster, rule.frame_convention = self.rule.trained_raster, self.rule.frame_convention
        return rule

    def iterate(self, captures: dict[int, Prefetched]) -> dict[str, float]:
        self.optimizer.zero_grad()
        gains, waited, ages, skipped = [], -_waited(captures), [], 0
        for slot in self.slots:
            # One stream per scene and meta-iteration: nothing about random numbers needs saving.
            random = np.random.default_rng((self.options.seed, self.iteration, slot))
            buffer = self.buffers[slot]
            episode = buffer.draw(random)
            resumed = episode is not None
            if episode is None:
                episode = self._fresh(slot, next(captures[slot]))
            ages.append(episode.step)
            steps = int(random.integers(self.options.unroll_steps[0], self.options.unroll_steps[1] + 1))
            try:
                result = unroll(
                    self.rule, episode, steps, self.options.loop, self.options.objective, self.options.terms
                )
                (result.loss / len(self.slots)).backward()
                gains.append(math.log(result.target_errors[0] / result.target_errors[-1]) / steps)
                episode = roll_out(self.rule, result.episode, self._rollout_length(random), self.options.loop)
            except (FloatingPointError, torch.OutOfMemoryError):
                # The scene is lost, the others count.
                skipped += 1
                continue
            buffer.offer(episode, resumed, random)
        norm = self._reduce_gradients()
        self.step(norm)
        return {
            "gradient_norm": norm,
            "gain_per_step": float(np.mean(gains)) if gains else 0.0,
            "age": float(np.mean(ages)),
            "skipped": float(skipped),
            "waited_seconds": waited + _waited(captures),
            "learning_rate": self.scheduler.get_last_lr()[0],
        }

    def _fresh(self, slot: int, capture: Any) -> Episode:
        index = self._index(slot, self.fresh[slot])
        self.fresh[slot] += 1
        return start_episode(self.rule, capture, index, self.options.episode, self.options.seed, self.fabric.device)

    def _index(self, slot: int, number: int) -> int:
        """Index in the source of a slot's captures; slots take turns."""
        return number * self.fabric.world_size * len(self.slots) + slot

    @contextmanager
    def captures(self) -> Iterator[dict[int, Prefetched]]:
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
        grown = min(self.iteration / max(self.options.rollout_growth * self.options.iterations, 1), 1.0)
        longest = 1 + grown * (self.options.rollout_steps - 1)
        return round(math.exp(random.uniform(0, math.log(longest)))) if longest > 1 else 1

    def _reduce_gradients(self) -> float:
        """Average the gradients over processes and clip them; their norm before."""
        parameters = [parameter for parameter in self.rule.network.parameters() if parameter.requires_grad]
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if self.fabric.world_size > 1:
                parameter.grad = self.fabric.all_reduce(parameter.grad, reduce_op="mean")
        return float(torch.nn.utils.clip_grad_norm_(parameters, self.options.clip_norm))

    def evaluate(self) -> dict[str, float]:
        """Held-out PSNR of the averaged weights; only the first process works, the others wait."""
        numbers: dict[str, float] = {}
        if self.fabric.global_rank == 0:
            values = self.validation.run(self.averaged_rule, self.options.loop, self.fabric.device).mean(dim=0)
            numbers = {f"psnr_{step}": float(v) for step, v in zip(self.validation.steps, values, strict=True)}
            numbers["psnr"] = float(values.mean())
        return self.fabric.broadcast(numbers)

    def plain_options(self) -> dict[str, Any]:
        return json.loads(json.dumps(asdict(self.options), default=lambda value: None)) | {
            "rule": json.loads(json.dumps(asdict(self.rule.config))),
            "shape": asdict(self.rule.network.shape),
            "source": repr(self.source),
        }

    def own_state(self) -> dict[str, Any]:
        return {"fresh": self.fresh, "buffers": {slot: buffer_state(buffer) for slot, buffer in self.buffers.items()}}

    def restore_own(self, own: dict[str, Any]) -> None:
        self.fresh = own["fresh"]
        for slot, buffer in self.buffers.items():
            restore_buffer(
                buffer,
                own["buffers"][slot],
                self.rule,
                self.source,
                self.options.episode,
                self.options.seed,
                self.fabric.device,
            )


def _waited(captures: dict[int, Prefetched]) -> float:
    return sum(stream.waited_seconds for stream in captures.values())
