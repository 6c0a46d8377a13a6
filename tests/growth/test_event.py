"""A whole event."""

from dataclasses import replace

import pytest
import torch

from l2o_splat.growth.budget import GrowthOptions
from l2o_splat.growth.event import event_generator, grow
from l2o_splat.optim.adam import AdamRule, adam_options
from l2o_splat.optim.joint_optimizer import JointOptimizer
from l2o_splat.raster_settings import RasterSettings
from tests.rendering.scenes import random_scene

SETTINGS = RasterSettings()
HALF_MORE = GrowthOptions(factor=1.5, events=1)


def grown(scene, options=HALF_MORE, event=0, error=None, seed=0):
    n = len(scene)
    error = torch.arange(1.0, n + 1) if error is None else error
    generator = event_generator(seed, event)
    return grow(scene, error, torch.full((n,), 20.0), torch.full((n,), 3), n, options, event, generator)


def visible_scene(n=40):
    scene, cameras = random_scene(n=n)
    return replace(scene, opacities=torch.linspace(-2, 2, n)[:, None]), cameras


def test_a_scene_grows_to_the_count_that_is_due():
    scene, _ = visible_scene()
    assert len(grown(scene).gaussians) == 60
    steps = GrowthOptions(factor=4, events=2)
    assert [len(grown(scene, steps, event).gaussians) for event in (0, 1)] == [80, 80]  # Each splits once at most.


def test_what_is_removed_is_made_up_for_by_splits():
    scene, _ = visible_scene()
    opacities = scene.opacities.clone()
    opacities[:7] = -8
    result = grown(replace(scene, opacities=opacities))
    assert len(result.gaussians) == 60
    assert int(result.source.min()) == 7


def test_kept_rows_stay_bit_for_bit_in_their_order_and_children_come_last():
    scene, _ = visible_scene()
    result = grown(scene)
    kept = int((~result.fresh).sum())
    assert not result.fresh[:kept].any() and result.fresh[kept:].all()
    assert torch.equal(result.source[:kept], result.source[:kept].unique())
    assert torch.equal(result.gaussians[:kept].pack(), scene[result.source[:kept]].pack())
    assert torch.equal(result.source[kept::2], result.source[kept + 1 :: 2])
    assert not set(result.source[:kept].tolist()) & set(result.source[kept:].tolist())


def test_the_same_event_of_the_same_seed_grows_the_same_scene():
    scene, _ = visible_scene()
    assert torch.equal(grown(scene, seed=5).gaussians.pack(), grown(scene, seed=5).gaussians.pack())
    assert not torch.equal(grown(scene, seed=5).source, grown(scene, seed=6).source)


def test_an_optimizer_takes_the_result_as_it_is():
    scene, _ = visible_scene()
    parameters = {name: torch.nn.Parameter(value.clone()) for name, value in scene.items()}
    optimizer = JointOptimizer(parameters, AdamRule(adam_options("own-scale", 10)))
    for parameter in parameters.values():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    result = grown(optimizer.gaussians)
    optimizer.resize(result.gaussians, result.source, result.fresh)
    assert torch.equal(optimizer.gaussians.pack(), result.gaussians.pack())
    moments = optimizer.rule_state["exp_avg.means"]
    assert moments[~result.fresh].all() and len(moments) == len(result.gaussians)


def test_one_number_per_gaussian_is_needed():
    scene, _ = visible_scene()
    with pytest.raises(ValueError, match=r"error has shape \(3,\)"):
        grown(scene, error=torch.ones(3))
