"""The controller of Adam: what its numbers mean, and that without any it is Adam."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from l2o_splat.gaussians import FIELDS, Gaussians
from l2o_splat.optim.adam import AdamRule, adam_options
from l2o_splat.optim.controlled import ControlledRule
from l2o_splat.optim.controller import (
    LARGEST_FACTOR,
    NUM_NUMBERS,
    OUTPUTS,
    OWN,
    Controller,
    SceneStatistics,
)
from l2o_splat.optim.registry import RuleOptions, rule_entry, weights_of
from l2o_splat.optim.rule import Feedback
from l2o_splat.scene import SceneKnowledge, SceneStart
from l2o_splat.weights import load_weights, save_weights
from l2o_splat.weights.format import Weights, WeightsCard, WeightsError

ADAM = adam_options("own-scale", horizon=20)
USUAL = SceneStatistics(share=0.5, loss=None, slope=None, density=None, views=None)


def rows(n: int, seed: int) -> Gaussians:
    return Gaussians.unpack(torch.randn(n, 59, generator=torch.Generator().manual_seed(seed)))


def feedback(step: int, n: int = 9, **known) -> Feedback:
    known = {"loss": torch.tensor(0.3 / (step + 1)), "pixels": 400.0} | known
    return Feedback(rows(n, 50 + step), step, 2.0, **known)


def with_number(output: str, column: str, value: float) -> Controller:
    own = np.zeros((len(OUTPUTS), len(OWN)))
    own[OUTPUTS.index(output), OWN.index(column)] = value
    return Controller(own, np.zeros((2, 3)))


@torch.no_grad()
def test_without_numbers_it_is_tuned_adam_bit_for_bit():
    adam, rule = AdamRule(ADAM), ControlledRule(ADAM, Controller.neutral()).bind(SceneKnowledge(torch.randn(7, 3)))
    scene, moved = rows(9, 0), rows(9, 0).map(torch.clone)
    states = [each.init_state(SceneStart(scene)) for each in (adam, rule, rule)]
    for step in range(9):
        if step == 4:  # Two are added.
            source, fresh = torch.tensor([*range(9), 1, 5]), torch.arange(11) > 8
            scene, moved = scene[source], moved[source].map(torch.clone)
            states = [AdamRule(ADAM).resize_state(state, source, fresh) for state in states]
        told = feedback(step, len(scene), progress=step / 9 if step % 2 else None)
        expected, states[0] = adam(scene, told, states[0])
        delta, states[1] = rule(scene, told, states[1])
        states[2] = rule.step_in_place(moved, told, states[2])
        assert torch.equal(delta.pack(), expected.pack())
        scene = scene.zip_map(torch.add, expected)
        assert torch.equal(moved.pack(), scene.pack())
        assert all(torch.equal(states[1][name], states[0][name]) for name in states[0])


@torch.no_grad()
@pytest.mark.parametrize("field", FIELDS)
def test_a_number_of_a_field_scales_the_steps_of_that_field_alone(field):
    scene, told = rows(9, 0), feedback(0)
    rule = ControlledRule(ADAM, with_number(field, "mean", math.log(2)))
    expected, _ = AdamRule(ADAM)(scene, told, AdamRule(ADAM).init_state(SceneStart(scene)))
    delta, _ = rule(scene, told, rule.init_state(SceneStart(scene)))
    limit = math.log(LARGEST_FACTOR)
    factor = math.exp(limit * math.tanh(math.log(2) / limit))  # 1.9: two, a little bounded.
    for name in FIELDS:
        wanted = getattr(expected, name) * (factor if name == field else 1)
        torch.testing.assert_close(getattr(delta, name), wanted)


@torch.no_grad()
def test_momentum_forgets_faster_with_a_number_above_zero():
    scene, told = rows(9, 0), feedback(0)
    rule = ControlledRule(ADAM, with_number("beta1", "mean", 50.0))
    _, state = rule(scene, told, rule.init_state(SceneStart(scene)))
    torch.testing.assert_close(state["exp_avg.means"], 0.4 * told.gradients.means)  # beta1 is 0.6 instead of 0.9.


def test_gains_are_bounded_whatever_the_numbers_and_the_scene():
    extreme = Controller.of_vector(np.full(NUM_NUMBERS, 1e6))
    for sign in (-1, 1):
        told = SceneStatistics(share=1.0, loss=sign * 1e9, slope=sign * 1e9, density=sign * 1e9, views=sign * 1e9)
        gains = extreme.gains(told)
        for factor in (*gains.rates.values(), gains.forgetting):
            assert 1 / LARGEST_FACTOR <= factor <= LARGEST_FACTOR


def test_rates_follow_the_share_of_the_budget_and_frozen_ones_do_not():
    controller = with_number("scales", "share", -0.3)
    controller.own[:, 0] = 0.2
    early, late = (controller.gains(replace(USUAL, share=share)) for share in (0.0, 1.0))
    assert early.rates["scales"] > 1.3 > 1 > late.rates["scales"]
    assert early.rates["quats"] == late.rates["quats"] == controller.gains(USUAL).rates["quats"]
    frozen = controller.frozen()
    assert all(frozen.gains(replace(USUAL, share=share)) == controller.gains(USUAL) for share in (0.0, 0.5, 1.0))


def test_what_is_known_of_the_scene_is_its_loss_its_density_and_its_views():
    seen = []

    class Spy(Controller):
        def gains(self, statistics):
            seen.append(statistics)
            return super().gains(statistics)

    rule = ControlledRule(ADAM, Spy(*vars(Controller.neutral()).values()))
    scene = rows(9, 0)
    state = rule.init_state(SceneStart(scene))
    for step, loss in enumerate([0.3, 0.15, float("nan")]):
        _, state = rule(scene, feedback(step, loss=torch.tensor(loss)), state)
    first, second, third = seen
    assert first == SceneStatistics(0.0, pytest.approx(math.log(0.3)), 0.0, pytest.approx(math.log(9 / 400)), None)
    # The averages over 4 and 19 steps have come down by a fifth and a twentieth of log 2.
    assert second.loss == pytest.approx(math.log(0.3) - 0.2 * math.log(2))
    assert second.slope == pytest.approx(-0.15 * math.log(2)) and second.share == 1 / 20
    assert (third.loss, third.slope) == (second.loss, second.slope)
    rule.bind(SceneKnowledge(torch.randn(7, 3)))(scene, feedback(3, progress=0.9, pixels=None), state)
    assert (seen[-1].share, seen[-1].density, seen[-1].views) == (0.9, None, math.log(7))


def test_weights_are_read_as_they_were_saved(tmp_path):
    controller = Controller.of_vector(np.random.default_rng(0).standard_normal(NUM_NUMBERS))
    save_weights(tmp_path / "mine", controller.to_weights(WeightsCard("controller", {})))
    loaded = weights_of("controlled", str(tmp_path / "mine"))
    assert np.array_equal(Controller.from_weights(loaded).vector, controller.vector)
    rule = rule_entry("controlled").build(RuleOptions(loaded, horizon=30, rates=0.6))
    assert rule.card.system == "controller" and rule.bind(SceneKnowledge(torch.zeros(2, 3))).card is rule.card
    assert rule.options == adam_options("own-scale", 30, 0.6)
    other = ControlledRule(rule.options, Controller.neutral())
    assert rule.fingerprint != other.fingerprint
    with pytest.raises(ValueError, match="the rule controlled has none"):
        rule_entry("controlled").build(RuleOptions(loaded, {"neighbours": 3}))


def test_what_is_no_controller_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="No weights come with the package for the rule controlled; name some"):
        weights_of("controlled", None)
    with pytest.raises(WeightsError, match="controller weights are needed"):
        weights_of("controlled", "gain-mini")
    with pytest.raises(WeightsError, match="train it again"):
        Controller.from_weights(Weights({"own": torch.zeros(7, 4)}, WeightsCard("controller", {})))
    with pytest.raises(WeightsError, match="learn2splat or gain weights are needed"):
        save_weights(tmp_path / "mine", Controller.neutral().to_weights(WeightsCard("controller", {})))
        load_weights(tmp_path / "mine", ("learn2splat", "gain"))
