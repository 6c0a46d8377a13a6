"""Scene units and training units: a rule must not notice in which of them the scene is stored."""

import math

import pytest
import torch

from l2o_splat.gaussians import Gaussians
from l2o_splat.optim.adam import AdamRule, adam_options
from l2o_splat.optim.framed import FramedRule
from l2o_splat.optim.rule import Feedback
from l2o_splat.scene import SceneStart, scene_extent
from l2o_splat.scene_frame import SceneFrame

FRAME = SceneFrame((1.0, -2.0, 0.5), 0.25)


def scene(seed=0, n=10):
    return Gaussians.unpack(torch.randn(n, 59, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


def energy(gaussians):
    """Some function of a scene in training units."""
    return (gaussians.pack() * torch.linspace(-1, 1, 59, dtype=torch.float64)).sin().sum()


def test_there_and_back():
    torch.testing.assert_close(FRAME.to_scene(FRAME.to_training(scene())).pack(), scene().pack())
    framed = FRAME.to_training(scene())
    torch.testing.assert_close(framed.means, 0.25 * (scene().means - torch.tensor([1.0, -2.0, 0.5])))
    torch.testing.assert_close(framed.scales.exp(), 0.25 * scene().scales.exp())


def test_gradients_and_deltas_follow_the_chain_rule():
    stored = scene().map(lambda values: values.requires_grad_())
    framed = FRAME.to_training(stored).detach().map(lambda values: values.requires_grad_())
    energy(FRAME.to_training(stored)).backward()
    energy(framed).backward()
    stored_gradients = stored.map(lambda values: values.grad)
    torch.testing.assert_close(
        FRAME.gradients_to_training(stored_gradients).pack(), framed.map(lambda values: values.grad).pack()
    )
    delta = scene(seed=1)
    moved = FRAME.to_training(stored.detach().zip_map(torch.add, FRAME.deltas_to_scene(delta)))
    torch.testing.assert_close(moved.pack(), framed.detach().zip_map(torch.add, delta).pack())


def test_a_framed_rule_takes_the_step_of_the_rule_in_training_units():
    rule = AdamRule(adam_options("own-scale", horizon=10))
    framed_rule = FramedRule(rule, FRAME)
    stored, trained = scene(), FRAME.to_training(scene())
    state, framed_state = rule.init_state(SceneStart(trained)), framed_rule.init_state(SceneStart(stored))
    for step in range(3):
        gradients = scene(seed=10 + step)
        delta, state = rule(trained, Feedback(FRAME.gradients_to_training(gradients), step, 0.5), state)
        trained = trained.zip_map(torch.add, delta)
        delta, framed_state = framed_rule(stored, Feedback(gradients, step, 2.0), framed_state)
        stored = stored.zip_map(torch.add, delta)
        torch.testing.assert_close(FRAME.to_training(stored).pack(), trained.pack())
    assert framed_rule.fingerprint != FramedRule(rule, SceneFrame()).fingerprint


def test_conventions():
    centres = torch.tensor([[0.0, 0, 0], [4.0, 0, 0], [2.0, 1, 0]])
    assert SceneFrame.from_cameras("raw", centres) == SceneFrame() and SceneFrame().is_identity
    assert SceneFrame.from_cameras("raw", 0.5 * centres, rescaled_by=0.5).scale == 2
    frame = SceneFrame.from_cameras("cameras", centres)
    framed = frame.scale * (centres - torch.tensor(frame.centre))
    torch.testing.assert_close(framed.mean(dim=0), torch.zeros(3))
    assert float(framed.norm(dim=1).max()) == pytest.approx(1)
    assert scene_extent(centres) == pytest.approx(1.1 * math.hypot(2, 1 / 3))
    assert SceneFrame.from_cameras("cameras", centres[:1]).scale == 1
    with pytest.raises(ValueError, match="'fern' is unknown"):
        SceneFrame.from_cameras("fern", centres)
    with pytest.raises(ValueError, match="finite positive scale"):
        SceneFrame(scale=0.0)
