"""Batches: the views of a capture that one training step sees, with exact depths if it has them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from l2o_splat.initializer_training.options import BatchOptions
from l2o_splat.initializers.context_views import choose_context, cropped, depth_range, fit, resized
from l2o_splat.nets.resplat.encoder import resize
from l2o_splat.scenes.capture import Capture, Points, SampledCapture
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
    depths: Float[Tensor, "v h w"] | None
    """Exact camera z of every context pixel, scene units; None if the capture has none."""
    target: Views
    """Views that only the loss sees."""
    points: Points
    """Sparse points of the capture."""
    depth_range: tuple[Float[Tensor, " v"], Float[Tensor, " v"]] | None
    """Nearest and farthest depth considered in each context view, scene units; None for that of the networks."""
    guide: Points | None = None
    """Sparse points that the initial model sees, if it takes any; None in some batches, since captures may lack them.
    """

    @property
    def shown_points(self) -> tuple[Float[Tensor, "p 3"], Float[Tensor, "p 3"]] | None:
        """The guide as the initializer takes it."""
        return None if self.guide is None else (self.guide.xyz, self.guide.rgb)


def draw_batch(
    capture: Capture,
    options: BatchOptions,
    rng: np.random.Generator,
    device: torch.device,
    range_of_points: bool = True,
) -> Batch:
    """Draw views of a capture, or take those that it names.

    Args:
        capture: With exact depths if it is procedural; a :class:`SampledCapture` names context and target.
        options: How views are drawn and changed.
        rng: Of the draws.
        device: Of the batch.
        range_of_points: Whether the range of depths comes from the points, or is that of the networks.

    Raises:
        UnusableCaptureError: If the capture has too few views, or the drawn context sees too few points.
    """
    views, points, depths = capture.views, capture.points, exact_depths(capture)
    if rng.random() < options.flip_probability:
        views, points = views.mirrored(), points.mirrored()
        depths = None if depths is None else depths.flip(2)
    if rng.random() < options.turn_probability:
        views, depths = turned(views, depths, int(rng.integers(1, 4)))
    if rng.random() < options.recolour_probability:
        views, points = recoloured(views, points, rng)
    views, depths = sized(views, depths, options)
    if isinstance(capture, SampledCapture):
        context, target = list(capture.context), list(capture.target)
        _check_sampled(context, target)
    else:
        context, target = _choose(views.cameras, options, rng)
    limits = None
    if range_of_points:
        try:
            near, far = depth_range(points.xyz, views.cameras[torch.tensor(context)])
        except ValueError as error:
            raise UnusableCaptureError(str(error)) from error
        near, far = (limit * math.exp(options.range_jitter * rng.normal()) for limit in (near, far))
        limits = near, torch.maximum(far, LEAST_RATIO * near)
    batch = _batch(views, depths, points, context, target, limits, device)
    return batch if rng.random() < options.guide_probability else replace(batch, guide=None)


def exact_depths(capture: Capture) -> Float[Tensor, "v h w"] | None:
    """Camera z of every pixel, scene units; None if the capture is not procedural."""
    return capture.depths if isinstance(capture, ProceduralCapture) else None


def _check_sampled(context: list[int], target: list[int]) -> None:
    if len(context) < 2 or not target:
        raise UnusableCaptureError(
            f"The capture names {len(context)} context and {len(target)} target views; at least 2 and 1 are needed."
        )


def _choose(cameras: PinholeCameras, options: BatchOptions, rng: np.random.Generator) -> tuple[list[int], list[int]]:
    """Indices of context and target views."""
    count, centres = len(cameras), cameras.centres
    few, many = options.context_views
    pixels = cameras.height * cameras.width
    wanted = min(int(rng.integers(few, many, endpoint=True)), max(options.context_pixels // pixels, few))
    total = wanted + options.target_views
    if count < total:
        raise UnusableCaptureError(f"The capture has {count} views; {total} are needed for context and targets.")
    near_anchor = (centres - centres[rng.integers(count)]).norm(dim=1).argsort()
    reach = max(total, round(count * rng.uniform(*options.reach)))
    chosen = near_anchor[:reach].sort().values
    context = chosen[choose_context(centres[chosen], wanted)].tolist()
    others = [view for view in chosen.tolist() if view not in context]
    return context, sorted(rng.choice(others, options.target_views, replace=False).tolist())


def sized(
    views: Views, depths: Float[Tensor, "v h w"] | None, options: BatchOptions
) -> tuple[Views, Float[Tensor, "v h2 w2"] | None]:
    """Views and depths at the size that the networks see."""
    if options.image_size is None:
        views = fit(views, options.size_multiple, options.longer_side, "squeeze")
        return views, _depths_at(depths, views.cameras.height, views.cameras.width)
    height, width = options.image_size
    factor = max(height / views.cameras.height, width / views.cameras.width)
    covering = (round(views.cameras.height * factor), round(views.cameras.width * factor))
    views, depths = resized(views, *covering), _depths_at(depths, *covering)
    if depths is not None:
        top, left = (covering[0] - height) // 2, (covering[1] - width) // 2
        depths = depths[:, top : top + height, left : left + width]
    return cropped(views, height, width), depths


def _depths_at(depths: Float[Tensor, "v h w"] | None, height: int, width: int) -> Float[Tensor, "v h2 w2"] | None:
    return None if depths is None else resize(depths[:, None], (height, width))[:, 0]


def turned(
    views: Views, depths: Float[Tensor, "v h w"] | None, quarters: int
) -> tuple[Views, Float[Tensor, "v h2 w2"] | None]:
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
    images, masks, depths = (
        None if maps is None else maps.rot90(quarters, (1, 2)) for maps in (images, views.masks, depths)
    )
    return Views(PinholeCameras(viewmats, Ks, width, height), images, masks), depths


def recoloured(views: Views, points: Points, rng: np.random.Generator) -> tuple[Views, Points]:
    """The same scene in other colours: channels permuted, each raised to a power (sRGB)."""
    channels = rng.permutation(3).tolist()
    powers = views.images.new_tensor(np.exp(rng.normal(0, COLOUR_SPREAD, 3)))
    images, rgb = (colours[..., channels].clamp(0, 1) ** powers for colours in (views.images, points.rgb))
    return replace(views, images=images), replace(points, rgb=rgb)


def fixed_batch(capture: Capture, context_views: int, device: torch.device, range_of_points: bool = True) -> Batch:
    """The context views that a run would choose, and all other views as targets, or those that the capture names.

    Nothing is random.
    """
    views = capture.views
    if isinstance(capture, SampledCapture):
        context, target = list(capture.context), list(capture.target)
    else:
        context = choose_context(views.cameras.centres, min(context_views, len(views) - 1))
        target = [view for view in range(len(views)) if view not in context]
    limits = depth_range(capture.points.xyz, views.cameras[torch.tensor(context)]) if range_of_points else None
    return _batch(views, exact_depths(capture), capture.points, context, target, limits, device)


def _batch(
    views: Views,
    depths: Float[Tensor, "v h w"] | None,
    points: Points,
    context: list[int],
    target: list[int],
    limits: tuple[Float[Tensor, " v"], Float[Tensor, " v"]] | None,
    device: torch.device,
) -> Batch:
    return Batch(
        views[context].to(device),
        None if depths is None else depths[context].to(device),
        views[target].to(device),
        points.to(device),
        None if limits is None else (limits[0].to(device), limits[1].to(device)),
        points.to(device) if len(points) else None,
    )
