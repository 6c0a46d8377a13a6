"""Gaussians that no camera can see or no number can hold."""

import pytest
import torch

from l2o_splat.gaussians import FIELDS, Gaussians
from l2o_splat.rendering import RasterSettings, linearize, render
from tests.rendering.scenes import (
    MODES,
    RULES,
    gradients_of,
    images_of,
    merge,
    one_camera,
    one_gaussian,
    random_like,
    random_scene,
)

INF, NAN = torch.inf, torch.nan
SETTINGS = RasterSettings(depth=True, background=(0.2, 0.5, 0.9), rasterize_mode="antialiased")
NEVER_DRAWN = {
    "behind": {"means": [0.0, 0.0, -2.0]},
    "on the camera": {"means": [0.0, 0.0, 0.0]},
    "beside the camera": {"means": [1.0, 0.0, 0.0]},
    "far beside": {"means": [1e6, 0.0, 2.0]},
    "infinitely far": {"means": [0.0, 0.0, INF]},
    "nowhere": {"means": [NAN, 0.0, 2.0]},
    "without a rotation": {"quats": [0.0, 0.0, 0.0, 0.0]},
    "rotation NaN": {"quats": [NAN, 0.0, 0.0, 1.0]},
    "rotation infinite": {"quats": [INF, 0.0, 0.0, 1.0]},
    "size infinite": {"scales": [INF, 0.0, 0.0]},
    "size NaN": {"scales": [0.0, NAN, 0.0]},
    "too large for float32": {"scales": [200.0, 0.0, 0.0]},
    "transparent": {"opacities": [-INF]},
    "opacity NaN": {"opacities": [NAN]},
    "colour NaN": {"features_dc": [NAN, 0.0, 0.0]},
    "colour infinite": {"features_dc": [0.0, INF, 0.0]},
    "colour minus infinity": {"features_dc": [0.0, -INF, 0.0]},
}


def strange(changes):
    tensors = dict(one_gaussian(opacity=0.9).items())
    for name, value in changes.items():
        tensors[name] = torch.tensor(value).reshape(tensors[name].shape)
    return Gaussians(**tensors)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("kind", NEVER_DRAWN)
def test_left_out(backend, kind):
    """The image is that of the other Gaussians, and no gradient comes back."""
    others = merge(one_gaussian((0.1, 0, 3)), one_gaussian((-0.1, 0.1, 1.5)))
    scene = merge(one_gaussian((0.1, 0, 3)), strange(NEVER_DRAWN[kind]), one_gaussian((-0.1, 0.1, 1.5)))
    expected = render(others, one_camera(), SETTINGS, backend)
    for a, b in zip(images_of(render(scene, one_camera(), SETTINGS, backend)), images_of(expected), strict=True):
        assert torch.equal(a, b)
    cotangents = random_like(expected)
    gradients = gradients_of(lambda g: render(g, one_camera(), SETTINGS, backend), scene, cotangents)
    without = gradients_of(lambda g: render(g, one_camera(), SETTINGS, backend), others, cotangents)
    for name in FIELDS:
        assert (getattr(gradients, name)[1] == 0).all()
        torch.testing.assert_close(getattr(gradients, name)[[0, 2]], getattr(without, name))
    d_images = linearize(scene, one_camera(), SETTINGS, backend).jvp(scene.map(torch.ones_like))
    assert all(image.isfinite().all() for image in images_of(d_images))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize(
    "changes",
    [
        {"scales": [-INF, -INF, -INF]},
        {"scales": [-200.0, -2.0, -2.0]},
        {"scales": [12.0, -2.0, -2.0]},
        {"quats": [1e-12, 0.0, 0.0, 0.0]},
        {"quats": [1e12, 0.0, 0.0, 1e12]},
        {"opacities": [INF]},
        {"opacities": [90.0]},
        {"features_dc": [-1e30, 0.0, 0.0]},
        {"means": [0.0, 0.0, 0.0100001]},
        {"means": [0.0, 0.0, 1e9]},
    ],
)
def test_extreme_but_drawn(backend, changes):
    settings = RasterSettings(depth=True)
    scene = merge(one_gaussian((0.1, 0, 3)), strange(changes))
    found = render(scene, one_camera(), settings, backend)
    assert not torch.equal(found.rgb, render(scene[:1], one_camera(), settings, backend).rgb)
    gradients = gradients_of(lambda g: render(g, one_camera(), settings, backend), scene, random_like(found))
    d_images = linearize(scene, one_camera(), settings, backend).jvp(scene.map(torch.ones_like))
    for tensor in (*images_of(found), *images_of(d_images), *(gradient for _, gradient in gradients.items())):
        assert tensor.isfinite().all()


@pytest.mark.parametrize("seed", range(12))
def test_fuzz(seed):
    """Numbers of all magnitudes everywhere (colours: up to 1000): finite images, and finite gradients."""
    generator = torch.Generator().manual_seed(seed)
    gaussians, cameras = random_scene(300, 70, 40, seed=seed)

    def spoil(tensor, largest):
        shape = tensor.shape
        magnitudes = largest * 10 ** (-40 * torch.rand(shape, generator=generator))
        specials = torch.tensor([0.0, INF, -INF, NAN, largest, -largest, 1e-45])
        picks = specials[torch.randint(7, shape, generator=generator)]
        wild = torch.where(torch.rand(shape, generator=generator) < 0.5, picks, magnitudes)
        return torch.where(torch.rand(shape, generator=generator) < 0.02, wild, tensor)

    scene = Gaussians(**{name: spoil(t, 1e3 if "features" in name else 1e38) for name, t in gaussians.items()})
    settings = RasterSettings(depth=True, rasterize_mode=MODES[seed % 2], image_rules=RULES[seed % 3])
    linearization = linearize(scene, cameras, settings, "cpu")
    gradients = linearization.vjp(random_like(linearization.rendering))
    for tensor in (*images_of(linearization.rendering), *(gradient for _, gradient in gradients.items())):
        assert tensor.isfinite().all()
    # The twin agrees on what is left out.
    twin = render(scene, cameras, settings, "reference")
    error = (linearization.rendering.rgb - twin.rgb).abs()
    assert error.quantile(0.99) < 1e-4 * twin.rgb.abs().max()
