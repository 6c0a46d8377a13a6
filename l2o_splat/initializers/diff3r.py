"""DIFF3R's start of a scene (arXiv 2604.01030): Gaussians of a feed-forward model, and how strongly each is held.

The paper puts its head on other backbones; here it is ReSplat's initial model (ours).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from l2o_splat.implicit.consistency import consistency_maps
from l2o_splat.implicit.linearized_views import ContextViews
from l2o_splat.implicit.uncertainty_head import PREFIX, UncertaintyHead
from l2o_splat.initializers.resplat import InitialScene
from l2o_splat.nets.resplat.points import maps_from_rows
from l2o_splat.rendering import RasterSettings
from l2o_splat.weights.format import Weights
from l2o_splat.weights.resplat import read_tensors


def read_diff3r(weights: Weights) -> tuple[Weights, UncertaintyHead]:
    """The two parts of weights of diff3r.

    Returns:
        Those of the initial model, as of the resplat system, and the head.

    Raises:
        ValueError: If the weights are of another method, a part is missing, or the two do not go together.
    """
    head = UncertaintyHead.from_weights(weights)
    tensors = {name: tensor for name, tensor in weights.tensors.items() if not name.startswith(PREFIX)}
    initial = Weights(tensors, replace(weights.card, system="resplat"))
    width = read_tensors(initial, {}).shape.width
    if head.channels != width:
        raise ValueError(
            f"The uncertainty head from {weights.card.source} is for {head.channels} channels, but the initial model "
            f"beside it has {width}; use the weights of one model."
        )
    return initial, head


def predicted_precision(head: UncertaintyHead, scene: InitialScene, settings: RasterSettings) -> Float[Tensor, "n 5"]:
    """How strongly each Gaussian is to be held; differentiable to the head and the features.

    Args:
        head: Sees the features of the initial model, and how its Gaussians compare with the photographs.
        scene: What the initial model made of its context views.
        settings: How it is drawn.
    """
    cameras, grid = scene.context.cameras, scene.grid
    maps = maps_from_rows(scene.on_grid(scene.features.float()), grid)
    consistency = consistency_maps(
        scene.gaussians, ContextViews(scene.context, settings), grid, head.reference, scene.cell
    )
    means = scene.on_grid(scene.gaussians.means)
    footprints = cameras.depths(means.unflatten(0, (len(cameras), -1))) / cameras.focal_lengths[:, None]
    precision = head(maps, consistency, footprints.flatten().clamp(min=torch.finfo(means.dtype).eps))
    return precision if len(precision) == len(scene.gaussians) else precision[scene.cell]
