"""The Adam rule against torch.optim.Adam and the published rates."""

import copy

import pytest
import torch

from l2o_splat.gaussians import FIELDS, Gaussians
from l2o_splat.optim.adam import AdamRule, adam_options
from l2o_splat.optim.joint_optimizer import JointOptimizer
from l2o_splat.scene import SceneKnowledge, scene_extent

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
    state = rule.init_state(gaussians)
    from l2o_splat.optim.rule import Feedback

    feedback = Feedback(gaussians.map(torch.randn_like), step=0, scene_extent=1.0)
    before = copy.deepcopy((gaussians, state))
    first, _ = rule(gaussians, feedback, state)
    second, _ = rule(gaussians, feedback, state)
    for name in FIELDS:
        assert torch.equal(getattr(first, name), getattr(second, name))
        assert torch.equal(getattr(gaussians, name), getattr(before[0], name))
    assert all(torch.equal(state[key], before[1][key]) for key in state)
