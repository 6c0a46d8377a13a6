"""The controller: what its numbers mean, and that without any a run is as the preset says."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from l2o_splat.budget import BudgetClock
from l2o_splat.gaussians import FIELDS, Gaussians
from l2o_splat.optim.adam import AdamRule, adam_options
from l2o_splat.optim.rule import Feedback
from l2o_splat.scene import SceneStart
from l2o_splat.schedule.controller import LARGEST_FACTOR, NAMES, NUMBERS, Controller, Gains, RunStatistics
from l2o_splat.schedule.presets import PRESETS
from l2o_splat.schedule.run_schedule import RunSchedule
from l2o_splat.weights import load_weights, save_weights
from l2o_splat.weights.format import Weights, WeightsCard, WeightsError
from tests.optim.gain import make_rule as make_gain

USUAL = RunStatistics(share=0.5)
ADAM = adam_options("own-scale", horizon=20)


def with_numbers(**numbers: float) -> Controller:
    """A controller of the numbers that are named, ``output__statistic``; the others are 0."""
    named = {name.replace("__", "."): number for name, number in numbers.items()}
    return Controller(np.array([named.get(name, 0.0) for name in NAMES]))


def schedule(controller: Controller | None, steps: int = 100) -> RunSchedule:
    made = RunSchedule(PRESETS["fast"], None, steps, BudgetClock(), controller=controller)
    made.set_capture(40, 150_000.0, 10_000)
    return made


def test_there_are_at_most_40_numbers():
    assert len(NAMES) == len(set(NAMES)) <= 40


def test_without_numbers_a_run_is_as_the_preset_says():
    plain, neutral = schedule(None), schedule(Controller.neutral())
    assert plain.gains(0) is None
    for step in range(100):
        gains = neutral.gains(step)
        assert set(gains.rates.values()) == {1.0} and gains[1:] == (1.0, 1.0)
        assert neutral.views(step, 8) == plain.views(step, 8) == 8
        assert neutral.dropout(step) == plain.dropout(step)
    assert neutral.stages == plain.stages and neutral.growth_at(50) == plain.growth_at(50) == plain.growth
    assert neutral.growth_factor == plain.growth_factor


@torch.no_grad()
def test_adam_with_the_gains_of_one_field_takes_longer_steps_in_that_field_alone():
    scene, gradients = (Gaussians.unpack(torch.randn(9, 59, generator=torch.manual_seed(seed))) for seed in (0, 1))
    rule, told = AdamRule(ADAM), Feedback(gradients, 0, 1.0)
    gains = Gains({name: 2.0 if name == "scales" else 1.0 for name in FIELDS}, 1.0, 1.0)
    state = rule.init_state(SceneStart(scene))
    usual, _ = rule(scene, told, state)
    longer, after = rule(scene, replace(told, gains=gains), state)
    for name in FIELDS:
        torch.testing.assert_close(getattr(longer, name), getattr(usual, name) * (2 if name == "scales" else 1))
    moved = scene.map(torch.clone)
    in_place = rule.step_in_place(moved, replace(told, gains=gains), rule.init_state(SceneStart(scene)))
    assert torch.equal(moved.pack(), scene.zip_map(torch.add, longer).pack())
    assert all(torch.equal(in_place[name], after[name]) for name in after)


@torch.no_grad()
def test_gains_of_forgetting_change_the_averages():
    scene, gradients = (Gaussians.unpack(torch.randn(9, 59, generator=torch.manual_seed(seed))) for seed in (0, 1))
    rule = AdamRule(ADAM)
    told = Feedback(gradients, 0, 1.0, gains=Gains(dict.fromkeys(FIELDS, 1.0), 4.0, 3.0))
    _, state = rule(scene, told, rule.init_state(SceneStart(scene)))
    torch.testing.assert_close(state["exp_avg.means"], 0.4 * gradients.means)  # beta1 is 0.6 instead of 0.9.
    torch.testing.assert_close(state["exp_avg_sq.means"], 0.003 * gradients.means**2)


@torch.no_grad()
@pytest.mark.parametrize("in_place", [True, False])
def test_the_gain_rule_multiplies_its_rates(in_place):
    scene, gradients = (
        Gaussians.unpack(0.1 * torch.randn(40, 59, generator=torch.manual_seed(seed))) for seed in (0, 1)
    )
    rule = make_gain(trained=True)
    steps = []
    for gains in (None, Gains({name: 0.5 if name == "features_dc" else 1.0 for name in FIELDS}, 1.0, 1.0)):
        told, state = Feedback(gradients, 0, 1.0, gains=gains), rule.init_state(SceneStart(scene))
        if in_place:
            moved = scene.map(torch.clone)
            rule.step_in_place(moved, told, state)
            steps.append(moved.zip_map(torch.sub, scene))
        else:
            steps.append(rule(scene, told, state)[0])
    usual, shorter = steps
    for name in FIELDS:
        factor = 0.5 if name == "features_dc" else 1.0
        torch.testing.assert_close(getattr(shorter, name), factor * getattr(usual, name), rtol=1e-4, atol=1e-6)


def test_factors_are_bounded_whatever_the_numbers_and_the_run():
    extreme = Controller(np.full(len(NAMES), 1e6))
    for sign in (-1, 1):
        told = RunStatistics(1.0, *[sign * 1e9] * 4)
        gains = extreme.gains(told)
        preference = extreme.split_preference(told)
        assert max(abs(preference.visibility), abs(preference.opacity)) <= 1
        factors = [extreme.factor(output, told) for output in NUMBERS if output not in (*FIELDS, "rates")]
        for factor in (*gains.rates.values(), gains.forgetting, *factors):
            assert 1 / LARGEST_FACTOR <= factor <= LARGEST_FACTOR


def test_responses_follow_the_run_and_frozen_ones_do_not():
    controller = with_numbers(scales__share=-0.3, scales__mean=0.2, quats__mean=0.2, views__share=0.4)
    early, late = (controller.gains(replace(USUAL, share=share)) for share in (0.0, 1.0))
    assert early.rates["scales"] > 1.3 > 1 > late.rates["scales"]
    assert early.rates["quats"] == late.rates["quats"]
    run, frozen = schedule(controller), controller.frozen()
    views = [run.views(step, 8) for step in (0, 50, 100)]
    assert views[0] < views[1] == 8 < views[2]
    assert all(frozen.gains(replace(USUAL, share=share)) == controller.gains(USUAL) for share in (0.0, 0.5, 1.0))
    assert not frozen.watches_loss and not controller.watches_loss
    assert with_numbers(rates__slope=0.1).watches_loss


def test_fewer_photographs_leave_out_more_gaussians_and_later_steps_do():
    def dropout(views: int, step: int, controller: Controller | None = None, **changes) -> float:
        run = RunSchedule(replace(PRESETS["fast"], **changes), None, 100, BudgetClock(), controller=controller)
        run.set_capture(views, 150_000.0, 10_000)
        return run.dropout(step)

    shares = [dropout(views, 100) for views in (2, 4, 8, 16, 200)]
    assert shares[0] == shares[1] == 0.3 and shares == sorted(shares, reverse=True)
    assert 0.05 < shares[2] < 0.15 and shares[3] < 0.03 and shares[4] < 0.001
    assert dropout(4, 0) == 0 and dropout(4, 50) == pytest.approx(0.15)
    assert dropout(4, 100, dropout=0.2) == dropout(200, 100, dropout=0.2) == 0.2
    twice = with_numbers(dropout__mean=math.log(2))
    assert dropout(8, 100, twice) > 1.7 * dropout(8, 100)
    most = with_numbers(dropout__mean=9.0)
    assert dropout(2, 100, most) < 1
    assert dropout(8, 100, most, dropout=0.0) == 0


def test_what_is_known_of_a_run():
    run = schedule(Controller.neutral(), steps=200)
    assert run.known(0) == RunStatistics(
        *(0.0, None, pytest.approx(math.log(10_000 / 150_000)), math.log(40), math.log(200))
    )
    for loss in (0.3, 0.15, float("nan"), 0.0):
        run.observe(loss)
    # The averages over 4 and 19 steps have come down by a fifth and a twentieth of log 2.
    assert run.known(50).slope == pytest.approx(-0.15 * math.log(2)) and run.known(50).share == 0.25
    again = schedule(Controller.neutral(), steps=200)
    again.load(run.state(), 50, 200)
    assert again.known(50) == run.known(50)


def test_decisions_for_the_whole_run_are_those_of_the_capture():
    visibility = with_numbers(split_visibility__share=0.3)
    early, late = (schedule(visibility).growth_at(step).preference.visibility for step in (10, 60))
    assert early < 0 < late
    run = schedule(with_numbers(growth__mean=0.3, sharpness__mean=0.5, first_event__mean=-0.5, last_event__mean=1.0))
    usual = schedule(None)
    assert run.growth_factor / usual.growth_factor == pytest.approx(run.controller.factor("growth", USUAL)) != 1
    assert run.stages[-1][0] < usual.stages[-1][0]  # Whole photographs come sooner.
    assert run.growth.first_share < usual.growth.first_share and run.growth.last_share == pytest.approx(2 / 3)


def test_weights_are_read_as_they_were_saved_and_others_refused(tmp_path):
    controller = Controller(np.random.default_rng(0).standard_normal(len(NAMES)))
    save_weights(tmp_path / "mine", controller.to_weights(WeightsCard("controller", {"numbers": list(NAMES)})))
    loaded = Controller.from_weights(load_weights(tmp_path / "mine.safetensors"))
    assert np.array_equal(loaded.numbers, controller.numbers)
    with pytest.raises(WeightsError, match="controller weights are needed"):
        Controller.from_weights(load_weights("gain-mini"))
    older = WeightsCard("controller", {"numbers": ["means.mean"]})
    with pytest.raises(WeightsError, match="train it again"):
        Controller.from_weights(Weights({"numbers": torch.zeros(1)}, older))
