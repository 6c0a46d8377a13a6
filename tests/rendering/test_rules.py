"""Images that can be computed by hand, with both CPU backends."""

import math

import pytest
import torch

from l2o_splat.gaussians import SH_C0, Gaussians
from l2o_splat.rendering import RasterSettings, render
from tests.rendering.scenes import RULES, merge, one_camera, one_gaussian, random_scene

pytestmark = pytest.mark.parametrize("backend", ["cpu", "reference"])

MIDDLE = (0, 16, 16)
"""The pixel on the axis of ``one_camera``."""


@pytest.mark.parametrize("rules", RULES)
def test_profile_of_one_gaussian(backend, rules):
    sigma, opacity, depth, focal = 0.1, 0.6, 2.0, 40.0
    settings = RasterSettings(background=(0.1, 0.2, 0.3), depth=True, image_rules=rules)
    found = render(one_gaussian((0, 0, depth), sigma, opacity), one_camera(focal=focal), settings, backend)
    variance = (sigma * focal / depth) ** 2 + 0.3
    for offset in range(-6, 7):
        alpha = opacity * math.exp(-(offset**2) / (2 * variance))
        pixel = (0, 16, 16 + offset)
        if alpha < 1 / 255:
            assert found.alpha[pixel].item() == found.depth[pixel].item() == 0
            continue
        assert found.alpha[pixel].item() == pytest.approx(alpha, abs=1e-6)
        assert found.depth[pixel].item() == pytest.approx(depth, abs=1e-5)
        expected = alpha * torch.tensor([0.9, 0.5, 0.2]) + (1 - alpha) * torch.tensor([0.1, 0.2, 0.3])
        torch.testing.assert_close(found.rgb[pixel], expected, rtol=0, atol=1e-6)


def test_sides_of_the_image(backend):
    """OpenCV axes: x goes right, y goes down."""
    found = render(one_gaussian((0.5, -0.3, 2.0), 0.02), one_camera(), RasterSettings(), backend).alpha[0, :, :, 0]
    row, column = divmod(found.argmax().item(), 33)
    assert (column, row) == (16 + 10, 16 - 6)


def test_over_operator(backend):
    """Two Gaussians behind one another, given back to front."""
    back = one_gaussian((0, 0, 3), opacity=0.5, colour=(0.0, 1.0, 0.0))
    front = one_gaussian((0, 0, 2), opacity=0.25, colour=(1.0, 0.0, 0.0))
    found = render(merge(back, front), one_camera(), RasterSettings(depth=True), backend)
    torch.testing.assert_close(found.rgb[MIDDLE], torch.tensor([0.25, 0.75 * 0.5, 0.0]), rtol=0, atol=1e-6)
    assert found.alpha[MIDDLE].item() == pytest.approx(0.625, abs=1e-6)
    assert found.depth[MIDDLE].item() == pytest.approx((0.25 * 2 + 0.375 * 3) / 0.625, abs=1e-5)


@pytest.mark.parametrize(("rules", "limit"), [("1.4", 0.999), ("1.5", 0.999), ("1.6", 0.99)])
def test_largest_alpha(backend, rules, limit):
    found = render(one_gaussian(opacity=0.99999), one_camera(), RasterSettings(image_rules=rules), backend)
    assert found.alpha[MIDDLE].item() == pytest.approx(limit, abs=1e-6)


def test_finished_pixels(backend):
    """Three layers leave 0.001 of the light. The fourth would leave 1e-4 or less: it and the rest are left out."""
    layers = [one_gaussian((0, 0, 2 + i), opacity=0.90001, colour=(0.2 * (i + 1), 0, 0)) for i in range(6)]
    faint = one_gaussian((0, 0, 9), opacity=0.1, colour=(0, 1, 0))
    found = render(merge(*layers, faint), one_camera(), RasterSettings(), backend)
    red = sum(0.9 * 0.1**i * 0.2 * (i + 1) for i in range(3))
    torch.testing.assert_close(found.rgb[MIDDLE], torch.tensor([red, 0, 0]), rtol=0, atol=1e-5)
    assert found.alpha[MIDDLE].item() == pytest.approx(0.999, abs=1e-5)


def test_antialiased_keeps_the_total(backend):
    """Opacity falls by sqrt(det / det blurred): what a small Gaussian covers does not depend on the blur."""
    gaussian, variance = one_gaussian(sigma=0.02, opacity=0.8), (0.02 * 40 / 2) ** 2
    found = render(gaussian, one_camera(), RasterSettings(rasterize_mode="antialiased"), backend)
    assert found.alpha[MIDDLE].item() == pytest.approx(0.8 * variance / (variance + 0.3), abs=1e-6)
    wider = RasterSettings(rasterize_mode="antialiased", eps2d=0.1)
    found = render(gaussian, one_camera(), wider, backend)
    assert found.alpha[MIDDLE].item() == pytest.approx(0.8 * variance / (variance + 0.1), abs=1e-6)


