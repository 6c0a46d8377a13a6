"""The gsplat backend's own code on the CPU, for each recorded release, against the reference renderer."""

from dataclasses import replace

import pytest
import torch

from l2o_splat.gaussians import Gaussians
from l2o_splat.losses import photometric_loss
from l2o_splat.rendering import RasterSettings, gsplat, reference, render
from l2o_splat.rendering.rendered_loss import rendered_loss
from l2o_splat.views import PinholeCameras, Views
from tests.rendering.scenes import MODES, gradients_of, images_of, random_like, random_scene, relative_errors
from tests.standins.gsplat_package import RULES, Fault, stand_in_for_gsplat

BACKGROUND = (0.2, 0.5, 0.9)


@pytest.fixture(params=RULES)
def package(request, monkeypatch):
    return stand_in_for_gsplat(monkeypatch, request.param)


def rules_of(package):
    return RULES[package.__version__]


def without(call, name):
    return {key: value for key, value in call.items() if key != name}


def mirrored(viewmats):
    return viewmats * torch.tensor([1.0, 1, -1, 1])[:, None]


def expected_rendering(gaussians, cameras, settings, package):
    settings = replace(settings, image_rules=rules_of(package))
    return reference.render(gaussians.to(torch.float64), cameras.to(torch.float64), settings)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("depth", [False, True])
def test_images_and_gradients(package, mode, depth):
    settings = RasterSettings(depth=depth, rasterize_mode=mode, background=BACKGROUND, eps2d=0.2)
    gaussians, cameras = random_scene(40, 24, 18)
    found = render(gaussians, cameras, settings)
    expected = expected_rendering(gaussians, cameras, settings, package)
    assert len(package.calls) == 1, "one rasterization draws all views"
    for ours, theirs in zip(images_of(found), images_of(expected), strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=1e-5)

    cotangents = random_like(found)
    gradients = gradients_of(lambda scene: render(scene, cameras, settings), gaussians, cotangents)
    twins = gradients_of(
        lambda scene: expected_rendering(scene, cameras, settings, package),
        gaussians.to(torch.float64),
        cotangents.map(torch.Tensor.double),
    )
    assert max(relative_errors(gradients, twins).values()) < 1e-4


def test_camera_gradients(package):
    gaussians, cameras = random_scene(40, 24, 18)
    found = []
    for draw, dtype in ((gsplat.render, torch.float32), (reference.render, torch.float64)):
        viewmats = cameras.viewmats.to(dtype).requires_grad_()
        moving = PinholeCameras(viewmats, cameras.Ks.to(dtype), cameras.width, cameras.height)
        rendering = draw(gaussians.to(dtype), moving, RasterSettings(image_rules=rules_of(package)))
        weights = random_like(rendering.map(lambda image: image.float()))
        (gradient,) = torch.autograd.grad(images_of(rendering), viewmats, [w.to(dtype) for w in images_of(weights)])
        found.append(gradient[:, :3].double())
    assert (found[0] - found[1]).norm() < 1e-4 * found[1].norm()
    moving = PinholeCameras(cameras.viewmats, cameras.Ks.clone().requires_grad_(), cameras.width, cameras.height)
    with pytest.raises(ValueError, match="Ks require a gradient, which gsplat does not give"):
        render(gaussians, moving)


def test_an_empty_scene_is_background(package):
    gaussians, cameras = random_scene(5)
    found = render(gaussians[:0], cameras, RasterSettings(background=BACKGROUND, depth=True))
    assert not package.calls, "gsplat's kernels are not made for no Gaussians"
    assert found.rgb.view(-1, 3).unique(dim=0).tolist() == [pytest.approx(BACKGROUND)]
    assert not found.alpha.any() and not found.depth.any()


def test_a_scene_out_of_sight_has_no_gradient(package):
    gaussians, cameras = random_scene(5)
    behind = replace(gaussians, means=gaussians.means * torch.tensor([1.0, 1, -1]) - 10).map(
        lambda tensor: tensor.clone().requires_grad_()
    )
    found = render(behind, cameras, RasterSettings(background=BACKGROUND))
    assert not found.alpha.any()
    assert not found.rgb.requires_grad or not any(
        gradient.any()
        for gradient in torch.autograd.grad(
            found.rgb.sum(), [leaf for _, leaf in behind.items()], materialize_grads=True
        )
    )


@pytest.mark.parametrize("drawn", [0, 1, 2, 3, None])
def test_sh_degree_is_cut(package, drawn):
    gaussians, cameras = random_scene(30, 20, 16, degree=2)
    settings = RasterSettings(sh_degree=drawn)
    found = render(gaussians, cameras, settings).rgb
    expected = expected_rendering(gaussians, cameras, settings, package).rgb
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)
    assert package.calls[-1]["sh_degree"] == min(2, 3 if drawn is None else drawn)
    assert package.calls[-1]["colors"].shape == (30, 9, 3)


