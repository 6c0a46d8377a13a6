"""How captures become episodes."""

from dataclasses import replace

import pytest
import torch

from l2o_splat.frame import Frame
from l2o_splat.meta.episode import start_episode
from l2o_splat.meta.options import EpisodeOptions, InnerLoop
from l2o_splat.meta.rules import PaperRuleOptions
from l2o_splat.meta.starts import ReSplatStart
from l2o_splat.meta.unroll import roll_out
from l2o_splat.scene import SceneKnowledge
from l2o_splat.scenes.capture import SampledCapture
from l2o_splat.training.options import CaptureRanges
from l2o_splat.training.sources import ProceduralSource
from tests import resplat_networks
from tests.meta.scenes import CPU, OPTIONS, SOURCE, episode, small_rule

LARGE = ProceduralSource(
    0, CaptureRanges(short_side=(64, 64), long_side=(128, 128), num_views=(4, 4), num_points=(60, 90))
)
"""Images large enough for the released layout."""


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


def test_views_that_a_sampler_chose_are_taken_as_they_are():
    capture = SOURCE.capture(0)
    sampled = SampledCapture(capture.views, capture.points, context=(5, 1, 3), target=(0, 6))
    made = start_episode(small_rule(), sampled, 0, replace(OPTIONS, flip_probability=0.0), seed=3, device=CPU)
    centres = capture.views.cameras.centres
    assert torch.equal(made.context.cameras.centres, centres[[5, 1, 3]])
    assert torch.equal(made.target.cameras.centres, centres[[0, 6]])


def test_context_views_far_from_each_other_can_be_asked_for():
    def spread(choice):
        options = replace(OPTIONS, context_views=(3, 3), context_choice=choice)
        centres = [episode(small_rule(), i, options).context.cameras.centres for i in range(6)]
        return sum(float(torch.pdist(c).min()) for c in centres)

    assert spread("fps") > 1.3 * spread("random")


def test_a_scene_can_start_from_resplat_with_its_features_as_latent_state():
    start = ReSplatStart(resplat_networks.initializer())
    rule = PaperRuleOptions(width=16).build(start.feature_width)
    options = replace(OPTIONS, context_views=(2, 2), target_views=1, flip_probability=0.0)
    made = start_episode(rule, LARGE.capture(0), 0, options, seed=3, device=CPU, start=start)
    height, width = 64, 128  # Of the images that the networks see.
    assert len(made.gaussians) == 2 * (height // 4) * (width // 4)
    assert made.state["latent"].requires_grad  # Meta-training reaches the projection of the features ...
    made.state["latent"].sum().backward()
    assert rule.network.state_proj.weight.grad.abs().max() > 0
    assert all(weights.grad is None for weights in start.initializer.parameters())  # ... and stops there.


def test_an_episode_in_the_frame_of_its_cameras_takes_the_steps_of_a_framed_rule():
    """What is learned in the frame is what `ns-train` computes around the weights."""
    rule = PaperRuleOptions(width=16, scene_frame="cameras").build()
    torch.manual_seed(0)
    for weights in rule.network.parameters():
        torch.nn.init.normal_(weights, std=0.05)
    torch.nn.init.ones_(rule.network.delta_head[2].bias)
    world, local = (
        start_episode(rule, SOURCE.capture(2), 2, OPTIONS, seed=3, device=CPU, convention=convention)
        for convention in ("raw", "cameras")
    )
    framed = rule.bind(SceneKnowledge(world.context.cameras.centres))
    frame = Frame.from_cameras("cameras", world.context.cameras.centres)
    torch.testing.assert_close(frame.to_local(world.gaussians).pack(), local.gaussians.pack(), rtol=1e-4, atol=1e-5)
    stepped = roll_out(framed, replace(world, state=local.state), 1, InnerLoop())
    expected = roll_out(rule, local, 1, InnerLoop())
    assert (expected.gaussians.pack() - local.gaussians.pack()).abs().max() > 1e-3
    found = frame.to_local(stepped.gaussians).pack()
    # The images of both differ by rounding, and a first Adam direction is a sign.
    same = (found - expected.gaussians.pack()).abs() < 1e-3
    assert same.float().mean() > 0.99
