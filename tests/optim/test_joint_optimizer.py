"""What every rule can rely on when it takes the place of torch.optim.Adam."""

import io
import logging

import pytest
import torch

from l2o_splat.gaussians import FIELDS, Gaussians
from l2o_splat.optim.adam import AdamRule, adam_options
from l2o_splat.optim.joint_optimizer import MAX_REFUSED_STEPS, JointOptimizer, RuleMismatchError
from l2o_splat.optim.rule import RuleState, UpdateRule
from l2o_splat.scene import SceneKnowledge
from tests.optim.rules import all_cases, backward, make_parameters

CASES = sorted(all_cases())


def train(parameters, optimizer, steps) -> None:
    for step in steps:
        backward(parameters, seed=step)
        optimizer.step()


def rows_of(optimizer: JointOptimizer) -> dict[str, torch.Tensor]:
    return optimizer.rule_state.per_gaussian


@torch.no_grad()
@pytest.mark.parametrize("name", CASES)
def test_every_rule_keeps_structure_and_follows_a_permutation_of_the_gaussians(name):
    case = all_cases()[name]
    gaussians = Gaussians.from_mapping(make_parameters()).detach()
    gradients = gaussians.map(torch.randn_like)
    order = torch.randperm(len(gaussians), generator=torch.Generator().manual_seed(5))
    state = case.rule.init_state(case.start(gaussians))
    feedback = case.feedback(gaussians, gradients)
    delta, new_state = case.rule(gaussians, feedback, state)
    shapes = {key: value.shape for key, value in new_state.items()}
    assert {key: shapes[key] for key in state} == {key: value.shape for key, value in state.items()}
    assert all(len(value) == len(gaussians) for value in new_state.per_gaussian.values())
    assert new_state.per_scene.keys() == state.per_scene.keys()
    turned = case.feedback(gaussians[order], gradients[order])
    permuted, permuted_state = case.rule(gaussians[order], turned, state.at(order))
    assert permuted_state.keys() == new_state.keys()
    for field in FIELDS:
        assert getattr(delta, field).dtype == torch.float32
        torch.testing.assert_close(getattr(permuted, field), getattr(delta, field)[order], rtol=1e-4, atol=1e-5)
    assert delta.pack().abs().max() > 0


@torch.no_grad()
@pytest.mark.parametrize("name", CASES)
def test_every_rule_is_pure(name):
    case = all_cases()[name]
    gaussians = Gaussians.from_mapping(make_parameters()).detach()
    state = case.rule.init_state(case.start(gaussians))
    feedback = case.feedback(gaussians, gaussians.map(torch.randn_like))
    before = gaussians.pack(), {key: value.clone() for key, value in state.items()}
    first, second = (case.rule(gaussians, feedback, state) for _ in range(2))
    assert torch.equal(first[0].pack(), second[0].pack())
    assert torch.equal(gaussians.pack(), before[0])
    assert all(torch.equal(state[key], value) for key, value in before[1].items())


