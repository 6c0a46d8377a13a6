"""One event of growth: prune, choose, split."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from l2o_splat.gaussians import Gaussians
from l2o_splat.growth.budget import GrowthOptions, count_at
from l2o_splat.growth.choice import choose
from l2o_splat.growth.prune import kept
from l2o_splat.growth.split import split_longest_axis


@dataclass(frozen=True)
class Grown:
    """A scene of m Gaussians after an event; the three are the arguments of ``JointOptimizer.resize``."""

    gaussians: Gaussians
    """Those that were kept, bit for bit and in their order, then the children of those that were split."""
    source: Int[Tensor, " m"]
    """Row before the event that each comes from."""
    fresh: Bool[Tensor, " m"]
    """True for children, False for what was kept."""


def event_generator(seed: int, event: int) -> torch.Generator:
    """Random numbers of an event, a function of seed and event alone, so that a resumed run grows the same."""
    # Mixed by torch; neighbouring seeds give unrelated numbers.
    return torch.Generator().manual_seed(seed * 1000 + event)


@torch.no_grad()
def grow(
    gaussians: Gaussians,
    error: Float[Tensor, " n"],
    visibility: Float[Tensor, " n"],
    views: Int[Tensor, " n"],
    start: int,
    options: GrowthOptions,
    event: int,
    generator: torch.Generator,
) -> Grown:
    """Prune what is not seen, and split until the scene has the number of Gaussians that is due.

    Args:
        gaussians: The scene before the event, unactivated.
        error: Sum over training views and pixels of blending weight times error
            (:class:`l2o_splat.rendering.evidence.Evidence`).
        visibility: Sum of the blending weights, pixels.
        views: Training views that see each Gaussian.
        start: Number of Gaussians before the first event.
        options: The budget.
        event: Number of the event, 0 for the first.
        generator: As :func:`event_generator` makes it.

    Raises:
        ValueError: If there is not one number per Gaussian.
    """
    n = len(gaussians)
    for name, values in (("error", error), ("visibility", visibility), ("views", views)):
        if values.shape != (n,):
            raise ValueError(f"{name} has shape {tuple(values.shape)}; one number for each of {n} Gaussians is needed.")
    stay = kept(gaussians)
    missing = count_at(event, start, options) - int(stay.sum())
    opacity = gaussians.opacities.sigmoid()[:, 0]
    chosen = choose(error, visibility, views, opacity, stay, missing, generator, options.preference)
    stay[chosen] = False
    return replaced(gaussians, stay, chosen, split_longest_axis(gaussians[chosen]))


def replaced(gaussians: Gaussians, stay: Bool[Tensor, " n"], parents: Int[Tensor, " k"], children: Gaussians) -> Grown:
    """What stays, followed by the children, of which each parent has the same number, one parent after the other."""
    remaining = stay.nonzero()[:, 0]
    per_parent = len(children) // max(len(parents), 1)
    source = torch.cat([remaining, parents.repeat_interleave(per_parent)])
    fresh = torch.arange(len(source), device=source.device) >= len(remaining)
    whole = gaussians[remaining].zip_map(lambda old, new: torch.cat([old, new]), children)
    return Grown(whole.detach(), source, fresh)
