"""Which Gaussians are split, and which are removed."""

from dataclasses import replace

import torch

from l2o_splat.growth.choice import SplitPreference, choose, scores
from l2o_splat.growth.event import event_generator
from l2o_splat.growth.prune import kept
from tests.rendering.scenes import random_scene


def drawn(error, visibility=None, views=None, candidates=None, count=1, seed=0, opacity=None, preference=None):
    n = len(error)
    opacity = torch.full((n,), 0.5) if opacity is None else opacity
    visibility = torch.full((n,), 9.0) if visibility is None else visibility
    views = torch.full((n,), 3) if views is None else views
    candidates = torch.ones(n, dtype=torch.bool) if candidates is None else candidates
    generator = event_generator(seed, 0)
    return choose(error, visibility, views, opacity, candidates, count, generator, preference or SplitPreference())


def test_gaussians_are_drawn_in_proportion_to_their_score():
    error = torch.tensor([1.0, 2.0, 5.0, 2.0])
    counts = torch.zeros(4)
    for seed in range(2000):
        counts[drawn(error, seed=seed)] += 1
    # Four standard deviations of a binomial of 2000 draws are 0.045 at most.
    assert torch.allclose(counts / 2000, error / 10, atol=0.045)


def test_exponents_say_what_counts():
    """Shares of the draws by mean error, visibility and opacity."""
    visibility, opacity = torch.tensor([4.0, 16.0, 36.0]), torch.tensor([0.2, 0.4, 0.4])
    error = torch.tensor([1.0, 4.0, 2.0]) * visibility
    wanted = torch.tensor([1.0 * 2 * 0.2, 16.0 * 4 * 0.4, 4.0 * 6 * 0.4])
    preference, counts = SplitPreference(error=2.0, visibility=0.5, opacity=1.0), torch.zeros(3)
    for seed in range(2000):
        counts[drawn(error, visibility, seed=seed, opacity=opacity, preference=preference)] += 1
    assert torch.allclose(counts / 2000, wanted / wanted.sum(), atol=0.045)


def test_score_is_the_mean_error_where_a_gaussian_is_drawn():
    found = scores(torch.tensor([2.0, 3.0, 0.0]), torch.tensor([4.0, 30.0, 0.0]))
    assert torch.allclose(found, torch.tensor([0.5, 0.1, 0.0]))


def test_none_is_drawn_twice_and_they_come_in_order():
    chosen = drawn(torch.rand(50, generator=torch.Generator().manual_seed(1)) + 0.1, count=20)
    assert len(chosen) == 20 and torch.equal(chosen, chosen.unique())


def test_only_candidates_with_error_seen_by_two_views_on_four_pixels_are_drawn():
    error = torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0, torch.nan])
    chosen = drawn(
        error,
        visibility=torch.tensor([4.0, 3.9, 9.0, 9.0, 9.0, 9.0]),
        views=torch.tensor([2, 3, 3, 1, 3, 3]),
        candidates=torch.tensor([True, True, True, True, False, True]),
        count=6,
    )
    assert chosen.tolist() == [0]


def test_a_negative_count_draws_nothing():
    assert len(drawn(torch.ones(5), count=-3)) == 0


def test_the_same_seed_draws_the_same_and_another_event_draws_others():
    error, full, many = torch.ones(200), torch.full((200,), 9.0), torch.full((200,), 3)
    everyone = torch.ones(200, dtype=torch.bool)

    def of(seed, event):
        return choose(error, full, many, full / 10, everyone, 50, event_generator(seed, event)).tolist()

    assert of(3, 1) == of(3, 1)
    assert of(3, 1) != of(3, 2) and of(3, 1) != of(4, 1)


def test_faint_gaussians_are_removed():
    scene, _ = random_scene(n=4)
    opacity = torch.tensor([[0.0049], [0.0051], [0.5], [0.001]])
    assert kept(replace(scene, opacities=opacity.logit())).tolist() == [False, True, True, False]


def test_at_most_half_of_a_scene_is_removed_and_the_faintest_first():
    scene, _ = random_scene(n=5)
    opacity = torch.tensor([[0.004], [0.001], [0.003], [0.002], [0.0045]])
    scene = replace(scene, opacities=opacity.logit())
    assert kept(scene).tolist() == [True, False, True, False, True]
    assert kept(scene[:1]).tolist() == [True]
    assert kept(scene[:0]).tolist() == []
