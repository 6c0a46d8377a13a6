"""A precision for initializers that predict none: points from structure from motion, or a network without such a head.

Not from DIFF3R (arXiv 2604.01030). It imitates what the paper shows its network to learn: to hold what only one context
view sees.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from l2o_splat.gaussians import Gaussians
from l2o_splat.implicit.linearized_views import ContextViews
from l2o_splat.implicit.precision import GROUPS, MEAN, ROTATION, SCALE, group_means
from l2o_splat.views import PinholeCameras

SHARE = 0.1
"""Precision of a typical Gaussian in units of what the photographs say about it, the diagonal of J^T J."""
RAISED = 10.0
"""Factor on the precision of Gaussians that fewer than two views see."""
ROTATION_FLOOR = 1e-2
"""Least reference of the rotation, in units of that of the scales: round Gaussians have no rotation to see."""


def pixel_footprints(means: Float[Tensor, "n 3"], cameras: PinholeCameras, near: float = 0.01) -> Float[Tensor, " n"]:
    """Scene units per pixel at each Gaussian, in the camera that sees it largest; infinite behind all cameras.

    Args:
        means: Centres, scene units.
        cameras: Their fields of view are not looked at.
        near: Least depth of a Gaussian in front of a camera, scene units.
    """
    depths = cameras.depths(means)
    sizes = depths / cameras.focal_lengths[:, None]
    return torch.where(depths >= near, sizes, float("inf")).amin(dim=0)


@torch.no_grad()
def reference_precision(
    gaussians: Gaussians, views: ContextViews, probes: int = 4, seed: int = 0
) -> Float[Tensor, " 5"]:
    """Typical precision of each group in this scene: ``SHARE`` times the median diagonal of J^T J.

    That of the means is per squared pixel, not per squared scene unit, so that it holds at any scale of a scene.

    Args:
        gaussians: The scene.
        views: What it is seen in.
        probes: Random images per view from which the diagonal is estimated.
        seed: Of the probes.

    Raises:
        ValueError: If no Gaussian is visible, or a group has no influence on the images at all.
    """
    return _measure(gaussians, views, probes, seed)[0]


@torch.no_grad()
def heuristic_precision(
    gaussians: Gaussians, views: ContextViews, probes: int = 4, seed: int = 0
) -> Float[Tensor, "n 5"]:
    """The group references, raised where a Gaussian is seen by fewer than two context views ("heuristic precision").

    Arguments and errors as for :func:`reference_precision`.
    """
    reference, seen_by = _measure(gaussians, views, probes, seed)
    footprints = pixel_footprints(gaussians.means, views.cameras, views.settings.near)
    # What no camera has in front of it does not move, whatever its precision; it only has to be finite.
    typical = footprints[footprints.isfinite()].median()
    precision = reference.repeat(len(gaussians), 1)
    precision[:, MEAN] /= torch.where(footprints.isfinite(), footprints, typical).square()
    return precision * torch.where(seen_by < 2, RAISED, 1.0)[:, None].to(precision.dtype)


def _measure(gaussians: Gaussians, views: ContextViews, probes: int, seed: int) -> tuple[Float[Tensor, " 5"], Tensor]:
    """Group references, and by how many views each Gaussian is seen."""
    diagonals = views.linearize(gaussians).view_diagonals(probes, seed)
    seen_by = (diagonals > 0).any(dim=2).sum(dim=0)
    visible = seen_by > 0
    if not visible.any():
        raise ValueError(
            f"None of the {len(gaussians)} Gaussians is visible in the context views; check the poses and the units."
        )
    information = group_means(diagonals.sum(dim=0))[visible]
    footprints = pixel_footprints(gaussians.means[visible], views.cameras, views.settings.near)
    information[:, MEAN] *= footprints.square()
    reference = SHARE * information.median(dim=0).values
    reference[ROTATION] = torch.maximum(reference[ROTATION], ROTATION_FLOOR * reference[SCALE])
    if not (reference > 0).all():
        silent = [name for name, value in zip(GROUPS, reference.tolist(), strict=True) if not value > 0]
        raise ValueError(
            f"Most Gaussians' {', '.join(silent)} has no influence on the context views; check that opacities, scales "
            "and poses of the initial scene are sound."
        )
    return reference, seen_by
