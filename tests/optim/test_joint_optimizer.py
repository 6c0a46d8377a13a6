"""What every rule can rely on when it takes the place of torch.optim.Adam."""

import io
import logging

import pytest
import torch

from l2o_splat.gaussians import FIELDS, Gaussians
from l2o_splat.optim.adam import AdamRule, adam_options
from l2o_splat.optim.joint_optimizer import MAX_REFUSED_STEPS, JointOptimizer, RuleMismatchError
from l2o_splat.optim.rule import Feedback, UpdateRule
from l2o_splat.scene import SceneKnowledge
from tests.optim.rules import all_rules

RULES = sorted(all_rules())


def make_parameters(n: int = 24, seed: int = 0) -> torch.nn.ParameterDict:
    generator = torch.Generator().manual_seed(seed)
    rows = Gaussians.unpack(torch.randn(n, 59, generator=generator))
    return torch.nn.ParameterDict({name: torch.nn.Parameter(value.clone()) for name, value in rows.items()})


def cameras(reach: float) -> SceneKnowledge:
    """Two cameras at a distance ``reach`` from their mean."""
    return SceneKnowledge(torch.tensor([[reach, 0.0, 0.0], [-reach, 0.0, 0.0]]), rescaled_by=0.5)


def backward(parameters, seed: int) -> None:
    """Gradients of a loss that depends on the parameters and on the step."""
    generator = torch.Generator().manual_seed(seed)
    for name in FIELDS:
        parameters[name].grad = None
    target = {name: torch.randn(parameters[name].shape[1:], generator=generator) for name in FIELDS}
    sum(((parameters[name] - target[name]) ** 2).mean() for name in FIELDS).backward()


def train(parameters, optimizer, steps) -> None:
    for step in steps:
        backward(parameters, seed=step)
        optimizer.step()


@pytest.mark.parametrize("name", RULES)
def test_every_rule_keeps_structure_and_follows_a_permutation_of_the_gaussians(name):
    rule = all_rules()[name]
    parameters = make_parameters()
    gaussians = Gaussians.from_mapping(parameters).detach()
    gradients = gaussians.map(torch.randn_like)
    order = torch.randperm(len(gaussians), generator=torch.Generator().manual_seed(5))
    state = rule.init_state(gaussians)
    delta, new_state = rule(gaussians, Feedback(gradients, 0, 1.0), state)
    assert {key: value.shape for key, value in new_state.items()} == {key: value.shape for key, value in state.items()}
    assert all(len(value) == len(gaussians) for value in new_state.values())
    permuted_state = {key: value[order] for key, value in state.items()}
    permuted, _ = rule(gaussians[order], Feedback(gradients[order], 0, 1.0), permuted_state)
    for field in FIELDS:
        assert getattr(delta, field).dtype == torch.float32
        torch.testing.assert_close(getattr(permuted, field), getattr(delta, field)[order], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", RULES)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(name):
    whole = make_parameters()
    optimizer = JointOptimizer(whole, all_rules()[name])
    optimizer.bind(cameras(reach=3.0))
    train(whole, optimizer, range(20))

    first = make_parameters()
    optimizer = JointOptimizer(first, all_rules()[name])
    optimizer.bind(cameras(reach=3.0))
    train(first, optimizer, range(10))
    file = io.BytesIO()
    torch.save({"parameters": first.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)

    second = make_parameters(seed=99)
    resumed = JointOptimizer(second, all_rules()[name])
    second.load_state_dict(saved["parameters"])
    resumed.bind(cameras(reach=3.0))
    resumed.load_state_dict(saved["optimizer"])
    train(second, resumed, range(10, 20))
    for field in FIELDS:
        assert torch.equal(second[field], whole[field]), field


class CountingRule(UpdateRule):
    """Adds the number of steps each Gaussian has seen; its state is integer."""

    fingerprint = "counting"

    def init_state(self, gaussians, features=None):
        return {"count": torch.zeros(len(gaussians), dtype=torch.int64)}

    def forward(self, gaussians, feedback, state):
        count = state["count"] + 1
        return gaussians.map(lambda value: torch.ones_like(value) * count[0]), {"count": count}


def test_integer_state_survives_saving():
    parameters = make_parameters()
    optimizer = JointOptimizer(parameters, CountingRule())
    train(parameters, optimizer, range(3))
    other = JointOptimizer(make_parameters(), CountingRule())
    other.load_state_dict(optimizer.state_dict())
    count = other.state[other.param_groups[0]["params"][0]]["count"]
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


@pytest.mark.parametrize("name", RULES)
def test_resizing_moves_parameters_and_state_together(name):
    parameters = make_parameters(8)
    optimizer = JointOptimizer(parameters, all_rules()[name])
    train(parameters, optimizer, range(3))
    kept = torch.tensor([7, 2, 3])
    source = torch.cat([kept, torch.tensor([2])])
    fresh = torch.tensor([False, False, False, True])
    means = parameters["means"]
    state_before = {key: value.clone() for key, value in optimizer.state[means].items()}
    rows_before = Gaussians.from_mapping(parameters).detach().map(torch.clone)
    optimizer.resize(rows_before[source], source, fresh)
    assert parameters["means"] is means
    assert len(parameters["means"]) == 4
    assert torch.equal(parameters["scales"], rows_before.scales[source])
    for key, value in optimizer.state[means].items():
        assert len(value) == 4
        if key.startswith("exp_avg"):
            assert torch.equal(value[:3], state_before[key][kept])
            assert not value[3].any()
    backward(parameters, seed=4)
    optimizer.step()


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
