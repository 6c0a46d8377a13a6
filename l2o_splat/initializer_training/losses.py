"""Losses of the initial model and of the update."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from l2o_splat.initializers.depth_smoothness import depth_smoothness
from l2o_splat.nets.resplat.depth import DepthFeatures
from l2o_splat.nets.resplat.encoder import resize
from l2o_splat.nets.resplat.model import InitialPrediction
from l2o_splat.training.objective import Objective


@dataclass(frozen=True)
class DepthLoss:
    """Supervision by the exact depths of procedural scenes (ours; the original has none)."""

    regression: float = 1.0
    """Weight of the mean absolute error of log-depth, at the resolution of the images."""
    classification: float = 0.1
    """Weight of the cross-entropy over depth candidates, at the resolution of the cost volume."""
    smoothness: float = 0.01
    """Weight of the edge-aware smoothness, as in the original."""

    def __call__(
        self,
        found: InitialPrediction | DepthFeatures,
        exact: Float[Tensor, "v 1 h w"],
        images: Float[Tensor, "v 3 h w"],
        near: Float[Tensor, " v"],
        far: Float[Tensor, " v"],
    ) -> Float[Tensor, ""]:
        """Loss of predicted depths.

        Args:
            found: Prediction of the depth network.
            exact: Exact camera z, units of the networks; depths beyond the range count as its ends.
            images: Context views, normalised for the networks.
            near: Nearest depth considered in each view.
            far: Farthest depth considered.
        """
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
        return (
            self.regression * regression
            + self.classification * classification
            + self.smoothness * depth_smoothness(found.depth, images)
        )


def default_objective() -> Objective:
    """L1 and SSIM; LPIPS if its weight is set and its backbone is available."""
    return Objective(relative=False)


@dataclass(frozen=True)
class Losses:
    """Terms of the losses and their weights."""

    images: Objective = field(default_factory=default_objective)
    """Error of rendered views."""
    rendered: float = 1.0
    """Weight of that error; with 0 the initial stage trains the depth network alone, in about half the time."""
    context_share: float = 0.25
    """Share of the error of context views; target views have the rest."""
    depth: DepthLoss = field(default_factory=DepthLoss)
    """Error of predicted depths, in the initial stage."""
    growth: float = 0.9
    """Weight of the error after an update, relative to that after the next one."""


def rank_correlation(a: Float[Tensor, " n"], b: Float[Tensor, " n"]) -> float:
    """Spearman's rank correlation; ties are ranked in their order."""
    ranks = torch.stack([values.argsort().argsort().double() for values in (a, b)])
    ranks = F.normalize(ranks - ranks.mean(dim=1, keepdim=True), dim=1)
    return float(ranks[0] @ ranks[1])
