"""Gradients of the kernels to rigid motions of the cameras: against moving cameras, and against the torch twin."""

from dataclasses import replace

import pytest
import torch

from l2o_splat.rendering import RasterSettings, linearize, render, set_num_threads
from l2o_splat.rendering.camera_motion import viewmats_gradient
from l2o_splat.rendering.rendered_loss import rendered_loss
from l2o_splat.views import Views
from tests.rendering.scenes import MODES, RULES, images_of, random_like, random_scene

SETTINGS = RasterSettings(background=(0.2, 0.5, 0.9))


def generators(dtype=torch.float64):
    """The six 4 x 4 matrices of se(3): shifts along x, y, z, then turns about them."""
    matrices = torch.zeros(6, 4, 4, dtype=dtype)
    for axis, (i, j) in enumerate([(1, 2), (2, 0), (0, 1)]):
        matrices[axis, axis, 3] = 1
        matrices[3 + axis, i, j], matrices[3 + axis, j, i] = -1, 1
    return matrices


def moved(viewmats, motions):
    """``exp(motion) viewmat`` of every view."""
    return torch.linalg.matrix_exp(torch.einsum("vk,kij->vij", motions, generators(motions.dtype))) @ viewmats


def motions_of(gradient, viewmats):
    """The gradient to motions that a gradient to matrices implies, by autograd."""
    motions = torch.zeros(len(viewmats), 6, dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(moved(viewmats.double(), motions), motions, gradient.double())
    return found


def camera_gradient(scene, cameras, settings, backend, cotangents):
    viewmats = cameras.viewmats.clone().requires_grad_()
    rendering = render(scene, replace(cameras, viewmats=viewmats), settings, backend)
    (gradient,) = torch.autograd.grad(images_of(rendering), viewmats, images_of(cotangents))
    return motions_of(gradient, cameras.viewmats)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("degree", [0, 3])
def test_the_torch_twin(rules, mode, degree):
    """To every view its own six numbers, through alpha and depth as well."""
    settings = RasterSettings(depth=True, rasterize_mode=mode, image_rules=rules)
    gaussians, cameras = random_scene(250, 100, 70, views=3, degree=degree)
    cotangents = random_like(render(gaussians, cameras, settings))
    found = camera_gradient(gaussians, cameras, settings, "cpu", cotangents)
    twin = gaussians.to(torch.float64), cameras.to(torch.float64), settings, "reference"
    expected = camera_gradient(*twin, cotangents.map(torch.Tensor.double))
    assert (found - expected).norm() < 2e-3 * expected.norm()
    assert found.abs().amin(dim=1).min() > 0


def test_moving_one_camera():
    """The gradient of a loss, against its differences when one of three cameras is moved along each of six ways."""
    gaussians, cameras = random_scene(300, 64, 48, views=3, dtype=torch.float64)
    images = torch.rand(3, 48, 64, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def loss(motions):
        at = replace(cameras, viewmats=moved(cameras.viewmats, motions))
        return rendered_loss(gaussians, Views(at, images), SETTINGS, backend="reference").loss

    step, view = 1e-6, 1
    differences = torch.stack(
        [(loss(way) - loss(-way)) / (2 * step) for way in _ways(view, step)],
    )
    scene, photographs = gaussians.to(torch.float32), Views(cameras.to(torch.float32), images.float())
    viewmats = photographs.cameras.viewmats.clone().requires_grad_()
    photographs = replace(photographs, cameras=replace(photographs.cameras, viewmats=viewmats))
    (gradient,) = torch.autograd.grad(rendered_loss(scene, photographs, SETTINGS, backend="cpu").loss, viewmats)
    found = motions_of(gradient, cameras.viewmats)[view]
    # The image jumps where an alpha crosses 1/255.
    assert ((found - differences).abs() < 0.02 * differences.abs().max()).all(), (found, differences)


def _ways(view, step):
    ways = torch.zeros(6, 3, 6, dtype=torch.float64)
    for way in range(6):
        ways[way, view, way] = step
    return ways


def test_six_numbers_are_a_gradient_of_the_matrix():
    _, cameras = random_scene(1, views=4, dtype=torch.float64)
    motions = torch.randn(4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(motions_of(viewmats_gradient(motions, cameras.viewmats), cameras.viewmats), motions)


@pytest.mark.parametrize("threads", [1, 3])
def test_gradients_of_the_gaussians_stay_as_they_are(threads):
    """Bit for bit, and the cameras' own do not depend on the threads."""
    gaussians, cameras = random_scene(5000, 70, 45, views=3)
    views = Views(cameras, torch.rand(3, 45, 70, 3, generator=torch.Generator().manual_seed(0)))
    leaves = gaussians.map(lambda tensor: tensor.clone().requires_grad_())
    tensors = [tensor for _, tensor in leaves.items()]
    alone = torch.autograd.grad(rendered_loss(leaves, views, SETTINGS).loss, tensors)
    viewmats = cameras.viewmats.clone().requires_grad_()
    moving = replace(views, cameras=replace(cameras, viewmats=viewmats))
    found = torch.autograd.grad(3 * rendered_loss(leaves, moving, SETTINGS).loss, [viewmats, *tensors])
    for ours, theirs in zip(found[1:], alone, strict=True):
        assert torch.equal(ours, 3 * theirs)
    set_num_threads(threads)
    again = torch.autograd.grad(3 * rendered_loss(leaves, moving, SETTINGS).loss, viewmats)
    set_num_threads(None)
    assert torch.equal(again[0], found[0])


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_evidence_has_no_gradient(backend):
    gaussians, cameras = random_scene(50)
    moving = replace(cameras, viewmats=cameras.viewmats.clone().requires_grad_())
    photographs = Views(moving, torch.zeros(2, 45, 60, 3))
    found = rendered_loss(gaussians, photographs, SETTINGS, backend=backend, evidence=("colours", "error"))
    assert found.loss.requires_grad and not found.squared_errors.requires_grad
    tensors = [*vars(found.evidence).values(), *vars(found.evidence.colours).values()]
    assert not any(tensor.requires_grad for tensor in tensors if isinstance(tensor, torch.Tensor))


def test_what_it_cannot_do_is_refused():
    gaussians, cameras = random_scene(5)
    moving = replace(cameras, viewmats=cameras.viewmats.clone().requires_grad_())
    with pytest.raises(ValueError, match="cameras.viewmats require a gradient, which a linearization does not give"):
        linearize(gaussians, moving, backend="cpu")
    gradient = torch.autograd.grad(render(gaussians, moving).rgb.sum(), moving.viewmats, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="second derivatives"):
        gradient.sum().backward()
