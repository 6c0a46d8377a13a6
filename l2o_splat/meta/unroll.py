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

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from l2o_splat.gaussians import FIELDS, Gaussians
from l2o_splat.losses import photometric_loss
from l2o_splat.meta.episode import Episode
from l2o_splat.meta.losses import stability_loss, uphill_loss
from l2o_splat.meta.options import InnerLoop, MetaLossWeights
from l2o_splat.optim.proposal import Proposal, ProposingRule
from l2o_splat.optim.rule import Feedback, UpdateRule
from l2o_splat.rendering import render
from l2o_splat.rendering.rendered_loss import rendered_loss
from l2o_splat.training.errors import UnusableCaptureError
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
        leaves, views = _leaves(episode.gaussians), episode.inner_views
        loss = rendered_loss(leaves, views, loop.raster, loop.ssim_weight).loss
        feedback = replace(_feedback(episode, _gradients(loss, leaves)), loss=loss.detach() / len(views))
        with torch.no_grad():
            delta, state = rule(episode.gaussians, feedback, episode.state)
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
    random: np.random.Generator | None = None,
) -> Unrolled:
    """Take ``num_steps`` inner steps and sum up their meta-loss.

    The network is queried in the first of them, however recent its last query is.

    Args:
        rule: Trained through its proposals.
        episode: Where to begin.
        num_steps: Recorded inner steps.
        loop: How inner steps render and compare images.
        objective: Error of rendered views in the meta-loss.
        weights: Weights of the terms of the meta-loss.
        random: Chooses the context views of the meta-loss; needed if ``weights.context_views`` is set.

    Raises:
        DivergedEpisodeError: If the scene has numbers that are not finite.
        UnusableCaptureError: If a step processes more Gaussians than ``loop.max_active``.
    """
    # The output of an earlier query has no graph to the weights.
    episode = replace(episode, state=rule.before_unroll(episode.state))
    evaluator = _Evaluator(loop, objective, weights, random)
    gradients, before = evaluator.begin(episode)
    loss, errors = torch.zeros((), device=before.target.device), [float(before.target.mean())]
    lasting: Gaussians | None = None
    for _ in range(num_steps):
        proposal = rule.propose(episode.gaussians, _feedback(episode, gradients), episode.state)
        _check_active(proposal, episode, loop)
        delta = rule.delta(episode.gaussians, proposal)
        # The state keeps its graph within the unroll; the scene does not.
        moved = episode.moved(episode.gaussians.zip_map(torch.add, delta), proposal.state)
        uphill = uphill_loss(proposal.step, proposal.gradients, proposal.direction)
        gradients, meta_gradients, before = evaluator.judge(episode, moved, before)
        errors.append(float(before.target.mean()))
        lasting = delta if lasting is None else lasting.zip_map(lambda a, b: weights.foresight * a + b, delta)
        term = sum((getattr(meta_gradients, name) * getattr(lasting, name)).sum() for name in FIELDS)
        loss = weights.discount * loss + term + weights.uphill * uphill
        episode = replace(moved, state=proposal.state)
    _check(episode)
    return Unrolled(loss, episode.detached(), errors)


@dataclass(frozen=True)
class _Errors:
    """Mean absolute error of every view, without a graph unless they are compared."""

    target: Float[Tensor, " t"]
    context: Float[Tensor, " c"] | None
    """None if rises on context views do not count."""


