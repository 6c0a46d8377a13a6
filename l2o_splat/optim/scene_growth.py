"""Growth and thinning of the scene that a joint optimizer holds, between two steps."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from l2o_splat.gaussians import Gaussians
from l2o_splat.growth.adc import AdcOptions, collect_screen_gradient, control_density
from l2o_splat.growth.budget import GrowthOptions
from l2o_splat.growth.event import grow
from l2o_splat.growth.prune import confirmed
from l2o_splat.optim.joint_optimizer import JointOptimizer
from l2o_splat.raster_settings import RasterSettings
from l2o_splat.rendering.evidence import Evidence
from l2o_splat.rendering.rendered_loss import rendered_loss
from l2o_splat.views import StoredPhotographs


def grow_scene(
    optimizer: JointOptimizer,
    looked_at: Sequence[StoredPhotographs],
    options: GrowthOptions,
    start: int,
    event: int,
    drawn: RasterSettings,
    generator: torch.Generator,
) -> None:
    """Prune and split where some views show the largest errors.

    Args:
        optimizer: Holds the scene, and what its rule remembers.
        looked_at: Views to come, one entry per image size.
        options: How far the scene grows.
        start: Number of Gaussians before the first event.
        event: 0 for the first.
        drawn: How views are drawn.
        generator: Of the event.
    """
    gaussians, seen = optimizer.gaussians, _seen(optimizer.gaussians, looked_at, drawn)
    grown = grow(gaussians, seen.error, seen.visibility, seen.views, start, options, event, generator)
    optimizer.resize(grown.gaussians, grown.source, torch.zeros_like(grown.fresh), halves=grown.fresh)


def adapt_scene(
    optimizer: JointOptimizer,
    looked_at: Sequence[StoredPhotographs],
    most: int,
    drawn: RasterSettings,
    generator: torch.Generator,
) -> None:
    """Clone, split and remove Gaussians as 3DGS does.

    Args:
        optimizer: Holds the scene, and what its rule remembers.
        looked_at: Views to come, one entry per image size.
        most: Gaussians that there may be.
        drawn: How views are drawn.
        generator: Of the event.
    """
    gaussians, extent = optimizer.gaussians, optimizer.param_groups[0]["scene_extent"]
    gradient = collect_screen_gradient(gaussians, looked_at, drawn)
    grown = control_density(gaussians, gradient, extent, AdcOptions(), most, generator)
    optimizer.resize(grown.gaussians, grown.source, grown.fresh)


def thin_scene(optimizer: JointOptimizer, looked_at: Sequence[StoredPhotographs], drawn: RasterSettings) -> None:
    """Remove Gaussians that fewer than two views see, see :func:`confirmed`.

    Args:
        optimizer: Holds the scene, and what its rule remembers.
        looked_at: Training views, as many as can be looked at, one entry per image size.
        drawn: How views are drawn.
    """
    gaussians = optimizer.gaussians
    source = confirmed(_seen(gaussians, looked_at, drawn).views).nonzero()[:, 0]
    optimizer.resize(gaussians[source], source, torch.zeros_like(source, dtype=torch.bool))


def _seen(gaussians: Gaussians, looked_at: Sequence[StoredPhotographs], drawn: RasterSettings) -> Evidence:
    """What all the views show of each Gaussian."""
    return Evidence.total([rendered_loss(gaussians, group, drawn, evidence=("error",)).evidence for group in looked_at])
