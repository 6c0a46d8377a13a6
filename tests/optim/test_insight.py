"""What rules know of each Gaussian for people to see."""

import pytest
import torch

from l2o_splat.optim.joint_optimizer import JointOptimizer
from tests.optim.gain import make_rule
from tests.optim.rules import RuleCase, all_cases, make_parameters

N = 24


@pytest.mark.parametrize("name", all_cases())
def test_every_rule_says_what_it_knows_row_by_row(name):
    case, parameters = all_cases()[name], make_parameters(N)
    optimizer = case.optimizer(parameters)
    assert optimizer.insight() == {}
    case.train(parameters, optimizer, range(6))
    known = optimizer.insight()
    assert ("age" in known) == any(word in name for word in ("adam", "gain", "proximal")) or name.endswith("resplat")
    for values in known.values():
        assert values.shape == (N,) and values.min() >= 0 and values.max() <= 1


@pytest.mark.parametrize("name", ["adam", "gain", "gain with colours"])
def test_gaussians_that_are_added_late_are_younger(name):
    case, parameters = all_cases()[name], make_parameters(N)
    optimizer = case.optimizer(parameters)
    case.train(parameters, optimizer, range(3))
    source, fresh = torch.arange(N + 4) % N, torch.arange(N + 4) >= N
    state = optimizer.rule.resize_state(optimizer.rule_state, source, fresh)
    ages = optimizer.rule.insight(state, optimizer.inner_step)["age"]
    assert (ages[~fresh] == 1).all() and (ages[fresh] == 0).all()


@pytest.mark.parametrize("trained", [False, True])
def test_an_untrained_network_wants_the_steps_of_adam(trained):
    case, parameters = RuleCase(make_rule(trained, query_growth=2.0)), make_parameters(N)
    optimizer: JointOptimizer = case.optimizer(parameters)
    case.train(parameters, optimizer, range(2))
    gains = optimizer.insight()["gain"]
    assert (gains.std() > 0.001) if trained else (gains == 0.5).all()
