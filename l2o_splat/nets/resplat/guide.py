"""Joins the depths that a network finds by comparing views with those of the sparse points (ours).

Structure from motion measures the depths of its points to a thousandth, which a small network does not reach, and says
nothing away from them, where a network has learnt what is likely.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

GUIDE_CHANNELS = 3
"""Camera z (0 where nothing is known), nearness to the nearest point (0 to 1), and whether views agree (0 or 1)."""
FIRST_GATE = 2.0
"""Logit of the share that depths of points have before training, where they are known."""
CORRECTION = 0.1
"""Largest correction, as a share of the range of log-depths, of an output of 1."""
DIFFERENCE = 10.0
"""Factor of the difference of the two log-depths, relative to their range, as an input."""


class DepthGuide(nn.Module):
    """How far each pixel follows the depths of the points instead of the network's own.

    Args:
        width: Channels of its layers.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(8, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=2, dilation=2),
            nn.GELU(),
            nn.Conv2d(width, 2, 3, padding=1),
        )
        with torch.no_grad():
            self.layers[-1].weight.zero_()
            self.layers[-1].bias.copy_(torch.tensor([FIRST_GATE, 0.0]))

    def forward(
        self,
        log_depth: Float[Tensor, "v 1 h w"],
        guide: Float[Tensor, "v 3 h w"],
        images: Float[Tensor, "v 3 h w"],
        nearest: Float[Tensor, "v 1 1 1"],
        farthest: Float[Tensor, "v 1 1 1"],
    ) -> Float[Tensor, "v 1 h w"]:
        """Joined log-depths; those of the network where no depth of points is known.

        Args:
            log_depth: Of the network.
            guide: See :data:`GUIDE_CHANNELS`; depths in the units of the network.
            images: sRGB, 0 to 1.
            nearest: Logarithm of the nearest depth considered.
            farthest: Logarithm of the farthest one.
        """
        depth, nearness, agreed = guide.split(1, dim=1)
        known = depth > 0
        span = farthest - nearest
        own = (log_depth - nearest) / span
        other = torch.where(known, (depth.clamp(min=1e-6).log() - nearest) / span, own).clamp(0, 1)
        difference = (DIFFERENCE * (other - own)).clamp(-1, 1)
        gate, correction = self.layers(torch.cat([own, other, difference, nearness, agreed, images], dim=1)).split(1, 1)
        joined = own + gate.sigmoid() * (other - own) + CORRECTION * correction.tanh()
        return torch.where(known, nearest + span * joined, log_depth)
