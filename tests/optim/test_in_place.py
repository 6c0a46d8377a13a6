"""Steps that change the scene where it lies: the same numbers as a delta that is added, and whole steps or none."""

import copy
from dataclasses import replace

import pytest
import torch

from l2o_splat import threads
from l2o_splat.gaussians import FIELDS, Gaussians
from l2o_splat.optim import adam_kernel
from l2o_splat.optim.adam import AdamRule, adam_options
from l2o_splat.optim.joint_optimizer import JointOptimizer
from l2o_splat.optim.rule import Feedback, UpdateRule
from l2o_splat.scene import SceneStart
from tests.optim.rules import all_cases, backward, make_parameters

CASES = sorted(all_cases())
PRESETS = ("gsplat", "x5", "own-scale")


def scene(n: int, seed: int = 0, width: int = 59) -> Gaussians:
    return Gaussians.unpack(torch.randn(n, width, generator=torch.Generator().manual_seed(seed))).map(torch.clone)


def gradients(n: int, step: int, width: int = 59) -> Gaussians:
    """Of very different sizes; every third Gaussian has none in this step."""
    generator = torch.Generator().manual_seed(100 + step)
    rows = torch.randn(n, width, generator=generator) * torch.randn(n, width, generator=generator).mul(3).exp()
    rows[step % 3 :: 3] = 0
    return Gaussians.unpack(rows)


@torch.no_grad()
@pytest.mark.parametrize("name", CASES)
def test_every_rule_takes_the_step_in_place_that_it_proposes(name):
    case = all_cases()[name]
    moved = scene(24)
    added, state = moved.map(torch.clone), case.rule.init_state(case.start(moved))
    in_place_state = copy.deepcopy(state)
    for step in range(7):
        loss = torch.tensor(1.0 + step)  # It rises, so that safeguards act as well.
        feedback = replace(case.feedback(added, gradients(24, step), step), loss=loss)
        delta, state = case.rule(added, feedback, state)
        added = added.zip_map(torch.add, delta)
        in_place_state = case.rule.step_in_place(moved, feedback, in_place_state)
        assert torch.equal(moved.pack(), added.pack()), step
        assert in_place_state.keys() == state.keys()
        assert all(torch.equal(in_place_state[key], state[key]) for key in state), step


@torch.no_grad()
@pytest.mark.parametrize("drawn_only", [False, True])
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("width", [14, 59])
def test_adam_in_place_does_not_differ_in_a_bit_for_any_number_of_threads(preset, drawn_only, width):
    rule = AdamRule(replace(adam_options(preset, 30), drawn_only=drawn_only))
    added = scene(5001, width=width)
    state = rule.init_state(SceneStart(added))
    alone, shared = ([added.map(torch.clone), copy.deepcopy(state)] for _ in range(2))
    try:
        for step in range(4):
            feedback = Feedback(gradients(5001, step, width), step, 2.5)
            delta, state = rule(added, feedback, state)
            added = added.zip_map(torch.add, delta)
            for count, run in ((1, alone), (3, shared)):
                threads.set_num_threads(count)
                moved, before = run[0], run[1]["exp_avg.means"]
                run[1] = rule.step_in_place(moved, feedback, run[1])
                assert run[1]["exp_avg.means"] is before, "the moments were copied"
                assert torch.equal(moved.pack(), added.pack())
                assert run[1].keys() == state.keys()
                assert all(torch.equal(run[1][key], state[key]) for key in state)
            if step == 1:  # Some are added, so that ages differ; the last of them lie between old ones.
                source, fresh = torch.arange(5001), torch.zeros(5001, dtype=torch.bool)
                fresh[-700:], fresh[1000:1400:3] = True, True
                state, alone[1], shared[1] = (
                    rule.resize_state(each, source, fresh) for each in (state, alone[1], shared[1])
                )
    finally:
        threads.set_num_threads(None)


def test_the_kernels_round_as_this_torch_does():
    """Otherwise Adam steps through torch's operations, several times as slowly."""
    assert adam_kernel.rounds_as_torch() or torch.backends.cpu.get_cpu_capability() == "DEFAULT"


