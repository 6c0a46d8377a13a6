"""How much memory a training takes: weights and optimizer exactly, activations from two small runs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from l2o_splat.initializer_training.batches import Batch
from l2o_splat.initializer_training.trainer import Stage
from l2o_splat.initializers.context_views import resized

FLOAT_BYTES = 4
MEASURED_VIEWS = 4
"""Context views of the small runs; from four on, each is compared with as many others as in training."""

SMALLEST_SIDE = 32
"""Shortest side of their images, pixels."""


@dataclass(frozen=True)
class StateSize:
    """Numbers that a training keeps from iteration to iteration."""

    numbers: int
    """Numbers of the whole model: trained and frozen parameters, and statistics."""
    trained: int
    """Parameters that are trained."""
    network: int
    """Numbers of the network that they belong to, of which there is a running average."""

    @property
    def num_bytes(self) -> int:
        """Weights and their average, and of each trained number the gradient and the two moments of AdamW."""
        return FLOAT_BYTES * (self.numbers + self.network + 3 * self.trained)


def state_size(stage: Stage) -> StateSize:
    """Size of the state of a stage, exactly; tensors may be on the meta device."""
    network = stage.network
    return StateSize(
        numbers=sum(tensor.numel() for tensor in stage.tensors(network).values()),
        trained=sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad),
        network=sum(tensor.numel() for tensor in network.state_dict().values()),
    )


def saved_bytes(stage: Stage, batch: Batch) -> int:
    """Bytes that autograd keeps for the backward pass of one scene, each once, without weights."""
    found: dict[int, int] = {}
    own = {tensor.untyped_storage().data_ptr() for tensor in stage.tensors(stage.network).values()}
    kept = []  # Alive until all are counted, or an address could come twice.

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
            kept.append(tensor)
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss, _ = stage.heaviest().loss(batch, np.random.default_rng(0))
    del loss
    return sum(found.values())


def activation_bytes(stage: Stage, batch: Batch, side: int, pixels: int) -> int:
    """Estimate of :func:`saved_bytes` for larger images, on a straight line through two small runs.

    What grows with the square of the size is left out: the products of all pairs of pixels of two views in the plane
    sweep.

    Args:
        stage: What is trained.
        batch: A scene, whose views are made small.
        side: Image sides must be multiples of this, pixels.
        pixels: Pixels of all context views together.
    """
    side = max(side, SMALLEST_SIDE)
    sizes = [(side, side), (side, 2 * side)]
    runs = []
    for height, width in sizes:
        few = small(batch, height, width)
        runs.append((len(few.context) * height * width, saved_bytes(stage, few)))
    (first, low), (second, high) = runs
    per_pixel = (high - low) / (second - first)
    return max(round(low + per_pixel * (pixels - first)), low)


def small(batch: Batch, height: int, width: int) -> Batch:
    """The batch with few small views."""
    context, target = batch.context[: min(MEASURED_VIEWS, len(batch.context))], batch.target[:1]
    limits = None
    if batch.depth_range is not None:
        near, far = (limit[: len(context)] for limit in batch.depth_range)
        limits = near, far
    depths = None
    if batch.depths is not None:
        depths = torch.nn.functional.interpolate(batch.depths[: len(context), None], (height, width))[:, 0]
    return replace(
        batch,
        context=resized(context, height, width),
        target=resized(target, height, width),
        depths=depths,
        depth_range=limits,
    )


def spoken(size: StateSize, activations: int, views: int, height: int, width: int, scenes: int) -> str:
    """The estimate in one sentence."""
    accumulated = f"; {scenes} scenes of an iteration follow one another and take no more" if scenes > 1 else ""
    return (
        f"{size.numbers / 1e6:.1f} M parameters, {size.trained / 1e6:.1f} M of them trained: "
        f"{size.num_bytes / 1e9:.2f} GB of weights, average, gradients and optimizer state, and about "
        f"{activations / 1e9:.1f} GB of activations for {views} context views of {height} x {width}{accumulated}."
    )
