"""Variances of a scene, and the image that shows them."""

import math
from dataclasses import replace

import pytest
import torch

from l2o_splat.gaussians import Gaussians
from l2o_splat.implicit.heuristic import heuristic_precision
from l2o_splat.implicit.linearized_views import ContextViews
from l2o_splat.implicit.uncertainty import group_curvature, relative_uncertainty
from l2o_splat.implicit.uncertainty_head import UncertaintyHead
from l2o_splat.initializers.diff3r import predicted_precision, read_diff3r
from l2o_splat.optim.precision import MEAN, check_precision
from l2o_splat.rendering import RasterSettings, render
from l2o_splat.rendering.values import draw_values
from l2o_splat.views import Views
from l2o_splat.weights import Weights, WeightsCard, load_weights, save_weights
from tests.implicit.scenes import SETTINGS, blobs, dense_jacobian, toy
from tests.resplat_networks import NARROW, NARROW_FINE, context, initializer


def test_the_curvature_is_the_diagonal_of_the_gauss_newton_hessian():
    problem = toy(n=5, size=12)
    diagonal = dense_jacobian(problem.context, problem.rows).square().sum(0).view(5, 14)
    found = group_curvature(problem.anchor, problem.context, probes=400)
    groups = Gaussians.unpack(diagonal)
    expected = torch.stack([values.mean(dim=1) for name, values in groups.items() if name != "features_rest"], dim=1)
    torch.testing.assert_close(found, expected, rtol=0.3, atol=1e-3 * expected.max().item())


def test_what_no_view_sees_keeps_the_variance_of_its_prediction():
    problem = toy(n=3)
    means = problem.anchor.means.clone()
    means[1, 2] = -50
    scene = replace(problem.anchor, means=means)
    curvature = group_curvature(scene, ContextViews(Views(problem.context.cameras, problem.context.images), SETTINGS))
    assert not curvature[1].any() and curvature[0].all()


def test_the_order_of_the_scene_on_a_logarithmic_scale():
    gaussians = blobs(101, 0)
    gaussians = replace(gaussians, scales=torch.zeros_like(gaussians.scales))
    variance = torch.logspace(-3, 3, 101, dtype=torch.float64)[:, None].expand(-1, 5).contiguous()
    uncertainty = relative_uncertainty(variance, gaussians)
    assert uncertainty[:6].tolist() == pytest.approx([0.0] * 6) and uncertainty[95:].tolist() == pytest.approx([1] * 6)
    assert uncertainty[50].item() == pytest.approx(0.5)
    torch.testing.assert_close(uncertainty[6:95].diff(), torch.full((88,), 1 / 90, dtype=torch.float64))
    assert relative_uncertainty(torch.ones_like(variance), gaussians).unique().tolist() == [0.5]
    # A position that is off by as much of its own size is as uncertain.
    larger = replace(gaussians, scales=gaussians.scales + 2)
    variance[:, MEAN] *= torch.tensor(4.0).exp()
    torch.testing.assert_close(relative_uncertainty(variance, larger), uncertainty)


