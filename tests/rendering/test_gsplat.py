"""gsplat on a GPU against the torch twin."""

import math

import pytest
import torch

from l2o_splat.gaussians import Gaussians
from l2o_splat.rendering import RasterSettings, render
from l2o_splat.views import PinholeCameras
from tests.rendering.scenes import MODES, gradients_of, images_of, random_like, random_scene, relative_errors

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


def installed_rules():
    gsplat = pytest.importorskip("gsplat")
    major, minor = (int(part) for part in gsplat.__version__.split(".")[:2])
    return "1.4" if (major, minor) < (1, 5) else "1.5" if (major, minor) == (1, 5) else "1.6"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("depth", [False, True])
def test_images_and_gradients(mode, depth):
    settings = RasterSettings(
        depth=depth, rasterize_mode=mode, background=(0.2, 0.5, 0.9), image_rules=installed_rules()
    )
    gaussians, cameras = random_scene(2000, 200, 130)
    found = render(gaussians.to("cuda"), cameras.to("cuda"), settings, "gsplat")
    twin = render(gaussians.to(torch.float64), cameras.to(torch.float64), settings, "reference")
    error = (found.rgb.cpu() - twin.rgb).abs()
    assert error.max() < 6e-3
    assert 20 * math.log10(1 / error.square().mean().sqrt()) > 85
    assert (found.alpha.cpu() - twin.alpha).abs().quantile(0.999) < 1e-4
    if depth:
        assert (found.depth.cpu() - twin.depth).abs().quantile(0.99) < 1e-3

    cotangents = random_like(found.map(torch.Tensor.cpu))
    gradients = gradients_of(
        lambda scene: render(scene, cameras.to("cuda"), settings, "gsplat"),
        gaussians.to("cuda"),
        cotangents.map(torch.Tensor.cuda),
    )
    expected = gradients_of(
        lambda scene: render(scene, cameras.to(torch.float64), settings, "reference"),
        gaussians.to(torch.float64),
        cotangents.map(torch.Tensor.double),
    )
    assert max(relative_errors(gradients.to("cpu"), expected).values()) < 5e-3


def test_camera_gradients():
    gaussians, cameras = random_scene(500)
    settings, found = RasterSettings(image_rules=installed_rules()), []
    weights = random_like(render(gaussians, cameras, settings))
    for backend, device, dtype in (("gsplat", "cuda", torch.float32), ("reference", "cpu", torch.float64)):
        viewmats = cameras.viewmats.to(device, dtype).requires_grad_()
        moving = PinholeCameras(viewmats, cameras.Ks.to(device, dtype), cameras.width, cameras.height)
        rendering = render(gaussians.to(device, dtype), moving, settings, backend)
        (gradient,) = torch.autograd.grad(
            images_of(rendering), viewmats, [w.to(device, dtype) for w in images_of(weights)]
        )
        found.append(gradient[:, :3].cpu().double())
    assert (found[0] - found[1]).norm() < 5e-3 * found[1].norm()


def test_chosen_and_refused():
    gaussians, cameras = random_scene(20)
    gaussians, cameras = gaussians.to("cuda"), cameras.to("cuda")
    assert torch.equal(render(gaussians, cameras).rgb, render(gaussians, cameras, backend="gsplat").rgb)
    assert render(gaussians[:0], cameras, RasterSettings(background=(1.0, 0.0, 0.0))).rgb[..., 0].min() == 1
    moving = PinholeCameras(cameras.viewmats, cameras.Ks.clone().requires_grad_(), cameras.width, cameras.height)
    with pytest.raises(ValueError, match="Ks require a gradient, which gsplat does not give"):
        render(gaussians, moving, backend="gsplat")
    leaves = [tensor.clone().requires_grad_() for _, tensor in gaussians.items()]
    gradients = torch.autograd.grad(render(Gaussians(*leaves), cameras).rgb.square().sum(), leaves, create_graph=True)
    with pytest.raises(RuntimeError, match="the gsplat backend has no second derivatives"):
        torch.autograd.grad(sum(g.square().sum() for g in gradients), leaves, allow_unused=True)
