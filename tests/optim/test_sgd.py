"""Gradient descent against torch.optim.SGD, and steps that decay."""

import pytest
import torch

from l2o_splat.gaussians import FIELDS, Gaussians
from l2o_splat.optim.adam import SPLATFACTO, AdamRule, Rates
from l2o_splat.optim.decayed import DecayedRule
from l2o_splat.optim.joint_optimizer import JointOptimizer
from l2o_splat.optim.rule import Feedback
from l2o_splat.optim.sgd import SgdRule
from l2o_splat.scene import SceneKnowledge, SceneStart, scene_extent
from tests.optim.rules import backward, make_parameters

CENTRES = torch.tensor([[2.0, 0.0, 0.0], [-2.0, 0.0, 0.0]])


def test_it_equals_torch_sgd():
    rates = Rates(0.01, 0.02, 0.03, 0.04, 0.05, 0.06)
    ours, theirs = make_parameters(), make_parameters()
    optimizer = JointOptimizer(ours, SgdRule(rates))
    optimizer.bind(SceneKnowledge(CENTRES))
    factor = {"means": scene_extent(CENTRES) ** 2}
    references = [torch.optim.SGD([theirs[name]], lr=getattr(rates, name) * factor.get(name, 1.0)) for name in FIELDS]
    for step in range(5):
        for parameters in (ours, theirs):
            backward(parameters, seed=step)
        optimizer.step()
        for reference in references:
            reference.step()
    for name in FIELDS:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-6, atol=1e-7)


def test_the_size_of_the_scene_does_not_matter():
    """The same scene ten times as large: gradients of means are a tenth, steps ten times as long."""
    zeros = Gaussians(**make_parameters()).detach()
    steps = []
    for extent in (1.0, 10.0):
        gradients = Gaussians(**{name: value / extent for name, value in zeros.items()})
        delta, _ = SgdRule()(zeros, Feedback(gradients, 0, extent), SgdRule().init_state(SceneStart(zeros)))
        steps.append(delta.means)
    torch.testing.assert_close(steps[1], 10 * steps[0])


def decayed_lengths(horizon: int, steps: int, progress=None) -> list[float]:
    """Lengths of steps along the same gradient, relative to the first."""
    rule = DecayedRule(SgdRule(), 0.01, horizon)
    gaussians = Gaussians(**make_parameters()).detach()
    state, lengths = rule.init_state(SceneStart(gaussians)), []
    for step in range(steps):
        share = None if progress is None else progress[step]
        delta, state = rule(gaussians, Feedback(gaussians, step, 1.0, progress=share), state)
        lengths.append(float(delta.opacities.norm()))
    return [length / lengths[0] for length in lengths]


def test_steps_decay_exponentially_to_the_horizon_and_stay():
    assert decayed_lengths(4, 7) == pytest.approx([1, 10**-0.5, 0.1, 10**-1.5, 0.01, 0.01, 0.01], rel=1e-4)
    # With a time budget its spent share decides.
    assert decayed_lengths(4, 3, (0.0, 0.5, 1.0)) == pytest.approx([1, 0.1, 0.01], rel=1e-4)


def test_what_the_rule_remembers_does_not_decay():
    gaussians = Gaussians(**make_parameters()).detach()
    inner = AdamRule(SPLATFACTO)
    rule, feedback = DecayedRule(inner, 0.5, 1), Feedback(gaussians, 3, 1.0)
    (delta, state), (whole, expected) = (
        one(gaussians, feedback, one.init_state(SceneStart(gaussians))) for one in (rule, inner)
    )
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    torch.testing.assert_close(delta.means, 0.5 * whole.means)


@pytest.mark.parametrize(("factor", "horizon"), [(0.0, 10), (-1.0, 10), (float("nan"), 10), (0.1, 0)])
def test_decays_that_make_no_sense_are_refused(factor, horizon):
    with pytest.raises(ValueError, match="Steps are to decay to"):
        DecayedRule(SgdRule(), factor, horizon)
