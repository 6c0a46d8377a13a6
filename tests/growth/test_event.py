"""A whole event, and the error mass it is decided by."""

from dataclasses import replace

import pytest
import torch

from l2o_splat.growth.budget import GrowthOptions
from l2o_splat.growth.error_mass import collect_error, error_map
from l2o_splat.growth.event import event_generator, grow
from l2o_splat.optim.adam import AdamRule, adam_options
from l2o_splat.optim.joint_optimizer import JointOptimizer
from l2o_splat.raster_settings import RasterSettings
from l2o_splat.rendering import render
from l2o_splat.views import Views
from tests.rendering.scenes import merge, one_camera, one_gaussian, random_scene

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
    steps = GrowthOptions(factor=4, events=2, curve="geometric")
    assert [len(grown(scene, steps, event).gaussians) for event in (0, 1)] == [80, 80]  # Each splits once at most.


def test_what_is_removed_is_made_up_for_by_splits():
    scene, _ = visible_scene()
    opacities = scene.opacities.clone()
    opacities[:7] = -8
    result = grown(replace(scene, opacities=opacities))
    assert len(result.gaussians) == 60
    assert int(result.source.min()) == 7


def test_unseen_gaussians_go_on_request():
    scene, _ = visible_scene()
    visibility = torch.full((40,), 20.0).index_fill(0, torch.tensor([3, 30]), 0.0)
    for unseen, lost in ((False, set()), (True, {3, 30})):
        options = replace(HALF_MORE, prune_unseen=unseen)
        result = grow(scene, torch.ones(40), visibility, torch.full((40,), 3), 40, options, 0, event_generator(0, 0))
        assert set(range(40)) - set(result.source.tolist()) == lost
        assert len(result.gaussians) == 60


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


def test_visibility_is_the_sum_of_blending_weights():
    """A scene of one Gaussian: its blending weights are the image's alpha; another one is out of sight."""
    scene = merge(one_gaussian(), one_gaussian(mean=(0.0, 0.0, -2.0)))
    camera = one_camera()
    alpha = render(scene, camera, SETTINGS).alpha
    black = Views(camera, torch.zeros(1, 33, 33, 3))
    mass = collect_error(scene, black, SETTINGS)
    assert mass.visibility[0].item() == pytest.approx(float(alpha.sum()), rel=1e-5)
    assert mass.visibility[1] == mass.error[1] == 0
    assert mass.views.tolist() == [1, 0]


def test_error_mass_is_the_sum_of_weight_times_error():
    """Also of a Gaussian whose own colour is cut off at black, which has no gradient of its own."""
    scene = one_gaussian(colour=(-0.5, 0.2, 0.4))
    camera = one_camera()
    drawn = render(scene, camera, SETTINGS)
    photograph = torch.rand(33, 33, 3, generator=torch.Generator().manual_seed(0))
    expected = (drawn.alpha[0, ..., 0] * error_map(drawn.rgb[0], photograph)).sum()
    mass = collect_error(scene, Views(camera, photograph[None]), SETTINGS)
    assert mass.error[0].item() == pytest.approx(float(expected), rel=1e-4)


def test_sums_go_over_the_chosen_views():
    scene, cameras = random_scene(n=60, views=3)
    views = Views(cameras, torch.rand(3, 45, 60, 3, generator=torch.Generator().manual_seed(0)))
    whole = collect_error(scene, views, SETTINGS)
    parts = [collect_error(scene, views, SETTINGS, chosen=[view]) for view in range(3)]
    for name in ("error", "visibility", "views"):
        assert torch.allclose(getattr(whole, name), sum(getattr(part, name) for part in parts), rtol=1e-5)
    assert int(whole.views.max()) == 3


def test_masked_pixels_have_no_error_and_see_nothing():
    scene, camera = one_gaussian(), one_camera()
    photograph = torch.full((1, 33, 33, 3), torch.nan)
    photograph[:, :, :16] = 0.3
    mask = torch.zeros(1, 33, 33, 1)
    mask[:, :, :16] = 1
    drawn = render(scene, camera, SETTINGS)
    mass = collect_error(scene, Views(camera, photograph, mask), SETTINGS)
    assert mass.visibility[0].item() == pytest.approx(float(drawn.alpha[:, :, :16].sum()), rel=1e-5)
    assert 0 < mass.error[0] < mass.visibility[0]
    nothing = collect_error(scene, Views(camera, photograph, torch.zeros(1, 33, 33, 1)), SETTINGS)
    assert nothing.views.tolist() == [0]


def test_small_differences_are_no_error():
    image = torch.full((8, 8, 3), 0.5)
    assert not error_map(image, image + 0.019).any()
    assert torch.allclose(error_map(image, image + 0.12), torch.full((8, 8), 0.1), atol=1e-6)
