"""3DGS's adaptive density control."""

import math
from dataclasses import replace

import pytest
import torch

from l2o_splat.growth.adc import (
    AdcOptions,
    adc_event_is_due,
    adc_event_shares,
    collect_screen_gradient,
    control_density,
    reset_opacities,
    screen_gradient,
)
from l2o_splat.growth.event import event_generator
from l2o_splat.losses import photometric_loss
from l2o_splat.raster_settings import RasterSettings
from l2o_splat.rendering import render
from l2o_splat.rendering.reference import project
from l2o_splat.views import Views
from tests.rendering.scenes import one_gaussian, random_scene

SETTINGS = RasterSettings(image_rules="1.5")
ADC = AdcOptions()


def scene_and_views(views=2):
    scene, cameras = random_scene(n=30, views=views, degree=1, dtype=torch.float64)
    generator = torch.Generator().manual_seed(3)
    return scene, Views(cameras, torch.rand(views, 45, 60, 3, generator=generator, dtype=torch.float64))


def loss_of(scene, views):
    return photometric_loss(render(scene, views.cameras, SETTINGS, "reference").rgb, views.images)


def test_the_gradient_in_the_image_is_that_of_finite_differences():
    """A Gaussian is moved parallel to the image so far that its centre moves by a small share of half the image."""
    scene, views = scene_and_views(views=2)
    views = views[[1]]  # The camera that is turned.
    camera = views.cameras
    leaves = scene.map(lambda tensor: tensor.clone().requires_grad_())
    (of_means,) = torch.autograd.grad(loss_of(leaves, views), leaves.means)
    found = screen_gradient(of_means, scene.means, camera)

    row = int(found.norm(dim=1).argmax())
    step, half = 1e-6, torch.tensor([30.0, 22.5], dtype=torch.float64)
    pixels, depth = camera.project(scene.means[row : row + 1])
    for axis in range(2):
        losses = []
        for sign in (1, -1):
            moved = pixels[0] + sign * step * half * torch.eye(2, dtype=torch.float64)[axis]
            means = scene.means.clone()
            means[row] = camera.unproject(moved, depth)[0, 0]
            losses.append(loss_of(replace(scene, means=means), views))
        assert float((losses[0] - losses[1]) / (2 * step)) == pytest.approx(float(found[row, axis]), rel=1e-4)


def test_it_is_close_to_the_gradient_of_the_projected_centre():
    """3DGS's own definition, from the reference renderer's projection: for one small Gaussian of one colour."""
    scene = one_gaussian(mean=(0.3, -0.2, 2.0), sigma=0.03, dtype=torch.float64)
    _, views = scene_and_views(views=1)
    camera = views.cameras
    leaves = scene.map(lambda tensor: tensor.clone().requires_grad_())
    (of_means,) = torch.autograd.grad(loss_of(leaves, views), leaves.means)
    found = screen_gradient(of_means, scene.means, camera)[0]

    splat = project(scene, camera.viewmats[0], camera.Ks[0], (60, 45), SETTINGS)
    x, y = (torch.arange(size, dtype=torch.float64) + 0.5 for size in (60, 45))
    centre = splat.centres[0].clone().requires_grad_()
    dx, dy = x[None] - centre[0], y[:, None] - centre[1]
    xx, xy, yy = splat.conics[0]
    alpha = splat.opacities[0] * (-(xx * dx * dx + yy * dy * dy) / 2 - xy * dx * dy).exp()
    image = torch.where(alpha >= 1 / 255, alpha, 0)[..., None] * splat.colours[0]
    (exact,) = torch.autograd.grad(photometric_loss(image[None], views.images), centre)
    exact = exact * torch.tensor([30.0, 22.5], dtype=torch.float64)
    assert float((found - exact).norm()) < 0.05 * float(exact.norm())


