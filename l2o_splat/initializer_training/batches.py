"""Batches: the views of a capture that one training step sees, with their exact depths and a range of depths."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from l2o_splat.initializer_training.options import BatchOptions
from l2o_splat.initializers.context_views import choose_context, depth_range, fit
from l2o_splat.nets.resplat.encoder import resize
from l2o_splat.scenes.capture import Points
from l2o_splat.scenes.procedural import ProceduralCapture
from l2o_splat.training.errors import UnusableCaptureError
from l2o_splat.views import PinholeCameras, Views

LEAST_RATIO = 1.5
"""Smallest ratio of the farthest depth considered to the nearest."""
COLOUR_SPREAD = 0.25
"""Standard deviation of the logarithms of the exponents of colours."""


@dataclass(frozen=True)
class Batch:
    """One scene of a training step."""

    context: Views
    """Views that the networks see."""
    depths: Float[Tensor, "v h w"]
    """Exact camera z of every context pixel, scene units."""
    target: Views
    """Views that only the loss sees."""
    points: Points
    """Sparse points of the capture."""
    depth_range: tuple[Float[Tensor, " v"], Float[Tensor, " v"]]
    """Nearest and farthest depth considered in each context view, scene units."""


def draw_batch(
    capture: ProceduralCapture, options: BatchOptions, rng: np.random.Generator, device: torch.device
) -> Batch:
    """Draw views of a capture.

    Raises:
        UnusableCaptureError: If the capture has too few views, or the drawn context sees too few points.
    """
    views, points, depths = capture.views, capture.points, capture.depths
    if rng.random() < options.flip_probability:
        views, points = views.mirrored(), points.mirrored()
        depths = depths.flip(2)
    if rng.random() < options.turn_probability:
        views, depths = turned(views, depths, int(rng.integers(1, 4)))
    if rng.random() < options.recolour_probability:
        views, points = recoloured(views, points, rng)
    views = fit(views, options.size_multiple, options.longer_side, "squeeze")
    depths = resize(depths[:, None], (views.cameras.height, views.cameras.width))[:, 0]
    few, many = options.context_views
    pixels = views.cameras.height * views.cameras.width
    wanted = min(int(rng.integers(few, many, endpoint=True)), max(options.context_pixels // pixels, few))
    total, count = wanted + options.target_views, len(views)
    if count < total:
        raise UnusableCaptureError(f"The capture has {count} views; {total} are needed for context and targets.")
    centres = views.cameras.centres
    near_anchor = (centres - centres[rng.integers(count)]).norm(dim=1).argsort()
    reach = max(total, round(count * rng.uniform(*options.reach)))
    chosen = near_anchor[:reach].sort().values
    context = chosen[choose_context(centres[chosen], wanted)].tolist()
    others = [view for view in chosen.tolist() if view not in context]
    target = sorted(rng.choice(others, options.target_views, replace=False).tolist())
    try:
        near, far = depth_range(points.xyz, views.cameras[torch.tensor(context)])
    except ValueError as error:
        raise UnusableCaptureError(str(error)) from error
    near, far = (limit * math.exp(options.range_jitter * rng.normal()) for limit in (near, far))
    far = torch.maximum(far, LEAST_RATIO * near)
    return _batch(views, depths, points, context, target, (near, far), device)


def turned(views: Views, depths: Float[Tensor, "v h w"], quarters: int) -> tuple[Views, Float[Tensor, "v h2 w2"]]:
    """The same photographs and depths turned to the left by quarters of a circle, as if the camera had been rolled.

    The world stays as it is.
    """
    cameras, images = views.cameras, views.images
    viewmats, Ks, width, height = cameras.viewmats, cameras.Ks, cameras.width, cameras.height
    for _ in range(quarters):
        # What lay right of the centre lies above it afterwards: x, y become y, -x.
        quarter = viewmats.new_tensor([[0.0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
        viewmats = quarter @ viewmats
        upright = Ks.clone()
        upright[:, 0, 0], upright[:, 1, 1] = Ks[:, 1, 1], Ks[:, 0, 0]
        upright[:, 0, 2], upright[:, 1, 2] = Ks[:, 1, 2], width - Ks[:, 0, 2]
        Ks, width, height = upright, height, width
        images, depths = images.rot90(1, (1, 2)), depths.rot90(1, (1, 2))
    return Views(PinholeCameras(viewmats, Ks, width, height), images), depths


def recoloured(views: Views, points: Points, rng: np.random.Generator) -> tuple[Views, Points]:
    """The same scene in other colours: channels permuted, each raised to a power (sRGB)."""
    channels = rng.permutation(3).tolist()
    powers = views.images.new_tensor(np.exp(rng.normal(0, COLOUR_SPREAD, 3)))
    images, rgb = (colours[..., channels].clamp(0, 1) ** powers for colours in (views.images, points.rgb))
    return replace(views, images=images), replace(points, rgb=rgb)


def fixed_batch(capture: ProceduralCapture, context_views: int, device: torch.device) -> Batch:
    """The context views that a run would choose, and all other views as targets; nothing is random."""
    views = capture.views
    context = choose_context(views.cameras.centres, min(context_views, len(views) - 1))
    target = [view for view in range(len(views)) if view not in context]
    limits = depth_range(capture.points.xyz, views.cameras[torch.tensor(context)])
    return _batch(views, capture.depths, capture.points, context, target, limits, device)


def _batch(
    views: Views,
    depths: Float[Tensor, "v h w"],
    points: Points,
    context: list[int],
    target: list[int],
    limits: tuple[Float[Tensor, " v"], Float[Tensor, " v"]],
    device: torch.device,
) -> Batch:
    near, far = (limit.to(device) for limit in limits)
    return Batch(
        views[context].to(device),
        depths[context].to(device),
        views[target].to(device),
        points.to(device),
        (near, far),
    )
