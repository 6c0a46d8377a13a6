"""A state of ``LearnedOptimizer`` that an earlier version saved goes on as it did then.

Made with commit 049c07d and the weights of the package: 40 splats, three steps of :func:`train`, then ``state_dict()``
and splats, and the splats after two more steps.
"""

from pathlib import Path

import pytest
import torch
from torch.nn import Parameter, ParameterDict

from l2o_splat import LearnedOptimizer

FROZEN = Path(__file__).with_name("frozen_learned_optimizer.pt")


@pytest.fixture(scope="module")
def frozen():
    return torch.load(FROZEN, weights_only=True)


def parameters(splats) -> ParameterDict:
    return ParameterDict({name: Parameter(value.clone()) for name, value in splats.items()})


def train(splats, optimizer, steps) -> None:
    """Pull every tensor towards random values, others in every step."""
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        optimizer.zero_grad()
        sum((v - torch.randn(v.shape, generator=generator)).square().mean() for v in splats.values()).backward()
        optimizer.step()


def test_a_saved_state_goes_on_as_it_did(frozen):
    splats = parameters(frozen["splats"])
    optimizer = LearnedOptimizer(splats)
    optimizer.load_state_dict(frozen["state_dict"])
    assert optimizer.inner_step == 3
    train(splats, optimizer, (3, 4))
    for name, expected in frozen["after"].items():
        torch.testing.assert_close(splats[name].detach(), expected, rtol=1e-5, atol=1e-6)


def test_the_saved_state_matters(frozen):
    splats = parameters(frozen["splats"])
    train(splats, LearnedOptimizer(splats), (3, 4))
    assert not torch.allclose(splats["means"], frozen["after"]["means"], rtol=1e-3, atol=1e-3)
