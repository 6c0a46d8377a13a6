"""Growth of a scene inside nerfstudio: at some shares of the budget, between two steps."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from jaxtyping import Float
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from l2o_splat.gaussians import Gaussians
from l2o_splat.growth.adc import AdcOptions, collect_screen_gradient, control_density
from l2o_splat.growth.budget import GrowthOptions, bytes_per_gaussian, free_bytes, within_memory
from l2o_splat.growth.event import grow
from l2o_splat.optim.joint_optimizer import JointOptimizer
from l2o_splat.plugin.datamanager import L2ODataManager
from l2o_splat.raster_settings import RasterSettings
from l2o_splat.rendering.evidence import Evidence
from l2o_splat.rendering.rendered_loss import rendered_loss
from l2o_splat.views import StoredPhotographs


def final_count(gaussians: Gaussians, factor: float, views_per_step: int) -> int:
    """Gaussians at the end; says so if memory sets the limit.

    Args:
        gaussians: At the start.
        factor: Gaussians at the end, as a multiple of them.
        views_per_step: Views of a step.
    """
    needed, free = bytes_per_gaussian(gaussians, views_per_step), free_bytes(gaussians.device)
    options, sentence = within_memory(GrowthOptions(factor), len(gaussians), needed, free)
    if sentence is not None:
        CONSOLE.log(f"[bold yellow]{sentence}")
    return options.count_at_end(len(gaussians))


def most_in_memory(gaussians: Gaussians, views_per_step: int) -> int:
    """Gaussians that there may be at most, of a scene that grows as it will.

    Args:
        gaussians: At the start.
        views_per_step: Views of a step.
    """
    needed, free = bytes_per_gaussian(gaussians, views_per_step), free_bytes(gaussians.device)
    return within_memory(GrowthOptions(final_count=sys.maxsize), len(gaussians), needed, free)[0].final_count


def views_ahead(
    datamanager: L2ODataManager, step: int, background: Float[Tensor, " 3"], scale: float
) -> list[StoredPhotographs]:
    """The views of the next steps, which say where the scene needs more Gaussians; one entry per image size.

    Args:
        datamanager: Hands out the views.
        step: The step to come.
        background: Colour behind them, sRGB 0 to 1, where the scene is.
        scale: Of the step's photographs.
    """
    return datamanager.photographs_by_size(datamanager.view_sampler.ahead(step), background, scale)


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
        looked_at: As :func:`views_ahead` gives them.
        options: How far the scene grows.
        start: Number of Gaussians before the first event.
        event: 0 for the first.
        drawn: How views are drawn.
        generator: Of the event.
    """
    gaussians = optimizer.gaussians
    parts = [rendered_loss(gaussians, group, drawn, evidence=("error",)).evidence for group in looked_at]
    seen = Evidence.total(parts)
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
        looked_at: As :func:`views_ahead` gives them.
        most: Gaussians that there may be.
        drawn: How views are drawn.
        generator: Of the event.
    """
    gaussians, extent = optimizer.gaussians, optimizer.param_groups[0]["scene_extent"]
    gradient = collect_screen_gradient(gaussians, looked_at, drawn)
    grown = control_density(gaussians, gradient, extent, AdcOptions(), most, generator)
    optimizer.resize(grown.gaussians, grown.source, grown.fresh)
