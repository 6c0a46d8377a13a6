"""Adam for numbers of views, of which a step shows some: the others keep their averages, and stay where they are."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

SMALLEST = 1e-30
"""Smallest denominator; below it a direction is that of no gradient."""


def rows_shown(gradient: Float[Tensor, "v ..."]) -> Bool[Tensor, "v ..."]:
    """Which views a loss has shown: those with a gradient, all of it finite. All but the first dimension are 1."""
    rows = gradient.flatten(1)
    return (rows.isfinite().all(dim=1) & rows.any(dim=1)).view(-1, *[1] * (gradient.ndim - 1))


def adam_direction(
    gradient: Float[Tensor, "v ..."],
    shown: Bool[Tensor, "v ..."],
    moments: tuple[Float[Tensor, "v ..."], Float[Tensor, "v ..."]],
    ages: Float[Tensor, "v ..."],
    decays: tuple[float, float],
) -> Float[Tensor, "v ..."]:
    """Direction of Adam (Kingma and Ba, arXiv 1412.6980, algorithm 1), each view counting its own steps.

    Args:
        gradient: Of all views.
        shown: Which of them move, see :func:`rows_shown`.
        moments: Averages of gradients and of their squares; those of the views that are shown move, in place.
        ages: Steps that have shown each view; raised in place.
        decays: Of the two averages.

    Returns:
        The direction to step against; 0 for views that are not shown.
    """
    for moment, decay, value in zip(moments, decays, (gradient, gradient.square()), strict=True):
        moment.copy_(torch.where(shown, decay * moment + (1 - decay) * value, moment))
    ages.add_(shown)
    counted = ages.clamp(min=1)
    mean, square = (moment / (1 - decay**counted) for moment, decay in zip(moments, decays, strict=True))
    return torch.where(shown, mean / square.sqrt().clamp(min=SMALLEST), 0)
