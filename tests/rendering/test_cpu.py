"""The numba kernels against the torch twin in float64: images, gradients and tangents."""

import gc
import time
import weakref

import numpy as np
import pytest
import torch

from l2o_splat.gaussians import Gaussians
from l2o_splat.rendering import RasterSettings, Rendering, cpu, linearize, render, render_jvp
from tests.rendering.scenes import (
    MODES,
    RULES,
    gradients_of,
    images_of,
    inner,
    random_like,
    random_scene,
    relative_errors,
)


def both(gaussians, cameras, settings):
    """The same scene from the kernels (float32) and from the twin (float64)."""
    return (
        render(gaussians, cameras, settings, "cpu"),
        render(gaussians.to(torch.float64), cameras.to(torch.float64), settings, "reference"),
    )


def without_jumps(rendering, twin, cotangents):
    """Cotangents set to 0 where rounding has moved an alpha across 1/255 or the light across 1e-4.

    Such pixels differ by up to 1/255 and have other gradients; at most one in 500 may.
    """
    error = torch.cat(
        [(a - b).abs() for a, b in zip(images_of(rendering)[:2], images_of(twin)[:2], strict=True)], dim=3
    )
    same = (error.amax(dim=3, keepdim=True) < 2e-5).float()
    assert (1 - same).mean() <= 1 / 500
    assert error.max() < 6e-3
    return cotangents.map(lambda image: image * same)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_images_and_gradients(rules, mode, seed):
    background = [(0.0, 0.0, 0.0), (0.2, 0.5, 0.9), (1.0, 1.0, 1.0)][seed]
    settings = RasterSettings(depth=seed != 1, rasterize_mode=mode, image_rules=rules, background=background)
    gaussians, cameras = random_scene(250, 100, 70, degree=seed + 1, seed=seed)
    found, twin = both(gaussians, cameras, settings)
    for a, b, limit in zip(images_of(found), images_of(twin), (3e-6, 1e-6, 2e-5), strict=False):
        assert (a - b).abs().quantile(0.998) < limit
    cotangents = without_jumps(found, twin, random_like(found))
    gradients = gradients_of(lambda scene: render(scene, cameras, settings, "cpu"), gaussians, cotangents)
    expected = gradients_of(
        lambda scene: render(scene, cameras.to(torch.float64), settings, "reference"),
        gaussians.to(torch.float64),
        cotangents.map(torch.Tensor.double),
    )
    assert max(relative_errors(gradients, expected).values()) < 1e-5


@pytest.mark.parametrize("n", [0, 1, 2, 33])
@pytest.mark.parametrize("size", [(1, 1), (17, 3), (64, 16), (65, 17), (130, 5)])
def test_any_size(n, size):
    gaussians, cameras = random_scene(n, *size, degree=0)
    settings = RasterSettings(depth=True, background=(0.3, 0.6, 0.1))
    found, twin = both(gaussians, cameras, settings)
    assert found.rgb.shape == (2, size[1], size[0], 3) and found.alpha.shape == found.depth.shape == (2, *size[::-1], 1)
    cotangents = without_jumps(found, twin, random_like(found))
    gradients = gradients_of(lambda scene: render(scene, cameras, settings, "cpu"), gaussians, cotangents)
    twin_cameras, twin_scene = cameras.to(torch.float64), gaussians.to(torch.float64)
    expected = gradients_of(
        lambda scene: render(scene, twin_cameras, settings, "reference"),
        twin_scene,
        cotangents.map(torch.Tensor.double),
    )
    assert max(relative_errors(gradients, expected).values()) < 1e-5


def test_no_cameras():
    gaussians, cameras = random_scene(10)
    found = render(gaussians, cameras[:0], RasterSettings(depth=True), "cpu")
    assert found.rgb.shape == (0, 45, 60, 3)
    assert found.rgb.shape == render(gaussians, cameras[:0], backend="reference").rgb.shape


def test_crowded_pixels(monkeypatch):
    """Thousands of Gaussians in a few pixels: long lists, and tiles that are finished before their end."""
    gaussians, cameras = random_scene(6000, 70, 20, views=1, degree=0)
    found, twin = both(gaussians, cameras, RasterSettings(depth=True))
    assert (found.rgb - twin.rgb).abs().quantile(0.99) < 1e-5
    assert (found.rgb - twin.rgb).abs().max() < 6e-3
    linearization = linearize(gaussians, cameras, backend="cpu")
    cotangents = Rendering(torch.ones_like(found.rgb), found.alpha)
    gradients = linearization.vjp(cotangents).pack()
    assert (gradients == 0).all(1).sum() > 1000, "Gaussians behind finished pixels have no gradient"
    monkeypatch.setattr(np, "empty", lambda shape, dtype: np.full(shape, 7, dtype))
    assert torch.equal(linearization.vjp(cotangents).pack(), gradients), "memory is used before it is written"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rules", RULES)
def test_tangents(rules, mode):
    settings = RasterSettings(depth=True, rasterize_mode=mode, image_rules=rules, background=(0.2, 0.5, 0.9))
    gaussians, cameras = random_scene(250, 100, 70, degree=4)
    tangents = gaussians.map(torch.randn_like)
    value, tangent = render_jvp(gaussians, tangents, cameras, settings, "cpu")
    twin_value, twin_tangent = render_jvp(
        gaussians.to(torch.float64), tangents.to(torch.float64), cameras.to(torch.float64), settings, "reference"
    )
    for found, expected, a, b in zip(*map(images_of, (value, twin_value, tangent, twin_tangent)), strict=True):
        same = (found - expected).abs() < 2e-5
        assert same.float().mean() > 0.998
        assert ((a - b) * same).norm() < 1e-5 * (b * same).norm()

    # <u, J v> = <J^T u, v>: the rounding of both sums is small beside the sum of the absolute values.
    cotangents = random_like(value)
    gradients = gradients_of(lambda scene: render(scene, cameras, settings, "cpu"), gaussians, cotangents)
    scale = sum((a * b).double().norm() for a, b in zip(images_of(cotangents), images_of(tangent), strict=True))
    assert abs(inner(cotangents, tangent) - inner(gradients, tangents)) < 1e-5 * scale


