"""The proximal rule: the same inner problem as the differentiable layer, in a training loop."""

import copy

import pytest
import torch
from torch.nn import Parameter

from l2o_splat.gaussians import FIELDS, Gaussians
from l2o_splat.implicit.backward_mode import BackwardMode
from l2o_splat.implicit.layer import proximal_refine
from l2o_splat.implicit.solvers import AdamSolver
from l2o_splat.losses import squared_loss
from l2o_splat.optim.adam import SPLATFACTO, AdamRule, adam_options
from l2o_splat.optim.joint_optimizer import JointOptimizer, RuleMismatchError
from l2o_splat.optim.proximal import ProximalRule, proximal_weight
from l2o_splat.optim.rule import Feedback
from l2o_splat.scene import SceneKnowledge, SceneStart
from tests.implicit.scenes import toy

SCENE = SceneKnowledge(torch.tensor([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]]))


def random_scene(n=20, seed=0):
    generator = torch.Generator().manual_seed(seed)
    gaussians = Gaussians.unpack(torch.randn(n, 23, generator=generator))
    return gaussians, torch.rand(n, 5, generator=generator) + 0.1


def optimizer_of(gaussians, precision, rule):
    parameters = {name: Parameter(value.clone()) for name, value in gaussians.items()}
    optimizer = JointOptimizer(parameters, rule)
    optimizer.bind(SCENE, SceneStart(gaussians, precision=precision))
    return parameters, optimizer


def train(parameters, optimizer, steps, first=0):
    """Random gradients, different in each step."""
    for step in range(first, first + steps):
        for index, name in enumerate(FIELDS):
            generator = torch.Generator().manual_seed(100 * step + index)
            parameters[name].grad = torch.randn(parameters[name].shape, generator=generator)
        optimizer.step()


def test_equals_the_layer_with_a_mean_squared_image_loss():
    """Adam does not care about the scale of the loss, so that calibrated weights give the same steps."""
    problem = toy(n=3)
    inner = AdamSolver(steps=6, scene_extent=SCENE.extent)
    expected, _ = proximal_refine(problem.anchor, problem.precision, problem.context, inner, BackwardMode.FIRST_ORDER)
    parameters = {name: Parameter(value.clone()) for name, value in problem.anchor.items()}
    weight = proximal_weight(views_per_step=2, num_views=2, width=10, height=10)
    optimizer = JointOptimizer(parameters, ProximalRule(AdamRule(SPLATFACTO), weight=weight))
    optimizer.bind(SCENE, SceneStart(problem.anchor, precision=problem.precision))
    for _ in range(6):
        optimizer.zero_grad()
        residual = problem.context.residual(Gaussians.from_mapping(parameters))
        residual.square().mean(dim=(1, 2, 3)).sum().backward()
        optimizer.step()
    torch.testing.assert_close(optimizer.gaussians.pack(), expected.pack(), rtol=1e-9, atol=1e-11)


def test_one_view_per_step_weighs_the_anchor_as_much_on_average():
    """An epoch of single views adds up to the gradient of all views at once."""
    one = proximal_weight(1, 8, 20, 10)
    assert 8 * one == pytest.approx(proximal_weight(8, 8, 20, 10)) == pytest.approx(1 / 600)
    assert proximal_weight(1, 8, 20, 10, prox_scale=3.0) == pytest.approx(3 * one)


def test_the_pull_is_the_gradient_of_the_proximal_term():
    gaussians, precision = random_scene()
    gradients, moved = gaussians.map(torch.randn_like), gaussians.map(lambda x: x + torch.randn_like(x))
    seen = []

    class Spy(AdamRule):
        def forward(self, gaussians, feedback, state):
            seen.append(feedback.gradients)
            return super().forward(gaussians, feedback, state)

    rule = ProximalRule(Spy(adam_options("gsplat", 100)), weight=0.3)
    rule(moved, Feedback(gradients, 0, 1.0), rule.init_state(SceneStart(gaussians, precision=precision)))
    leaves = moved.map(lambda x: x.clone().requires_grad_())
    columns = [0] * 3 + [1] * 3 + [2] * 4 + [3] + [4] * 3
    away = (leaves.pack() - gaussians.pack()).square()
    term = 0.3 * ((away[:, :14] * precision[:, columns]).sum() + 20 * (away[:, 14:] * precision[:, 4:]).sum())
    pulls = torch.autograd.grad(term, [leaf for _, leaf in leaves.items()])
    for name, pull in zip(FIELDS, pulls, strict=True):
        torch.testing.assert_close(getattr(seen[0], name), getattr(gradients, name) + pull)


def test_strong_precision_keeps_the_scene():
    gaussians, precision = random_scene()
    apart = []
    for strength in (1e-3, 1e3):
        parameters, optimizer = optimizer_of(
            gaussians, strength * precision, ProximalRule(AdamRule(adam_options("gsplat", 1000)), weight=1.0)
        )
        for _ in range(400):
            for name in FIELDS:
                parameters[name].grad = torch.ones_like(parameters[name])
            optimizer.step()
        apart.append((optimizer.gaussians.pack() - gaussians.pack()).abs().mean())
    assert apart[1] < 0.1 * apart[0]


