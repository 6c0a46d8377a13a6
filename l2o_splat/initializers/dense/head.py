"""A network that gives the Gaussians of a dense start their sizes, opacities and orientations.

Rules of thumb make each Gaussian as wide as its cell of pixels and nearly opaque. How much of it other views confirm,
how even its cell is and how far its neighbours are says more. The network learns what to make of that by rendering
(``l2o train-initializer --stage dense``). It sees each Gaussian by itself, in numbers that no unit of length changes.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor, nn

from l2o_splat.gaussians import Gaussians
from l2o_splat.nets.knn import nearest_neighbours
from l2o_splat.nets.shapes import require_shapes
from l2o_splat.rotations import quaternion_product
from l2o_splat.weights.format import Weights
from l2o_splat.weights.load import load_weights

WEIGHTS = "dense-mini"
"""Weights of the head that come with the package."""
EVIDENCE = 12
"""Numbers that say what is known of a Gaussian, see :func:`l2o_splat.initializers.dense.surfels.surfels`."""
GAPS = (3, 8)
"""The network sees the mean distance to this many nearest Gaussians, once for each entry."""
WIDEST_GAP = 4.0
"""Largest logarithm of such a distance in the Gaussian's own width, either way."""
USUAL_VIEWS, USUAL_GAUSSIANS = 8, 1500
"""Photographs, and Gaussians of each, around which the numbers of a scene lie."""
INPUTS = EVIDENCE + len(GAPS) + 2
WIDTH = 32
"""Numbers in each of the two hidden layers."""
SCALE = 1.5
"""Most that the logarithm of a standard deviation changes by."""
OPACITY = 4.0
"""The same of the logit of an opacity."""
TILT = 0.6
"""Most that a Gaussian turns about each of its axes, radians."""


class DenseHead(nn.Module):
    """Changes what Gaussians of a dense start look like; untrained, it changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        hidden = (nn.Linear(INPUTS, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH), nn.GELU())
        self.layers = nn.Sequential(*hidden, nn.Linear(WIDTH, 7))
        nn.init.zeros_(self.layers[-1].weight)
        nn.init.zeros_(self.layers[-1].bias)

    @classmethod
    def from_weights(cls, weights: Weights) -> DenseHead:
        """The head that weights describe, which is not trained.

        Raises:
            ValueError: If the weights are of another system, or a tensor is missing or has another shape.
        """
        tensors = weights.require("dense").tensors
        require_shapes(tensors, cls, f"A dense head ({weights.card.source})")
        head = cls()
        head.load_state_dict(tensors)
        return head.requires_grad_(False)

    def forward(self, gaussians: Gaussians, evidence: Float[Tensor, "n e"], views: int) -> Gaussians:
        """The Gaussians with other scales, quaternions and opacities; where they are and their colours stay.

        Args:
            gaussians: Sized by rules of thumb.
            evidence: What views say of each, see :func:`l2o_splat.initializers.dense.surfels.surfels`.
            views: Number of photographs.
        """
        scene = gaussians.means.new_tensor(
            [math.log(views / USUAL_VIEWS), math.log(len(gaussians) / (views * USUAL_GAUSSIANS))]
        )
        seen = torch.cat([evidence, gaps(gaussians), (scene / 2).expand(len(gaussians), 2)], dim=1)
        scales, opacities, axes = self.layers(seen).split([3, 1, 3], dim=1)
        turn = torch.cat([torch.ones_like(opacities), (TILT / 2) * axes.tanh()], dim=1)
        turned = quaternion_product(gaussians.quats, turn)
        return replace(
            gaussians,
            scales=gaussians.scales + SCALE * scales.tanh(),
            opacities=gaussians.opacities + OPACITY * opacities.tanh(),
            quats=turned / turned.norm(dim=1, keepdim=True),
        )


def gaps(gaussians: Gaussians) -> Float[Tensor, "n g"]:
    """Logarithms of the mean distances to the nearest others, in units of each Gaussian's middle standard deviation."""
    means, widest = gaussians.means, max(GAPS)
    if len(means) <= 1:
        return means.new_full((len(means), len(GAPS)), WIDEST_GAP)
    nearest = means[nearest_neighbours(means, min(widest + 1, len(means)))]
    # They come in no order, and one of them is the Gaussian itself.
    distances = (nearest - means[:, None]).norm(dim=2).sort(dim=1).values[:, 1:]
    found = torch.stack([distances[:, :count].mean(dim=1) for count in GAPS], dim=1)
    widths = gaussians.scales.median(dim=1, keepdim=True).values
    return (found.log() - widths).clamp(-WIDEST_GAP, WIDEST_GAP)


@cache
def shipped_head() -> DenseHead:
    """The head of the package."""
    return DenseHead.from_weights(load_weights(WEIGHTS, "dense"))
