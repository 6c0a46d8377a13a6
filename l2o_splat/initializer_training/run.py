"""A run of ``l2o train-initializer``."""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch

from l2o_splat.implicit.uncertainty_head import UncertaintyHead
from l2o_splat.initializer_training.batches import Batch, draw_batch, fixed_batch
from l2o_splat.initializer_training.command import TrainInitializer
from l2o_splat.initializer_training.initial_stage import InitialStage
from l2o_splat.initializer_training.networks import new_initial_model, new_update_network
from l2o_splat.initializer_training.record import InitializerRecord
from l2o_splat.initializer_training.refined_stage import RefinedModel, RefinedStage, typical_precision
from l2o_splat.initializer_training.trainer import InitializerTrainer, Stage
from l2o_splat.initializer_training.update_stage import UpdateStage
from l2o_splat.initializers.resplat import ReSplatInitializer
from l2o_splat.nets.resplat.config import ReSplatConfig
from l2o_splat.nets.resplat.model import InitialModel
from l2o_splat.nets.resplat.update import ReSplatUpdateNetwork
from l2o_splat.training.processes import start_fabric
from l2o_splat.training.sources import Source
from l2o_splat.weights import Weights, load_weights
from l2o_splat.weights.resplat import load_depth, read_tensors


def train(options: TrainInitializer) -> None:
    """Train as the options say, see :meth:`TrainInitializer.run`."""
    # Every image shape needs some hundreds of kernels; the default cache only holds those of a few shapes.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16384")
    fabric = start_fabric(options.accelerator)
    weights = None if options.weights is None else load_weights(options.weights, "resplat")
    training, validation = options.data.sources(options.out)
    if options.through_optimization:
        stage, config = _refined_stage(options, weights, training, fabric.device)
    else:
        stage, config = _stage(options, weights, fabric.device)
    count = max(options.data.validation_captures, 1)
    if options.through_optimization:
        batches = _batches(options, validation, count, fabric.device)  # Larger ones would take too long to refine.
    else:
        batches = [
            fixed_batch(validation.capture(index), options.validation_views, fabric.device) for index in range(count)
        ]
    trainer = InitializerTrainer(
        fabric,
        stage,
        training,
        batches,
        options.training,
        options.schedule,
        options.out,
        _describe(options, weights, config),
    )
    record = InitializerRecord(options.out, config, _history(options))
    trainer.run(record)
    print(record.outcome(trainer))


def _stage(options: TrainInitializer, weights: Weights | None, device: torch.device) -> tuple[Stage, ReSplatConfig]:
    """The networks, and their behaviour."""
    if options.stage == "initial":
        model = _initial_model(options, weights)
        return InitialStage(model, options.losses), model.config
    initializer = ReSplatInitializer.from_weights(weights).to(device).requires_grad_(False)
    read = read_tensors(weights, {})
    if read.shape.update is None:
        shape = replace(read.shape, update=options.shape.update)
        network = new_update_network(shape, options.training.seed)
    else:
        network = ReSplatUpdateNetwork(read.shape)
        read.load_into(network)
        network.update_feature.requires_grad_(True)
    starts = "any" if set(options.start) != {"resplat"} else "initial_model"
    config = replace(initializer.config, update_starts=starts, step_decay=options.step_decay)
    return UpdateStage(network, initializer, options.losses, options.start, options.steps, options.step_decay), config


def _initial_model(options: TrainInitializer, weights: Weights | None) -> InitialModel:
    """A new model or that of ``weights``, with the depth network of ``depth_weights`` if these are named."""
    depth = None if options.depth_weights is None else load_weights(options.depth_weights, "resplat")
    if weights is None:
        model = new_initial_model(options.shape, options.behaviour, options.training.seed)
    else:
        # A depth network compares as many views as in its training.
        own = {} if depth is None else {"reference_views": read_tensors(depth, {}).config.reference_views}
        model = ReSplatInitializer.from_weights(weights, **own).model
    if depth is not None:
        load_depth(model.depth_predictor, depth)
    return model


def _history(options: TrainInitializer) -> list[dict[str, Any]]:
    """Training records of all weights that this training starts from, each once."""
    records: list[dict[str, Any]] = []
    for named in (options.depth_weights, options.weights):
        found = [] if named is None else _records(load_weights(named, "resplat"))
        records += [record for record in found if record not in records]
    return records


def _refined_stage(
    options: TrainInitializer, weights: Weights | None, source: Source, device: torch.device
) -> tuple[RefinedStage, ReSplatConfig]:
    """A new head on top of an initial model."""
    model = ReSplatInitializer.from_weights(weights).model.to(device)
    scenes = _batches(options, source, options.refinement.reference_scenes, device)
    torch.manual_seed(options.training.seed)
    head = UncertaintyHead(model.shape.width, typical_precision(model, scenes, options.refinement.reference_scale))
    network = RefinedModel(model, head, options.refinement.train_initial)
    config = replace(model.config, update_starts=ReSplatConfig().update_starts)
    return RefinedStage(network, options.refinement), config


def _batches(options: TrainInitializer, source: Source, count: int, device: torch.device) -> list[Batch]:
    """Views of the first captures, drawn as in training but without changes, always the same ones."""
    drawing = replace(
        options.training.batch, flip_probability=0.0, turn_probability=0.0, recolour_probability=0.0, range_jitter=0.0
    )
    return [
        draw_batch(source.capture(index), drawing, np.random.default_rng((0, index)), device) for index in range(count)
    ]


def _describe(options: TrainInitializer, weights: Weights | None, config: ReSplatConfig) -> dict[str, Any]:
    """Everything that the weights depend on besides the training options, as plain data."""
    if options.through_optimization:
        own = {"refinement": asdict(options.refinement)}
    else:
        own = {"start": options.start, "steps": options.steps} if options.stage == "update" else {}
        own["losses"] = asdict(replace(options.losses, images=None)) | {
            "ssim_weight": options.losses.images.ssim_weight,
            "perceptual_weight": options.losses.images.perceptual_weight,
            "perceptual": options.losses.images.perceptual,
            "perceptual_scale": options.losses.images.perceptual_scale,
        }
    data = asdict(options.data) | {"folder": None}
    return own | {
        "stage": "through_optimization" if options.through_optimization else options.stage,
        "weights": None if weights is None else weights.card.sha256 or weights.card.source,
        "depth_weights": options.depth_weights,
        "shape": asdict(options.shape),
        "behaviour": asdict(config),
        "data": data,
    }


def _records(weights: Weights) -> list[dict[str, Any]]:
    """The training record of weights and those of the trainings before, last first."""
    training = weights.card.training
    return [{name: value for name, value in training.items() if name != "before"}, *training.get("before", [])]
