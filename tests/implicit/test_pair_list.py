"""The list compositor against the torch twin, whose decisions it writes down."""

import pytest
import torch

from l2o_splat.gaussians import Gaussians
from l2o_splat.implicit import pair_list
from l2o_splat.implicit.pair_list import ListedLinearization, draw_pairs, list_pairs
from l2o_splat.rendering import RasterSettings, Rendering, linearize, render
from tests.implicit.scenes import SETTINGS, blobs, cameras
from tests.rendering.scenes import MODES, RULES, gradients_of, inner, random_scene, relative_errors


def colour_and_alpha(rendering, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Rendering(
        *(torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in (rendering.rgb, rendering.alpha))
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rules", RULES)
def test_images_and_products_are_those_of_the_renderer(rules, mode):
    settings = RasterSettings(rasterize_mode=mode, image_rules=rules, background=(0.2, 0.5, 0.9))
    gaussians, camera = random_scene(120, views=1, degree=2, dtype=torch.float64)
    expected = linearize(gaussians, camera, settings, "reference")
    listed = ListedLinearization(gaussians, list_pairs(gaussians, camera, settings), camera, settings)
    for found, twin in (
        (listed.rendering.rgb, expected.rendering.rgb),
        (listed.rendering.alpha, expected.rendering.alpha),
    ):
        torch.testing.assert_close(found, twin, rtol=0, atol=1e-12)
    cotangents = colour_and_alpha(listed.rendering)
    assert max(relative_errors(listed.vjp(cotangents), expected.vjp(cotangents)).values()) < 1e-11
    tangents = gaussians.map(torch.randn_like)
    product, twin = listed.jvp(tangents), expected.jvp(tangents)
    torch.testing.assert_close(product.rgb, twin.rgb, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(product.alpha, twin.alpha, rtol=1e-10, atol=1e-10)
    one, other = inner(product, cotangents), inner(tangents, listed.vjp(cotangents))
    assert abs(one - other) < 1e-12 * product.rgb.norm() * cotangents.rgb.norm()


def test_blocks_do_not_change_the_list(monkeypatch):
    gaussians, camera = random_scene(120, views=1, dtype=torch.float64)
    whole = list_pairs(gaussians, camera, SETTINGS)
    monkeypatch.setattr(pair_list, "MAX_CANDIDATES", 300)
    pieces = list_pairs(gaussians, camera, SETTINGS)
    assert torch.equal(whole.members, pieces.members) and torch.equal(whole.pixels, pieces.pixels)


def test_second_derivatives_over_a_fixed_list():
    """gradcheck and gradgradcheck; over live decisions both would see jumps."""
    gaussians, camera = blobs(2, seed=1, degree=1), cameras([0.1], 4)
    pairs = list_pairs(gaussians, camera, SETTINGS)
    assert len(pairs) > 16
    leaves = [tensor.requires_grad_() for _, tensor in gaussians.items()]

    def draw(*tensors):
        return draw_pairs(Gaussians(*tensors), pairs, camera, SETTINGS).rgb

    assert torch.autograd.gradcheck(draw, leaves, eps=1e-6, atol=1e-7, rtol=1e-5)
    assert torch.autograd.gradgradcheck(draw, leaves, eps=1e-6, atol=1e-6, rtol=1e-4)


def test_a_fixed_order_stays_where_depths_cross():
    """Two Gaussians pass through each other: the renderer jumps, the list does not."""
    gaussians, camera = blobs(2, seed=1), cameras([0.0], 8)
    gaussians.means[:] = torch.tensor([[0.0, 0.0, 3.0], [0.05, 0.0, 3.001]])
    pairs = list_pairs(gaussians, camera, SETTINGS)

    def shifted(step):
        means = gaussians.means + torch.tensor([[0.0, 0.0, step], [0.0, 0.0, -step]])
        return Gaussians(**{**dict(gaussians.items()), "means": means})

    before, after = shifted(0.0), shifted(0.001)
    live = (render(after, camera, SETTINGS).rgb - render(before, camera, SETTINGS).rgb).abs().max()
    frozen = [draw_pairs(scene, pairs, camera, SETTINGS).rgb for scene in (after, before)]
    assert live > 1e-2
    assert (frozen[0] - frozen[1]).abs().max() < 2e-3


def test_the_last_pixels_are_as_exact_as_the_first():
    """Light is a difference of sums over the whole list; in float32 its end would be off by a hundredth."""
    gaussians, camera = random_scene(1000, 96, 72, views=1, degree=0)
    gaussians = Gaussians(**{**dict(gaussians.items()), "scales": gaussians.scales + 1.2})
    pairs = list_pairs(gaussians, camera, SETTINGS)
    assert len(pairs) > 100_000
    found = draw_pairs(gaussians, pairs, camera, SETTINGS).rgb
    twin = render(gaussians.to(torch.float64), camera.to(torch.float64), SETTINGS, "reference").rgb
    error = (found - twin).abs().amax(dim=3)[0]
    assert error[-10:].quantile(0.99) < 1e-5, "few pixels jump by rounding, so not the largest"


def test_nothing_in_sight():
    gaussians, camera = blobs(3, seed=0), cameras([0.0], 6)
    behind = Gaussians(**{**dict(gaussians.items()), "means": gaussians.means * -1})
    pairs = list_pairs(behind, camera, SETTINGS)
    assert len(pairs) == 0 == len(list_pairs(gaussians[:0], camera, SETTINGS))
    listed = ListedLinearization(behind, pairs, camera, SETTINGS)
    assert torch.equal(listed.rendering.rgb[0, 0, 0], torch.tensor(SETTINGS.background, dtype=torch.float64))
    assert not listed.jvp(behind).rgb.any()
    assert not listed.vjp(Rendering(torch.ones(1, 6, 6, 3).double(), torch.ones(1, 6, 6, 1).double())).pack().any()


def test_cotangents_of_the_list_in_float32():
    gaussians, camera = random_scene(60, views=1, degree=1)
    listed = ListedLinearization(gaussians, list_pairs(gaussians, camera, SETTINGS), camera, SETTINGS)
    cotangents = colour_and_alpha(listed.rendering)
    expected = gradients_of(
        lambda scene: Rendering(*vars(render(scene, camera, SETTINGS, "cpu")).values()), gaussians, cotangents
    )
    assert max(relative_errors(listed.vjp(cotangents), expected).values()) < 1e-3
