"""``l2o train-initializer``: the options of training ReSplat's networks, DIFF3R's head, or the dense start's."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import tyro

from l2o_splat.initializer_training.data import SceneData
from l2o_splat.initializer_training.options import (
    MINI,
    MINI_CONFIG,
    InitializerTrainingOptions,
    Losses,
    RefinementOptions,
    Stage,
    Start,
)
from l2o_splat.initializer_training.presets import Preset, defaults_of
from l2o_splat.nets.resplat.config import ReSplatConfig, ReSplatShape
from l2o_splat.training.errors import TrainingError
from l2o_splat.training.options import Schedule


@dataclass
class TrainInitializer:
    """Train ReSplat's networks on procedural scenes, or on chunks of RealEstate10K or DL3DV: first the initial model,
    then the update on top of it; or, with --through-optimization, DIFF3R's head, which predicts how strongly to hold
    each Gaussian; or, with --preset dense, the head that gives the Gaussians of a dense start their sizes.

    --preset gives all other options the values of a training: our small one, or one of the papers.

    The initial stage makes weights without an update; the update stage takes them with --weights and makes whole ones:
    OUT/best.safetensors (and .json with the training record), for
    `ns-train resplat --optimizers.gaussians.optimizer.weights OUT/best.safetensors`. Those of --through-optimization
    are for `ns-train diff3r --pipeline.initialization.weights OUT/best.safetensors`, those of --stage dense for
    `ns-train METHOD --pipeline.initialization.source dense --pipeline.initialization.weights OUT/best.safetensors`.

    The same command resumes a run that was stopped; SIGTERM and Ctrl-C save first.
    """

    CHOSEN_WITH: ClassVar[tuple[str, ...]] = ("stage",)
    """Options on whose value those of a preset depend."""

    out: Path
    """Folder of the run: weights, curve, saved states."""
    preset: Preset = "mini"
    """Values of all other options: mini trains our small networks on a CPU, dense the head of the dense start, paper-*
    as the papers do."""
    stage: Stage = "initial"
    """Which networks are trained."""
    through_optimization: bool = False
    """Train DIFF3R's head on top of the initial model of --weights, through the refinement that follows, instead of a
    stage."""
    weights: str | None = None
    """Weights to start from; the update stage and --through-optimization need weights with an initial model. The latter
    goes on with the head of diff3r weights."""
    depth_weights: str | None = None
    """Weights whose depth network the initial stage starts from, as the original does; everything else is new, or from
    --weights."""
    update_weights: str | None = None
    """Weights whose update the update stage starts from; otherwise it is that of --weights, or new if there is none."""
    backbone_weights: str = "auto"
    """A .pth or .safetensors file that a new network starts from: DINOv2 in the initial stage unless there are
    --depth-weights, ResNet-18 of ImageNet in the update stage. "auto" takes the published file from torch's cache or
    downloads it, and says so if it cannot; "none" starts at random."""
    train_error_features: bool = True
    """Train the features in which the update compares images; False leaves them as they are, if they are not random."""
    behaviour_from: Literal["weights", "options"] = "weights"
    """What decides how networks of --weights behave: the weights, or --behaviour."""
    start: tuple[Start, ...] = ("resplat", "resplat", "points")
    """Kinds of scenes to update, drawn with equal probability: from the initial model, from sparse points, or from
    random points."""
    steps: tuple[int, int] = (1, 4)
    """Fewest and most updates of a training step."""
    step_decay: float = 1.0
    """Factor of each step of the update relative to the one before it, in training and in the weights that result."""
    refinement: RefinementOptions = field(default_factory=RefinementOptions)
    """Options of --through-optimization and of the dense stage, which holds nothing and shows no faults."""
    training: InitializerTrainingOptions = field(default_factory=InitializerTrainingOptions)
    """Options that the weights depend on."""
    losses: Losses = field(default_factory=Losses)
    """Losses of all stages; --through-optimization has an error of its own."""
    shape: ReSplatShape = MINI
    """Widths of new networks."""
    behaviour: ReSplatConfig = MINI_CONFIG
    """Behaviour of new networks."""
    data: SceneData = field(default_factory=SceneData)
    """The scenes that are trained on."""
    schedule: Schedule = field(default_factory=lambda: Schedule(evaluate_every=500, save_every=250, workers=0))
    """When a run evaluates and saves."""
    validation_views: int = 8
    """Number of context views of the validation captures."""
    devices: int = 1
    """Processes on this machine, each with one scene (or --training.scenes-per-iteration), and a GPU if there are."""
    nodes: int = 1
    """Machines; start the command on each of them, with the environment variables of torchrun."""
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    """Device; auto takes GPUs if there are any."""

    @classmethod
    def of_preset(cls, name: str, stage: str | None = None) -> TrainInitializer:
        """The command with the defaults of a preset, see :class:`l2o_splat.commands.presets.HasPresets`."""
        defaults: dict[str, Any] = defaults_of(name, stage or "initial")
        return cls(**{"out": tyro.MISSING, "preset": name, "stage": stage or "initial"} | defaults)

    def run(self) -> None:
        """Train.

        Raises:
            TrainingError: If Lightning Fabric is not installed, no initial model is named although one is needed, the
                networks have no update to train, or the dense stage is asked for with options of others.
        """
        if self.stage == "dense" and (self.through_optimization or self.preset not in ("mini", "dense")):
            raise TrainingError(
                "The dense stage trains a head of this package, which neither --preset paper-* nor "
                "--through-optimization knows; leave both out."
            )
        if self.through_optimization and self.refinement.steps == (0, 0) and not self.refinement.train_initial:
            raise TrainingError(
                "refinement.steps is 0 0, with which precisions learn nothing, and the initial model is not trained; "
                "give more steps, or train it with --refinement.train-initial."
            )
        self._check_weights()
        self._check_data()
        from l2o_splat.initializer_training.run import train

        train(self)

    def _check_data(self) -> None:
        """Refuse chunks for what they lack, before anything slow is imported."""
        if self.data.chunks.folder is None:
            return
        if self.losses.depth.need_exact and self.stage == "initial" and not self.through_optimization:
            raise TrainingError(
                "Chunks have no exact depths, with which --losses.depth.regression and --losses.depth.classification "
                "compare; give 0 to both, or train on procedural scenes."
            )
        if self.data.chunks.points is None and self.stage == "update" and "points" in self.start:
            raise TrainingError(
                "--start has points, and chunks hold none; give --start resplat, or --data.chunks.points a folder with "
                "them."
            )

    def _check_weights(self) -> None:
        """Refuse to train what needs an initial model if none is named, before anything slow is imported."""
        if self.stage == "update" and not self.through_optimization and self.shape.update is None:
            raise TrainingError(f"The networks of {self.preset} have no update; train their initial stage.")
        if self.weights is not None:
            return
        if self.through_optimization:
            raise TrainingError(
                "--through-optimization trains on top of an initial model and none is named; give --weights those of "
                "`l2o train-initializer`, or resplat-mini."
            )
        if self.stage == "update":
            raise TrainingError(
                "The update is trained on top of an initial model and none is named; give --weights those of "
                "`l2o train-initializer --stage initial`."
            )