def test_the_image_is_the_mean_of_what_a_pixel_shows():
    problem = toy(n=4)
    cameras, white = problem.context.cameras, replace(SETTINGS, background=(1.0, 1.0, 1.0), depth=True)
    alpha = render(problem.anchor, cameras, SETTINGS).alpha
    same = draw_values(problem.anchor, torch.full((4,), 0.3, dtype=torch.float64), cameras, white)
    assert same.shape == alpha.shape
    torch.testing.assert_close(same[alpha > 0], torch.full_like(same[alpha > 0], 0.3))
    apart = torch.tensor([0.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    shown = draw_values(problem.anchor, apart, cameras, white)
    without = Gaussians(*(tensor[[0, 2, 3]] for _, tensor in problem.anchor.items()))
    darker = render(without, cameras, SETTINGS).alpha >= alpha - 1e-9
    assert not shown[darker].any() and shown.max() > 0.1
    behind = replace(problem.anchor, means=problem.anchor.means - 100)
    assert not draw_values(behind, apart, cameras, white).any()


@pytest.mark.parametrize("shape", [NARROW, NARROW_FINE], ids=["a quarter of the pixels", "every pixel"])
def test_weights_come_back_as_they_went_and_predict_per_squared_footprint(shape, tmp_path):
    head = UncertaintyHead(shape.width, torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]))
    torch.nn.init.normal_(head.output.weight, std=0.3)
    model = initializer(shape)
    tensors = {f"encoder.{name}": tensor for name, tensor in model.model.state_dict().items()}
    weights = head.to_weights(Weights(tensors, WeightsCard("resplat", {})))
    save_weights(tmp_path / "w", weights)
    initial, again = read_diff3r(load_weights(tmp_path / "w"))
    assert initial.card.system == "resplat" and initial.tensors.keys() == tensors.keys()
    assert all(tensor.equal(head.state_dict()[name]) for name, tensor in again.state_dict().items())
    scene = model(context(num_views=2))
    precision = predicted_precision(again, scene, RasterSettings())
    assert precision.shape == (len(scene.gaussians), 5)
    cameras, per_view = scene.context.cameras, len(scene.gaussians) // 2
    centre = cameras.viewmats[1, :3, :3] @ scene.gaussians.means[per_view + 7] + cameras.viewmats[1, :3, 3]
    footprint = centre[2] / (cameras.Ks[1, 0, 0] * cameras.Ks[1, 1, 1]).sqrt()
    # Twice as many scene units: a quarter of the precision of the means alone.
    larger = replace(scene.gaussians, means=2 * scene.gaussians.means, scales=scene.gaussians.scales + math.log(2))
    far = replace(scene, gaussians=larger)
    far_context = replace(cameras, viewmats=torch.cat([cameras.viewmats[:, :, :3], cameras.viewmats[:, :, 3:] * 2], 2))
    far_context.viewmats[:, 3, 3] = 1
    far = replace(far, context=replace(scene.context, cameras=far_context))
    torch.testing.assert_close(predicted_precision(again, far, RasterSettings())[:, MEAN] * 4, precision[:, MEAN])
    torch.testing.assert_close(predicted_precision(again, far, RasterSettings())[:, 1:], precision[:, 1:])
    ratio = precision[per_view + 7, MEAN] * footprint.square()
    assert 1e-3 < ratio < 1.01 * torch.tensor(7.0).exp()


def test_masked_pixels_have_no_say_in_the_precision():
    """A scene without the Gaussians of masked cells has one row for each that is left, whatever is under the mask."""
    views, masks = context(num_views=3), torch.ones(3, 64, 64, 1)
    masks[0, :, 40:], masks[1:, 10:31, 12:40] = 0, 0
    head = UncertaintyHead(NARROW.width, torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]))
    torch.nn.init.normal_(head.output.weight, std=0.3)
    found = []
    for garbage in (0.0, 1.0, float("nan")):
        scene = initializer()(replace(views, images=torch.where(masks > 0.5, views.images, garbage), masks=masks))
        found.append(predicted_precision(head, scene, RasterSettings()).detach())
        assert found[-1].shape == (len(scene.gaussians), 5) and len(scene.gaussians) < 3 * 256
        check_precision(scene.gaussians, found[-1])
        heuristic = heuristic_precision(scene.gaussians, ContextViews(scene.context, RasterSettings()))
        curvature = group_curvature(scene.gaussians, ContextViews(scene.context, RasterSettings()))
        found[-1] = torch.cat([found[-1], heuristic, curvature], dim=1)
    assert found[0].isfinite().all() and found[0].equal(found[1]) and found[0].equal(found[2])
    whole = initializer()(views)
    unmasked = initializer()(replace(views, masks=torch.ones_like(masks)))
    precision, same = (predicted_precision(head, scene, RasterSettings()) for scene in (whole, unmasked))
    assert precision.equal(same)
