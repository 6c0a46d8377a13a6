"""The small rule of our own: tuned Adam to begin with, free of the unit of length, bounded for long runs."""

import copy
from dataclasses import replace

import pytest
import torch

from l2o_splat import threads
from l2o_splat.gaussians import FIELDS, Gaussians
from l2o_splat.optim.adam import AdamRule, Rates, adam_options
from l2o_splat.optim.gain import GainConfig
from l2o_splat.optim.rule import Feedback
from l2o_splat.scene import SceneStart
from tests.optim.gain import RATES, make_rule


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
    state, expected_state = rule.init_state(SceneStart(gaussians)), adam.init_state(SceneStart(gaussians))
    for t in range(4):
        feedback = Feedback(gradients(t, width=width), t, 1.0)
        delta, state = rule(gaussians, feedback, state)
        expected, expected_state = adam(gaussians, feedback, expected_state)
        torch.testing.assert_close(delta.pack(), expected.pack(), rtol=1e-4, atol=1e-5)
        gaussians = gaussians.zip_map(torch.add, expected)


def test_the_unit_of_length_changes_nothing():
    rule, gaussians = make_rule(trained=True), scene()
    larger = replace(gaussians, means=10 * gaussians.means, scales=gaussians.scales + torch.log(torch.tensor(10.0)))
    feedback = gradients(0)
    delta, _ = rule(gaussians, Feedback(feedback, 0, 1.0), rule.init_state(SceneStart(gaussians)))
    scaled, _ = rule(
        larger, Feedback(replace(feedback, means=feedback.means / 10), 0, 10.0), rule.init_state(SceneStart(larger))
    )
    torch.testing.assert_close(scaled.means / 10, delta.means, rtol=1e-3, atol=1e-5)
    for name in FIELDS[1:]:
        torch.testing.assert_close(getattr(scaled, name), getattr(delta, name), rtol=1e-3, atol=1e-5)


def test_steps_shrink_with_their_number_as_configured():
    constant, decaying = make_rule(), make_rule(step_decay=(5.0, 1.0))
    gaussians = scene()
    states = [rule.init_state(SceneStart(gaussians)) for rule in (constant, decaying)]
    for t in range(6):
        feedback = Feedback(gradients(t), t, 1.0)
        (full, states[0]), (shrunk, states[1]) = (
            constant(gaussians, feedback, states[0]),
            decaying(gaussians, feedback, states[1]),
        )
        torch.testing.assert_close(shrunk.pack() * (1 + t / 5), full.pack(), rtol=1e-4, atol=1e-5)


def test_the_latent_state_stays_bounded():
    rule, gaussians = make_rule(trained=True), scene()
    state = rule.init_state(SceneStart(gaussians))
    for t in range(200):
        _, state = rule(gaussians, Feedback(gradients(t % 7), t, 1.0), state)
    assert state["latent"].abs().max() < 10


def test_log_scales_stay_within_their_range_around_the_start():
    rule = make_rule(log_scale_range=(-0.5, 0.5))
    gaussians = scene()
    state = rule.init_state(SceneStart(gaussians))
    origin = gaussians.scales.median()
    for t in range(30):
        delta, state = rule(gaussians, Feedback(gradients(0), t, 1.0), state)
        gaussians = gaussians.zip_map(torch.add, delta)
    assert ((gaussians.scales - origin).abs() <= 0.5 + 1e-5).all()
    assert ((gaussians.scales - origin).abs() > 0.49).any()


def test_the_network_says_who_moves_more_but_not_how_fast_the_scene_moves():
    rule = make_rule()
    torch.manual_seed(3)
    # Gains alone, of any size on average; no corrections.
    torch.nn.init.normal_(rule.network.head.weight[:6], std=0.2)
    torch.nn.init.constant_(rule.network.head.bias[:6], -2.0)
    gaussians, feedback = scene(), Feedback(gradients(0), 0, 1.0)
    proposal = rule.propose(gaussians, feedback, rule.init_state(SceneStart(gaussians)))
    gains = (proposal.step / proposal.direction)[:, [0, 3, 6, 10, 11, 14]] / -torch.tensor(RATES)
    assert gains.log().std(dim=0).min() > 0.02
    torch.testing.assert_close(gains.log().mean(dim=0), torch.zeros(6), rtol=0, atol=0.02)


