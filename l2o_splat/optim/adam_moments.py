"""The Adam direction of packed gradients, with one step counter per Gaussian; learned rules start from it."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from l2o_splat.optim.rule import RuleState

BETA1, BETA2, EPS = 0.9, 0.999, 1e-15
"""Those of the Adam direction that learned rules are trained with."""


def zero_moments(n: int, width: int, device: torch.device) -> dict[str, Tensor]:
    """Moments of n Gaussians that have not taken a step: ``adam_m [n d]``, ``adam_v [n d]``, ``adam_t [n]`` (int64)."""
    return {
        "adam_m": torch.zeros(n, width, device=device),
        "adam_v": torch.zeros(n, width, device=device),
        "adam_t": torch.zeros(n, dtype=torch.int64, device=device),
    }


def adam_direction(
    gradients: Float[Tensor, "m d"], state: RuleState | dict[str, Tensor]
) -> tuple[Float[Tensor, "m d"], dict[str, Tensor]]:
    """Bias-corrected Adam direction (arXiv 1412.6980, algorithm 1) and the new moments.

    Args:
        gradients: Packed, one row per Gaussian.
        state: Holds the moments of these rows, see :func:`zero_moments`.
    """
    t = state["adam_t"] + 1
    m = state["adam_m"] * BETA1 + gradients * (1 - BETA1)
    v = state["adam_v"] * BETA2 + gradients.square() * (1 - BETA2)
    correction1, correction2 = (1 - beta ** t[:, None].float() for beta in (BETA1, BETA2))
    direction = (m / correction1) / ((v / correction2).sqrt() + EPS)
    return direction, {"adam_m": m, "adam_v": v, "adam_t": t}
