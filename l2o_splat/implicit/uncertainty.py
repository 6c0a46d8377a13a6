"""What a precision says about a scene, as variances and as an image.

The diagonal Laplace approximation is common knowledge (MacKay 1992); that and how it is shown is ours, not DIFF3R's.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from l2o_splat.gaussians import Gaussians
from l2o_splat.implicit.linearized_views import ContextViews
from l2o_splat.optim.precision import MEAN, group_means

QUANTILES = (0.05, 0.95)
"""Shares of a scene's Gaussians that are darker than black and not brighter than white."""


@torch.no_grad()
def group_curvature(gaussians: Gaussians, views: ContextViews, probes: int = 4, seed: int = 0) -> Float[Tensor, "n 5"]:
    """What photographs say about each Gaussian: the diagonal of J^T J, its mean over the channels of each group.

    With the precision it makes the diagonal of the Gauss-Newton Hessian of the inner energy E, so that
    ``1 / (precision + curvature)`` is the variance of a parameter in the Laplace approximation: the posterior around
    the present scene for a prior of that precision around the anchor and photographs with independent noise of
    standard deviation 1, all other parameters known. With noise of standard deviation s and a prior of precision / s^2,
    which have the same optimum, it is s^2 times as much. It is no larger than the marginal variance, which would take
    the inverse of the whole Hessian.

    Args:
        gaussians: The scene; views are linearized there.
        views: The photographs that it was refined on.
        probes: Random images per view from which the diagonal is estimated.
        seed: Of the probes.
    """
    return group_means(views.linearize(gaussians).view_diagonals(probes, seed).sum(dim=0))


def relative_uncertainty(variance: Float[Tensor, "n 5"], gaussians: Gaussians) -> Float[Tensor, " n"]:
    """One number from 0 to 1 per Gaussian: where it stands among those of its scene.

    The five variances are averaged geometrically, that of the means in units of the Gaussian's own size. On a
    logarithmic scale, 0 is the 5 % quantile of the scene and 1 the 95 % quantile; 0.5 where all are the same.

    Args:
        variance: Of each group, per squared unactivated unit.
        gaussians: Whose variance it is.
    """
    logarithms = variance.log()
    logarithms[:, MEAN] -= 2 * gaussians.scales.detach().mean(dim=1)
    score = logarithms.mean(dim=1)
    low, high = torch.quantile(score, score.new_tensor(QUANTILES)) if len(score) else score.new_zeros(2)
    if not high > low:
        return torch.full_like(score, 0.5)
    return ((score - low) / (high - low)).clamp(0, 1)
