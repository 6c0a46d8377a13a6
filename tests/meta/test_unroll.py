"""Recorded and frozen inner steps: the same steps, and the gradient of the meta-loss."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from l2o_splat.gaussians import Gaussians
from l2o_splat.losses import photometric_loss
from l2o_splat.meta.episode import Episode
from l2o_splat.meta.options import InnerLoop, MetaLossWeights
from l2o_splat.meta.rules import PaperRuleOptions
from l2o_splat.meta.unroll import DivergedEpisodeError, inner_gradients, roll_out, unroll
from l2o_splat.optim.learn2splat import Learn2SplatRule
from l2o_splat.optim.rule import Feedback
from l2o_splat.rendering import render
from l2o_splat.training.errors import UnusableCaptureError
from l2o_splat.training.objective import Objective
from tests.meta.scenes import OPTIONS, episode, small_rule
from tests.optim.gain import make_rule

LOOP = InnerLoop()


def test_recorded_and_frozen_steps_are_the_same():
    rule = small_rule()
    start = episode(rule)
    frozen = roll_out(rule, start, 3, LOOP)
    recorded = unroll(rule, start, 3, LOOP, Objective(), MetaLossWeights()).episode
    assert recorded.step == frozen.step == 3
    torch.testing.assert_close(recorded.gaussians.pack(), frozen.gaussians.pack(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(recorded.state["latent"], frozen.state["latent"], rtol=1e-4, atol=1e-5)
    assert not any(rows.requires_grad for rows in recorded.state.values())
    assert not recorded.gaussians.means.requires_grad


def with_perfect_targets(start: Episode, count: int | None = None) -> Episode:
    """The episode with renders of its scene as the photographs of the first targets, whose error any step raises."""
    images = start.target.images.clone()
    with torch.no_grad():
        images[:count] = render(start.gaussians, start.target.cameras).rgb[:count]
    return replace(start, target=replace(start.target, images=images))


@pytest.mark.parametrize(("relative", "stability"), [(True, 0.0), (False, 0.0), (True, 3.0), (False, 3.0)])
def test_the_gradient_of_one_step_is_that_of_the_meta_loss(relative, stability):
    """Against finite differences along the gradient.

    The meta-loss is error(target views) + error(context views of the next step), and if the step raises the error of
    every target view, the sum of these mean absolute errors.
    """
    rule, objective = small_rule(), Objective(relative=relative)
    start = roll_out(rule, episode(rule), 2, LOOP)
    start = with_perfect_targets(start) if stability else start
    terms = MetaLossWeights(uphill=0.0, stability=stability)
    unroll(rule, start, 1, LOOP, objective, terms).loss.backward()
    parameters = list(rule.network.parameters())
    found = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters]

    def value() -> float:
        after = roll_out(rule, start, 1, LOOP)
        errors = []
        for views in (after.target, after.inner_views):
            with torch.no_grad():
                rendered = render(after.gaussians, views.cameras).rgb
                errors.append((1.0, photometric_loss(rendered, views.images, None, 0.2).double()))
        if stability:
            errors.append((stability, target_errors(after).sum().double()))
        return float(sum(weight * (error.log() if relative else error) for weight, error in errors))

    norm = float(sum(g.square().sum() for g in found).sqrt())
    epsilon = 0.02 / norm

    def value_at(shift: float) -> float:
        with torch.no_grad():
            for parameter, gradient in zip(parameters, found, strict=True):
                parameter.add_(shift * gradient)
        result = value()
        with torch.no_grad():
            for parameter, gradient in zip(parameters, found, strict=True):
                parameter.sub_(shift * gradient)
        return result

    difference = value_at(epsilon) - value_at(-epsilon)
    assert difference / (2 * epsilon) == pytest.approx(norm**2, rel=0.05)


def test_later_steps_count_more_and_reach_back_through_the_latent_state():
    rule = small_rule()
    start = episode(rule)
    weights = MetaLossWeights(uphill=0.0, stability=0.0)
    gradients = {}
    for discount in (0.0, 0.9):
        rule.network.zero_grad()
        unroll(rule, start, 2, LOOP, Objective(), replace(weights, discount=discount)).loss.backward()
        gradients[discount] = rule.network.project.weight.grad.clone()
    assert not torch.allclose(gradients[0.0], gradients[0.9], rtol=0.01)
    # Only the last step's term is left, yet the state the first step left it with carries a gradient too.
    latent_columns = gradients[0.0][:, -rule.network.shape.latent_width :]
    assert latent_columns.abs().max() > 0


def test_a_scene_that_is_not_finite_is_refused_by_name():
    rule = small_rule()
    start = episode(rule)
    broken = replace(start, gaussians=replace(start.gaussians, scales=start.gaussians.scales * float("nan")))
    with pytest.raises(
        DivergedEpisodeError, match=r"After 1 inner steps .* numbers of scales.* of capture 0 are not finite"
    ):
        roll_out(rule, broken, 1, LOOP)


def target_errors(at: Episode) -> torch.Tensor:
    """Mean absolute error of each target view."""
    with torch.no_grad():
        return (render(at.gaussians, at.target.cameras).rgb - at.target.images).abs().mean(dim=(1, 2, 3))


@pytest.mark.parametrize("relative", [True, False])
def test_rises_of_the_error_of_target_views_add_to_the_loss(relative):
    """The term is <gradient of the errors that rose, step>, over the sum of all errors if the objective is relative."""
    rule, objective = small_rule(), Objective(relative=relative)
    start = with_perfect_targets(episode(rule), 1)
    after = roll_out(rule, start, 1, LOOP)
    rose = target_errors(after) > target_errors(start)
    assert rose[0] and not rose.all(), "the test needs errors that rise and errors that fall"

    leaves = after.gaussians.map(lambda tensor: tensor.clone().requires_grad_())
    difference = (render(leaves, start.target.cameras).rgb - start.target.images).abs().mean(dim=(1, 2, 3))
    gradient = torch.autograd.grad(difference[rose].sum(), [value for _, value in leaves.items()])
    moved = [after_value - value for (_, after_value), (_, value) in zip_items(after.gaussians, start.gaussians)]
    expected = 0.5 * sum((g * step).sum() for g, step in zip(gradient, moved, strict=True))
    expected = expected / target_errors(after).sum() if relative else expected
    assert expected.abs() > 1e-3

    terms = MetaLossWeights(uphill=0.0, stability=0.0)
    without, with_rises = (
        unroll(rule, start, 1, LOOP, objective, replace(terms, stability=stability)).loss.detach()
        for stability in (0.0, 0.5)
    )
    torch.testing.assert_close(with_rises - without, expected, rtol=2e-3, atol=1e-5)


def zip_items(first: Gaussians, second: Gaussians):
    return zip(first.items(), second.items(), strict=True)


def test_steps_uphill_add_to_the_loss_and_later_ones_count_more():
    """The term is the mean absolute step over the entries that go uphill or have no gradient."""
    rule = small_rule()
    torch.nn.init.normal_(rule.network.head.weight, std=1.0)  # Corrections strong enough to turn some steps around.
    start = episode(rule)
    expected, at = [], start
    for _ in range(2):
        gradients = inner_gradients(at.gaussians, at.inner_views, LOOP)
        with torch.no_grad():
            proposal = rule.propose(at.gaussians, Feedback(gradients, at.step, at.scene.extent), at.state)
        unwanted = (proposal.gradients.abs() < 1e-8) | (proposal.step * proposal.direction > 0)
        unwanted |= (proposal.step == 0) & (proposal.direction == 0)
        assert unwanted.sum() > 5 and not unwanted.all()
        expected.append(proposal.step.abs()[unwanted].mean())
        at = roll_out(rule, at, 1, LOOP)
    terms = MetaLossWeights(uphill=0.0, stability=0.0, discount=0.5)
    without, with_uphill = (
        unroll(rule, start, 2, LOOP, Objective(), replace(terms, uphill=uphill)).loss.detach() for uphill in (0.0, 2.0)
    )
    assert min(expected) > 1e-4
    torch.testing.assert_close(with_uphill - without, 2 * (0.5 * expected[0] + expected[1]), rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("foresight", [0.0, 0.5, 1.0])
def test_foresight_counts_a_step_at_later_scenes(foresight):
    """With the last scene's term alone, the loss is <gradient there, second step + foresight * first step>."""
    rule = small_rule()
    scenes = [episode(rule)]
    for _ in range(2):
        scenes.append(roll_out(rule, scenes[-1], 1, LOOP))
    weights = MetaLossWeights(discount=0.0, uphill=0.0, stability=0.0, foresight=foresight)
    found = unroll(rule, scenes[0], 2, LOOP, Objective(), weights).loss

    leaves = scenes[2].gaussians.map(lambda tensor: tensor.clone().requires_grad_())
    errors = [
        photometric_loss(render(leaves, views.cameras).rgb, views.images, None, 0.2).log()
        for views in (scenes[2].target, scenes[2].inner_views)
    ]
    gradient = torch.cat(
        [g.flatten() for g in torch.autograd.grad(sum(errors), [value for _, value in leaves.items()])]
    )
    rows = [torch.cat([value.flatten() for _, value in scene.gaussians.items()]) for scene in scenes]
    expected = gradient @ (rows[2] - rows[1] + foresight * (rows[1] - rows[0]))
    torch.testing.assert_close(found.detach(), expected, rtol=2e-3, atol=1e-5)


