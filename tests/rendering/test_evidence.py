"""What views say about each Gaussian besides the gradient, against the reference renderer in float64."""

import pytest
import torch

from l2o_splat.gaussians import SH_C0
from l2o_splat.rendering import RasterSettings, render, set_num_threads
from l2o_splat.rendering.evidence import (
    LEAST_VISIBILITY,
    TOLERATED_ERROR,
    Evidence,
    curvatures,
    excess_errors,
)
from l2o_splat.rendering.rendered_loss import rendered_loss
from l2o_splat.views import PinholeCameras, Views
from tests.rendering.scenes import merge, one_camera, one_gaussian, random_scene

SETTINGS = RasterSettings(background=(0.2, 0.5, 0.9))
KINDS = ("visibility", "colours", "error")


def scene_and_views(n=300, views=3, masked=False):
    gaussians, cameras = random_scene(n, width=70, height=45, views=views, seed=3)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(views, 45, 70, 3, generator=generator)
    masks = (torch.rand(views, 45, 70, 1, generator=generator) > 0.1).float() if masked else None
    return gaussians.map(lambda tensor: tensor.clone().requires_grad_()), Views(cameras, images, masks)


def tensors_of(evidence: Evidence) -> dict[str, torch.Tensor]:
    colours = evidence.colours
    return {
        "visibility": evidence.visibility,
        "views": evidence.views,
        "error": evidence.error,
        "gradients": colours.gradients,
        "curvature": colours.curvature,
        "centres": colours.centres,
    }


@pytest.mark.parametrize("masked", [False, True])
def test_the_sums_are_those_of_the_reference_renderer(masked):
    gaussians, views = scene_and_views(masked=masked)
    found = rendered_loss(gaussians, views, SETTINGS, evidence=KINDS).evidence
    exact = gaussians.map(lambda tensor: tensor.detach().double())
    expected = rendered_loss(exact, views.to(torch.float64), SETTINGS, backend="reference", evidence=KINDS).evidence
    assert found.colours.sh_degree == expected.colours.sh_degree == 3
    for name, theirs in tensors_of(expected).items():
        if name != "views":
            ours = tensors_of(found)[name].double()
            assert theirs.norm() > 0
            assert (ours - theirs).norm() <= 1e-3 * theirs.norm(), name
    assert (found.views == expected.views).float().mean() > 0.98


def test_the_gradients_of_the_colours_add_up_to_that_of_the_constant_harmonic():
    gaussians, views = scene_and_views()
    found = rendered_loss(gaussians, views, SETTINGS, evidence=("colours",))
    (by_constant,) = torch.autograd.grad(found.loss, gaussians.features_dc)
    torch.testing.assert_close(SH_C0 * found.evidence.colours.gradients.sum(0), by_constant, atol=1e-9, rtol=1e-4)


def test_one_gaussian_is_worth_the_opacity_it_adds():
    gaussians, views = scene_and_views(n=1, views=1)
    alpha = render(gaussians.detach(), views.cameras, SETTINGS).alpha
    evidence = rendered_loss(gaussians, views, SETTINGS, evidence=("visibility",)).evidence
    assert evidence.visibility.item() == pytest.approx(alpha.sum().item(), rel=1e-5) and alpha.sum() > LEAST_VISIBILITY
    assert evidence.views.tolist() == [1]
    assert evidence.colours is None and evidence.error is None


@pytest.mark.parametrize("kinds", [("visibility",), ("colours",), KINDS])
def test_asking_changes_neither_loss_nor_gradient(kinds):
    gaussians, views = scene_and_views(masked=True)
    leaves = [tensor for _, tensor in gaussians.items()]
    plain, asked = (rendered_loss(gaussians, views, SETTINGS, evidence=asked) for asked in ((), kinds))
    assert plain.evidence is None
    assert asked.loss == plain.loss
    for a, b in zip(torch.autograd.grad(asked.loss, leaves), torch.autograd.grad(plain.loss, leaves), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("threads", [2, 5])
def test_any_number_of_threads_gives_the_same_bits(threads):
    gaussians, views = scene_and_views(masked=True)
    found = []
    try:
        for count in (1, threads):
            set_num_threads(count)
            found.append(tensors_of(rendered_loss(gaussians, views, SETTINGS, evidence=KINDS).evidence))
    finally:
        set_num_threads(None)
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_no_gradient_is_needed():
    gaussians, views = scene_and_views()
    expected = rendered_loss(gaussians, views, SETTINGS, evidence=KINDS).evidence
    found = rendered_loss(gaussians.detach(), views, SETTINGS, evidence=KINDS)
    assert not found.loss.requires_grad
    assert torch.equal(found.evidence.error, expected.error)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_groups_of_views_are_worth_as_much_as_all_together(backend):
    gaussians, views = scene_and_views(masked=True)
    gaussians = gaussians.detach()
    groups = [views[[0, 1]], views[[2]]]
    parts = [rendered_loss(gaussians, group, SETTINGS, backend=backend, evidence=KINDS).evidence for group in groups]
    whole = tensors_of(rendered_loss(gaussians, views, SETTINGS, backend=backend, evidence=KINDS).evidence)
    for name, value in tensors_of(Evidence.total(parts)).items():
        torch.testing.assert_close(value, whole[name], msg=name)


def test_pixels_that_do_not_count_are_worth_nothing_whatever_they_hold():
    gaussians, views = scene_and_views(masked=True)
    other = Views(views.cameras, torch.where(views.counted, views.images, 7.0), views.masks)
    first, second = (tensors_of(rendered_loss(gaussians, v, SETTINGS, evidence=KINDS).evidence) for v in (views, other))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_curvature_and_error_of_a_constant_difference():
    """L1 has derivative s at any difference r, and so has the quadratic s r^2 / (2 |r|)."""
    cameras = PinholeCameras(torch.eye(4)[None], torch.eye(3)[None], 6, 4)
    views = Views(cameras, torch.full((1, 4, 6, 3), 0.25))
    images = torch.full((1, 4, 6, 3), 0.75)
    torch.testing.assert_close(curvatures(images, views, 0.2) * 0.5, torch.full((1, 4, 6), 0.8 / (3 * 24)))
    torch.testing.assert_close(excess_errors(images, views), torch.full((1, 4, 6), 0.5 - TOLERATED_ERROR))
    assert not excess_errors(views.images + 0.9 * TOLERATED_ERROR, views).any()


def test_a_colour_that_is_cut_off_at_black_has_its_part_of_the_error():
    """Though it has no gradient; and what is out of sight has none."""
    scene = merge(one_gaussian(colour=(-0.5, 0.2, 0.4)), one_gaussian(mean=(0.0, 0.0, -2.0)))
    camera = one_camera()
    drawn = render(scene, camera, SETTINGS)
    views = Views(camera, torch.rand(1, 33, 33, 3, generator=torch.Generator().manual_seed(0)))
    expected = (drawn.alpha[..., 0] * excess_errors(drawn.rgb, views)).sum()
    found = rendered_loss(scene, views, SETTINGS, evidence=("error",)).evidence
    torch.testing.assert_close(found.error, torch.tensor([expected, 0.0]), rtol=1e-4, atol=0)
    assert found.visibility[1] == 0 and found.views.tolist() == [1, 0]


def test_where_no_pixel_counts_there_is_no_error():
    camera = one_camera()
    hidden = Views(camera, torch.full((1, 33, 33, 3), torch.nan), torch.zeros(1, 33, 33, 1))
    assert rendered_loss(one_gaussian(), hidden, SETTINGS, evidence=("error",)).evidence.error.tolist() == [0]
