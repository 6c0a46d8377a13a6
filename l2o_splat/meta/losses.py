"""Regularisers of meta-training that keep a learned rule from moving without evidence and from getting worse."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

NO_EVIDENCE = 1e-8
"""Absolute gradient below which an entry says nothing about where to go."""


def uphill_loss(
    steps: Float[Tensor, "m d"], gradients: Float[Tensor, "m d"], directions: Float[Tensor, "m d"]
) -> Float[Tensor, ""]:
    """Mean absolute step over the entries that should not move (Learn2Splat, arXiv 2605.15760, "delta loss").

    These are the entries without a gradient and those whose step goes up along the Adam direction. 0 if
    there is none.

    Args:
        steps: What the rule proposes to add, active Gaussians only.
        gradients: Gradients of the inner loss.
        directions: The same, Adam-normalised; they point uphill.
    """
    unwanted = (gradients.abs() < NO_EVIDENCE) | (steps.sign() == directions.sign())
    return (steps.abs() * unwanted).sum() / unwanted.sum().clamp(min=1)


def stability_loss(errors: Float[Tensor, "t v"]) -> Float[Tensor, ""]:
    """Total rise of the error from one step to the next (Learn2Splat, "stability loss").

    Args:
        errors: Mean absolute error of every view (sRGB), before the first step and after each step.
            Only rises reach the graph, and only through the later of both errors.
    """
    return (errors[1:] - errors[:-1].detach()).relu().sum()
