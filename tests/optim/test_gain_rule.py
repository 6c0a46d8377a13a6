"""The small rule of our own: tuned Adam to begin with, free of the unit of length, bounded for long runs."""

from dataclasses import replace

import pytest
import torch

from l2o_splat.gaussians import FIELDS, Gaussians
from l2o_splat.nets.gain_network import GainNetwork, GainNetworkShape
from l2o_splat.optim.adam import AdamRule, Rates, adam_options
from l2o_splat.optim.learn2splat import Learn2SplatConfig, Learn2SplatRule, load_network
from l2o_splat.optim.rule import Feedback

SHAPE = GainNetworkShape(latent_width=8, attention_width=4, hidden_width=12, num_blocks=2)
RATES = (0.08, 0.06, 0.04, 0.6, 0.08, 0.02)
OPTIONS = {
    "neighbours": 4,
    "active_only": False,
    "knn_refresh_interval": 100,
    "log_scale_range": (-6.0, 4.0),
    "latent_init": "zeros",
    "use_features": False,
    "units": "own_scale",
}


def make_rule(trained: bool = False, **options) -> Learn2SplatRule:
    network = GainNetwork(SHAPE).reset_to_adam(0, RATES)
    if trained:
        torch.manual_seed(1)
        torch.nn.init.normal_(network.head.weight, std=0.1)
    return Learn2SplatRule(network, Learn2SplatConfig(**OPTIONS | options))


def scene(n: int = 50, width: int = 59) -> Gaussians:
    rows = 0.3 * torch.randn(n, width, generator=torch.Generator().manual_seed(2))
    return Gaussians.unpack(rows)


def gradients(t: int, n: int = 50, width: int = 59) -> Gaussians:
    return Gaussians.unpack(torch.randn(n, width, generator=torch.Generator().manual_seed(10 + t)))


@pytest.fixture(autouse=True)
def no_graph():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("width", [14, 59])
def test_untrained_it_is_adam_with_steps_in_units_of_each_gaussians_scale(width):
    rule = make_rule()
    constant = Rates(1, 1, 1, 1, 1, 1)
    adam = AdamRule(replace(adam_options("own-scale", 9), rates=Rates(*RATES), final_factor=constant))
    gaussians = scene(width=width)
    state, expected_state = rule.init_state(gaussians), adam.init_state(gaussians)
    for t in range(4):
        told = Feedback(gradients(t, width=width), t, 1.0)
        delta, state = rule(gaussians, told, state)
        expected, expected_state = adam(gaussians, told, expected_state)
        torch.testing.assert_close(delta.pack(), expected.pack(), rtol=1e-4, atol=1e-5)
        gaussians = gaussians.zip_map(torch.add, expected)


def test_the_unit_of_length_changes_nothing():
    rule, gaussians = make_rule(trained=True), scene()
    larger = replace(gaussians, means=10 * gaussians.means, scales=gaussians.scales + torch.log(torch.tensor(10.0)))
    told = gradients(0)
    delta, _ = rule(gaussians, Feedback(told, 0, 1.0), rule.init_state(gaussians))
    scaled, _ = rule(larger, Feedback(replace(told, means=told.means / 10), 0, 10.0), rule.init_state(larger))
    torch.testing.assert_close(scaled.means / 10, delta.means, rtol=1e-3, atol=1e-5)
    for name in FIELDS[1:]:
        torch.testing.assert_close(getattr(scaled, name), getattr(delta, name), rtol=1e-3, atol=1e-5)


def test_steps_shrink_with_their_number_as_configured():
    constant, decaying = make_rule(), make_rule(step_decay=(5.0, 1.0))
    gaussians = scene()
    states = [rule.init_state(gaussians) for rule in (constant, decaying)]
    for t in range(6):
        told = Feedback(gradients(t), t, 1.0)
        (full, states[0]), (shrunk, states[1]) = (
            constant(gaussians, told, states[0]),
            decaying(gaussians, told, states[1]),
        )
        torch.testing.assert_close(shrunk.pack() * (1 + t / 5), full.pack(), rtol=1e-4, atol=1e-5)


def test_the_latent_state_stays_bounded():
    rule, gaussians = make_rule(trained=True), scene()
    state = rule.init_state(gaussians)
    for t in range(200):
        _, state = rule(gaussians, Feedback(gradients(t % 7), t, 1.0), state)
    assert state["latent"].abs().max() < 10


