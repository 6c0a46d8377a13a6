"""``l2o train-initializer``: training of ReSplat's initial model, of its update, or of DIFF3R's head."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from l2o_splat.implicit.uncertainty_head import UncertaintyHead
from l2o_splat.initializer_training.batches import Batch, draw_batch, fixed_batch
from l2o_splat.initializer_training.initial_stage import InitialStage
from l2o_splat.initializer_training.losses import Losses
from l2o_splat.initializer_training.networks import MINI, MINI_CONFIG, new_initial_model, new_update_network
from l2o_splat.initializer_training.record import InitializerRecord
from l2o_splat.initializer_training.refined_stage import (
    RefinedModel,
    RefinedStage,
    RefinementOptions,
    typical_precision,
)
from l2o_splat.initializer_training.scenes import DepthSource, SceneOptions, StoredSource
from l2o_splat.initializer_training.trainer import InitializerTrainer, InitializerTrainingOptions, Stage
from l2o_splat.initializer_training.update_stage import Start, UpdateStage
from l2o_splat.initializers.resplat import ReSplatInitializer
from l2o_splat.nets.resplat.config import ReSplatConfig, ReSplatShape
from l2o_splat.nets.resplat.model import InitialModel
from l2o_splat.nets.resplat.update import ReSplatUpdateNetwork
from l2o_splat.training.errors import TrainingError
from l2o_splat.training.options import Schedule
from l2o_splat.training.processes import start_fabric
from l2o_splat.training.sources import VALIDATION_SEEDS, Source
from l2o_splat.weights import Weights, load_weights
from l2o_splat.weights.resplat import load_depth, read_tensors


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
        # Every image shape needs some hundreds of kernels; the default cache only holds those of a few shapes.
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16384")
        fabric = start_fabric(self.accelerator)
        weights = None if self.weights is None else load_weights(self.weights, "resplat")
        training, validation = self.data.sources(self.out)
        if self.through_optimization:
            stage, config = self._refined_stage(weights, training, fabric.device)
        else:
            stage, config = self._stage(weights, fabric.device)
        count = max(self.data.validation_captures, 1)
        if self.through_optimization:
            batches = self._batches(validation, count, fabric.device)  # Larger ones would take too long to refine.
        else:
            batches = [
                fixed_batch(validation.capture(index), self.validation_views, fabric.device) for index in range(count)
            ]
        trainer = InitializerTrainer(
            fabric, stage, training, batches, self.training, self.schedule, self.out, self._describe(weights, config)
        )
        record = InitializerRecord(self.out, config, self._history())
        trainer.run(record)
        print(record.outcome(trainer))

    def _stage(self, weights: Weights | None, device: torch.device) -> tuple[Stage, ReSplatConfig]:
        """The networks, and their behaviour."""
        if self.stage == "initial":
            model = self._initial_model(weights)
            return InitialStage(model, self.losses), model.config
        if weights is None:
            raise TrainingError(
                "The update is trained on top of an initial model and none is named; give --weights those of "
                "`l2o train-initializer --stage initial`."
            )
        initializer = ReSplatInitializer.from_weights(weights).to(device).requires_grad_(False)
        read = read_tensors(weights, {})
        if read.shape.update is None:
            shape = replace(read.shape, update=self.shape.update)
            network = new_update_network(shape, self.training.seed)
        else:
            network = ReSplatUpdateNetwork(read.shape)
            read.load_into(network)
            network.update_feature.requires_grad_(True)
        starts = "any" if set(self.start) != {"resplat"} else "initial_model"
        config = replace(initializer.config, update_starts=starts, step_decay=self.step_decay)
        return UpdateStage(network, initializer, self.losses, self.start, self.steps, self.step_decay), config

    def _initial_model(self, weights: Weights | None) -> InitialModel:
        """A new model or that of ``weights``, with the depth network of ``depth_weights`` if these are named."""
        depth = None if self.depth_weights is None else load_weights(self.depth_weights, "resplat")
        if weights is None:
            model = new_initial_model(self.shape, self.behaviour, self.training.seed)
        else:
            # A depth network compares as many views as in its training.
            own = {} if depth is None else {"reference_views": read_tensors(depth, {}).config.reference_views}
            model = ReSplatInitializer.from_weights(weights, **own).model
        if depth is not None:
            load_depth(model.depth_predictor, depth)
        return model

    def _history(self) -> list[dict[str, Any]]:
        """Training records of all weights that this training starts from, each once."""
        records: list[dict[str, Any]] = []
        for named in (self.depth_weights, self.weights):
            found = [] if named is None else _records(load_weights(named, "resplat"))
            records += [record for record in found if record not in records]
        return records

    def _refined_stage(
        self, weights: Weights | None, source: Source, device: torch.device
    ) -> tuple[RefinedStage, ReSplatConfig]:
        """A new head on top of an initial model."""
        if weights is None:
            raise TrainingError(
                "--through-optimization trains on top of an initial model and none is named; give --weights those of "
                "`l2o train-initializer`, or resplat-mini."
            )
        model = ReSplatInitializer.from_weights(weights).model.to(device)
        scenes = self._batches(source, self.refinement.reference_scenes, device)
        torch.manual_seed(self.training.seed)
        head = UncertaintyHead(model.shape.width, typical_precision(model, scenes, self.refinement.reference_scale))
        network = RefinedModel(model, head, self.refinement.train_initial)
        config = replace(model.config, update_starts=ReSplatConfig().update_starts)
        return RefinedStage(network, self.refinement), config

    def _batches(self, source: Source, count: int, device: torch.device) -> list[Batch]:
        """Views of the first captures, drawn as in training but without changes, always the same ones."""
        options = replace(
            self.training.batch, flip_probability=0.0, turn_probability=0.0, recolour_probability=0.0, range_jitter=0.0
        )
        return [
            draw_batch(source.capture(index), options, np.random.default_rng((0, index)), device)
            for index in range(count)
        ]

    def _describe(self, weights: Weights | None, config: ReSplatConfig) -> dict[str, Any]:
        """Everything that the weights depend on besides the training options, as plain data."""
        if self.through_optimization:
            own = {"refinement": asdict(self.refinement)}
        else:
            own = {"start": self.start, "steps": self.steps} if self.stage == "update" else {}
            own["losses"] = asdict(replace(self.losses, images=None)) | {
                "ssim_weight": self.losses.images.ssim_weight,
                "perceptual_weight": self.losses.images.perceptual_weight,
            }
        data = asdict(self.data) | {"folder": None}
        return own | {
            "stage": "through_optimization" if self.through_optimization else self.stage,
            "weights": None if weights is None else weights.card.sha256 or weights.card.source,
            "depth_weights": self.depth_weights,
            "shape": asdict(self.shape),
            "behaviour": asdict(config),
            "data": data,
        }


def _records(weights: Weights) -> list[dict[str, Any]]:
    """The training record of weights and those of the trainings before, last first."""
    training = weights.card.training
    return [{name: value for name, value in training.items() if name != "before"}, *training.get("before", [])]
