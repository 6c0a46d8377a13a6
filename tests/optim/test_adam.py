"""The Adam rule against torch.optim.Adam and the published rates."""

import copy

import pytest
import torch

from l2o_splat.gaussians import FIELDS, Gaussians
from l2o_splat.optim.adam import AdamRule, adam_options
from l2o_splat.optim.joint_optimizer import JointOptimizer
from l2o_splat.optim.rule import Feedback
from l2o_splat.scene import SceneKnowledge, SceneStart, scene_extent

HORIZON = 30
EXTENT = scene_extent(torch.tensor([[2.0, 0.0, 0.0], [-2.0, 0.0, 0.0]]))
GSPLAT_RATES = {
    "means": 1.6e-4 * EXTENT,
    "scales": 5e-3,
    "quats": 1e-3,
    "opacities": 5e-2,
    "features_dc": 2.5e-3,
    "features_rest": 2.5e-3 / 20,
}


def random_parameters(n: int = 40, seed: int = 0) -> torch.nn.ParameterDict:
    generator = torch.Generator().manual_seed(seed)
    rows = Gaussians.unpack(torch.randn(n, 59, generator=generator))
    return torch.nn.ParameterDict({name: torch.nn.Parameter(value.clone()) for name, value in rows.items()})


def set_random_gradients(parameters, generator) -> None:
    for name in FIELDS:
        gradient = torch.randn(parameters[name].shape, generator=generator)
        gradient[::3] = 0  # Unseen Gaussians.
        parameters[name].grad = gradient


def run_beside_torch(preset: str, rates: dict[str, float], betas=(0.9, 0.999), means_decay=1.0, steps=2 * HORIZON):
    ours, theirs = random_parameters(), random_parameters()
    optimizer = JointOptimizer(ours, AdamRule(adam_options(preset, HORIZON)))
    optimizer.bind(SceneKnowledge(torch.tensor([[2.0, 0.0, 0.0], [-2.0, 0.0, 0.0]])))
    references = {name: torch.optim.Adam([theirs[name]], lr=rates[name], betas=betas, eps=1e-15) for name in FIELDS}
    generator = torch.Generator().manual_seed(1)
    for step in range(steps):
        references["means"].param_groups[0]["lr"] = rates["means"] * means_decay ** min(step / HORIZON, 1.0)
        set_random_gradients(ours, generator)
        for name in FIELDS:
            theirs[name].grad = ours[name].grad.clone()
            references[name].step()
        optimizer.step()
    return ours, theirs


def test_gsplat_preset_equals_torch_adam_bit_for_bit():
    ours, theirs = run_beside_torch("gsplat", GSPLAT_RATES, means_decay=0.01)
    for name in FIELDS:
        assert torch.equal(ours[name], theirs[name]), name


def test_x5_preset_is_five_times_the_rates_with_constant_means_and_slow_momentum():
    rates = {name: 5 * rate for name, rate in GSPLAT_RATES.items()}
    ours, theirs = run_beside_torch("x5", rates, betas=(0.99, 0.999))
    for name in FIELDS:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-6, atol=1e-7)


def test_own_scale_moves_each_gaussian_by_a_share_of_its_size():
    parameters = random_parameters(2)
    with torch.no_grad():
        parameters["scales"][:] = torch.log(torch.tensor([[0.1, 0.2, 0.3], [1.0, 2.0, 3.0]]))
    before = parameters["means"].detach().clone()
    for name in FIELDS:
        parameters[name].grad = torch.ones_like(parameters[name])
    options = adam_options("own-scale", HORIZON)
    JointOptimizer(parameters, AdamRule(options)).step()
    # The first Adam step is the sign of the gradient.
    expected = -options.rates.means * torch.tensor([[0.2], [2.0]]).expand(2, 3)
    torch.testing.assert_close(parameters["means"].detach() - before, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("preset", ["gsplat", "own-scale"])
def test_rates_decay_exponentially_to_the_horizon_and_stay(preset):
    rule = AdamRule(adam_options(preset, horizon=100))
    first, middle, last, beyond = (rule.rate("means", step) for step in (0, 50, 100, 1000))
    assert middle == pytest.approx((first * last) ** 0.5)
    assert last == pytest.approx(first * {"gsplat": 0.01, "own-scale": 0.3}[preset])
    assert beyond == last


def test_the_horizon_is_part_of_the_fingerprint():
    assert AdamRule(adam_options("gsplat", 100)).fingerprint != AdamRule(adam_options("gsplat", 200)).fingerprint


@pytest.mark.parametrize(("preset", "horizon"), [("sgd", 100), ("gsplat", 0)])
def test_unknown_presets_and_empty_horizons_are_refused(preset, horizon):
    with pytest.raises(ValueError, match="unknown|at least 1"):
        adam_options(preset, horizon)


def test_the_rule_is_pure():
    parameters = random_parameters()
    gaussians = Gaussians.from_mapping(parameters).detach()
    rule = AdamRule(adam_options("own-scale", HORIZON))
    state = rule.init_state(SceneStart(gaussians))
    feedback = Feedback(gaussians.map(torch.randn_like), step=0, scene_extent=1.0)
    before = copy.deepcopy((gaussians, state))
    first, _ = rule(gaussians, feedback, state)
    second, _ = rule(gaussians, feedback, state)
    for name in FIELDS:
        assert torch.equal(getattr(first, name), getattr(second, name))
        assert torch.equal(getattr(gaussians, name), getattr(before[0], name))
    assert all(torch.equal(state[key], before[1][key]) for key in state)


@pytest.mark.parametrize("preset", ["gsplat", "own-scale"])
def test_with_a_time_budget_rates_decay_over_the_budget_whatever_the_step(preset):
    rule = AdamRule(adam_options(preset, horizon=100))
    for share in (0.0, 0.25, 1.0):
        for step in (0, 7, 5000):
            assert rule.rate("means", step, share) == pytest.approx(rule.rate("means", round(100 * share)))
    assert rule.rate("means", 0, 1.5) == rule.rate("means", 100)


def test_a_budget_told_to_the_optimizer_reaches_the_rule():
    """A step at a share of the budget is the step of a run by steps whose horizon is reached to the same share."""
    by_steps, by_budget = random_parameters(), random_parameters()
    optimizers = [JointOptimizer(parameters, AdamRule(adam_options("own-scale", 8))) for parameters in (by_steps,)]
    optimizers.append(JointOptimizer(by_budget, AdamRule(adam_options("own-scale", 1000))))
    for step in range(4):
        optimizers[1].progress = step / 8
        for parameters, optimizer in zip((by_steps, by_budget), optimizers, strict=True):
            set_random_gradients(parameters, torch.Generator().manual_seed(step))
            optimizer.step()
    assert all(torch.equal(by_steps[name], by_budget[name]) for name in FIELDS)