def test_an_unroll_begins_with_a_query_to_learn_from():
    rule = make_rule(trained=True, query_growth=1.0)
    # Queries at steps 0, 1, 3 and 7: after 4 steps the last one serves three more.
    start = roll_out(rule, episode(rule), 4, LOOP)
    unroll(rule, start, 2, LOOP, Objective(), MetaLossWeights()).loss.backward()
    assert rule.network.project.weight.grad.abs().max() > 0


def trained_paper_rule() -> Learn2SplatRule:
    """Narrow, with random weights and steps that change the images."""
    rule = PaperRuleOptions(width=16, sh_degree=1).build()
    torch.manual_seed(0)
    for weights in rule.network.parameters():
        torch.nn.init.normal_(weights, std=0.05)
    torch.nn.init.ones_(rule.network.state_scale_head[2].bias)
    torch.nn.init.constant_(rule.network.delta_head[2].bias[-1:], 0.05)
    return rule


def test_recorded_and_frozen_steps_of_the_papers_rule_are_the_same():
    rule = trained_paper_rule()
    start = episode(rule)
    frozen = roll_out(rule, start, 3, LOOP)
    recorded = unroll(rule, start, 3, LOOP, Objective(), MetaLossWeights()).episode
    moved = (recorded.gaussians.pack() - start.gaussians.pack()).abs().max()
    assert moved > 1e-3
    torch.testing.assert_close(recorded.gaussians.pack(), frozen.gaussians.pack(), rtol=1e-4, atol=1e-4)


