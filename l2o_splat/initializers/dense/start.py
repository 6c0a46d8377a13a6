"""The way from photographs and sparse points to Gaussians that cover the surfaces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from l2o_splat.gaussians import Gaussians
from l2o_splat.initializers.dense.head import DenseHead, shipped_head
from l2o_splat.initializers.points import PointInitOptions, gaussians_from_points, unit_colours
from l2o_splat.views import Photographs

PER_POINT = 4
"""Most Gaussians per sparse point."""
PIXELS = 128
"""Fewest pixels of the photographs per Gaussian: with fewer, Gaussians learn the noise of single photographs."""
PER_SECOND = 1500
"""Most Gaussians per processor second of the run: so that each is moved by some hundred steps of several views."""
MOST_REMAINING = 0.5
"""Largest share of the Gaussians that stand for single sparse points, away from all surfaces."""
FEWEST_VIEWS = 2
"""Views that depths can be agreed on by."""


@dataclass(frozen=True)
class DenseOptions:
    """How many Gaussians, and what they hold."""

    most: int | None = None
    """Gaussians wanted at most; None leaves it to the rule."""
    seconds: float | None = None
    """Processor seconds that they are trained for, those of all threads; None does not count them."""
    sh_degree: int = 3
    """Degree of the spherical harmonics stored; those above 0 start at zero."""

    def __post_init__(self) -> None:
        if self.most is not None and self.most < 1:
            raise ValueError(f"At most {self.most} Gaussians were asked for; at least 1 is needed.")
        if self.seconds is not None and not self.seconds > 0:
            raise ValueError(f"A run of {self.seconds} seconds was asked for; a time above 0 is needed.")


@dataclass(frozen=True)
class Surfaces:
    """Gaussians on the surfaces that views agree on, sized by rules of thumb, and what is known of each."""

    gaussians: Gaussians
    evidence: Float[Tensor, "n e"]
    """See :func:`l2o_splat.initializers.dense.surfels.surfels`; 0 for those of single sparse points."""
    views: int
    """Number of photographs."""


def dense_gaussians(
    groups: Sequence[Photographs],
    xyz: Float[Tensor, "p 3"],
    rgb: Shaped[Tensor, "p 3"],
    options: DenseOptions = DenseOptions(),
    head: DenseHead | None = None,
) -> Gaussians:
    """Gaussians on the surfaces that the views agree on, with the sizes, opacities and orientations of a network.

    Arguments and errors as for :func:`find_surfaces`; ``head`` is that of the package if it is None.
    """
    found = find_surfaces(groups, xyz, rgb, options)
    with torch.no_grad():
        return (head or shipped_head())(found.gaussians, found.evidence, found.views)


def find_surfaces(
    groups: Sequence[Photographs],
    xyz: Float[Tensor, "p 3"],
    rgb: Shaped[Tensor, "p 3"],
    options: DenseOptions = DenseOptions(),
) -> Surfaces:
    """Flat Gaussians on the surfaces that the views agree on, as wide as the pixels that they stand for.

    Each view gets the depths of the sparse points that it sees, interpolated and then corrected by comparing views
    (``depths``). Views vote on them (``consistency``); of several views of a place the one that sees it largest makes
    its Gaussians (``ownership``), of cells of pixels that are small where the photograph is detailed (``choice``).
    Sparse points away from all these surfaces become round Gaussians (``remainder``). The result depends on neither the
    number of threads nor chance.

    Args:
        groups: Photographs, one entry per image size.
        xyz: Sparse points, world frame, scene units.
        rgb: Their colours, sRGB: 0 to 1, or 0 to 255 when integers.
        options: Number and degree.

    Returns:
        On the CPU.

    Raises:
        ValueError: If there are fewer than two views, or no view sees enough points.
    """
    from l2o_splat.initializers.dense.choice import choose_cells
    from l2o_splat.initializers.dense.depths import estimate_depths
    from l2o_splat.initializers.dense.fillers import filled
    from l2o_splat.initializers.dense.neighbours import neighbours
    from l2o_splat.initializers.dense.observations import sight
    from l2o_splat.initializers.dense.ownership import owned_pixels
    from l2o_splat.initializers.dense.remainder import remaining
    from l2o_splat.initializers.dense.surfels import gaussians_of_cells
    from l2o_splat.initializers.dense.working_views import working_views

    rgb = unit_colours(rgb)
    if sum(len(group) for group in groups) < FEWEST_VIEWS:
        raise ValueError("A dense start compares views, and there is one; add photographs, or start from points.")
    points = xyz.double().cpu().numpy()
    views = working_views(groups)
    sightings = sight(views, points, rgb.cpu().numpy())
    order = neighbours(views, sightings)
    depths = estimate_depths(views, sightings, order)
    fillers = filled(views, depths)
    owned = owned_pixels(views, order, depths, fillers)
    if not owned.any():
        raise ValueError(
            f"No view sees enough of the {len(xyz)} points to estimate depths from; start from the points alone."
        )
    depths = replace(depths, inverse=np.where(fillers > 0, fillers, depths.inverse))
    most = number(groups, len(xyz), options)
    # Points that no view sees are wrong, or under a mask.
    rest = np.flatnonzero(remaining(views, points, depths) & sightings.visible.any(axis=0))
    room = int(MOST_REMAINING * most)
    if len(rest) > room:
        rest = rest[np.linspace(0, len(rest) - 1, room).astype(int)]
    cells = choose_cells(owned, depths, most - len(rest))
    surface, evidence = gaussians_of_cells(cells, views, depths, owned, options.sh_degree)
    round_ones = gaussians_from_points(xyz.cpu(), rgb.cpu(), PointInitOptions(sh_degree=options.sh_degree))
    gaussians = surface.zip_map(lambda some, others: torch.cat([some, others]), round_ones[torch.from_numpy(rest)])
    # Nothing is known of single points.
    return Surfaces(gaussians, F.pad(evidence, (0, 0, 0, len(rest))), len(views))


def number(groups: Sequence[Photographs], points: int, options: DenseOptions = DenseOptions()) -> int:
    """How many Gaussians a dense start makes at most.

    As many as the photographs can determine, as the density of the sparse points warrants, and as the run has time to
    train, whichever is least.

    Args:
        groups: Photographs, one entry per image size.
        points: Sparse points.
        options: Number and time.
    """
    pixels = sum(len(group) * group.cameras.width * group.cameras.height for group in groups)
    limits = [PER_POINT * points, pixels // PIXELS]
    if options.seconds is not None:
        limits.append(int(PER_SECOND * options.seconds))
    if options.most is not None:
        limits.append(options.most)
    return max(min(limits), 1)
