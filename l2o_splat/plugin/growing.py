"""How far a scene grows inside nerfstudio, and which views say where."""

from __future__ import annotations

import sys

from jaxtyping import Float
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from l2o_splat.gaussians import Gaussians
from l2o_splat.growth.budget import GrowthOptions, bytes_per_gaussian, free_bytes, within_memory
from l2o_splat.plugin.datamanager import L2ODataManager
from l2o_splat.views import StoredPhotographs

VIEWS_THAT_CONFIRM = 48
"""Most photographs in which the Gaussians of a prediction are looked for when it is let go; all of a large capture
would take more time than they are worth."""


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
    datamanager: L2ODataManager, step: int, count: int, background: Float[Tensor, " 3"], scale: float
) -> list[StoredPhotographs]:
    """The views of the next steps, which say where the scene needs more Gaussians; one entry per image size.

    Args:
        datamanager: Hands out the views.
        step: The step to come.
        count: Views wanted, or all there are.
        background: Colour behind them, sRGB 0 to 1, where the scene is.
        scale: Of the step's photographs.
    """
    return datamanager.photographs_by_size(datamanager.view_sampler.ahead(step, count), background, scale)
