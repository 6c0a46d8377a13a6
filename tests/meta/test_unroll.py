"""Recorded and frozen inner steps: the same steps, and a gradient that is that of the meta-loss."""

from dataclasses import replace

import pytest
import torch

from l2o_splat.losses import photometric_loss
from l2o_splat.meta.unroll import InnerLoop, MetaLossWeights, roll_out, unroll
from l2o_splat.rendering import render
from l2o_splat.training.objective import Objective
from tests.meta.scenes import episode, small_rule
from tests.optim.test_gain_rule import make_rule

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


@pytest.mark.parametrize("relative", [True, False])
def test_the_gradient_of_one_step_is_that_of_the_meta_loss(relative):
    """Against finite differences of error(target views) + error(context views of the next step), along the gradient."""
    rule, objective = small_rule(), Objective(relative=relative)
    start = roll_out(rule, episode(rule), 2, LOOP)
    plain = MetaLossWeights(uphill=0.0, stability=0.0)
    unroll(rule, start, 1, LOOP, objective, plain).loss.backward()
    parameters = list(rule.network.parameters())
    found = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters]

    def value() -> float:
        after = roll_out(rule, start, 1, LOOP)
        errors = []
        for views in (after.target, after.inner_views):
            with torch.no_grad():
                rendered = render(after.gaussians, views.cameras).rgb
                errors.append(photometric_loss(rendered, views.images, None, 0.2).double())
        return float(sum(error.log() if relative else error for error in errors))

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
        FloatingPointError, match=r"After 1 inner steps .* numbers of scales.* of capture 0 are not finite"
    ):
        roll_out(rule, broken, 1, LOOP)


def test_steps_uphill_and_rises_of_the_error_add_to_the_loss():
    rule = small_rule()
    start = episode(rule)
    values = {}
    for name, terms in {
        "none": MetaLossWeights(uphill=0.0, stability=0.0),
        "uphill": MetaLossWeights(uphill=1.0, stability=0.0),
    }.items():
        values[name] = float(unroll(rule, start, 1, LOOP, Objective(), terms).loss.detach())
    assert values["uphill"] > values["none"]


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


def test_an_unroll_begins_with_a_look_to_learn_from():
    rule = make_rule(trained=True, look_growth=1.0)
    # Looks after 0, 1, 3 and 7 steps: after 4 there is advice that serves the next three.
    start = roll_out(rule, episode(rule), 4, LOOP)
    unroll(rule, start, 2, LOOP, Objective(), MetaLossWeights()).loss.backward()
    assert rule.network.project.weight.grad.abs().max() > 0
