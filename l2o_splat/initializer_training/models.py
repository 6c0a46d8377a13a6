"""The networks that a training begins with, new or from weights, and the stage that trains them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from l2o_splat.implicit.uncertainty_head import UncertaintyHead
from l2o_splat.initializer_training.backbone import start_backbone
from l2o_splat.initializer_training.batches import Batch
from l2o_splat.initializer_training.command import TrainInitializer
from l2o_splat.initializer_training.dense_stage import DenseStage
from l2o_splat.initializer_training.initial_stage import InitialStage
from l2o_splat.initializer_training.networks import new_initial_model, new_update_network
from l2o_splat.initializer_training.refined_stage import RefinedModel, RefinedStage, typical_precision
from l2o_splat.initializer_training.trainer import Stage
from l2o_splat.initializer_training.update_stage import UpdateStage
from l2o_splat.initializers.dense import DenseHead
from l2o_splat.initializers.diff3r import read_diff3r
from l2o_splat.initializers.resplat import ReSplatInitializer
from l2o_splat.nets.resplat.config import ReSplatConfig
from l2o_splat.nets.resplat.update import ReSplatUpdateNetwork
from l2o_splat.training.errors import TrainingError
from l2o_splat.weights import Weights, WeightsError, load_weights
from l2o_splat.weights.resplat import load_depth, read_tensors


@dataclass(frozen=True)
class Beginning:
    """What a training begins with."""

    stage: Stage
    config: ReSplatConfig
    """Behaviour of the networks, which their weights will have."""
    weights: Weights | None
    """The initial model that was named."""
    origin: dict[str, Any] = field(default_factory=dict)
    """Where parts that are not from these weights come from, for the training record."""


def begin(options: TrainInitializer, scenes: Callable[[ReSplatConfig], list[Batch]], device: torch.device) -> Beginning:
    """Make or load the networks.

    Args:
        options: Of the training.
        scenes: Scenes for networks of this behaviour on which the typical precision of --through-optimization is
            measured.
        device: Of the training.

    Raises:
        WeightsError: If named weights cannot be found or used.
        TrainingError: If the networks have no such stage.
    """
    if options.through_optimization:
        return _through_optimization(options, load_weights(options.weights, ("resplat", "diff3r")), scenes, device)
    if options.stage == "dense":
        return _dense(options)
    weights = None if options.weights is None else load_weights(options.weights, "resplat")
    if options.stage == "initial":
        return _initial(options, weights)
    return _update(options, weights, device)


def _initial(options: TrainInitializer, weights: Weights | None) -> Beginning:
    """A new model or that of ``weights``, with the depth network of ``depth_weights`` if these are named."""
    depth, origin = _depth_weights(options), {}
    if weights is None:
        model = new_initial_model(options.shape, options.behaviour, options.training.seed)
        if depth is None:
            transformer = model.depth_predictor.pretrained
            origin = {"backbone": start_backbone(transformer, options.shape.vit, options.backbone_weights)}
    else:
        own = _behaviour(options)
        if depth is not None:
            # A depth network compares as many views as in its training.
            own |= {"reference_views": read_tensors(depth, {}).config.reference_views}
        model = ReSplatInitializer.from_weights(weights, **own).model
        if options.shape.guide_width and not model.shape.guide_width:
            torch.manual_seed(options.training.seed)
            model.add_guide(options.shape.guide_width)
    if depth is not None:
        other = load_depth(model.depth_predictor, depth)
        if other:
            print(f"{len(other)} tensors of {depth.card.source} are of another layout; new ones take their place.")
        origin = {"depth": depth.card.sha256 or depth.card.source}
    return Beginning(InitialStage(model, options.losses), model.config, weights, origin)


def _depth_weights(options: TrainInitializer) -> Weights | None:
    if options.depth_weights is None:
        return None
    try:
        return load_weights(options.depth_weights, "resplat")
    except WeightsError as error:
        raise WeightsError(f"{error} With --depth-weights None the depth network is new.") from None


def _update(options: TrainInitializer, weights: Weights, device: torch.device) -> Beginning:
    """The update of ``weights`` or of ``update_weights``, or a new one, on top of the frozen initial model."""
    own = _behaviour(options)
    initializer = ReSplatInitializer.from_weights(weights, **own).to(device).requires_grad_(False)
    named = None if options.update_weights is None else load_weights(options.update_weights, "resplat")
    read, origin = read_tensors(named or weights, {}), {}
    if read.shape.update is None:
        if named is not None:
            raise TrainingError(f"{options.update_weights} has no update; name weights that have one.")
        network = new_update_network(replace(read.shape, update=options.shape.update), options.training.seed)
        features = network.update_feature
        origin = {"backbone": start_backbone(features, None, options.backbone_weights)}
        if origin["backbone"] is None:
            print("So the error features are trained with the update.")
            features.requires_grad_(True)
        else:
            features.requires_grad_(options.train_error_features)
    else:
        network = ReSplatUpdateNetwork(read.shape)
        read.load_into(network)
        network.update_feature.requires_grad_(options.train_error_features)
    starts = "any" if set(options.start) != {"resplat"} else "initial_model"
    config = replace(initializer.config, update_starts=starts, step_decay=options.step_decay)
    stage = UpdateStage(network, initializer, options.losses, options.start, options.steps, options.step_decay)
    return Beginning(stage, config, weights, origin)


def _dense(options: TrainInitializer) -> Beginning:
    """A new head of the dense start, or that of ``weights``."""
    if options.weights is None:
        torch.manual_seed(options.training.seed)
        return Beginning(DenseStage(DenseHead(), options.losses, options.refinement), ReSplatConfig(), None)
    weights = load_weights(options.weights, "dense")
    head = DenseHead.from_weights(weights).requires_grad_(True)
    return Beginning(DenseStage(head, options.losses, options.refinement), ReSplatConfig(), weights)


def _through_optimization(
    options: TrainInitializer,
    weights: Weights,
    scenes: Callable[[ReSplatConfig], list[Batch]],
    device: torch.device,
) -> Beginning:
    """A new head on top of an initial model, or that of weights that have one."""
    initial, head = read_diff3r(weights) if weights.card.system == "diff3r" else (weights, None)
    model = ReSplatInitializer.from_weights(initial, **_behaviour(options)).model.to(device)
    if head is None:
        torch.manual_seed(options.training.seed)
        reference = typical_precision(model, scenes(model.config), options.refinement.reference_scale)
        head = UncertaintyHead(model.shape.width, reference)
    network = RefinedModel(model, head, options.refinement.train_initial)
    config = replace(model.config, update_starts=ReSplatConfig().update_starts)
    return Beginning(RefinedStage(network, options.refinement), config, weights)


def _behaviour(options: TrainInitializer) -> dict[str, Any]:
    """Behaviour that replaces that of weights."""
    return asdict(options.behaviour) if options.behaviour_from == "options" else {}
