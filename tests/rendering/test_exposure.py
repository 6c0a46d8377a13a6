"""Transforms of a view's colours between render and loss, against finite differences and the reference renderer."""

from dataclasses import replace

import pytest
import torch

from l2o_splat.growth.adc import collect_screen_gradient
from l2o_splat.losses import photometric_loss
from l2o_splat.rendering import RasterSettings, render, set_num_threads
from l2o_splat.rendering.exposure import exposed
from l2o_splat.rendering.rendered_loss import rendered_loss
from l2o_splat.views import Views
from tests.rendering.scenes import random_scene
from tests.rendering.test_evidence import KINDS, tensors_of
from tests.rendering.test_rendered_loss import leaves_of, scene_and_photographs

SETTINGS = RasterSettings(background=(0.2, 0.5, 0.9))


def exposures_of(views, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    identity = torch.eye(3, 4, dtype=torch.float64)
    away = 0.2 * torch.randn(views, 3, 4, generator=generator, dtype=torch.float64)
    return (identity + away).to(dtype).requires_grad_()


def exposed_scene(views=3, masked=False):
    gaussians, photographs = scene_and_photographs(views=views, masked=masked)
    return gaussians, replace(photographs, exposures=exposures_of(views))


def test_a_gain_and_an_offset_of_each_channel():
    images = torch.rand(2, 4, 5, 3)
    transforms = torch.eye(3, 4).repeat(2, 1, 1)
    transforms[1, 0, 0], transforms[1, 1, 3], transforms[1, 2, 0] = 2.0, 0.25, 0.5
    found = exposed(images, transforms)
    torch.testing.assert_close(found[0], images[0])
    red, green, blue = images[1].unbind(-1)
    torch.testing.assert_close(found[1], torch.stack([2 * red, green + 0.25, blue + 0.5 * red], dim=-1))
    assert exposed(images, None) is images


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("threads", [1, 3])
def test_the_loss_is_that_of_exposed_renders(masked, threads):
    gaussians, photographs = exposed_scene(masked=masked)
    views, leaves = photographs.views(), [*leaves_of(gaussians), photographs.exposures]
    images = exposed(render(gaussians, views.cameras, SETTINGS, "cpu").rgb, views.exposures)
    expected = photometric_loss(images, views.images, views.masks)
    set_num_threads(threads)
    found = rendered_loss(gaussians, photographs, SETTINGS, backend="cpu")
    assert found.loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for ours, theirs in zip(
        torch.autograd.grad(3 * found.loss, leaves), torch.autograd.grad(3 * expected, leaves), strict=True
    ):
        assert theirs.norm() > 0
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm()
    nothing_counts = torch.autograd.grad(rendered_loss(gaussians, photographs, SETTINGS).loss, leaves)[-1][0]
    assert nothing_counts.any() != masked


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_gradients_of_the_transforms_are_finite_differences(backend):
    """In float64 along every one of the 24 numbers; the fast path is compared with the same differences."""
    gaussians, photographs = exposed_scene(views=2)
    exact, views = gaussians.map(lambda tensor: tensor.detach().double()), photographs.views().to(torch.float64)
    exposures = exposures_of(2, torch.float64).detach()

    def loss(transforms):
        return rendered_loss(exact, replace(views, exposures=transforms), SETTINGS, backend="reference").loss

    step, differences = 1e-5, torch.empty(2, 3, 4, dtype=torch.float64)
    with torch.no_grad():
        for place in range(24):
            away = torch.zeros(24, dtype=torch.float64)
            away[place] = step
            away = away.view(2, 3, 4)
            differences.view(-1)[place] = (loss(exposures + away) - loss(exposures - away)) / (2 * step)
    if backend == "reference":
        (found,) = torch.autograd.grad(loss(exposures.requires_grad_()), exposures)
    else:
        (found,) = torch.autograd.grad(rendered_loss(gaussians, photographs, SETTINGS).loss, photographs.exposures)
    assert (found.double() - differences).norm() <= 2e-3 * differences.norm()


def test_the_identity_changes_no_bit():
    gaussians, photographs = scene_and_photographs()
    plain = rendered_loss(gaussians, photographs, SETTINGS)
    identity = replace(photographs, exposures=torch.eye(3, 4).repeat(3, 1, 1))
    found = rendered_loss(gaussians, identity, SETTINGS)
    assert torch.equal(found.loss, plain.loss)
    assert torch.equal(found.squared_errors, plain.squared_errors)
    gradients = (torch.autograd.grad(one.loss, leaves_of(gaussians)) for one in (found, plain))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*gradients, strict=True))


@pytest.mark.parametrize("masked", [False, True])
def test_evidence_is_that_of_the_exposed_image(masked):
    gaussians, photographs = exposed_scene(masked=masked)
    found = rendered_loss(gaussians, photographs, SETTINGS, evidence=KINDS).evidence
    exact, views = gaussians.map(lambda tensor: tensor.detach().double()), photographs.views().to(torch.float64)
    expected = rendered_loss(exact, views, SETTINGS, backend="reference", evidence=KINDS).evidence
    for name, theirs in tensors_of(expected).items():
        if name != "views":
            ours = tensors_of(found)[name].double()
            assert (ours - theirs).norm() <= 1e-3 * theirs.norm(), name


def test_photographs_that_a_transform_explains_ask_for_no_growth():
    """Every photograph is a render of the scene, brighter than it: neither errors nor gradients are left."""
    gaussians, cameras = random_scene(200, width=70, height=45, views=2, seed=3)
    exposures = torch.eye(3, 4).repeat(2, 1, 1) * torch.tensor([1.0, 1.3])[:, None, None]
    views = Views(cameras, exposed(render(gaussians, cameras, SETTINGS).rgb, exposures))
    explained = replace(views, exposures=exposures)
    errors = [rendered_loss(gaussians, one, SETTINGS, evidence=("error",)).evidence.error for one in (views, explained)]
    assert errors[0].sum() > 10
    assert not errors[1].any()
    gradients = [collect_screen_gradient(gaussians, [one], SETTINGS).sum() for one in (views, explained)]
    assert gradients[1] < 0.05 * gradients[0]


def test_views_hand_their_transforms_on():
    _, photographs = exposed_scene()
    views = replace(photographs, indices=(4, 7, 9)).views()
    chosen = views[[2, 0]]
    assert chosen.indices == (9, 4)
    assert torch.equal(chosen.exposures, views.exposures[[2, 0]])
    assert views.to(torch.float64).exposures.dtype == torch.float64
    assert torch.equal(views.mirrored().exposures, views.exposures)
    with pytest.raises(ValueError, match=r"exposures have shape \(2, 3, 4\); \(3, 3, 4\) is needed"):
        replace(views, exposures=views.exposures[:2])