def test_the_papers_meta_loss_is_the_mean_error_of_targets_and_of_some_views_of_the_step():
    """Against finite differences; with all views of the step chosen, the choice is no choice."""
    rule = trained_paper_rule()
    start = roll_out(rule, episode(rule), 1, LOOP)
    objective = Objective(ssim_weight=0.0, over_views="mean", relative=False)
    seen = start.inner_views
    assert not torch.equal(seen.cameras.viewmats, replace(start, step=start.step + 1).inner_views.cameras.viewmats)
    terms = MetaLossWeights(uphill=0.0, stability=0.0, context_views=len(seen))
    unroll(rule, start, 1, LOOP, objective, terms, np.random.default_rng(0)).loss.backward()
    bias = rule.network.delta_head[2].bias
    found = float(bias.grad[-1])

    def value(shift: float) -> float:
        bias.data[-1] += shift
        after = roll_out(rule, start, 1, LOOP).gaussians
        bias.data[-1] -= shift
        with torch.no_grad():
            parts = (start.target, seen)
            errors = [(render(after, views.cameras).rgb - views.images).abs().double().mean() for views in parts]
        return float(sum(errors))

    assert abs(found) > 1e-4
    assert (value(2e-3) - value(-2e-3)) / 4e-3 == pytest.approx(found, rel=0.05)


def test_rises_on_context_views_count_only_if_every_step_sees_all_of_them():
    rule = trained_paper_rule()
    objective = Objective(ssim_weight=0.0, over_views="mean", relative=False)
    found = {}
    for seen, views_per_step in (("all", 4), ("some", 2)):
        options = replace(OPTIONS, context_views=(4, 4), views_per_step=(views_per_step, views_per_step))
        start = episode(rule, options=options)
        with torch.no_grad():
            # Photographs so close to the scene that any step overshoots.
            images = render(start.gaussians, start.context.cameras).rgb + 1e-4
        start = replace(start, context=replace(start.context, images=images))
        losses = []
        for counts in (False, True):
            terms = MetaLossWeights(uphill=0.0, stability=1.0, context_stability=counts)
            losses.append(float(unroll(rule, start, 1, LOOP, objective, terms).loss))
        found[seen] = losses[1] - losses[0]
    assert found["all"] != 0 and found["some"] == 0


def test_a_step_on_more_gaussians_than_allowed_is_refused():
    rule = small_rule()
    start = episode(rule)
    with pytest.raises(UnusableCaptureError, match="capture 0 processes .* at most 10 are allowed: raise --training"):
        unroll(rule, start, 1, replace(LOOP, max_active=10), Objective(), MetaLossWeights())