@pytest.mark.parametrize("name", CASES)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(name):
    case = all_cases()[name]
    whole = make_parameters()
    case.train(whole, case.optimizer(whole), range(12))

    first = make_parameters()
    optimizer = case.optimizer(first)
    case.train(first, optimizer, range(6))
    file = io.BytesIO()
    torch.save({"parameters": first.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)

    second = make_parameters(seed=99)
    resumed = case.optimizer(second)
    second.load_state_dict(saved["parameters"])
    resumed.load_state_dict(saved["optimizer"])
    case.train(second, resumed, range(6, 12))
    for field in FIELDS:
        assert torch.equal(second[field], whole[field]), field


@pytest.mark.parametrize("name", CASES)
def test_binding_twice_is_the_same_as_binding_once(name):
    case = all_cases()[name]
    scene = SceneKnowledge(
        torch.tensor([[2.0, 0.0, 0.0], [-1.0, 0.0, 0.0]]), 0.25, None if case.context is None else case.context.cameras
    )
    once = case.rule.bind(scene)
    twice = once.bind(scene)
    assert twice.fingerprint == once.fingerprint
    assert once.needs == case.rule.needs == twice.needs


class CountingRule(UpdateRule):
    """Adds the number of steps each Gaussian has seen; its state is integer."""

    fingerprint = "counting"

    def init_state(self, start):
        return RuleState({"count": torch.zeros(len(start.gaussians), dtype=torch.int64)})

    def forward(self, gaussians, feedback, state):
        count = state["count"] + 1
        return gaussians.map(lambda value: torch.ones_like(value) * count[0]), RuleState({"count": count})


def test_integer_state_survives_saving():
    parameters = make_parameters()
    optimizer = JointOptimizer(parameters, CountingRule())
    train(parameters, optimizer, range(3))
    other = JointOptimizer(make_parameters(), CountingRule())
    other.load_state_dict(optimizer.state_dict())
    count = other.rule_state["count"]
    assert count.dtype == torch.int64
    assert count.tolist() == [3] * 24


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_non_finite_gradient_refuses_the_step_and_says_where(bad, caplog):
    parameters = make_parameters()
    optimizer = JointOptimizer(parameters, AdamRule(adam_options("gsplat", 50)))
    train(parameters, optimizer, range(2))
    before = {name: value.detach().clone() for name, value in parameters.items()}
    backward(parameters, seed=3)
    parameters["quats"].grad[4, :2] = bad
    with caplog.at_level(logging.WARNING):
        optimizer.step()
    assert "Step 2 refused: gradients" in caplog.text
    assert "2 in quats" in caplog.text
    assert optimizer.inner_step == 2
    assert all(torch.equal(parameters[name], before[name]) for name in FIELDS)


class BrokenRule(CountingRule):
    fingerprint = "broken"

    def forward(self, gaussians, feedback, state):
        delta, state = super().forward(gaussians, feedback, state)
        delta.scales[0] = float("inf")
        return delta, state


def test_non_finite_deltas_are_refused_and_too_many_in_a_row_end_the_run():
    parameters = make_parameters()
    optimizer = JointOptimizer(parameters, BrokenRule())
    before = {name: value.detach().clone() for name, value in parameters.items()}
    train(parameters, optimizer, range(MAX_REFUSED_STEPS))
    assert all(torch.equal(parameters[name], before[name]) for name in FIELDS)
    with pytest.raises(FloatingPointError, match="deltas hold NaN or infinite numbers \\(3 in scales\\)"):
        train(parameters, optimizer, [0])


def test_a_checkpoint_of_another_rule_or_horizon_is_refused():
    parameters = make_parameters()
    saved = JointOptimizer(parameters, AdamRule(adam_options("gsplat", 50))).state_dict()
    for other in (AdamRule(adam_options("own-scale", 50)), AdamRule(adam_options("gsplat", 60))):
        with pytest.raises(RuleMismatchError, match="was trained with rule"):
            JointOptimizer(make_parameters(), other).load_state_dict(saved)
    with pytest.raises(RuleMismatchError, match="an optimizer per field"):
        JointOptimizer(make_parameters(), AdamRule(adam_options("gsplat", 50))).load_state_dict(
            torch.optim.Adam([{"params": [value]} for value in make_parameters().values()]).state_dict()
        )


@pytest.mark.parametrize("name", CASES)
def test_resizing_moves_parameters_and_state_together(name):
    case = all_cases()[name]
    parameters = make_parameters(8)
    optimizer = case.optimizer(parameters)
    case.train(parameters, optimizer, range(3))
    kept = torch.tensor([7, 2, 3, 5])
    source = torch.cat([kept, torch.tensor([2])])
    fresh = torch.tensor([False, False, False, False, True])
    means, rows_before = parameters["means"], Gaussians.from_mapping(parameters).detach().map(torch.clone)
    state = optimizer.rule_state
    if case.rule.needs.fixed_steps:
        with pytest.raises(ValueError, match="1 Gaussians were added"):
            optimizer.resize(rows_before[source], source, fresh)
        source, fresh = kept, fresh[:4]
    optimizer.resize(rows_before[source], source, fresh)
    assert parameters["means"] is means
    assert len(parameters["means"]) == len(source)
    assert torch.equal(parameters["scales"], rows_before.scales[source])
    resized = optimizer.rule_state
    for key, value in resized.per_gaussian.items():
        if key in state:
            assert torch.equal(value[:4], state[key][kept]), key
        else:  # Adam keeps the steps in which Gaussians began once they differ.
            assert key.endswith("born") and not value[:4].any()
        if "exp_avg" in key or "adam_m" in key or "adam_v" in key:
            assert not value[fresh].any(), key
    for key, value in resized.per_scene.items():
        assert torch.equal(value, state[key]), key
    case.train(parameters, optimizer, [4])
    assert optimizer.inner_step == 4


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in CASES if not all_cases()[name].rule.needs.fixed_steps])
def test_an_added_gaussian_is_moved_as_far_as_its_parent(name):
    """It starts without moments, but nothing that belongs to the scene may be lost on it."""
    case = all_cases()[name]
    gaussians = Gaussians.from_mapping(make_parameters(12)).detach()
    state = case.rule.init_state(case.start(gaussians))
    gradients = gaussians.map(torch.randn_like)
    _, state = case.rule(gaussians, case.feedback(gaussians, gradients), state)
    source, fresh = torch.cat([torch.arange(12), torch.tensor([3])]), torch.arange(13) == 12
    resized = case.rule.resize_state(state, source, fresh)
    feedback = case.feedback(gaussians[source], gradients[source], step=1)
    delta, _ = case.rule(gaussians[source], feedback, resized)
    for field, values in delta.items():
        parent, child = values[3].norm(), values[12].norm()
        assert child <= 8 * parent + 1e-3, f"{field}: {child:.3g} beside {parent:.3g} of the parent"


