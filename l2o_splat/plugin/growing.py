"""Growth of a scene inside nerfstudio: at some shares of the budget, between two steps."""

from __future__ import annotations

import torch
from nerfstudio.utils.rich_utils import CONSOLE

from l2o_splat.gaussians import Gaussians
from l2o_splat.growth.budget import GrowthOptions, bytes_per_gaussian, free_bytes, within_memory
from l2o_splat.growth.error_mass import ErrorMass, collect_error
from l2o_splat.growth.event import event_generator, grow
from l2o_splat.optim.joint_optimizer import JointOptimizer
from l2o_splat.plugin.datamanager import L2ODataManager
from l2o_splat.raster_settings import RasterSettings

STEPS_OF_VIEWS = 2
"""The views of so many steps to come say where the scene needs more Gaussians."""


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


def grow_scene(
    optimizer: JointOptimizer,
    datamanager: L2ODataManager,
    options: GrowthOptions,
    start: int,
    event: int,
    step: int,
    scale: float,
    drawn: RasterSettings,
) -> None:
    """Prune and split where the views of the next steps show the largest errors.

    Args:
        optimizer: Holds the scene, and what its rule remembers.
        datamanager: Hands out the views.
        options: How far the scene grows.
        start: Number of Gaussians before the first event.
        event: 0 for the first.
        step: The step to come.
        scale: Of its photographs.
        drawn: How they are drawn.
    """
    gaussians = optimizer.gaussians
    mass = _error_mass(gaussians, datamanager, step, scale, drawn)
    generator = event_generator(datamanager.config.view_seed, event)
    grown = grow(gaussians, mass.error, mass.visibility, mass.views, start, options, event, generator)
    optimizer.resize(grown.gaussians, grown.source, torch.zeros_like(grown.fresh), halves=grown.fresh)


def _error_mass(
    gaussians: Gaussians, datamanager: L2ODataManager, step: int, scale: float, drawn: RasterSettings
) -> ErrorMass:
    background = torch.tensor(drawn.background, device=gaussians.device)
    shown = (index for ahead in range(STEPS_OF_VIEWS) for index in datamanager.view_sampler.views(step + ahead))
    groups = datamanager.photographs_by_size(dict.fromkeys(shown), background, scale)
    parts = [collect_error(gaussians, group, drawn) for group in groups]
    return ErrorMass(*(sum(getattr(part, name) for part in parts) for name in ("error", "visibility", "views")))