@pytest.mark.parametrize(("rules", "alpha"), [("1.4", 0.0), ("1.5", 0.0), ("1.6", 0.95 * 0.005)])
def test_least_compensation(backend, rules, alpha):
    settings = RasterSettings(rasterize_mode="antialiased", image_rules=rules)
    found = render(one_gaussian(sigma=1e-6, opacity=0.95), one_camera(), settings, backend)
    assert found.alpha[MIDDLE].item() == pytest.approx(alpha, abs=1e-7)


@pytest.mark.parametrize(("rules", "drawn"), [("1.4", False), ("1.5", True), ("1.6", True)])
def test_tiles_cut_at_three_sigma(backend, rules, drawn):
    """gsplat 1.4 stops at the 16-pixel tiles that a square of three sigma touches, here pixels 16 to 31."""
    variance, opacity, focal = 6.95, 0.98, 40.0
    gaussian = one_gaussian((0, 0, 2), math.sqrt(variance - 0.3) * 2 / focal, opacity)
    found = render(gaussian, one_camera(48, 48, focal), RasterSettings(image_rules=rules), backend).alpha[0, :, :, 0]
    # The middle is between pixels 23 and 24; three sigma, rounded up, are 8 pixels.
    for distance, expected in ((7.5, True), (8.5, drawn)):
        alpha = opacity * math.exp(-(distance**2 + 0.5**2) / (2 * variance))
        assert alpha > 1 / 255
        low, high = int(23.5 - distance), int(23.5 + distance)
        for pixel in ((23, low), (23, high), (low, 23), (high, 23)):
            assert found[pixel].item() == pytest.approx(alpha if expected else 0, abs=1e-6)


def test_colour_in_all_directions(backend):
    """Spherical harmonics of degree 1: -y, z, -x times sqrt(3 / 4 pi), on top of 0.5 + SH_C0 dc, not below 0."""
    generator = torch.Generator().manual_seed(0)
    coefficients = torch.randn(3, 3, generator=generator) * 0.3
    dc = torch.tensor([[0.3, -0.2, -3.0]])
    for x, y in ((0.0, 0.0), (0.5, 0.1), (-0.6, 0.4)):
        scene = one_gaussian((x, y, 2.0), opacity=0.9)
        scene = Gaussians(scene.means, scene.scales, scene.quats, scene.opacities, dc, coefficients[None])
        found = render(scene, one_camera(), RasterSettings(depth=False), backend)
        pixel = found.alpha.flatten().argmax()
        direction = scene.means[0] / scene.means[0].norm()
        basis = math.sqrt(3 / (4 * math.pi)) * torch.stack([-direction[1], direction[2], -direction[0]])
        colour = (0.5 + SH_C0 * dc[0] + basis @ coefficients).clamp(min=0)
        assert colour[2] == 0
        torch.testing.assert_close(
            found.rgb.view(-1, 3)[pixel] / found.alpha.flatten()[pixel], colour, rtol=0, atol=1e-5
        )


def test_sh_degree_is_capped(backend):
    gaussians, cameras = random_scene(40, degree=3)
    for degree in (0, 1, 2):
        fewer = Gaussians(
            **{**dict(gaussians.items()), "features_rest": gaussians.features_rest[:, : (degree + 1) ** 2 - 1]}
        )
        capped = render(gaussians, cameras, RasterSettings(sh_degree=degree), backend).rgb
        torch.testing.assert_close(capped, render(fewer, cameras, RasterSettings(), backend).rgb, rtol=0, atol=1e-6)


def test_near_and_far(backend):
    scene = merge(one_gaussian((0, 0, 1.0)), one_gaussian((0, 0, 2.0)), one_gaussian((0, 0, 4.0)))
    found = render(scene, one_camera(), RasterSettings(near=1.5, far=3.0, depth=True), backend)
    assert found.alpha[MIDDLE].item() == pytest.approx(0.6, abs=1e-6)
    assert found.depth[MIDDLE].item() == pytest.approx(2.0, abs=1e-5)


def test_views_are_independent(backend):
    gaussians, cameras = random_scene(60, views=3)
    together = render(gaussians, cameras, RasterSettings(depth=True), backend)
    for view in range(3):
        alone = render(gaussians, cameras[view : view + 1], RasterSettings(depth=True), backend)
        assert torch.equal(together.rgb[view], alone.rgb[0]) and torch.equal(together.depth[view], alone.depth[0])


def test_order_of_gaussians_does_not_matter(backend):
    gaussians, cameras = random_scene(80)
    shuffled = gaussians[torch.randperm(80, generator=torch.Generator().manual_seed(1))]
    a, b = (render(scene, cameras, RasterSettings(), backend).rgb for scene in (gaussians, shuffled))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