@pytest.mark.parametrize("source", [[7, 2, 2], [0, 1, 2, 3, 4, 5, 6, 7, 7]])
def test_resizing_before_the_first_step_keeps_what_the_initializer_knew(source):
    case = all_cases()["proximal"]
    parameters = make_parameters(8)
    optimizer = case.optimizer(parameters)
    source = torch.tensor(source)
    optimizer.resize(optimizer.gaussians[source], source, torch.zeros(len(source), dtype=torch.bool))
    case.train(parameters, optimizer, [0])
    expected = case.start(Gaussians.from_mapping(make_parameters(8)).detach()).precision[source]
    assert torch.equal(rows_of(optimizer)["precision"], expected)


def test_resizing_checks_its_arguments():
    optimizer = JointOptimizer(make_parameters(8), AdamRule(adam_options("gsplat", 50)))
    gaussians = Gaussians.from_mapping(make_parameters(2))
    with pytest.raises(ValueError, match="one entry per new Gaussian"):
        optimizer.resize(gaussians, torch.tensor([0]), torch.tensor([False, False]))
    with pytest.raises(ValueError, match="there are 8 Gaussians"):
        optimizer.resize(gaussians, torch.tensor([0, 8]), torch.tensor([False, False]))


def test_missing_gradients_are_zero_and_none_at_all_is_no_step():
    parameters = make_parameters()
    optimizer = JointOptimizer(parameters, AdamRule(adam_options("gsplat", 50)))
    optimizer.step()
    assert optimizer.inner_step == 0
    parameters["means"].grad = torch.ones_like(parameters["means"])
    scales = parameters["scales"].detach().clone()
    optimizer.step()
    assert optimizer.inner_step == 1
    assert torch.equal(parameters["scales"], scales)
