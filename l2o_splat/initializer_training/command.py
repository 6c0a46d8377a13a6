"""``l2o train-initializer``: the options of training ReSplat's initial model, its update, or DIFF3R's head."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from l2o_splat.initializer_training.options import (
    MINI,
    MINI_CONFIG,
    InitializerTrainingOptions,
    Losses,
    RefinementOptions,
    SceneOptions,
    Start,
)
from l2o_splat.nets.resplat.config import ReSplatConfig, ReSplatShape
from l2o_splat.training.errors import TrainingError
from l2o_splat.training.options import Schedule

if TYPE_CHECKING:
    from l2o_splat.training.sources import Source


@dataclass(frozen=True)
class SceneData:
    """Which scenes are trained on."""

    seed: int = 0
    """Seed of the procedural scenes."""
    captures: int = 900
    """Number of captures to train on, in turn; 0 makes a new one for every iteration."""
    folder: Path | None = None
    """Folder where they are stored, OUT/scenes by default; several runs may share it."""
    options: SceneOptions = field(default_factory=SceneOptions)
    """Sizes of the captures."""
    validation_captures: int = 6
    """Number of captures, never trained on, on which curves and the best weights are measured."""

    def sources(self, out: Path) -> tuple[Source, Source]:
        """Sources of captures for training and for validation."""
        from l2o_splat.initializer_training.scenes import DepthSource, StoredSource
        from l2o_splat.training.sources import VALIDATION_SEEDS

        training: Source = DepthSource(self.seed, self.options)
        folder = self.folder or out / "scenes"
        if self.captures:
            training = StoredSource(training, folder, self.captures)
        validation = DepthSource(0, self.options, VALIDATION_SEEDS)
        return training, StoredSource(validation, folder, max(self.validation_captures, 1))


@dataclass
class TrainInitializer:
    """Train ReSplat's networks on procedural scenes: first the initial model, then the update on top of it; or, with
    --through-optimization, DIFF3R's head, which predicts how strongly to hold each Gaussian.

    The initial stage makes weights without an update; the update stage takes them with --weights and makes whole ones:
    OUT/best.safetensors (and .json with the training record), for
    `ns-train resplat --optimizers.gaussians.optimizer.weights OUT/best.safetensors`. Those of --through-optimization
    are for `ns-train diff3r --pipeline.initialization.weights OUT/best.safetensors`.

    The same command resumes a run that was stopped; SIGTERM and Ctrl-C save first.
    """

    out: Path
    """Folder of the run: weights, curve, saved states."""
    stage: Literal["initial", "update"] = "initial"
    """Which networks are trained."""
    through_optimization: bool = False
    """Train DIFF3R's head on top of the initial model of --weights, through the refinement that follows, instead of a
    stage."""
    weights: str | None = None
    """Weights to start from; the update stage and --through-optimization need weights with an initial model."""
    depth_weights: str | None = None
    """Weights whose depth network the initial stage starts from, as the original does; everything else is new, or from
    --weights."""
    start: tuple[Start, ...] = ("resplat", "resplat", "points")
    """Kinds of scenes to update, drawn with equal probability: from the initial model, from sparse points, or from
    random points."""
    steps: tuple[int, int] = (1, 4)
    """Fewest and most updates of a training step."""
    step_decay: float = 1.0
    """Factor of each step of the update relative to the one before it, in training and in the weights that result."""
    refinement: RefinementOptions = field(default_factory=RefinementOptions)
    """Options of --through-optimization."""
    training: InitializerTrainingOptions = field(default_factory=InitializerTrainingOptions)
    """Options that the weights depend on."""
    losses: Losses = field(default_factory=Losses)
    """Losses of both stages; --through-optimization has an error of its own."""
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
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    """Device; auto takes a GPU if there is one."""

    def run(self) -> None:
        """Train.

        Raises:
            TrainingError: If Lightning Fabric is not installed, or no initial model is named although one is needed.
        """
        self._check_weights()
        from l2o_splat.initializer_training.run import train

        train(self)

    def _check_weights(self) -> None:
        """Refuse to train what needs an initial model if none is named, before anything slow is imported."""
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
