"""A run of ``l2o train-initializer``."""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch

from l2o_splat.initializer_training.batches import Batch, draw_batch, fixed_batch
from l2o_splat.initializer_training.command import TrainInitializer
from l2o_splat.initializer_training.memory import activation_bytes, spoken, state_size
from l2o_splat.initializer_training.models import Beginning, begin
from l2o_splat.initializer_training.record import InitializerRecord
from l2o_splat.initializer_training.trainer import InitializerTrainer
from l2o_splat.nets.resplat.config import ReSplatConfig
from l2o_splat.training.errors import TrainingError
from l2o_splat.training.processes import start_fabric
from l2o_splat.training.sources import Source
from l2o_splat.weights import Weights, load_weights


def train(options: TrainInitializer) -> None:
    """Train as the options say, see :meth:`TrainInitializer.run`."""
    # Every image shape needs some hundreds of kernels; the default cache only holds those of a few shapes.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16384")
    fabric = start_fabric(options.accelerator, options.devices, options.nodes)
    training, validation = options.data.sources(options.out)

    def scenes(config: ReSplatConfig) -> list[Batch]:
        return _batches(options, training, config, options.refinement.reference_scenes, fabric.device)

    beginning = begin(options, scenes, fabric.device)
    config, count = beginning.config, max(options.data.validation_captures, 1)
    from_points = config.depth_range == "points"
    if from_points and options.data.chunks.folder is not None and options.data.chunks.points is None:
        raise TrainingError(
            "These networks take the range of depths from each scene's sparse points, and chunks hold none; give "
            "--data.chunks.points a folder with them, or networks with --behaviour.depth-range weights."
        )
    _check_sizes(options, config)
    if options.through_optimization:
        # Larger ones would take too long to refine.
        batches = _batches(options, validation, config, count, fabric.device)
    else:
        batches = [
            fixed_batch(validation.capture(index), options.validation_views, fabric.device, from_points)
            for index in range(count)
        ]
    trainer = InitializerTrainer(
        fabric,
        beginning.stage,
        training,
        batches,
        options.training,
        options.schedule,
        options.out,
        _describe(options, beginning),
        from_points,
    )
    if fabric.global_rank != 0:
        trainer.run(lambda *_: None)
        return
    print(_estimate(options, trainer), flush=True)
    record = InitializerRecord(options.out, config, _history(options), beginning.origin)
    trainer.run(record)
    print(record.outcome(trainer))


def _check_sizes(options: TrainInitializer, config: ReSplatConfig) -> None:
    """Refuse scenes whose exact depths would not fit the views that the networks reduce to their own size."""
    compares_depths = options.stage == "initial" and not options.through_optimization
    longest = max(map(max, options.data.options.sizes))
    if compares_depths and options.data.chunks.folder is None and longest > config.longer_side:
        raise TrainingError(
            f"--data.options.sizes has images of {longest} pixels, and these networks reduce views to "
            f"{config.longer_side}; give smaller ones, or networks of larger views with --behaviour-from options "
            f"--behaviour.longer-side {longest}."
        )


def _batches(
    options: TrainInitializer, source: Source, config: ReSplatConfig, count: int, device: torch.device
) -> list[Batch]:
    """Views of the first captures, drawn as in training but without changes, always the same ones."""
    drawing = replace(
        options.training.batch, flip_probability=0.0, turn_probability=0.0, recolour_probability=0.0, range_jitter=0.0
    )
    from_points = config.depth_range == "points"
    return [
        draw_batch(
            source.capture(index), drawing, np.random.default_rng((0, index)), device, range_of_points=from_points
        )
        for index in range(count)
    ]


def _estimate(options: TrainInitializer, trainer: InitializerTrainer) -> str:
    """How much memory the training takes, in one sentence."""
    first, batch = trainer.validation[0], options.training.batch
    height, width = batch.image_size or (first.context.cameras.height, first.context.cameras.width)
    views = max(min(batch.context_views[1], batch.context_pixels // (height * width)), batch.context_views[0])
    activations = activation_bytes(trainer.stage, first, options.training.batch.size_multiple, views * height * width)
    scenes = options.training.scenes_per_iteration
    return spoken(state_size(trainer.stage), activations, views, height, width, scenes)


def _history(options: TrainInitializer) -> list[dict[str, Any]]:
    """Training records of all weights that this training starts from, each once."""
    records: list[dict[str, Any]] = []
    for named in (options.depth_weights, options.update_weights, options.weights):
        found = [] if named is None else _records(load_weights(named, ("resplat", "diff3r", "dense")))
        records += [record for record in found if record not in records]
    return records


def _describe(options: TrainInitializer, beginning: Beginning) -> dict[str, Any]:
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
    data, weights = asdict(options.data) | {"folder": None}, beginning.weights
    if options.data.chunks.folder is None:
        data["chunks"] = None  # Whatever these options are, they change nothing.
    networks = {"shape": asdict(options.shape), "behaviour": asdict(beginning.config)}
    if options.stage == "dense":
        own["refinement"] = asdict(options.refinement)
    return own | {
        "stage": "through_optimization" if options.through_optimization else options.stage,
        "weights": None if weights is None else weights.card.sha256 or weights.card.source,
        "depth_weights": options.depth_weights,
        "update_weights": options.update_weights,
        "backbone": beginning.origin.get("backbone"),
        # The head of the dense start has one size.
        **({} if options.stage == "dense" else networks),
        "data": data,
    }


def _records(weights: Weights) -> list[dict[str, Any]]:
    """The training record of weights and those of the trainings before, last first."""
    training = weights.card.training
    return [{name: value for name, value in training.items() if name != "before"}, *training.get("before", [])]
