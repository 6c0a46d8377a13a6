"""A Gaussian that is added late in a run begins as one of the start did."""

import copy

import pytest
import torch

from l2o_splat.gaussians import Gaussians
from l2o_splat.optim.adam import AdamRule, adam_options
from l2o_splat.optim.rule import Feedback
from l2o_splat.scene import SceneStart

N = 60


def scene(n: int = N) -> Gaussians:
    return Gaussians.unpack(torch.randn(n, 59, generator=torch.Generator().manual_seed(0))).map(torch.clone)


def steady(n: int = N) -> Gaussians:
    """The same gradients in every step."""
    return Gaussians.unpack(torch.randn(n, 59, generator=torch.Generator().manual_seed(1)))


def adam() -> AdamRule:
    return AdamRule(adam_options("x5", 1))


@torch.no_grad()
@pytest.mark.parametrize("born", [1, 100, 500])
def test_adam_moves_a_late_gaussian_by_its_rate_from_the_first_step_on(born):
    rule, gaussians = adam(), scene()
    state = rule.init_state(SceneStart(gaussians))
    for step in range(born):
        state = rule.step_in_place(gaussians, Feedback(steady(), step, 1.0), state)
    fresh = torch.arange(N) >= N - 7
    state = rule.resize_state(state, torch.arange(N), fresh)
    for step in range(born, born + 30):
        delta, state = rule(gaussians, Feedback(steady(), step, 1.0), state)
        expected = steady().map(lambda value: -value.sign())
        for name, value in delta.items():
            # Of a steady gradient Adam's direction is its sign, whatever its age.
            torch.testing.assert_close(
                value, getattr(expected, name) * getattr(rule.options.rates, name), rtol=2e-4, atol=0
            )
    assert torch.equal(state["born"], torch.where(fresh, born, 0))


@torch.no_grad()
def test_adam_resumes_a_run_with_ages_bit_for_bit():
    rule, gaussians = adam(), scene()
    state = rule.init_state(SceneStart(gaussians))
    for step in range(9):
        delta, state = rule(gaussians, Feedback(steady(), step, 1.0), state)
        gaussians = gaussians.zip_map(torch.add, delta)
        if step in (3, 6):
            state = rule.resize_state(state, torch.arange(N), torch.arange(N) % 5 == step % 5)
        if step == 3:
            saved = copy.deepcopy((gaussians, state))
    gaussians_again, state_again = saved
    for step in range(4, 9):
        state_again = rule.step_in_place(gaussians_again, Feedback(steady(), step, 1.0), state_again)
        if step == 6:
            state_again = rule.resize_state(state_again, torch.arange(N), torch.arange(N) % 5 == step % 5)
    assert torch.equal(gaussians.pack(), gaussians_again.pack())
    assert state.keys() == state_again.keys()
    assert all(torch.equal(state[key], state_again[key]) for key in state)


@torch.no_grad()
def test_a_run_in_which_nothing_is_added_keeps_no_ages():
    """Its checkpoints are those of earlier versions."""
    rule, gaussians = adam(), scene()
    _, state = rule(gaussians, Feedback(steady(), 0, 1.0), rule.init_state(SceneStart(gaussians)))
    kept = rule.resize_state(state, torch.arange(10), torch.zeros(10, dtype=torch.bool))
    assert "born" not in state and "born" not in kept


@torch.no_grad()
def test_halves_of_a_gaussian_remember_half_of_its_gradient():
    """Then Adam moves each of them as it moved the whole one."""
    rule = adam()
    state = rule.init_state(SceneStart(scene()))
    for step in range(5):
        _, state = rule(scene(), Feedback(steady(), step, 1.0), state)
    rows = torch.arange(N) < 20
    shared = rule.with_shared_moments(state, rows, 0.5)
    half = steady().map(lambda value: torch.where(rows.view(-1, *[1] * (value.ndim - 1)), value / 2, value))
    whole, _ = rule(scene(), Feedback(steady(), 5, 1.0), state)
    halves, _ = rule(scene(), Feedback(half, 5, 1.0), shared)
    for name in FIELDS:
        torch.testing.assert_close(getattr(halves, name), getattr(whole, name), rtol=1e-5, atol=0)