def test_gradients_are_averaged_over_the_views_that_draw_a_gaussian():
    scene, views = scene_and_views()
    scene = replace(scene, means=torch.cat([scene.means[:-1], scene.means.new_tensor([[0.0, 0.0, -5.0]])]))
    both = collect_screen_gradient(scene, [views], SETTINGS, backend="reference")
    each = torch.stack([collect_screen_gradient(scene, [views[[v]]], SETTINGS, backend="reference") for v in (0, 1)])
    assert both[-1] == 0
    groups = [views[[0]], views[[1]]]
    assert torch.equal(both, collect_screen_gradient(scene, groups, SETTINGS, backend="reference"))
    assert torch.allclose(both, each.sum(0) / (each > 0).sum(0).clamp(min=1))


def test_events_begin_after_500_images_come_every_100_and_end_with_the_first_half():
    due = [images for images in range(0, 1000, 50) if adc_event_is_due(0, images, 0.2, ADC)]
    assert due[0] == 500
    assert not adc_event_is_due(1, 599, 0.2, ADC) and adc_event_is_due(1, 600, 0.5, ADC)
    assert not adc_event_is_due(1, 600, 0.51, ADC)


def controlled(scene, gradient, options=ADC, extent=1.0, most=10**6):
    return control_density(scene, torch.tensor(gradient), extent, options, most, event_generator(0, 0))


def three_gaussians():
    """Small, large and faint."""
    scene, _ = random_scene(n=3)
    scales = torch.tensor([[0.009, 0.001, 0.001], [0.2, 0.05, 0.001], [0.2, 0.1, 0.1]]).log()
    return replace(scene, scales=scales, opacities=torch.tensor([[0.5], [0.5], [0.004]]).logit())


def test_small_gaussians_are_cloned_large_ones_split_and_faint_ones_removed():
    scene = three_gaussians()
    result = controlled(scene, [3e-4, 2e-4, 1.0])
    assert result.source.tolist() == [0, 0, 1, 1]
    assert result.fresh.tolist() == [False, True, True, True]
    assert torch.equal(result.gaussians[:2].pack(), scene[[0, 0]].pack())
    children = result.gaussians[2:]
    assert torch.allclose(children.scales, scene.scales[1] - math.log(1.6))
    assert torch.equal(children.opacities, scene.opacities[[1, 1]])
    assert not torch.equal(children.means[0], children.means[1])


def test_nothing_grows_below_the_threshold_or_beyond_the_most_allowed():
    scene = three_gaussians()
    assert controlled(scene, [1.9e-4, 1.9e-4, 1.0]).source.tolist() == [0, 1]
    assert controlled(scene, [3e-4, 4e-4, 1.0], most=3).source.tolist() == [0, 1, 1]
    assert controlled(scene, [3e-4, 4e-4, 1.0], most=1).source.tolist() == [0, 1]


def test_a_scene_of_faint_gaussians_keeps_one():
    scene = three_gaussians()
    faint = replace(scene, opacities=torch.tensor([[-7.0], [-6.0], [-8.0]]))
    assert controlled(faint, [0.0, 0.0, 0.0]).source.tolist() == [1]


def test_children_of_a_split_are_spread_as_their_parent():
    scene = three_gaussians()[1:2]
    many = scene[torch.zeros(4000, dtype=torch.int64)]
    children = controlled(many, [1.0] * 4000).gaussians
    offsets = children.means - scene.means
    assert len(children) == 8000
    # Its longest axis holds most of the variance: 0.2^2 + 0.05^2 + 0.001^2.
    assert float(offsets.square().sum(1).mean()) == pytest.approx(0.2**2 + 0.05**2 + 0.001**2, rel=0.1)


def test_events_end_at_half_of_the_run_and_a_reset_leaves_no_opacity_above_its_own():
    shares = adc_event_shares(AdcOptions())
    assert len(shares) == 15 and shares[0] == pytest.approx(1 / 60) and shares[-1] == pytest.approx(0.5)
    scene = replace(three_gaussians(), opacities=torch.tensor([[3.0], [-6.0], [0.0]]))
    assert torch.allclose(
        reset_opacities(scene).opacities.sigmoid()[:, 0], torch.tensor([0.01, 0.00247, 0.01]), atol=1e-4
    )
