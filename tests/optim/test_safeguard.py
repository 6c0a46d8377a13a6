"""A rule that goes wrong must not cost more than the steps it took to notice."""

import pytest
import torch

from l2o_splat.gaussians import Gaussians
from l2o_splat.initializers.points import PointInitOptions, gaussians_from_points
from l2o_splat.losses import photometric_loss
from l2o_splat.metrics import psnr
from l2o_splat.optim.adam import AdamRule, adam_options
from l2o_splat.optim.joint_optimizer import JointOptimizer
from l2o_splat.optim.rule import UpdateRule
from l2o_splat.optim.safeguard import INTERVAL, SafeguardedRule
from l2o_splat.rendering import render
from l2o_splat.scene import SceneKnowledge
from l2o_splat.scenes.procedural import ProceduralOptions, generate


class Flipped(UpdateRule):
    """Another rule with the sign of its steps turned."""

    def __init__(self, rule: UpdateRule) -> None:
        super().__init__()
        self.rule = rule

    @property
    def fingerprint(self) -> str:
        return f"flipped {self.rule.fingerprint}"

    def init_state(self, gaussians, features=None):
        return self.rule.init_state(gaussians, features)

    def forward(self, gaussians, feedback, state):
        delta, state = self.rule(gaussians, feedback, state)
        return delta.map(torch.neg), state


STEPS = 300


@pytest.fixture(scope="module")
def capture():
    return generate(7, ProceduralOptions(num_views=6, width=64, height=48, num_points=300))


def adam() -> AdamRule:
    return AdamRule(adam_options("own-scale", STEPS))


def train(rule: UpdateRule, capture, steps: int = STEPS) -> tuple[float, JointOptimizer]:
    """PSNR on the training views after so many steps."""
    start = gaussians_from_points(capture.points.xyz, capture.points.rgb, PointInitOptions(sh_degree=1))
    parameters = {name: torch.nn.Parameter(value.clone()) for name, value in start.items()}
    optimizer = JointOptimizer(parameters, rule)
    optimizer.bind(SceneKnowledge(capture.views.cameras.centres))
    for _ in range(steps):
        optimizer.zero_grad()
        rendered = render(Gaussians.from_mapping(parameters), capture.views.cameras).rgb
        loss = photometric_loss(rendered, capture.views.images)
        loss.backward()
        optimizer.loss = loss.detach() / len(capture.views)
        optimizer.step()
    with torch.no_grad():
        rendered = render(optimizer.gaussians, capture.views.cameras).rgb
    return psnr(rendered.clamp(0, 1), capture.views.images), optimizer


def test_with_its_sign_flipped_a_rule_ends_as_adam_does(capture):
    alone, _ = train(adam(), capture)
    wrecked, _ = train(Flipped(adam()), capture, steps=20)
    assert wrecked < alone - 5
    saved, optimizer = train(SafeguardedRule(Flipped(adam()), adam()), capture)
    assert saved > alone - 0.1
    assert "remembered" not in optimizer.state[optimizer.param_groups[0]["params"][0]]


def test_a_rule_that_works_is_left_alone(capture):
    plain, expected = train(adam(), capture, steps=40)
    guarded, optimizer = train(SafeguardedRule(adam(), adam()), capture, steps=40)
    assert guarded == plain
    assert torch.equal(optimizer.gaussians.pack(), expected.gaussians.pack())


def test_the_best_scene_is_restored_to_the_last_bit(capture):
    rule = SafeguardedRule(Flipped(adam()), adam())
    _, start = train(rule, capture, steps=0)
    _, optimizer = train(rule, capture, steps=INTERVAL + 1)
    torch.testing.assert_close(optimizer.gaussians.pack(), start.gaussians.pack(), rtol=0, atol=1e-5)


def test_adding_and_removing_gaussians_keeps_the_watch():
    rule = SafeguardedRule(adam(), adam())
    gaussians = Gaussians.unpack(torch.randn(5, 14))
    state = rule.init_state(gaussians)
    state["watch"] += 2
    source, fresh = torch.tensor([0, 4, 4]), torch.tensor([False, False, True])
    resized = rule.resize_state(state, source, fresh)
    assert torch.equal(resized["watch"], state["watch"][:3])
    assert torch.equal(resized["remembered"], gaussians.pack()[source])
    assert resized["rule.exp_avg.means"].shape == (3, 3)


def test_without_a_told_loss_the_rule_works_alone():
    gaussians = Gaussians.unpack(torch.randn(5, 14, generator=torch.Generator().manual_seed(0)))
    parameters = {name: torch.nn.Parameter(value.clone()) for name, value in gaussians.items()}
    optimizer = JointOptimizer(parameters, SafeguardedRule(Flipped(adam()), adam()))
    for _ in range(2 * INTERVAL):
        for parameter in parameters.values():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    assert (optimizer.gaussians.means > gaussians.means).all()
