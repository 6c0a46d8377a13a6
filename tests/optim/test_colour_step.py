"""Colours in closed form: a bound that holds exactly, and scenes whose colours alone are wrong."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from l2o_splat.frame import Frame
from l2o_splat.gaussians import SH_C0, Gaussians
from l2o_splat.harmonics import sh_basis
from l2o_splat.optim import colour_step as colour_steps
from l2o_splat.optim.adam import AdamRule, adam_options
from l2o_splat.optim.colour_step import LARGEST_STEP, ColourStepRule, colour_step
from l2o_splat.optim.framed import FramedRule
from l2o_splat.optim.joint_optimizer import JointOptimizer
from l2o_splat.optim.rule import Feedback, Needs
from l2o_splat.rendering import RasterSettings, render, set_num_threads
from l2o_splat.rendering.evidence import ColourEvidence, Evidence
from l2o_splat.rendering.rendered_loss import rendered_loss
from l2o_splat.scene import SceneStart
from l2o_splat.views import Views
from tests.optim.rules import all_cases
from tests.rendering.scenes import random_scene


def adam(horizon=200) -> AdamRule:
    return AdamRule(adam_options("own-scale", horizon))


def bright_scene(n=250, degree=1, dtype=torch.float32):
    """A scene none of whose colours is near the cut at 0, and three cameras."""
    gaussians, cameras = random_scene(n, width=32, height=24, views=3, degree=degree, seed=1, dtype=dtype)
    return replace(gaussians, features_dc=0.3 * gaussians.features_dc + 1.5), cameras


def made_up_evidence(gaussians: Gaussians, views=3, seed=0) -> Evidence:
    generator = torch.Generator().manual_seed(seed)
    n = len(gaussians)
    curvature = torch.rand(views, n, generator=generator) * 1e-3
    curvature[:, ::7] = 0  # Seen, but only where photographs do not count.
    curvature[1:, 1::7] = 0
    gradients = torch.randn(views, n, 3, generator=generator) * 1e-4
    centres = torch.randn(views, 3, generator=generator)
    visibility = torch.rand(n, generator=generator)
    colours = ColourEvidence(gradients, curvature, centres, sh_degree=3)
    return Evidence(visibility, (curvature > 0).sum(dim=0), colours)


def weighted_evidence(gaussians, cameras, images, weights) -> Evidence:
    """Evidence of the loss sum over pixels of weights (render - images)^2 / 2, whose curvature the weights are."""
    residuals = weights * (render(gaussians, cameras, backend="reference").rgb - images)
    gradients, sums = [], []
    for view in range(len(cameras)):
        # The image is linear in these colours, and what they are does not matter.
        grey = torch.zeros_like(gaussians.features_dc).requires_grad_()
        scene = replace(gaussians, features_dc=grey, features_rest=gaussians.features_rest[:, :0])
        drawn = render(scene, cameras[view : view + 1], backend="reference").rgb[0]
        counts = torch.cat([weights[view], torch.ones_like(weights[view]), weights[view]], dim=2)
        for cotangent, found in ((residuals[view], gradients), (counts, sums)):
            found.append(torch.autograd.grad(drawn, grey, cotangent, retain_graph=True)[0] / SH_C0)
    curvature, visibility, _ = torch.stack(sums).unbind(dim=2)
    colours = ColourEvidence(torch.stack(gradients), curvature, cameras.centres, gaussians.sh_degree)
    return Evidence(visibility.sum(dim=0), (visibility > 0).sum(dim=0), colours)


@pytest.mark.parametrize("degree", [0, 2])
def test_all_colours_moving_at_once_never_raise_a_weighted_squared_loss(degree, monkeypatch):
    monkeypatch.setattr(colour_steps, "LARGEST_STEP", 1e9)
    gaussians, cameras = bright_scene(n=60, degree=degree, dtype=torch.float64)
    generator = torch.Generator().manual_seed(degree)
    images = 0.9 + 0.5 * torch.rand(3, 24, 32, 3, generator=generator, dtype=torch.float64)
    weights = torch.rand(3, 24, 32, 1, generator=generator, dtype=torch.float64) ** 4

    def loss_of(scene: Gaussians) -> float:
        return float((weights * (render(scene, cameras, backend="reference").rgb - images).square()).sum() / 2)

    losses = [loss_of(gaussians)]
    for _ in range(2):
        step = colour_step(gaussians, weighted_evidence(gaussians, cameras, images, weights), max_degree=degree)
        gaussians = replace(
            gaussians,
            features_dc=gaussians.features_dc + step[:, 0],
            features_rest=gaussians.features_rest + step[:, 1:],
        )
        losses.append(loss_of(gaussians))
    assert all(after <= before for before, after in pairwise(losses)), losses
    assert losses[-1] < 0.9 * losses[0]


def test_one_flat_gaussian_takes_the_mean_of_what_it_covers():
    """Without harmonics the step is minus the gradient over the curvature, here the mean difference."""
    gaussians = random_scene(2, degree=0)[0]
    colours = ColourEvidence(torch.full((1, 2, 3), 0.2), torch.full((1, 2), 0.5), torch.zeros(1, 3), sh_degree=0)
    step = colour_step(gaussians, Evidence(torch.tensor([9.0, 0.01]), torch.tensor([1, 0]), colours))
    torch.testing.assert_close(SH_C0 * step[0], torch.full((1, 3), -0.4))
    assert not step[1].any()


@pytest.mark.parametrize(("degree", "threads"), [(0, 1), (1, 3), (3, 1)])
def test_the_kernel_gives_what_tensor_operations_give(degree, threads):
    gaussians = random_scene(5000, degree=degree)[0]
    evidence = made_up_evidence(gaussians)
    exact = replace(
        evidence,
        colours=ColourEvidence(
            *(getattr(evidence.colours, name).double() for name in ("gradients", "curvature", "centres")), sh_degree=3
        ),
    )
    expected = colour_step(gaussians.to(torch.float64), exact)
    try:
        set_num_threads(threads)
        found = colour_step(gaussians, evidence)
    finally:
        set_num_threads(None)
    assert found.shape == expected.shape == (5000, min(4, (degree + 1) ** 2), 3)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)
    assert (found.abs() == LARGEST_STEP).any() and (found == 0).all(dim=(1, 2)).any()
    assert (found != 0).all(dim=(1, 2)).float().mean() > 0.5


def test_harmonics_that_are_not_drawn_stay():
    gaussians = random_scene(50, degree=2)[0]
    evidence = made_up_evidence(gaussians)
    drawn = replace(evidence, colours=replace(evidence.colours, sh_degree=0))
    assert colour_step(gaussians, drawn).shape == (50, 1, 3)
    rule = ColourStepRule(adam())
    gradients = gaussians.map(torch.zeros_like)
    for found in (drawn, evidence):
        delta, _ = rule(gaussians, Feedback(gradients, 0, 1.0, evidence=found), rule.init_state(SceneStart(gaussians)))
        assert delta.features_dc.any()
        assert delta.features_rest[:, :3].any() == (found is evidence)
        assert not delta.features_rest[:, 3:].any()


def test_a_harmonic_step_answers_each_view_with_its_own_colour():
    """One Gaussian, three views that want different colours: after the step each sees nearly what it wants."""
    gaussians = random_scene(1, degree=1)[0]
    centres = gaussians.means + 3 * torch.eye(3)
    wanted = torch.tensor([[0.1, 0.2, 0.3], [-0.2, 0.0, 0.1], [0.0, -0.1, 0.2]])
    colours = ColourEvidence(-2.0 * wanted[:, None], torch.full((3, 1), 2.0), centres, sh_degree=1)
    step = colour_step(gaussians, Evidence(torch.ones(1), torch.tensor([3]), colours))[0]
    directions = (gaussians.means - centres) / 3
    torch.testing.assert_close(sh_basis(directions, 1) @ step, wanted, rtol=0, atol=0.05)


def wrong_colours() -> tuple[Gaussians, Views]:
    """A scene whose colours alone are wrong, and photographs of what they should be."""
    truth, cameras = bright_scene(n=400)
    start = replace(truth, features_dc=torch.full_like(truth.features_dc, 0.5), features_rest=0 * truth.features_rest)
    return start, Views(cameras, render(truth, cameras).rgb.detach())


def squared_error_after(rule, steps: int) -> tuple[float, float]:
    """Mean squared error before and after steps in which only colours may move."""
    start, views = wrong_colours()
    parameters = {name: torch.nn.Parameter(value.clone()) for name, value in start.items()}
    for name in ("means", "scales", "quats", "opacities"):
        parameters[name].requires_grad_(False)
    optimizer, errors = JointOptimizer(parameters, rule), []
    for _ in range(steps + 1):
        optimizer.zero_grad()
        found = rendered_loss(Gaussians(**parameters), views, RasterSettings(), evidence=optimizer.evidence_kinds)
        errors.append(float(found.squared_errors.mean()))
        found.loss.backward()
        optimizer.evidence = found.evidence
        optimizer.step()
    return errors[0], errors[-1]


def test_a_scene_whose_colours_alone_are_wrong_is_soon_solved():
    before, alone = squared_error_after(adam(), 10)
    _, closed = squared_error_after(ColourStepRule(adam()), 10)
    assert closed < 0.05 * before
    assert closed < 0.5 * alone


@torch.no_grad()
def test_the_share_falls_to_nothing_and_other_fields_are_the_other_rules():
    gaussians = random_scene(60)[0]
    evidence, gradients = made_up_evidence(gaussians), gaussians.map(torch.sin)
    rule, alone = ColourStepRule(adam(), steps=4), adam()
    state = alone.init_state(SceneStart(gaussians))
    closed = colour_step(gaussians, evidence)
    for step in range(6):
        feedback = Feedback(gradients, step, 1.0, evidence=evidence)
        (found, found_state), (delta, new_state) = (r(gaussians, feedback, state) for r in (rule, alone))
        share = max(0, 1 - step / 4)
        torch.testing.assert_close(
            found.features_dc, (1 - share) * delta.features_dc + share * closed[:, 0], rtol=1e-4, atol=1e-5
        )
        for name in ("means", "scales", "quats", "opacities"):
            assert torch.equal(getattr(found, name), getattr(delta, name))
        assert torch.equal(found.features_rest[:, 3:], delta.features_rest[:, 3:])
        assert all(torch.equal(found_state[key], new_state[key]) for key in new_state)
    delta_without, _ = rule(gaussians, Feedback(gradients, 0, 1.0), state)
    assert torch.equal(delta_without.pack(), alone(gaussians, Feedback(gradients, 0, 1.0), state)[0].pack())


def test_evidence_is_needed_while_the_share_lasts():
    rule = ColourStepRule(adam(), steps=4)
    assert [bool(rule.needs.evidence_at(step)) for step in (0, 3, 4, 50)] == [True, True, False, False]
    assert rule.needs.evidence_at(3) == {"colours"}
    late = Needs().then(rule.needs, after=10)
    assert [bool(late.evidence_at(step)) for step in (0, 9, 10, 13, 14)] == [False, False, True, True, False]
    cut = rule.needs.then(Needs(), after=2)
    assert [bool(cut.evidence_at(step)) for step in (1, 2)] == [True, False]


def test_evidence_that_is_not_finite_leaves_everything_as_it_is():
    gaussians = random_scene(30)[0]
    parameters = {name: torch.nn.Parameter(value.clone()) for name, value in gaussians.items()}
    optimizer = JointOptimizer(parameters, ColourStepRule(adam()))
    for bad in (True, False):
        evidence = made_up_evidence(gaussians)
        if bad:
            evidence.visibility[5] = 1.0
            evidence.colours.curvature[0, 5] = 1e-3
            evidence.colours.gradients[0, 5, 1] = float("nan")
        for parameter in parameters.values():
            parameter.grad = torch.ones_like(parameter)
        optimizer.evidence = evidence
        optimizer.step()
        assert optimizer.inner_step == (0 if bad else 1)
        assert torch.equal(optimizer.gaussians.pack(), gaussians.pack()) == bad


@torch.no_grad()
def test_a_frame_around_it_changes_nothing_about_colours():
    gaussians = random_scene(40)[0]
    evidence, gradients = made_up_evidence(gaussians), gaussians.map(torch.cos)
    rule = ColourStepRule(AdamRule(adam_options("own-scale", 50)))
    framed = FramedRule(rule, Frame(origin=torch.tensor([0.5, 1.0, -2.0]).double(), scale=4.0))
    feedback = Feedback(gradients, 0, 1.0, evidence=evidence)
    found, expected = (r(gaussians, feedback, r.init_state(SceneStart(gaussians)))[0] for r in (framed, rule))
    torch.testing.assert_close(found.features_rest, expected.features_rest, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.features_dc, expected.features_dc, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["resplat", "proximal"])
def test_rules_that_do_not_follow_gradients_alone_are_refused(name):
    with pytest.raises(ValueError, match="gets renders or holds Gaussians to a start"):
        ColourStepRule(all_cases()[name].rule)
    with pytest.raises(ValueError, match="for 0 steps; at least 1"):
        ColourStepRule(adam(), steps=0)
