"""The loss of a scene, view by view, against drawing all views and comparing them."""

import pytest
import torch

from l2o_splat.losses import photometric_loss
from l2o_splat.rendering import RasterSettings, render, set_num_threads
from l2o_splat.rendering.rendered_loss import rendered_loss
from l2o_splat.views import StoredPhotographs, Views
from tests.rendering.scenes import random_scene

SETTINGS = RasterSettings(background=(0.2, 0.5, 0.9))


def scene_and_photographs(views=3, masked=False, dtype=torch.float32):
    gaussians, cameras = random_scene(400, width=70, height=45, views=views, seed=3)
    generator = torch.Generator().manual_seed(0)
    stored = torch.randint(0, 256, (views, 45, 70, 3), generator=generator, dtype=torch.uint8)
    masks = torch.rand(views, 45, 70, 1, generator=generator) > 0.05
    masks[0] = False
    background = torch.tensor(SETTINGS.background)
    photographs = StoredPhotographs(cameras, list(stored), list(masks) if masked else None, background)
    return gaussians.map(lambda tensor: tensor.clone().requires_grad_()), photographs


def leaves_of(gaussians):
    return [tensor for _, tensor in gaussians.items()]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_it_is_the_loss_of_all_views_together(masked, threads):
    gaussians, photographs = scene_and_photographs(masked=masked)
    views = photographs.views()
    images = render(gaussians, views.cameras, SETTINGS, "cpu").rgb
    expected = photometric_loss(images, views.images, views.masks)
    set_num_threads(threads)
    found = rendered_loss(gaussians, photographs, SETTINGS, backend="cpu")
    assert found.loss.item() == pytest.approx(expected.item(), rel=1e-6)
    gradients = torch.autograd.grad(found.loss, leaves_of(gaussians))
    for ours, theirs in zip(gradients, torch.autograd.grad(expected, leaves_of(gaussians)), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("masked", [False, True])
def test_reference_renderer_in_float64(masked):
    gaussians, photographs = scene_and_photographs(views=2, masked=masked)
    exact = gaussians.map(lambda tensor: tensor.detach().double().requires_grad_())
    views = photographs.views().to(torch.float64)
    found = rendered_loss(gaussians, photographs, SETTINGS)
    expected = rendered_loss(exact, views, SETTINGS)
    assert expected.loss.dtype == torch.float64
    assert found.loss.item() == pytest.approx(expected.loss.item(), abs=1e-5)
    torch.testing.assert_close(
        found.squared_errors.double(), expected.squared_errors, atol=1e-5, rtol=0, equal_nan=True
    )
    assert found.squared_errors.isnan().tolist() == [masked, False]
    ours = torch.autograd.grad(found.loss, leaves_of(gaussians))
    theirs = torch.autograd.grad(expected.loss, leaves_of(exact))
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).norm() <= 1e-3 * b.norm()


def test_upstream_gradients_scale_the_result():
    gaussians, photographs = scene_and_photographs()
    (once,) = torch.autograd.grad(rendered_loss(gaussians, photographs, SETTINGS).loss, gaussians.means)
    (thrice,) = torch.autograd.grad(3 * rendered_loss(gaussians, photographs, SETTINGS).loss, gaussians.means)
    torch.testing.assert_close(thrice, 3 * once)


def test_no_gradient_is_computed_if_none_is_needed():
    gaussians, photographs = scene_and_photographs()
    found = rendered_loss(gaussians.detach(), photographs, SETTINGS)
    assert not found.loss.requires_grad
    assert found.loss == rendered_loss(gaussians, photographs, SETTINGS).loss


def test_what_it_cannot_do_is_refused():
    gaussians, photographs = scene_and_photographs()
    loss = rendered_loss(gaussians, photographs, SETTINGS).loss
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="compute the loss again"):
        loss.backward()
    (gradient,) = torch.autograd.grad(
        rendered_loss(gaussians, photographs, SETTINGS).loss, gaussians.means, create_graph=True
    )
    with pytest.raises(RuntimeError, match="second derivatives"):
        gradient.sum().backward()
    loss = rendered_loss(gaussians, photographs, SETTINGS).loss
    with torch.no_grad():
        gaussians.means.add_(1)
    with pytest.raises(RuntimeError, match=r"modified (by an )?in-?place"):
        loss.backward()


def test_photographs_are_looked_at_one_at_a_time():
    """Views that lie in memory together give the same numbers as stored ones."""
    gaussians, photographs = scene_and_photographs(masked=True)
    stored = rendered_loss(gaussians, photographs, SETTINGS)
    assert isinstance(photographs.views(), Views)
    assert rendered_loss(gaussians, photographs.views(), SETTINGS).loss == stored.loss
