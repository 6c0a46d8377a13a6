"""Regularisers of meta-training, against steps without a gradient and against steps that raise the error."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

NO_GRADIENT = 1e-8
"""Absolute gradient below which an entry counts as one without a gradient."""


def uphill_loss(
    steps: Float[Tensor, "m d"], gradients: Float[Tensor, "m d"], directions: Float[Tensor, "m d"]
) -> Float[Tensor, ""]:
    """Mean absolute step over the entries that should not move so ("delta loss" of Learn2Splat, arXiv 2605.15760).

    These are the entries without a gradient, and those whose step goes uphill, along the Adam direction. The loss is
    0 if there are none.

    Args:
        steps: Steps that the rule proposes to add, of active Gaussians only.
        gradients: Gradients of the inner loss.
        directions: The gradients normalised as by Adam; they point uphill.
    """
    unwanted = (gradients.abs() < NO_GRADIENT) | (steps.sign() == directions.sign())
    return (steps.abs() * unwanted).sum() / unwanted.sum().clamp(min=1)


def stability_loss(errors: Float[Tensor, "t v"]) -> Float[Tensor, ""]:
    """Total rise of the error from one step to the next ("stability loss" of Learn2Splat, arXiv 2605.15760).

    Args:
        errors: Mean absolute error of every view (sRGB), before the first step and after each step.
            A rise has a gradient through the later one of its two errors alone.
    """
    return (errors[1:] - errors[:-1].detach()).relu().sum()
