"""From a capture to what one training step sees: context views with their depths, target views, a range of depths."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from l2o_splat.initializers.context_views import choose_context, depth_range, fit
from l2o_splat.meta.episode import mirror, take_views, to_device
from l2o_splat.nets.resplat.resize import resize
from l2o_splat.scenes.capture import Points
from l2o_splat.scenes.procedural import ProceduralCapture
from l2o_splat.views import Views


@dataclass(frozen=True)
class BatchOptions:
    """How views are drawn from a capture."""

    context_views: tuple[int, int] = (2, 8)
    """Fewest and most context views."""
    target_views: int = 3
    """Views that only the loss sees."""
    context_pixels: int = 32_000
    """Larger images come with fewer context views, so that they have about so many pixels together."""
    longer_side: int = 112
    """Larger captures are reduced to this, pixels."""
    size_multiple: int = 16
    """Image sides are brought to multiples of this, as the networks need."""
    reach: tuple[float, float] = (0.2, 1.0)
    """All views are drawn from a share of the cameras between these, those nearest to one of them, so that views lie
    close together as well as far apart."""
    range_jitter: float = 0.3
    """Standard deviation of what is added to the logarithms of the nearest and the farthest depth."""
    flip_probability: float = 0.5
    """How often a capture is seen in a mirror."""

    def __post_init__(self) -> None:
        if not 2 <= self.context_views[0] <= self.context_views[1]:
            raise ValueError(f"context_views is {self.context_views}; an ascending range from at least 2 is needed.")


@dataclass(frozen=True)
class Batch:
    """One scene of a training step."""

    context: Views
    depths: Float[Tensor, "v h w"]
    """Exact camera z of the context, scene units."""
    target: Views
    points: Points
    depth_range: tuple[float, float]
    """Nearest and farthest depth considered, scene units."""


def draw_batch(
    capture: ProceduralCapture, options: BatchOptions, rng: np.random.Generator, device: torch.device
) -> Batch:
    """Draw views of a capture.

    Raises:
        ValueError: If the capture has too few views, or its context sees too few points.
    """
    views, points, depths = capture.views, capture.points, capture.depths
    if rng.random() < options.flip_probability:
        views, points = mirror(views, points)
        depths = depths.flip(2)
    views = fit(views, options.size_multiple, options.longer_side, "squeeze")
    depths = resize(depths[:, None], (views.cameras.height, views.cameras.width))[:, 0]
    few, many = options.context_views
    pixels = views.cameras.height * views.cameras.width
    wanted = min(int(rng.integers(few, many, endpoint=True)), max(options.context_pixels // pixels, few))
    total, count = wanted + options.target_views, len(views)
    if count < total:
        raise ValueError(f"The capture has {count} views; {total} are needed for context and targets.")
    centres = views.cameras.centres
    near_anchor = (centres - centres[rng.integers(count)]).norm(dim=1).argsort()
    reach = max(total, round(count * rng.uniform(*options.reach)))
    chosen = near_anchor[:reach].sort().values
    context = chosen[choose_context(centres[chosen], wanted)].tolist()
    others = [view for view in chosen.tolist() if view not in context]
    target = sorted(rng.choice(others, options.target_views, replace=False).tolist())
    near, far = depth_range(points.xyz, views.cameras[torch.tensor(context)])
    near, far = (limit * math.exp(options.range_jitter * rng.normal()) for limit in (near, far))
    far = max(far, 2 * near)
    return _batch(views, depths, points, context, target, (near, far), device)


def fixed_batch(capture: ProceduralCapture, context_views: int, device: torch.device) -> Batch:
    """The views that a run would take for context, and all others as targets; nothing is drawn."""
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
    limits: tuple[float, float],
    device: torch.device,
) -> Batch:
    moved = Points(points.xyz.to(device), points.rgb.to(device))
    parts = (to_device(take_views(views, part), device) for part in (context, target))
    return Batch(next(parts), depths[context].to(device), next(parts), moved, limits)
