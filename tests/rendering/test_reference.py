"""The torch twin: derivatives against finite differences, and the spherical harmonics."""

import numpy as np
import pytest
import torch

from l2o_splat.gaussians import Gaussians
from l2o_splat.harmonics import sh_basis
from l2o_splat.raster_settings import MAX_DEGREE
from l2o_splat.rendering import RasterSettings, render
from l2o_splat.views import PinholeCameras
from tests.rendering.scenes import gradients_of, images_of, inner, random_like, random_scene


def settings(**options):
    return RasterSettings(depth=True, background=(0.2, 0.5, 0.9), **options)


def central_differences(function, tensor, entries, step=1e-6):
    differences = []
    for entry in entries:
        shifted = [tensor.clone(), tensor.clone()]
        shifted[0].view(-1)[entry] += step
        shifted[1].view(-1)[entry] -= step
        differences.append((function(shifted[0]) - function(shifted[1])) / (2 * step))
    return torch.stack(differences)


def close_but_for_jumps(found, expected):
    """Images jump where an alpha crosses 1/255, so a few differences may be far off."""
    errors = (found - expected).abs() / (expected.abs() + 1e-3 * expected.abs().max())
    assert errors.quantile(0.8) < 1e-4, errors.sort().values[-5:]


@pytest.mark.parametrize("mode", ["classic", "antialiased"])
def test_gradients_against_finite_differences(mode):
    gaussians, cameras = random_scene(30, 32, 24, views=1, degree=4, dtype=torch.float64)
    chosen = settings(rasterize_mode=mode)
    weights = random_like(render(gaussians, cameras, chosen))

    def loss(**changed):
        tensors = {**dict(gaussians.items()), **changed}
        return inner(render(Gaussians(**tensors), cameras, chosen), weights)

    gradients = gradients_of(lambda scene: render(scene, cameras, chosen), gaussians, weights)
    for name, gradient in gradients.items():
        entries = gradient.abs().flatten().argsort(descending=True)[:50:5]
        differences = central_differences(lambda t, name=name: loss(**{name: t}), getattr(gaussians, name), entries)
        close_but_for_jumps(differences, gradient.flatten()[entries])


def test_camera_gradients_against_finite_differences():
    gaussians, cameras = random_scene(30, 32, 24, views=1, dtype=torch.float64)
    weights = random_like(render(gaussians, cameras, settings()))
    matrices = {name: getattr(cameras, name).clone().requires_grad_() for name in ("viewmats", "Ks")}

    def loss(**changed):
        moved = PinholeCameras(**{**matrices, **changed}, width=cameras.width, height=cameras.height)
        return inner(render(gaussians, moved, settings()), weights)

    gradients = dict(zip(matrices, torch.autograd.grad(loss(), list(matrices.values())), strict=True))
    for name, entries in (("viewmats", [0, 1, 2, 3, 5, 6, 7, 9, 10, 11]), ("Ks", [0, 2, 4, 5])):
        with torch.no_grad():
            differences = central_differences(lambda t, name=name: loss(**{name: t}), matrices[name], entries)
        close_but_for_jumps(differences, gradients[name].flatten()[entries])


def test_second_derivatives_against_finite_differences():
    gaussians, cameras = random_scene(25, 32, 24, dtype=torch.float64)
    leaves = [tensor.clone().requires_grad_() for _, tensor in gaussians.items()]

    def gradient(tensors, **options):
        loss = sum(image.square().sum() for image in images_of(render(Gaussians(*tensors), cameras, settings())))
        return torch.autograd.grad(loss, tensors, **options)

    direction = [torch.randn_like(leaf) for leaf in leaves]
    first = gradient(leaves, create_graph=True)
    products = torch.autograd.grad(sum((g * d).sum() for g, d in zip(first, direction, strict=True)), leaves)
    step = 1e-7
    ahead, behind = (
        gradient(
            [(leaf + sign * step * d).detach().requires_grad_() for leaf, d in zip(leaves, direction, strict=True)]
        )
        for sign in (1, -1)
    )
    for product, a, b in zip(products, ahead, behind, strict=True):
        close_but_for_jumps(((a - b) / (2 * step)).flatten(), product.flatten())


def test_pieces_do_not_change_the_image(monkeypatch):
    """Gaussians are composited in chunks; a pixel that is finished in one chunk stays so in the next."""
    gaussians, cameras = random_scene(200, dtype=torch.float64)
    gaussians = Gaussians(**{**dict(gaussians.items()), "opacities": gaussians.opacities + 4})
    whole = render(gaussians, cameras, settings())
    monkeypatch.setattr("l2o_splat.rendering.reference.CHUNK", 7)
    for a, b in zip(images_of(render(gaussians, cameras, settings())), images_of(whole), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_harmonics_are_orthonormal():
    """Integrals over the sphere by Gauss-Legendre quadrature, exact for these polynomials."""
    nodes, weights = (torch.from_numpy(array) for array in np.polynomial.legendre.leggauss(8))
    angles = torch.arange(16, dtype=torch.float64) * 2 * torch.pi / 16
    z, angle = torch.meshgrid(nodes, angles, indexing="ij")
    radius = (1 - z * z).sqrt()
    directions = torch.stack([radius * angle.cos(), radius * angle.sin(), z], dim=-1).reshape(-1, 3)
    basis = sh_basis(directions, MAX_DEGREE)
    areas = (weights[:, None] * 2 * torch.pi / 16).expand(8, 16).reshape(-1, 1)
    torch.testing.assert_close(basis.mT @ (areas * basis), torch.eye(25, dtype=torch.float64), rtol=0, atol=1e-7)