@dataclass(frozen=True)
class _Evaluator:
    """Judges steps by the meta-loss, and computes the inner gradients of the next ones on the way."""

    loop: InnerLoop
    objective: Objective
    weights: MetaLossWeights
    random: np.random.Generator | None

    def begin(self, episode: Episode) -> tuple[Gaussians, _Errors]:
        """Inner gradients of the first step, and the errors before it."""
        views = episode.inner_views
        with torch.no_grad():
            target = view_errors(self._render(episode.gaussians, episode.target), episode.target)
            context = None
            if self._context_counts(episode):
                context = view_errors(self._render(episode.gaussians, views), views)
        return inner_gradients(episode.gaussians, views, self.loop), _Errors(target, context)

    def judge(self, before: Episode, after: Episode, errors: _Errors) -> tuple[Gaussians, Gaussians, _Errors]:
        """Evaluate a step.

        Args:
            before: The episode before the step.
            after: The episode after it.
            errors: Before it.

        Returns:
            Inner gradients for the next step, gradients of the meta-loss with respect to the scene after the step, and
            the errors after it.
        """
        leaves = _leaves(after.gaussians)
        gradients, of_context, now_context = self._judge_context(before, after, leaves, errors.context)
        rendered = self._render(leaves, after.target)
        target = self.objective.error(rendered, after.target.images, after.target.masks)
        now = view_errors(rendered, after.target)
        of_target = _gradients(target * self.objective.scale(target) + self._rises(errors.target, now), leaves)
        return gradients, of_target.zip_map(torch.add, of_context), _Errors(now.detach(), now_context)

    def _judge_context(
        self, before: Episode, after: Episode, leaves: Gaussians, errors: Float[Tensor, " c"] | None
    ) -> tuple[Gaussians, Gaussians, Float[Tensor, " c"] | None]:
        """Inner gradients for the next step, and the gradients of the meta-loss and the errors on context views."""
        views = after.inner_views
        rendered = self._render(leaves, views)
        inner = photometric_loss(rendered, views.images, views.masks, self.loop.ssim_weight)
        counts = self._context_counts(after)
        if self.weights.context_views is None and not counts and self._is_inner_loss():
            gradients = _gradients(inner, leaves)
            scale = self.objective.scale(inner)
            return gradients, gradients.map(lambda gradient: scale * gradient), None
        # The images of the inner loss are compared once more for rises, or if no views are chosen for the meta-loss.
        gradients = _gradients(inner, leaves, keep=counts or self.weights.context_views is None)
        now = view_errors(rendered, views) if counts else None
        if self.weights.context_views is not None:
            seen = before.inner_views
            views = seen[sorted(self.random.permutation(len(seen))[: self.weights.context_views].tolist())]
            rendered = self._render(leaves, views)
        loss = self.objective.error(rendered, views.images, views.masks)
        loss = loss * self.objective.scale(loss)
        if counts:
            loss = loss + self._rises(errors, now)
        return gradients, _gradients(loss, leaves), now.detach() if counts else None

    def _rises(self, before: Float[Tensor, " v"], now: Float[Tensor, " v"]) -> Float[Tensor, ""]:
        rises = stability_loss(torch.stack([before, now]))
        return self.weights.stability * rises * self.objective.scale(now.sum())

    def _context_counts(self, episode: Episode) -> bool:
        """Whether rises on context views count: errors are comparable only where every step sees the same views."""
        return self.weights.context_stability and episode.sampler.views_per_step == len(episode.context)

    def _is_inner_loss(self) -> bool:
        same_ssim = self.objective.ssim_weight == self.loop.ssim_weight
        return same_ssim and self.objective.perceptual_weight == 0 and self.objective.over_views == "sum"

    def _render(self, gaussians: Gaussians, views: Views) -> Float[Tensor, "v h w 3"]:
        return render(gaussians, views.cameras, self.loop.raster).rgb


def _feedback(episode: Episode, gradients: Gaussians) -> Feedback:
    cameras = episode.context.cameras
    return Feedback(gradients, episode.step, episode.scene.extent, pixels=cameras.width * cameras.height)


def _leaves(gaussians: Gaussians) -> Gaussians:
    return gaussians.map(lambda tensor: tensor.detach().requires_grad_())


def _gradients(loss: Tensor, leaves: Gaussians, keep: bool = False) -> Gaussians:
    return Gaussians(*torch.autograd.grad(loss, [value for _, value in leaves.items()], retain_graph=keep))


def view_errors(rendered: Float[Tensor, "v h w 3"], views: Views) -> Float[Tensor, " v"]:
    """Mean absolute error of each view; it is 0 where a pixel is masked."""
    difference = (rendered - views.images).abs()
    if views.masks is not None:
        difference = torch.where(views.masks > 0.5, difference, 0)
    return difference.mean(dim=(1, 2, 3))


def _check_active(proposal: Proposal, episode: Episode, loop: InnerLoop) -> None:
    active = len(proposal.step)
    if loop.max_active is not None and active > loop.max_active:
        raise UnusableCaptureError(
            f"A step on capture {episode.index} processes {active} Gaussians; at most {loop.max_active} are allowed: "
            "raise --training.loop.max-active, or keep fewer points."
        )


def _check(episode: Episode) -> None:
    counts = episode.gaussians.count_non_finite()
    if counts:
        found = ", ".join(f"{count} numbers of {name}" for name, count in counts.items())
        raise DivergedEpisodeError(
            f"After {episode.step} inner steps {found} of capture {episode.index} are not finite."
        )