def test_log_scales_stay_within_their_range_around_the_start():
    rule = make_rule(log_scale_range=(-0.5, 0.5))
    gaussians = scene()
    state = rule.init_state(gaussians)
    origin = gaussians.scales.median()
    for t in range(30):
        delta, state = rule(gaussians, Feedback(gradients(0), t, 1.0), state)
        gaussians = gaussians.zip_map(torch.add, delta)
    assert ((gaussians.scales - origin).abs() <= 0.5 + 1e-5).all()
    assert ((gaussians.scales - origin).abs() > 0.49).any()


def test_the_network_is_known_by_its_tensors():
    network = GainNetwork(SHAPE).reset_to_adam(0, RATES)
    loaded = load_network(network.state_dict())
    assert isinstance(loaded, GainNetwork) and loaded.shape == SHAPE
    tensors = dict(network.state_dict())
    tensors["head.bias"] = torch.zeros(3)
    with pytest.raises(ValueError, match="'head.bias' has shape"):
        load_network(tensors)
    del tensors["project.bias"]
    with pytest.raises(ValueError, match="no tensor 'project.bias'"):
        load_network(tensors)


def test_the_network_says_who_moves_more_but_not_how_fast_the_scene_moves():
    rule = make_rule()
    torch.manual_seed(3)
    # Gains alone, of any size on average; no corrections.
    torch.nn.init.normal_(rule.network.head.weight[:6], std=0.2)
    torch.nn.init.constant_(rule.network.head.bias[:6], -2.0)
    gaussians, told = scene(), Feedback(gradients(0), 0, 1.0)
    proposal = rule.propose(gaussians, told, rule.init_state(gaussians))
    gains = (proposal.step / proposal.direction)[:, [0, 3, 6, 10, 11, 14]] / -torch.tensor(RATES)
    assert gains.log().std(dim=0).min() > 0.02
    torch.testing.assert_close(gains.log().mean(dim=0), torch.zeros(6), rtol=0, atol=0.02)


def test_a_look_serves_the_steps_after_it():
    """Looks after 0 and 1 serve one step each (t / 2 rounded down is 0), after 2 two, after 4 three."""
    rule = make_rule(trained=True, look_growth=2.0)
    gaussians = scene()
    state, looked = rule.init_state(gaussians), []
    for t in range(12):
        before = state.get("latent")
        _, state = rule(gaussians, Feedback(gradients(t), t, 1.0), state)
        looked.append(not state["latent"].equal(before))
    assert [t for t in range(12) if looked[t]] == [0, 1, 2, 4, 7, 11]


def test_between_looks_the_steps_follow_the_gradients():
    rule, gaussians = make_rule(trained=True, look_growth=1.0), scene()
    _, state = rule(gaussians, Feedback(gradients(0), 0, 1.0), rule.init_state(gaussians))
    _, state = rule(gaussians, Feedback(gradients(1), 1, 1.0), state)
    proposals = [rule.propose(gaussians, Feedback(gradients(t), 2, 1.0), state) for t in (2, 3)]
    for proposal in proposals:
        expected = rule.network.step(state["advice"], proposal.direction, 1.0)
        torch.testing.assert_close(proposal.step, expected)
    assert not proposals[0].step.equal(proposals[1].step)


def test_trust_falls_until_the_step_is_adams():
    trained, untrained = make_rule(trained=True, trust_decay=1.0), make_rule()
    gaussians = scene()
    states = [rule.init_state(gaussians) for rule in (trained, untrained)]
    gaps = []
    for t in (0, 9, 999):
        told = Feedback(gradients(0), t, 1.0)
        steps = [
            rule(gaussians, told, state)[0].pack() for rule, state in zip((trained, untrained), states, strict=True)
        ]
        gaps.append(float((steps[0] - steps[1]).norm() / steps[1].norm()))
    assert gaps[0] > 5 * gaps[1] > 25 * gaps[2]


def test_added_gaussians_follow_the_advice_to_their_parents():
    rule, gaussians = make_rule(trained=True, look_growth=1.0), scene()
    _, state = rule(gaussians, Feedback(gradients(0), 0, 1.0), rule.init_state(gaussians))
    source = torch.tensor([3, 3, 7])
    resized = rule.resize_state(state, source, torch.tensor([False, True, True]))
    assert resized["advice"].equal(state["advice"][source]) and resized["advice"].any()


def test_looking_seldom_needs_the_same_gaussians_in_every_step():
    with pytest.raises(ValueError, match="look_growth is 3.0 with active_only on"):
        Learn2SplatConfig(look_growth=3.0)
    with pytest.raises(ValueError, match="trust_decay is 0.0; a number above 0"):
        Learn2SplatConfig(trust_decay=0.0)