def test_no_second_derivatives(package):
    gaussians, cameras = random_scene(10, 20, 20)
    leaves = [tensor.clone().requires_grad_() for _, tensor in gaussians.items()]
    images = render(Gaussians(*leaves), cameras).rgb
    gradients = torch.autograd.grad(images.square().sum(), leaves, create_graph=True)
    with pytest.raises(RuntimeError, match="the gsplat backend has no second derivatives"):
        torch.autograd.grad(sum(g.square().sum() for g in gradients), leaves, allow_unused=True)


def test_the_loss_of_a_step_goes_through_it(package):
    gaussians, cameras = random_scene(40, 24, 18)
    gaussians = gaussians.map(lambda tensor: tensor.clone().requires_grad_())
    images = torch.rand(2, 18, 24, 3, generator=torch.Generator().manual_seed(0))
    found = rendered_loss(gaussians, Views(cameras, images), RasterSettings(background=BACKGROUND))
    assert len(package.calls) == 1
    drawn = expected_rendering(gaussians, cameras, RasterSettings(background=BACKGROUND), package).rgb
    expected = photometric_loss(drawn, images.double())
    assert found.loss.item() == pytest.approx(expected.item(), abs=1e-5)
    squared = (drawn - images).square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(found.squared_errors.double(), squared, rtol=1e-4, atol=0)
    leaves = [leaf for _, leaf in gaussians.items()]
    ours, theirs = (torch.autograd.grad(loss, leaves) for loss in (found.loss, expected))
    assert max(relative_errors(Gaussians(*ours), Gaussians(*theirs)).values()) < 1e-3


# What the backend hands over, changed as a slip of the pen would change it.
SEEN_BY_THE_STAND_IN = {
    "a wrong argument name": (lambda call: {**without(call, "near_plane"), "near": 0.01}, TypeError, "near"),
    "a missing argument": (lambda call: without(call, "Ks"), TypeError, "Ks"),
    "scales not activated": (lambda call: {**call, "scales": call["scales"].log()}, Fault, "standard deviations"),
    "opacities not activated": (lambda call: {**call, "opacities": call["opacities"].logit()}, Fault, "logits"),
    "opacities in a column": (
        lambda call: {**call, "opacities": call["opacities"][:, None]},
        Fault,
        "opacities is",
    ),
    "viewmats transposed": (lambda call: {**call, "viewmats": call["viewmats"].mT}, Fault, "last row"),
    "OpenGL axes mirrored": (lambda call: {**call, "viewmats": mirrored(call["viewmats"])}, Fault, "mirror"),
    "bands behind colours": (lambda call: {**call, "colors": call["colors"].mT}, Fault, "colors is"),
    "one background for all": (lambda call: {**call, "backgrounds": call["backgrounds"][0]}, Fault, "backgrounds"),
    "float64": (lambda call: {**call, "Ks": call["Ks"].double()}, Fault, "Ks is torch.float64"),
    "another device": (lambda call: {**call, "quats": call["quats"].to("meta")}, Fault, "quats is on meta"),
    "a degree that is not held": (lambda call: {**call, "sh_degree": 4}, Fault, "needs more than 16 bands"),
    "depth alone": (lambda call: {**call, "render_mode": "ED"}, Fault, "not modelled"),
}
SEEN_IN_THE_IMAGE = {
    "quats as x, y, z, w": lambda call: {**call, "quats": call["quats"].roll(-1, 1)},
    "world-from-camera": lambda call: {**call, "viewmats": call["viewmats"].inverse()},
    "no background": lambda call: {**call, "backgrounds": None},
    "variances": lambda call: {**call, "scales": call["scales"].square()},
    "the other mode": lambda call: {**call, "rasterize_mode": "antialiased"},
    "another blur": lambda call: {**call, "eps2d": 0.3},
    "another near plane": lambda call: {**call, "near_plane": 3.0},
    "a lower degree": lambda call: {**call, "sh_degree": 1},
}


def error_with(package, monkeypatch, change):
    right = package.rasterization
    monkeypatch.setattr(package, "rasterization", lambda **call: right(**change(call)))
    gaussians, cameras = random_scene(30, 20, 16)
    settings = RasterSettings(background=BACKGROUND, eps2d=0.1)
    expected = expected_rendering(gaussians, cameras, settings, package).rgb
    return (render(gaussians, cameras, settings).rgb - expected).abs().max()


@pytest.mark.parametrize("fault", SEEN_BY_THE_STAND_IN)
def test_a_fault_is_seen_by_the_stand_in(package, monkeypatch, fault):
    change, error, message = SEEN_BY_THE_STAND_IN[fault]
    with pytest.raises(error, match=message):
        error_with(package, monkeypatch, change)


@pytest.mark.parametrize("fault", SEEN_IN_THE_IMAGE)
def test_a_fault_is_seen_in_the_image(package, monkeypatch, fault):
    assert error_with(package, monkeypatch, SEEN_IN_THE_IMAGE[fault]) > 1e-2


def test_without_a_fault_the_image_is_right(package, monkeypatch):
    assert error_with(package, monkeypatch, dict) < 1e-5