def test_without_weight_it_is_the_other_rule_and_with_an_infinite_one_nothing_moves():
    gaussians, precision = random_scene()
    free, optimizer = optimizer_of(gaussians, precision, ProximalRule(AdamRule(SPLATFACTO), weight=0.0))
    train(free, optimizer, 5)
    plain, optimizer = optimizer_of(gaussians, None, AdamRule(SPLATFACTO))
    train(plain, optimizer, 5)
    held, optimizer = optimizer_of(gaussians, precision, ProximalRule(AdamRule(SPLATFACTO), weight=float("inf")))
    train(held, optimizer, 5)
    assert optimizer.inner_step == 5
    for name in FIELDS:
        assert torch.equal(free[name], plain[name]) and torch.equal(held[name], getattr(gaussians, name)), name


def test_the_image_loss_is_what_precisions_are_made_for():
    """Mean over all pixels, sum over views; what is masked out adds nothing, and leaves the weight of the rest."""
    rendered, images = torch.rand(2, 3, 4, 3), torch.rand(2, 3, 4, 3)
    squares = (rendered - images).square()
    torch.testing.assert_close(squared_loss(rendered, images), squares[0].mean() + squares[1].mean())
    masks = torch.ones(2, 3, 4, 1)
    masks[0, :, :2] = 0
    half = squares[0, :, 2:].sum() / squares[0].numel() + squares[1].mean()
    images[0, 0, 0] = float("nan")
    torch.testing.assert_close(squared_loss(rendered, images, masks), half)


def test_the_check_of_the_scene_is_given_its_precision():
    gaussians, precision = random_scene()
    _, optimizer = optimizer_of(gaussians, precision, ProximalRule(AdamRule(SPLATFACTO), weight=1.0))
    optimizer.check_scene()
    assert not optimizer.state


def test_a_resumed_run_keeps_its_anchor():
    """Bit for bit as if it had never stopped; the anchor is not taken anew where the run went on."""
    gaussians, precision = random_scene()
    rule = ProximalRule(AdamRule(adam_options("gsplat", 100)), weight=0.5)
    whole, optimizer = optimizer_of(gaussians, precision, rule)
    train(whole, optimizer, 10)

    parameters, optimizer = optimizer_of(gaussians, precision, rule)
    train(parameters, optimizer, 4)
    saved = copy.deepcopy(optimizer.state_dict())
    resumed, optimizer = optimizer_of(optimizer.gaussians, torch.ones_like(precision), rule)
    optimizer.load_state_dict(saved)
    train(resumed, optimizer, 6, first=4)
    for name in FIELDS:
        assert torch.equal(resumed[name], whole[name]), name


def test_the_weight_belongs_to_the_checkpoint():
    gaussians, precision = random_scene()
    parameters, optimizer = optimizer_of(
        gaussians, precision, ProximalRule(AdamRule(adam_options("gsplat", 9)), weight=0.5)
    )
    train(parameters, optimizer, 1)
    _, other = optimizer_of(gaussians, precision, ProximalRule(AdamRule(adam_options("gsplat", 9)), weight=0.6))
    with pytest.raises(RuleMismatchError, match="anchored with weight 0.5"):
        other.load_state_dict(optimizer.state_dict())


def test_the_rule_is_pure_and_rows_are_independent():
    gaussians, precision = random_scene()
    rule = ProximalRule(AdamRule(adam_options("gsplat", 100)), weight=0.5)
    feedback = Feedback(gaussians.map(torch.randn_like), 0, 1.0)
    state = rule.init_state(SceneStart(gaussians.map(lambda x: x + 0.1), precision=precision))
    before = copy.deepcopy((gaussians, state))
    delta, after = rule(gaussians, feedback, state)
    assert torch.equal(gaussians.pack(), before[0].pack())
    assert all(torch.equal(state[key], before[1][key]) for key in state) and after.keys() == state.keys()
    order = torch.randperm(20)
    shuffled = Feedback(feedback.gradients[order], 0, 1.0)
    found, _ = rule(gaussians[order], shuffled, state.at(order))
    assert torch.equal(found.pack(), delta[order].pack())


def test_gaussians_may_leave_but_not_come():
    gaussians, precision = random_scene()
    rule = ProximalRule(AdamRule(adam_options("gsplat", 100)), weight=0.5)
    state = rule.init_state(SceneStart(gaussians, precision=precision))
    kept = torch.arange(0, 20, 2)
    smaller = rule.resize_state(state, kept, torch.zeros(10, dtype=torch.bool))
    assert torch.equal(smaller["precision"], precision[kept])
    assert torch.equal(smaller["anchor.means"], gaussians.means[kept])
    with pytest.raises(ValueError, match="1 Gaussians were added.*switch densification off"):
        rule.resize_state(state, kept, torch.arange(10) == 3)


def test_refusals():
    gaussians, precision = random_scene()
    inner = AdamRule(adam_options("gsplat", 100))
    with pytest.raises(ValueError, match="no precision; put one"):
        ProximalRule(inner, weight=1.0).init_state(SceneStart(gaussians))
    with pytest.raises(ValueError, match="20 of mean"):
        ProximalRule(inner, weight=1.0).init_state(
            SceneStart(gaussians, precision=precision * torch.tensor([0.0, 1, 1, 1, 1]))
        )
    with pytest.raises(ValueError, match="proximal weight is -1; 0 or more"):
        ProximalRule(inner, weight=-1)
    with pytest.raises(ValueError, match="proximal weight is nan"):
        ProximalRule(inner, weight=float("nan"))
    with pytest.raises(ValueError, match="9 of 8 views"):
        proximal_weight(9, 8, 10, 10)
    with pytest.raises(ValueError, match="prox_scale is -1"):
        proximal_weight(1, 8, 10, 10, -1)
