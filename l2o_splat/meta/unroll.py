"""Inner steps of an episode: with frozen weights, or recorded so that a meta-loss reaches the weights of the rule.

As in Learn2Splat (arXiv 2605.15760), parameters and inner gradients enter each step detached, so that the meta-loss
of a step reaches the weights through that step and, along the latent state, through earlier ones. The effect of a step
on the images is linearised at the scene it leads to (ours): the term of step i is ``<gradient of the objective at the
new scene, step i>``. Its gradient with respect to the weights is the same, and one image per scene serves the
meta-loss of one step and the inner gradient of the next. With foresight (ours) a step also counts at later scenes, as
if it had moved them by as much.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from l2o_splat.gaussians import FIELDS, Gaussians
from l2o_splat.losses import photometric_loss
from l2o_splat.meta.episode import Episode
from l2o_splat.meta.losses import stability_loss, uphill_loss
from l2o_splat.meta.options import InnerLoop, MetaLossWeights
from l2o_splat.optim.proposal import ProposingRule
from l2o_splat.optim.rule import Feedback, UpdateRule
from l2o_splat.rendering import render
from l2o_splat.rendering.rendered_loss import rendered_loss
from l2o_splat.training.objective import Objective
from l2o_splat.views import Views


class DivergedEpisodeError(FloatingPointError):
    """A scene has numbers that are not finite; the message says which."""


@dataclass(frozen=True)
class Unrolled:
    """Result of a recorded unroll."""

    loss: Float[Tensor, ""]
    """Has a graph to the weights of the rule. Its gradient is that of the meta-loss; its value has no meaning."""
    episode: Episode
    """The episode after the last step."""
    target_errors: list[float]
    """Mean absolute error on target views, before the first step and after each step."""


def inner_gradients(gaussians: Gaussians, views: Views, loop: InnerLoop) -> Gaussians:
    """Gradient of the inner loss with respect to every parameter."""
    leaves = _leaves(gaussians)
    return _gradients(rendered_loss(leaves, views, loop.raster, loop.ssim_weight).loss, leaves)


def roll_out(rule: UpdateRule, episode: Episode, num_steps: int, loop: InnerLoop) -> Episode:
    """Take ``num_steps`` inner steps without a graph.

    Raises:
        DivergedEpisodeError: If the scene has numbers that are not finite.
    """
    for _ in range(num_steps):
        gradients = inner_gradients(episode.gaussians, episode.inner_views, loop)
        with torch.no_grad():
            delta, state = rule(episode.gaussians, _feedback(episode, gradients), episode.state)
            episode = episode.moved(episode.gaussians.zip_map(torch.add, delta), state)
    _check(episode)
    return episode


def unroll(
    rule: ProposingRule,
    episode: Episode,
    num_steps: int,
    loop: InnerLoop,
    objective: Objective,
    weights: MetaLossWeights,
) -> Unrolled:
    """Take ``num_steps`` inner steps and sum up their meta-loss.

    The network is queried in the first of them, however recent its last query is.

    Raises:
        DivergedEpisodeError: If the scene has numbers that are not finite.
    """
    # The output of an earlier query has no graph to the weights.
    episode = replace(episode, state=rule.before_unroll(episode.state))
    with torch.no_grad():
        before = _target_errors(render(episode.gaussians, episode.target.cameras, loop.raster).rgb, episode)
    gradients = inner_gradients(episode.gaussians, episode.inner_views, loop)
    loss, errors = torch.zeros((), device=before.device), [float(before.mean())]
    lasting: Gaussians | None = None
    for _ in range(num_steps):
        proposal = rule.propose(episode.gaussians, _feedback(episode, gradients), episode.state)
        delta = rule.delta(episode.gaussians, proposal)
        # The state keeps its graph within the unroll; the scene does not.
        moved = episode.moved(episode.gaussians.zip_map(torch.add, delta), proposal.state)
        uphill = uphill_loss(proposal.step, proposal.gradients, proposal.direction)
        gradients, meta_gradients, before = _evaluate_step(moved, before, loop, objective, weights)
        errors.append(float(before.mean()))
        lasting = delta if lasting is None else lasting.zip_map(lambda a, b: weights.foresight * a + b, delta)
        term = sum((getattr(meta_gradients, name) * getattr(lasting, name)).sum() for name in FIELDS)
        loss = weights.discount * loss + term + weights.uphill * uphill
        episode = replace(moved, state=proposal.state)
    _check(episode)
    return Unrolled(loss, episode.detached(), errors)


def _evaluate_step(
    episode: Episode,
    before: Float[Tensor, " t"],
    loop: InnerLoop,
    objective: Objective,
    weights: MetaLossWeights,
) -> tuple[Gaussians, Gaussians, Float[Tensor, " t"]]:
    """Evaluate the step that led to an episode.

    Args:
        episode: The episode after the step.
        before: Mean absolute error of every target view before the step.
        loop: How images are rendered and compared.
        objective: Error of rendered views.
        weights: Weights of the terms of the meta-loss.

    Returns:
        Inner gradients for the next step, gradients of the meta-objective with respect to the scene, and the mean
        absolute error of every target view.
    """
    views = episode.inner_views
    leaves = _leaves(episode.gaussians)
    rendered = render(leaves, views.cameras, loop.raster).rgb
    inner = photometric_loss(rendered, views.images, views.masks, loop.ssim_weight)
    context = objective.error(rendered, views.images, views.masks)
    same = objective.perceptual_weight == 0 and objective.ssim_weight == loop.ssim_weight
    gradients = _gradients(inner, leaves, keep=not same)
    context_gradients = gradients if same else _gradients(context, leaves)

    rendered = render(leaves, episode.target.cameras, loop.raster).rgb
    target = objective.error(rendered, episode.target.images, episode.target.masks)
    now = _target_errors(rendered, episode)
    rises = stability_loss(torch.stack([before, now]))
    target_gradients = _gradients(
        target * objective.scale(target) + weights.stability * rises * objective.scale(now.sum()), leaves
    )
    scale = objective.scale(context)
    return gradients, target_gradients.zip_map(lambda a, b: a + scale * b, context_gradients), now.detach()


def _feedback(episode: Episode, gradients: Gaussians) -> Feedback:
    return Feedback(gradients, episode.step, episode.scene.extent)


def _leaves(gaussians: Gaussians) -> Gaussians:
    return gaussians.map(lambda tensor: tensor.detach().requires_grad_())


def _gradients(loss: Tensor, leaves: Gaussians, keep: bool = False) -> Gaussians:
    return Gaussians(*torch.autograd.grad(loss, [value for _, value in leaves.items()], retain_graph=keep))


def _target_errors(rendered: Float[Tensor, "t h w 3"], episode: Episode) -> Float[Tensor, " t"]:
    """Mean absolute error of each target view; it is 0 where a pixel is masked."""
    difference = (rendered - episode.target.images).abs()
    if episode.target.masks is not None:
        difference = torch.where(episode.target.masks > 0.5, difference, 0)
    return difference.mean(dim=(1, 2, 3))


def _check(episode: Episode) -> None:
    counts = episode.gaussians.count_non_finite()
    if counts:
        found = ", ".join(f"{count} numbers of {name}" for name, count in counts.items())
        raise DivergedEpisodeError(
            f"After {episode.step} inner steps {found} of capture {episode.index} are not finite."
        )
