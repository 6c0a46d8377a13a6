"""How captures become episodes."""

from dataclasses import replace

import pytest
import torch

from l2o_splat.meta.options import EpisodeOptions
from tests.meta.scenes import OPTIONS, SOURCE, episode, small_rule


def test_an_episode_is_a_function_of_its_index():
    rule = small_rule()
    first, again = episode(rule), episode(rule)
    assert torch.equal(first.gaussians.pack(), again.gaussians.pack())
    assert torch.equal(first.target.images, again.target.images)
    assert [first.sampler.views(t) for t in range(5)] == [again.sampler.views(t) for t in range(5)]


def test_targets_are_not_among_the_context_views():
    made = episode(small_rule(), options=replace(OPTIONS, target_views=2, context_views=(50, 50)))
    assert len(made.target) == 2
    centres = made.context.cameras.centres
    for centre in made.target.cameras.centres:
        assert (centres - centre).norm(dim=1).min() > 1e-3
    assert len(made.context) + 2 == len(SOURCE.capture(0).views)


def test_a_scene_may_be_trained_by_few_of_its_views():
    counts = {len(episode(small_rule(), i, replace(OPTIONS, context_views=(2, 4))).context) for i in range(12)}
    assert counts == {2, 3, 4}


def test_a_share_of_the_points_is_kept():
    capture = SOURCE.capture(1)
    made = episode(small_rule(), 1, replace(OPTIONS, kept_points=(0.5, 0.5), flip_probability=0.0))
    assert len(made.gaussians) == len(capture.points) // 2
    distance = (made.gaussians.means[:, None] - capture.points.xyz).norm(dim=2)
    assert distance.min(dim=1).values.max() == 0
    assert len(episode(small_rule(), 1, replace(OPTIONS, max_points=20)).gaussians) == 20


def test_too_few_views_and_wrong_ranges_are_refused():
    with pytest.raises(ValueError, match="has . views; 20 targets and at least one more are needed"):
        episode(small_rule(), options=replace(OPTIONS, target_views=20))
    with pytest.raises(ValueError, match="ascending ranges from 1"):
        EpisodeOptions(views_per_step=(4, 2))
    with pytest.raises(ValueError, match=r"within \(0, 1\]"):
        EpisodeOptions(kept_points=(0.0, 1.0))
