"""Losses of the initial model and of the update."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from l2o_splat.initializer_training.options import DepthLossWeights
from l2o_splat.initializers.depth_smoothness import depth_smoothness
from l2o_splat.nets.resplat.depth import DepthFeatures
from l2o_splat.nets.resplat.encoder import resize
from l2o_splat.nets.resplat.model import InitialPrediction
from l2o_splat.training.errors import TrainingError


def depth_loss(
    weights: DepthLossWeights,
    found: InitialPrediction | DepthFeatures,
    exact: Float[Tensor, "v 1 h w"] | None,
    images: Float[Tensor, "v 3 h w"],
    near: Float[Tensor, " v"],
    far: Float[Tensor, " v"],
) -> Float[Tensor, ""]:
    """Loss of predicted depths.

    Args:
        weights: Weights of its terms.
        found: Prediction of the depth network.
        exact: Exact camera z, units of the networks; depths beyond the range count as its ends. None if they are not
            known.
        images: Context views, normalised for the networks.
        near: Nearest depth considered in each view.
        far: Farthest depth considered.

    Raises:
        TrainingError: If a term needs exact depths and there are none.
    """
    smoothness = weights.smoothness * depth_smoothness(found.depth, images) if weights.smoothness else 0.0
    if not weights.need_exact:
        return found.depth.new_zeros(()) + smoothness
    if exact is None:
        raise TrainingError(
            "The depth losses compare with exact depths, which only procedural scenes have, and this capture has none; "
            "give --losses.depth.regression 0 --losses.depth.classification 0."
        )
    low, high = (limit.log()[:, None, None, None] for limit in (near, far))
    exact = exact.log().clamp(low, high)
    regression = (found.depth.log() - exact).abs().mean()
    # The two candidates around the exact depth share its weight.
    probability = found.probability
    last = probability.shape[1] - 1
    place = (resize(exact, tuple(probability.shape[2:])) - low) / (high - low) * last
    below = place.floor().clamp(0, last - 1)
    share = torch.cat([below + 1 - place, place - below], dim=1)
    logarithms = probability.clamp(min=1e-8).log().gather(1, torch.cat([below, below + 1], dim=1).long())
    classification = -(share * logarithms).sum(dim=1).mean()
    return weights.regression * regression + weights.classification * classification + smoothness


def rank_correlation(a: Float[Tensor, " n"], b: Float[Tensor, " n"]) -> float:
    """Spearman's rank correlation; ties are ranked in their order."""
    ranks = torch.stack([values.argsort().argsort().double() for values in (a, b)])
    ranks = F.normalize(ranks - ranks.mean(dim=1, keepdim=True), dim=1)
    return float(ranks[0] @ ranks[1])
