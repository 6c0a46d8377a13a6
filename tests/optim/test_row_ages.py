"""A Gaussian that is added late in a run begins as one of the start did."""

import copy

import pytest
import torch

from l2o_splat.gaussians import FIELDS, Gaussians
from l2o_splat.optim.adam import AdamRule, adam_options
from l2o_splat.optim.rule import Feedback
from l2o_splat.scene import SceneStart
from tests.optim.gain import make_rule as make_gain
from tests.optim.rules import all_cases, make_parameters

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


DECAYS = {"step_decay": (60.0, 0.8), "query_growth": 3.0, "trust_decay": 20.0}


@torch.no_grad()
@pytest.mark.parametrize("budget", [False, True])
@pytest.mark.parametrize("born", [1, 40])
def test_the_gain_rule_moves_a_late_gaussian_as_far_as_one_of_the_start(born, budget):
    """The network that has not learned anything says the same to both."""
    rule = make_gain(**DECAYS)

    def feedback(step):
        return Feedback(steady(), step, 1.0, progress=(0.1 + step / 100) if budget else None)

    gaussians = scene()
    first, state = rule(gaussians, feedback(0), rule.init_state(SceneStart(gaussians)))
    for step in range(1, born):
        _, state = rule(gaussians, feedback(step), state)
    old, _ = rule(gaussians, feedback(born), state)
    fresh = torch.arange(N) % 3 == 0
    late, after = rule(gaussians, feedback(born), rule.resize_state(state, torch.arange(N), fresh))
    torch.testing.assert_close(late.pack()[fresh], first.pack()[fresh], rtol=1e-5, atol=1e-6)
    assert torch.equal(late.pack()[~fresh], old.pack()[~fresh])
    assert torch.equal(after["adam_t"], torch.where(fresh, 1, born + 1))


@torch.no_grad()
def test_the_gain_rule_trusts_its_network_for_a_late_gaussian_as_at_the_start():
    rule, adam_like, gaussians = make_gain(trained=True, trust_decay=5.0), make_gain(), scene()
    state, kept = rule.init_state(SceneStart(gaussians)), adam_like.init_state(SceneStart(gaussians))
    for step in range(60):
        _, state = rule(gaussians, Feedback(steady(), step, 1.0), state)
        _, kept = adam_like(gaussians, Feedback(steady(), step, 1.0), kept)
    fresh = torch.arange(N) < 20
    state, kept = (each.resize_state(s, torch.arange(N), fresh) for each, s in ((rule, state), (adam_like, kept)))
    feedback = Feedback(steady(), 60, 1.0)
    away = (rule(gaussians, feedback, state)[0].pack() - adam_like(gaussians, feedback, kept)[0].pack()).norm(dim=1)
    assert away[fresh].median() > 5 * away[~fresh].median()


@torch.no_grad()
def test_in_a_run_with_a_budget_the_gain_rule_ages_by_the_budget():
    """Steps that take a reference step's share of it each are those of a run that counts steps; the start's does not
    count. Others age in proportion."""
    rule, gaussians = make_gain(trained=True, **DECAYS), scene()
    steps = rule.config.reference_steps
    counted, timed = (rule.init_state(SceneStart(gaussians)) for _ in range(2))
    for step in range(12):
        expected, counted = rule(gaussians, Feedback(steady(), step, 1.0), counted)
        delta, timed = rule(gaussians, Feedback(steady(), step, 1.0, progress=0.25 + step / steps), timed)
        torch.testing.assert_close(delta.pack(), expected.pack(), rtol=1e-5, atol=1e-6)
    later = Feedback(steady(), 12, 1.0, progress=0.25 + 300 / steps)
    shrunk = {}
    for untrained in (make_gain(step_decay=(60.0, 0.8)), make_gain()):
        delta, _ = untrained(gaussians, later, timed.without("answer"))
        shrunk[untrained.config.step_decay] = delta.opacities
    torch.testing.assert_close(shrunk[60.0, 0.8], shrunk[None] * (1 + 300 / 60) ** -0.8, rtol=1e-4, atol=1e-7)


@torch.no_grad()
def test_a_run_that_counted_steps_goes_on_with_a_budget_at_the_age_it_has():
    rule, gaussians = make_gain(trained=True, **DECAYS), scene()
    state = rule.init_state(SceneStart(gaussians))
    for step in range(9):
        _, state = rule(gaussians, Feedback(steady(), step, 1.0), state)
    expected, _ = rule(gaussians, Feedback(steady(), 9, 1.0), state)
    delta, _ = rule(gaussians, Feedback(steady(), 9, 1.0, progress=0.4), state)
    torch.testing.assert_close(delta.pack(), expected.pack(), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_gain_steps_of_all_ages_are_the_same_by_kernels_and_by_torch_and_in_place():
    rule, gaussians = make_gain(trained=True, **DECAYS), scene()
    state = rule.init_state(SceneStart(gaussians))
    for step in range(8):
        feedback = Feedback(steady(), step, 1.0, progress=0.05 + step**2 / 100)
        delta, after = rule(gaussians, feedback, state)
        with torch.enable_grad():
            expected, _ = rule(gaussians, feedback, state)
        torch.testing.assert_close(delta.pack(), expected.pack().detach(), rtol=1e-4, atol=1e-5)
        moved = gaussians.map(torch.clone)
        in_place = rule.step_in_place(moved, feedback, copy.deepcopy(state))
        gaussians, state = gaussians.zip_map(torch.add, delta), after
        assert torch.equal(moved.pack(), gaussians.pack())
        assert all(torch.equal(in_place[key], state[key]) for key in state)
        if step in (2, 4):
            state = rule.resize_state(state, torch.arange(N), torch.arange(N) % 4 == step % 4)


@pytest.mark.parametrize("budget", [False, True])
@pytest.mark.parametrize("name", sorted(all_cases()))
def test_every_rule_resumes_after_a_change_of_number_bit_for_bit(name, budget):
    """Gaussians are added where the rule takes any, and removed."""
    case = all_cases()[name]
    added = 0 if case.rule.needs.fixed_steps else 3

    def train(optimizer, parameters, steps):
        for step in steps:
            optimizer.progress = 0.1 + 0.05 * step if budget else None
            case.train(parameters, optimizer, [step])
            if step in (2, 5):
                n = len(optimizer.gaussians)
                source = torch.cat([torch.arange(1, n), torch.arange(added)])
                optimizer.resize(optimizer.gaussians[source], source, torch.arange(len(source)) >= n - 1)

    whole = make_parameters()
    optimizer = case.optimizer(whole)
    train(optimizer, whole, range(8))

    first = make_parameters()
    optimizer_of_first = case.optimizer(first)
    train(optimizer_of_first, first, range(4))
    saved = copy.deepcopy(optimizer_of_first.state_dict())
    second = torch.nn.ParameterDict({name: torch.nn.Parameter(value.detach().clone()) for name, value in first.items()})
    resumed = case.optimizer(second)
    resumed.load_state_dict(saved)
    train(resumed, second, range(4, 8))
    for field in FIELDS:
        assert torch.equal(second[field], whole[field]), field
    state = optimizer.rule_state
    assert state.keys() == resumed.rule_state.keys()
    assert all(torch.equal(state[key], resumed.rule_state[key]) for key in state)


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
