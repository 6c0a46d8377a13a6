"""``l2o meta-train``: train a learned optimizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from l2o_splat.meta.evaluation import Evaluation
from l2o_splat.meta.outer_loop import Schedule
from l2o_splat.meta.record import BEST_NAME, TrainingRecord
from l2o_splat.meta.sources import (
    VALIDATION_SEEDS,
    CaptureRanges,
    CapturesSource,
    MixtureSource,
    ProceduralSource,
    Source,
)
from l2o_splat.meta.trainer import MetaOptions, MetaTrainer
from l2o_splat.nets.gain_network import GainNetwork, GainNetworkShape
from l2o_splat.optim.adam import adam_options
from l2o_splat.optim.learn2splat import Learn2SplatConfig, Learn2SplatRule
from l2o_splat.scenes.capture import Capture
from l2o_splat.scenes.capture_names import find_capture

ReadCapture = Callable[..., Capture]
"""Reads a capture of any nerfstudio format: ``(data, dataparser, scale, hold_out)``."""


class MetaTrainError(RuntimeError):
    """Meta-training cannot start; the message says why and what to do."""


@dataclass(frozen=True)
class DataOptions:
    """Where scenes come from."""

    captures: tuple[str, ...] = ()
    """Folders of real captures, in any format nerfstudio reads; their views 0, 8, 16, ... are left out."""
    scale: float = 0.25
    """Photographs of captures are scaled by this factor, in memory."""
    capture_share: float = 0.5
    """How often a scene is one of the captures, where there are any; the others are procedural."""
    seed: int = 0
    """Another seed trains on other procedural scenes."""
    ranges: CaptureRanges = field(default_factory=CaptureRanges)
    """Sizes of the procedural captures, those for validation included."""
    validation_captures: int = 4
    """Procedural captures, never trained on, that curves and the best weights are measured on."""

    def __post_init__(self) -> None:
        if not 0 < self.capture_share <= 1:
            raise MetaTrainError(f"--data.capture-share is {self.capture_share}; a share above 0, up to 1, is needed.")
        if self.validation_captures < 1:
            raise MetaTrainError("--data.validation-captures is below 1; at least one is needed to measure progress.")

    def source(self, read: ReadCapture) -> Source:
        """Captures, procedural scenes, or both."""
        procedural = ProceduralSource(self.seed, self.ranges)
        if not self.captures:
            return procedural
        found = [find_capture(text) for text in self.captures]
        loaders = [
            partial(read, None if capture.data is None else Path(capture.data), capture.dataparser, self.scale, True)
            for capture in found
        ]
        captures = CapturesSource(loaders)
        if self.capture_share == 1:
            return captures
        return MixtureSource([(self.capture_share, captures), (1 - self.capture_share, procedural)], self.seed)

    def describe(self) -> str:
        """For the training record."""
        text = f"procedural scenes, seed {self.seed}, {self.ranges}"
        if self.captures:
            names = ", ".join(find_capture(capture).scene for capture in self.captures)
            text = f"{self.capture_share:.0%} captures ({names}) at scale {self.scale}, otherwise {text}"
        return text


@dataclass(frozen=True)
class RuleOptions:
    """The rule that is trained: tuned Adam, and a small network that adds to it."""

    shape: GainNetworkShape = field(default_factory=GainNetworkShape)
    neighbours: int = 6
    """Gaussians each one attends to, itself among them."""
    step_decay: tuple[float, float] = (60.0, 0.8)
    """Steps shrink as (1 + t / first) ** -second over the inner steps t."""
    look_growth: float = 20.0
    """What the network says at step t serves 1 + t / look_growth steps, rounded down."""
    trust_decay: float = 20.0
    """The network's share in a step falls as 1 / (1 + t / trust_decay); the rest is Adam."""
    seed: int = 0
    """Seed of the network's start."""

    def build(self) -> Learn2SplatRule:
        """The untrained rule, which is Adam with the rates of ``l2o-adam-tuned``."""
        rates = adam_options("own-scale", 1).rates
        network = GainNetwork(self.shape).reset_to_adam(
            self.seed,
            (rates.means, rates.scales, rates.quats, rates.opacities, rates.features_dc, rates.features_rest),
        )
        return Learn2SplatRule(
            network,
            Learn2SplatConfig(
                neighbours=self.neighbours,
                active_only=False,
                knn_refresh_interval=100,
                log_scale_range=(-6.0, 4.0),
                sh_limit=4.0,
                latent_init="zeros",
                use_features=False,
                units="own_scale",
                step_decay=self.step_decay,
                look_growth=self.look_growth,
                trust_decay=self.trust_decay,
            ),
        )


@dataclass
class MetaTrain:
    """Train a learned optimizer on procedural scenes, captures of your own, or both.

    Each meta-iteration takes a scene, fresh or from a buffer of scenes that are on their way, lets the rule take some
    recorded steps, and improves the rule by what they were worth on views it did not see. The result is
    OUT/best.safetensors (and .json with the training record), for
    `ns-train learn2splat --optimizers.gaussians.optimizer.weights OUT/best.safetensors`.

    The same command goes on where an earlier one was stopped; SIGTERM or Ctrl-C saves first.
    """

    out: Path
    """Folder of the run: weights, curves, saved states."""
    training: MetaOptions = field(default_factory=MetaOptions)
    """What the weights depend on."""
    rule: RuleOptions = field(default_factory=RuleOptions)
    """What is trained."""
    data: DataOptions = field(default_factory=DataOptions)
    """What it is trained on."""
    schedule: Schedule = field(default_factory=Schedule)
    """When a run evaluates and saves."""
    devices: int = 1
    """Processes on this machine, one scene each (or --training.scenes-per-iteration); one GPU each where there are."""
    nodes: int = 1
    """Machines, started one by one with the environment variables of torchrun."""
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto takes GPUs where there are any."""

    def run(self, read: ReadCapture) -> None:
        """Train.

        Raises:
            MetaTrainError: If something that is needed is not installed.
        """
        try:
            from lightning_fabric import Fabric
        except ImportError as error:
            raise MetaTrainError(
                f"Lightning Fabric is not installed ({error}); run: pip install 'l2o_splat[train]'."
            ) from error
        several = self.devices * self.nodes > 1
        fabric = Fabric(
            accelerator=self.accelerator,
            devices=self.devices,
            num_nodes=self.nodes,
            strategy="ddp" if several else "auto",
        )
        fabric.launch()
        source = self.data.source(read)
        validation_source = ProceduralSource(ranges=self.data.ranges, seeds=VALIDATION_SEEDS)
        validation = Evaluation([validation_source.capture(i) for i in range(self.data.validation_captures)])
        rule = self.rule.build()
        trainer = MetaTrainer(fabric, rule, source, validation, self.training, self.schedule, self.out)
        if fabric.global_rank != 0:
            trainer.run(lambda *_: None)
            return
        with TrainingRecord(self.out, self.data.describe(), self.training.iterations) as record:
            trainer.run(record)
            state = "Trained" if trainer.iteration == self.training.iterations else "Saved; the same command goes on"
            print(f"{state} after {trainer.iteration} meta-iterations: {self.out / BEST_NAME}.safetensors")