def test_an_answer_serves_the_steps_after_it():
    """Queries at 0 and 1 serve one step each (t / 2 rounded down is 0), after 2 two, after 4 three."""
    rule = make_rule(trained=True, query_growth=2.0)
    gaussians = scene()
    state, queried = rule.init_state(SceneStart(gaussians)), []
    for t in range(12):
        before = state.get("latent")
        _, state = rule(gaussians, Feedback(gradients(t), t, 1.0), state)
        queried.append(not state["latent"].equal(before))
    assert [t for t in range(12) if queried[t]] == [0, 1, 2, 4, 7, 11]


def test_between_queries_the_steps_follow_the_gradients():
    rule, gaussians = make_rule(trained=True, query_growth=1.0), scene()
    _, state = rule(gaussians, Feedback(gradients(0), 0, 1.0), rule.init_state(SceneStart(gaussians)))
    _, state = rule(gaussians, Feedback(gradients(1), 1, 1.0), state)
    proposals = [rule.propose(gaussians, Feedback(gradients(t), 2, 1.0), state) for t in (2, 3)]
    for proposal in proposals:
        expected = rule.network.step(
            state["answer"], proposal.direction, torch.ones(len(gaussians)), rule.network.rates
        )
        torch.testing.assert_close(proposal.step, expected)
    assert not proposals[0].step.equal(proposals[1].step)


def test_trust_falls_until_the_step_is_adams():
    trained, untrained = make_rule(trained=True, trust_decay=1.0), make_rule()
    gaussians = scene()
    states = [rule.init_state(SceneStart(gaussians)) for rule in (trained, untrained)]
    gaps = []
    for t in (0, 9, 999):
        feedback = Feedback(gradients(0), t, 1.0)
        for state in states:
            state.per_gaussian["adam_t"].fill_(t)
        steps = [
            rule(gaussians, feedback, state)[0].pack() for rule, state in zip((trained, untrained), states, strict=True)
        ]
        gaps.append(float((steps[0] - steps[1]).norm() / steps[1].norm()))
    assert gaps[0] > 5 * gaps[1] > 25 * gaps[2]


def test_added_gaussians_follow_the_answer_to_their_parents():
    rule, gaussians = make_rule(trained=True, query_growth=1.0), scene()
    _, state = rule(gaussians, Feedback(gradients(0), 0, 1.0), rule.init_state(SceneStart(gaussians)))
    source = torch.tensor([3, 3, 7])
    resized = rule.resize_state(state, source, torch.tensor([False, True, True]))
    assert resized["answer"].equal(state["answer"][source]) and resized["answer"].any()


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match="trust_decay is 0.0; a number above 0"):
        GainConfig(trust_decay=0.0)
    with pytest.raises(ValueError, match="query_growth is -1.0; a number above 0"):
        GainConfig(query_growth=-1.0)
    with pytest.raises(ValueError, match="knn_refresh_interval is 0"):
        GainConfig(knn_refresh_interval=0)


def test_an_added_gaussian_counts_its_scale_from_the_origin_of_the_scene():
    """Its log-scales are limited around the same median as its parent's, so both are moved alike."""
    rule, gaussians = make_rule(trained=True), scene()
    _, state = rule(gaussians, Feedback(gradients(0), 0, 1.0), rule.init_state(SceneStart(gaussians)))
    source, fresh = torch.cat([torch.arange(50), torch.tensor([3])]), torch.arange(51) == 50
    resized = rule.resize_state(state, source, fresh)
    assert torch.equal(resized["scale_origin"], gaussians.scales.median())
    delta, _ = rule(gaussians[source], Feedback(gradients(1)[source], 1, 1.0), resized)
    assert delta.scales[50].abs().max() < 4 * delta.scales[3].abs().max() < 1.0