def test_tangents_against_finite_differences():
    """The twin's tangent is the slope of its images; jumps at 1/255 excepted."""
    gaussians, cameras = random_scene(100, degree=2, dtype=torch.float64)
    tangents, settings, step = gaussians.map(torch.randn_like), RasterSettings(depth=True), 1e-7
    _, tangent = render_jvp(gaussians, tangents, cameras, settings)
    ahead, behind = (
        render(gaussians.zip_map(lambda x, d, s=sign: x + s * step * d, tangents), cameras, settings)
        for sign in (1, -1)
    )
    for a, b, expected in zip(*map(images_of, (ahead, behind, tangent)), strict=True):
        assert ((a - b) / (2 * step) - expected).abs().quantile(0.99) < 1e-4 * expected.abs().max()


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_linearization(backend):
    """One object gives images and both products; the scene may change meanwhile, and depth may be left out."""
    gaussians, cameras = random_scene(60)
    settings = RasterSettings(depth=True)
    expected = render(gaussians, cameras, settings, backend)
    cotangents = random_like(expected)
    gradients = gradients_of(lambda scene: render(scene, cameras, settings, backend), gaussians, cotangents)
    tangents = gaussians.map(torch.randn_like)
    _, tangent = render_jvp(gaussians, tangents, cameras, settings, backend)

    linearization = linearize(gaussians, cameras, settings, backend)
    gaussians.means.zero_()
    linearization.rendering.rgb.zero_()
    for _ in range(2):
        for (_, a), (_, b) in zip(linearization.vjp(cotangents).items(), gradients.items(), strict=True):
            torch.testing.assert_close(a, b)
        for a, b in zip(images_of(linearization.jvp(tangents)), images_of(tangent), strict=True):
            torch.testing.assert_close(a, b)
    colour_only = linearization.vjp(Rendering(cotangents.rgb, torch.zeros_like(cotangents.alpha)))
    silent = Rendering(cotangents.rgb, torch.zeros_like(cotangents.alpha), torch.zeros_like(cotangents.depth))
    for (_, a), (_, b) in zip(colour_only.items(), linearization.vjp(silent).items(), strict=True):
        torch.testing.assert_close(a, b)


def test_unused_images_and_inputs():
    """A loss on alpha alone; only the means ask for a gradient; cotangents are not contiguous."""
    gaussians, cameras = random_scene(60)
    means = gaussians.means.clone().requires_grad_()
    rendering = render(Gaussians(**{**dict(gaussians.items()), "means": means}), cameras, backend="cpu")
    (found,) = torch.autograd.grad(rendering.alpha.sum(), means)
    zeros = Rendering(torch.zeros_like(rendering.rgb), torch.ones_like(rendering.alpha))
    torch.testing.assert_close(found, linearize(gaussians, cameras, backend="cpu").vjp(zeros).means)


def test_second_derivatives_are_refused():
    """Also where autograd could reach the inputs without passing the renderer a second time."""
    gaussians, cameras = random_scene(30)
    leaves = [tensor.clone().requires_grad_() for _, tensor in gaussians.items()]
    image = render(Gaussians(*leaves), cameras, backend="cpu").rgb
    plain = torch.autograd.grad(image.square().sum(), leaves, retain_graph=True)
    gradients = torch.autograd.grad(image.square().sum(), leaves, create_graph=True)
    for a, b in zip(plain, gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    for loss in (sum(g.square().sum() for g in gradients), (gradients[0] * leaves[0]).sum()):
        with pytest.raises(RuntimeError, match="no second derivatives; render with the 'reference' backend"):
            torch.autograd.grad(loss, leaves, retain_graph=True, allow_unused=True)


@pytest.mark.parametrize("changed", ["means", "image"])
def test_changes_in_place_are_noticed(changed):
    gaussians, cameras = random_scene(30)
    leaves = gaussians.map(lambda tensor: tensor.clone().requires_grad_())
    rendering = render(leaves, cameras, backend="cpu")
    with torch.no_grad():
        (leaves.means if changed == "means" else rendering.rgb).add_(1)
    with pytest.raises(RuntimeError, match=r"modified (by an )?in-?place"):
        rendering.rgb.sum().backward()


def test_memory_is_freed_at_once(monkeypatch):
    """No reference cycle keeps the records of a rendering until the garbage collector comes by."""
    made = []
    original = cpu.ProjectedScene.__init__

    def remember(self, *arguments):
        original(self, *arguments)
        made.append(weakref.ref(self))

    monkeypatch.setattr(cpu.ProjectedScene, "__init__", remember)
    gaussians, cameras = random_scene(30)
    leaves = gaussians.map(lambda tensor: tensor.clone().requires_grad_())
    gc.disable()
    try:
        render(leaves, cameras, backend="cpu").rgb.sum().backward()
        # A thread of the pool may hold on to its job until it has woken up.
        deadline = time.monotonic() + 20
        while made[0]() is not None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert made[0]() is None
    finally:
        gc.enable()
