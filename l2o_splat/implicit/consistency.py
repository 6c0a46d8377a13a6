"""How consistent a prediction is with the photographs before it is refined; an input of the uncertainty head.

A feature map knows what a network thinks of a place, not whether the prediction agrees with the photographs. Ours;
DIFF3R (arXiv 2604.01030) says nothing of it. All numbers lie around 0, and none depends on the unit of the scene.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from l2o_splat.gaussians import Gaussians
from l2o_splat.implicit.heuristic import pixel_footprints
from l2o_splat.implicit.linearized_views import ContextViews
from l2o_splat.optim.precision import GROUPS, MEAN, group_means
from l2o_splat.rendering import render

CHANNELS = len(GROUPS) + 9
"""Numbers per Gaussian."""
PROBES = 4
"""Random images per view from which the diagonal of J^T J is estimated."""
LEAST_INFORMATION = 1e-4
"""Added to information in units of the reference before logarithms are taken."""
LEAST_ERROR = 0.01
"""Added to absolute errors, 0 to 1, before logarithms are taken."""


@torch.no_grad()
def consistency_maps(
    gaussians: Gaussians,
    views: ContextViews,
    grid: tuple[int, int],
    reference: Float[Tensor, " 5"],
    cell: Int[Tensor, " n"] | None = None,
) -> Float[Tensor, "v c h w"]:
    """One row of numbers for each pixel-aligned Gaussian, where it lies in the maps of features.

    * How much the photographs say about the Gaussian (diagonal of J^T J of each group, divided by the reference), and
      how many views say it.
    * At its place in its own view: the absolute difference from the photograph; the signed and the absolute one, and
      how much is covered, when that view is drawn without the Gaussians that were predicted from it.
    * Of its view: means of these signed and absolute ones. Of the scene: the mean of the absolute ones, and the number
      of views.

    What a view's neighbours make of it tells how good the prediction is where nothing was seen, and another exposure.

    Args:
        gaussians: The prediction, in order of their view, row and column.
        views: The photographs it was made from, and how it is drawn.
        grid: Rows and columns of Gaussians per view.
        reference: Typical precision of each group, that of the means per squared pixel.
        cell: Which cell of the maps each Gaussian lies in, counted view by view and row by row; None if there is one
            for each. Photographs say nothing about the Gaussian of a cell that has none.
    """
    if cell is None:
        cell = torch.arange(len(gaussians), device=gaussians.device)
    linearized = views.linearize(gaussians)
    diagonals = group_means(linearized.view_diagonals(PROBES, seed=0).flatten(0, 1))
    diagonals = diagonals.view(len(views.cameras), -1, len(GROUPS))
    footprints = pixel_footprints(gaussians.means, views.cameras, views.settings.near)
    diagonals[:, :, MEAN] *= torch.where(footprints.isfinite(), footprints, 0).square()
    cells = len(views.cameras) * grid[0] * grid[1]
    if len(gaussians) != cells:
        diagonals = diagonals.new_zeros(len(views.cameras), cells, len(GROUPS)).index_copy(1, cell, diagonals)
    rows = _information(diagonals / reference)
    maps = rows.view(len(views.cameras), *grid, -1).permute(0, 3, 1, 2)
    return torch.cat([maps, _differences(gaussians, views, linearized.residual(), grid, cell)], dim=1)


def _information(diagonals: Float[Tensor, "v n 5"]) -> Float[Tensor, "n 6"]:
    """Logarithms over all views, and the effective number of views."""
    per_view = diagonals.sum(dim=2)
    effective_views = per_view.sum(dim=0).square() / per_view.square().sum(dim=0).clamp(min=1e-30)
    information = (diagonals.sum(dim=0) + LEAST_INFORMATION).log() / 4
    return torch.cat([information, effective_views.clamp(min=1).log()[:, None]], dim=1)


def _differences(
    gaussians: Gaussians,
    views: ContextViews,
    residual: Float[Tensor, "v h w 3"],
    grid: tuple[int, int],
    cell: Int[Tensor, " n"],
) -> Float[Tensor, "v 8 gh gw"]:
    """Differences in the view that a Gaussian was predicted from, and what they are in views and scene as a whole."""

    def places(image: Float[Tensor, "v h w c"]) -> Float[Tensor, "v 1 gh gw"]:
        return adaptive_avg_pool2d(image.mean(dim=3)[:, None], grid)

    across, covered = _without_own(gaussians, views, cell // (grid[0] * grid[1]))
    share = covered.mean(dim=(1, 2, 3)).clamp(min=1e-3)
    signed, absolute = (image.mean(dim=(1, 2, 3)) / share for image in (across, across.abs()))
    maps = [
        (places(residual.abs()) + LEAST_ERROR).log() + 3,
        5 * places(across),
        (places(across.abs()) + LEAST_ERROR).log() + 3,
        2 * places(covered) - 1,
    ]
    numbers = [
        10 * signed,
        (absolute + LEAST_ERROR).log() + 2.5,
        ((absolute.mean() + LEAST_ERROR).log() + 2.5).expand_as(signed),
        torch.full_like(signed, len(signed)).log() - 1.5,
    ]
    return torch.cat([*maps, *(number.view(-1, 1, 1, 1).expand(-1, 1, *grid) for number in numbers)], dim=1)


def _without_own(
    gaussians: Gaussians, views: ContextViews, source: Int[Tensor, " n"]
) -> tuple[Float[Tensor, "v h w 3"], Float[Tensor, "v h w 1"]]:
    """Each view drawn by the Gaussians of the others minus its photograph, where covered; and how much is covered.

    ``source`` is the view that each Gaussian was predicted from.
    """
    background = views.images.new_tensor(views.settings.background)
    errors, covered = [], []
    for view in range(len(views.cameras)):
        one = slice(view, view + 1)
        drawn = render(gaussians[source != view], views.cameras[one], views.settings, views.backend)
        alpha = drawn.alpha if views.counted is None else torch.where(views.counted[one], drawn.alpha, 0)
        errors.append(torch.where(alpha > 0, drawn.rgb - background * (1 - alpha) - views.images[one] * alpha, 0))
        covered.append(alpha)
    return torch.cat(errors), torch.cat(covered)
