"""What gsplat's rasterizer says about the Gaussians, against derivatives of images that are moved."""

import math
from dataclasses import replace

import pytest
import torch

from l2o_splat.rendering import RasterSettings, render
from l2o_splat.rendering.gsplat import render_and_watch
from tests.rendering.scenes import merge, one_camera, one_gaussian
from tests.standins.gsplat_package import RULES, stand_in_for_gsplat

SIZE, FOCAL, DEPTH = 14, 20.0, 2.0


@pytest.fixture(params=RULES)
def package(request, monkeypatch):
    return stand_in_for_gsplat(monkeypatch, request.param)


def scene():
    """One Gaussian in the middle, one to the left behind it, one behind the camera."""
    first = one_gaussian((0.05, 0.0, DEPTH), sigma=0.15)
    return merge(first, one_gaussian((-0.2, 0.1, 2 * DEPTH), sigma=0.3), one_gaussian((0.0, 0.0, -DEPTH)))


def weights():
    return torch.randn(1, SIZE, SIZE, 3, generator=torch.Generator().manual_seed(0))


def image_change(pixel_step):
    """How the image changes where the first Gaussian moves by a pixel to the right."""
    images = []
    for sign in (1, -1):
        moved = scene()
        moved.means[0, 0] += sign * pixel_step * DEPTH / FOCAL
        images.append(render(moved, one_camera(SIZE, SIZE, FOCAL), RasterSettings(), "gsplat").rgb)
    return (images[0] - images[1]) / (2 * pixel_step)


@pytest.mark.parametrize("absolute", [False, True])
def test_gradients_on_the_screen(package, absolute):
    gaussians = scene().map(lambda tensor: tensor.clone().requires_grad_())
    rendering, drawn = render_and_watch(gaussians, one_camera(SIZE, SIZE, FOCAL), RasterSettings(), absolute)
    assert package.calls[-1]["absgrad"] is absolute
    with pytest.raises(RuntimeError, match=r"call backward\(\)"):
        drawn.statistics()
    # A loss that looks at differences along x alone, so that the gradient along y is known too.
    (rendering.rgb * weights()).sum().backward()
    found = drawn.statistics()

    by_pixel = (image_change(0.01) * weights()).sum(dim=3)
    along_x = by_pixel.abs().sum() if absolute else by_pixel.sum().abs()
    gradients = drawn._means2d.absgrad if absolute else drawn._means2d.grad
    assert gradients[0, 0, 0].abs().item() == pytest.approx(along_x.item(), rel=2e-2)
    expected = torch.hypot(*(gradients[0, :2].unbind(1))) * SIZE / 2
    torch.testing.assert_close(found.gradients[:2], expected)
    assert found.gradients[2] == 0 and found.views.tolist() == [1, 1, 0] and found.radii[2] == 0


def test_sums_over_views(package):
    gaussians = replace(scene(), means=scene().means.requires_grad_())
    camera = one_camera(SIZE, SIZE, FOCAL)
    twice = replace(camera, viewmats=camera.viewmats.repeat(2, 1, 1), Ks=camera.Ks.repeat(2, 1, 1))
    found = []
    for cameras in (camera, twice):
        rendering, drawn = render_and_watch(gaussians, cameras, RasterSettings())
        (rendering.rgb * weights()).sum().backward()
        found.append(drawn.statistics())
    torch.testing.assert_close(found[1].gradients, 2 * found[0].gradients)
    assert found[1].views.tolist() == [2, 2, 0]
    assert torch.equal(found[0].radii, found[1].radii)


def test_radii_are_those_of_the_rectangles(package):
    _, drawn = render_and_watch(
        scene().map(lambda t: t.requires_grad_()), one_camera(SIZE, SIZE, FOCAL), RasterSettings()
    )
    drawn._means2d.grad = torch.zeros_like(drawn._means2d)
    sigma = math.sqrt((0.15 * FOCAL / DEPTH) ** 2 + 0.3)
    extent = 3 if package.__version__ == "1.4.0" else math.sqrt(2 * math.log(255 * 0.6))
    # The first is a little off the middle, so that its long axis is a little longer than this.
    assert drawn.statistics().radii[0].item() in (math.ceil(extent * sigma), math.ceil(extent * sigma) + 1)