def scene_of_many(n: int = 3001, width: int = 59) -> Gaussians:
    """Scales and coefficients of all sizes, so that limits act too."""
    rows = torch.randn(n, width, generator=torch.Generator().manual_seed(2))
    rows[::5] *= 6
    return Gaussians.unpack(rows).map(torch.clone)


def steps_of_many(t: int, n: int = 3001, width: int = 59) -> Gaussians:
    generator = torch.Generator().manual_seed(10 + t)
    rows = torch.randn(n, width, generator=generator) * torch.randn(n, width, generator=generator).mul(2).exp()
    return Gaussians.unpack(rows).map(torch.clone)


@pytest.mark.parametrize("width", [14, 23, 59])
@pytest.mark.parametrize("decays", [{}, {"step_decay": (60.0, 0.8), "query_growth": 2.0, "trust_decay": 3.0}])
def test_a_step_by_kernels_is_that_of_torch(width, decays):
    rule, gaussians = make_rule(trained=True, **decays), scene_of_many(width=width)
    state = rule.init_state(SceneStart(gaussians))
    for t in range(8):
        feedback = Feedback(steps_of_many(t, width=width), t, 1.0)
        delta, after = rule(gaussians, feedback, state)
        with torch.enable_grad():
            expected, expected_after = rule(gaussians, feedback, state)
        for name in FIELDS:
            ours, theirs = getattr(delta, name), getattr(expected, name).detach()
            # A difference of two parameters is as exact as these.
            assert (ours - theirs).norm() <= 5e-6 * theirs.norm(), name
            bound = 2e-6 * max(1.0, float(getattr(gaussians, name).norm(torch.inf)) if ours.numel() else 0.0)
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=bound)
        for key, value in expected_after.items():
            torch.testing.assert_close(after[key], value.detach(), rtol=1e-5, atol=1e-5)
        gaussians, state = gaussians.zip_map(torch.add, delta), after
        if t == 3:
            state.per_gaussian["adam_t"][::7] += 90  # As if some had come from another run.


def test_a_step_by_kernels_does_not_depend_on_the_number_of_threads():
    rule, gaussians = make_rule(trained=True), scene_of_many()
    feedback, state = Feedback(steps_of_many(0), 0, 1.0), rule.init_state(SceneStart(gaussians))
    found = []
    try:
        for count in (1, 3):
            threads.set_num_threads(count)
            delta, after = rule(gaussians, feedback, state)
            found.append([delta.pack(), *after.values()])
    finally:
        threads.set_num_threads(None)
    assert all(torch.equal(one, three) for one, three in zip(*found, strict=True))


@pytest.mark.parametrize("where", ["gradient", "moment", "parameter", "answer"])
def test_a_number_that_is_not_finite_leaves_everything_as_it_is(where):
    rule, gaussians = make_rule(trained=True, query_growth=1.0), scene()
    _, state = rule(gaussians, Feedback(gradients(0), 0, 1.0), rule.init_state(SceneStart(gaussians)))
    _, state = rule(gaussians, Feedback(gradients(1), 1, 1.0), state)
    feedback = Feedback(gradients(2).map(torch.clone), 2, 1.0)
    spoiled = {
        "gradient": feedback.gradients.features_rest,
        "moment": state["adam_v"],
        "parameter": gaussians.scales,
        "answer": state["answer"],
    }
    spoiled[where][-1, -1] = torch.nan
    before, state_before = gaussians.map(torch.clone), copy.deepcopy(state)
    assert rule.step_in_place(gaussians, feedback, state) is None
    torch.testing.assert_close(gaussians.pack(), before.pack(), rtol=0, atol=0, equal_nan=True)
    for key, value in state_before.items():
        torch.testing.assert_close(state[key], value, rtol=0, atol=0, equal_nan=True)