@pytest.mark.parametrize("preset", ["gsplat", "own-scale"])
@pytest.mark.parametrize("bad", [float("nan"), float("-inf")])
def test_a_number_that_is_not_finite_leaves_gaussians_and_state_as_they_are(preset, bad):
    """Be it the very last one that a step comes to."""
    parameters = make_parameters(2000)
    optimizer = JointOptimizer(parameters, AdamRule(adam_options(preset, 50)))
    for step in range(2):
        backward(parameters, step)
        optimizer.step()
    before, state = copy.deepcopy(parameters), copy.deepcopy(optimizer.rule_state)
    backward(parameters, 2)
    parameters["features_rest"].grad[-1, -1, -1] = bad
    optimizer.step()
    parameters["features_rest"].grad[-1, -1, -1] = 1.0
    spoiled = optimizer.rule_state["exp_avg_sq.features_rest"]
    kept = spoiled[-1, -1, -1].clone()
    spoiled[-1, -1, -1] = bad
    optimizer.step()
    spoiled[-1, -1, -1] = kept
    if preset == "own-scale":
        with torch.no_grad():
            parameters["scales"][-1] = 1000.0
        optimizer.step()
        with torch.no_grad():
            parameters["scales"][-1] = before["scales"][-1]
    assert optimizer.inner_step == 2
    assert all(torch.equal(parameters[name], before[name]) for name in FIELDS)
    assert all(torch.equal(optimizer.rule_state[key], state[key]) for key in state)


@torch.no_grad()
def test_gradients_too_large_for_the_kernel_take_the_long_way():
    added = scene(40)
    large = gradients(40, 0).map(lambda value: 1e15 * value)
    rule = AdamRule(adam_options("gsplat", 30))
    parameters = {name: torch.nn.Parameter(value.clone()) for name, value in added.items()}
    optimizer = JointOptimizer(parameters, rule)
    assert (
        rule.step_in_place(added.map(torch.clone), Feedback(large, 0, 1.0), rule.init_state(SceneStart(added))) is None
    )
    delta, _ = rule(added, Feedback(large, 0, 1.0), rule.init_state(SceneStart(added)))
    for name, parameter in parameters.items():
        parameter.grad = getattr(large, name)
    optimizer.step()
    assert torch.equal(optimizer.gaussians.pack(), added.zip_map(torch.add, delta).pack())


@torch.no_grad()
def test_gaussians_that_no_view_shows_stay_where_they_are_and_keep_their_moments():
    rule, dense = (AdamRule(replace(adam_options("own-scale", 30), drawn_only=on)) for on in (True, False))
    assert "drawn" in rule.fingerprint and "drawn" not in dense.fingerprint
    gaussians = scene(40)
    _, state = dense(gaussians, Feedback(scene(40, seed=1), 0, 1.0), dense.init_state(SceneStart(gaussians)))
    feedback = Feedback(gradients(40, 1), 1, 1.0)
    hidden = torch.arange(40) % 3 == 1
    delta, after = rule(gaussians, feedback, state)
    expected, expected_after = dense(gaussians, feedback, state)
    assert not delta.pack()[hidden].any() and expected.pack()[hidden].all()
    assert torch.equal(delta.pack()[~hidden], expected.pack()[~hidden])
    later = Feedback(scene(40, seed=2), 2, 1.0)
    assert torch.equal(after["born"][hidden], torch.ones(13, dtype=torch.int64)) and not after["born"][~hidden].any()
    # The step that they missed does not count: theirs is the second one, as if the first had been a step ago.
    second = dense(gaussians[hidden], replace(later, step=1, gradients=later.gradients[hidden]), state.at(hidden))[0]
    late = rule(gaussians, replace(later, step=2), after)[0][hidden]
    rates = [dense.rate("means", step) for step in (1, 2)]
    torch.testing.assert_close(late.means / rates[1], second.means / rates[0], rtol=1e-6, atol=0)
    for key in state:
        assert torch.equal(after[key][hidden], state[key][hidden])
        assert torch.equal(after[key][~hidden], expected_after[key][~hidden])


@torch.no_grad()
def test_a_rule_that_changes_the_step_of_another_changes_it_in_place_too():
    class Backwards(AdamRule):
        def forward(self, gaussians, feedback, state):
            delta, state = super().forward(gaussians, feedback, state)
            return delta.map(torch.neg), state

    rule, gaussians = Backwards(adam_options("gsplat", 30)), scene(8)
    feedback, state = Feedback(scene(8, seed=1), 0, 1.0), rule.init_state(SceneStart(gaussians))
    delta, _ = rule(gaussians, feedback, state)
    expected = gaussians.zip_map(torch.add, delta)
    rule.step_in_place(gaussians, feedback, state)
    assert torch.equal(gaussians.pack(), expected.pack())
    assert Backwards.step_in_place is UpdateRule.step_in_place
