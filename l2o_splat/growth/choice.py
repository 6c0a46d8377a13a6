"""Which Gaussians are split at an event of growth."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

LEAST_PIXELS = 4.0
"""Sum of blending weights over all views, in pixels, below which a Gaussian is too small to be split."""
LEAST_VIEWS = 2
"""What fewer views see is not split: it can fit a single photograph, and held-out views pay for it."""


@dataclass(frozen=True)
class SplitPreference:
    """What makes it likely that a Gaussian is split: a product of powers."""

    error: float = 1.0
    """Exponent of the mean error, see :func:`scores`."""
    visibility: float = 0.0
    """Exponent of the sum of blending weights; above 0 it favours large Gaussians."""
    opacity: float = 0.0
    """Exponent of the opacity; above 0 it favours solid Gaussians."""


def scores(error: Float[Tensor, " n"], visibility: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Mean error where a Gaussian is drawn; 0 for what is drawn nowhere.

    Scores that favour large Gaussians, such as error times the root of visibility, gain a little more in a step but
    make steps slower and leave a deeper dip after an event.

    Args:
        error: Sum over views and pixels of blending weight times error.
        visibility: Sum of the blending weights, pixels.
    """
    return torch.where(visibility > 0, error / visibility, 0)


def choose(
    error: Float[Tensor, " n"],
    visibility: Float[Tensor, " n"],
    views: Int[Tensor, " n"],
    opacity: Float[Tensor, " n"],
    candidates: Bool[Tensor, " n"],
    count: int,
    generator: torch.Generator,
    preference: SplitPreference = SplitPreference(),
) -> Int[Tensor, " k"]:
    """Draw Gaussians without replacement, with probability proportional to their score.

    Args:
        error: As for :func:`scores`.
        visibility: As for :func:`scores`.
        views: Views that see each Gaussian.
        opacity: From 0 to 1.
        candidates: Those that may be drawn at all.
        count: How many; fewer are drawn if fewer are seen well enough or have any error.
        generator: On the CPU, so that a choice is the same on every device.
        preference: What counts; the mean error alone unless it says otherwise.

    Returns:
        Their indices in ascending order.
    """
    score = scores(error, visibility).cpu().double() ** preference.error
    score = score * visibility.cpu().double() ** preference.visibility * opacity.cpu().double() ** preference.opacity
    allowed = candidates & (visibility >= LEAST_PIXELS) & (views >= LEAST_VIEWS)
    score = torch.where(allowed.cpu() & score.isfinite(), score, 0)
    # Exponential clocks of these rates: the order in which they ring is that of drawing one after the other (Efraimidis
    # and Spirakis, Information Processing Letters 97, 2006). One is drawn for every Gaussian, chosen or not.
    clocks = torch.empty(len(score), dtype=torch.float64).exponential_(generator=generator) / score
    possible = int((score > 0).sum())
    return clocks.topk(max(0, min(count, possible)), largest=False).indices.sort().values.to(error.device)
