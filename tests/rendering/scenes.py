"""Small random scenes and measures for the tests of this room."""

import math

import torch

from l2o_splat.gaussians import Gaussians
from l2o_splat.rendering import Rendering
from l2o_splat.views import PinholeCameras

RULES = ("1.4", "1.5", "1.6")
MODES = ("classic", "antialiased")


def random_scene(n=150, width=60, height=45, views=2, degree=3, seed=0, dtype=torch.float32):
    """A cloud in front of ``views`` cameras: round and thin, small and large, a few beside and behind the cameras."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    gaussians = Gaussians(
        means=normal(n, 3) * torch.tensor([1.6, 1.2, 1.6]) + torch.tensor([0.0, 0.0, 4.0]),
        scales=normal(n, 3) * 0.7 - 2.2,
        quats=normal(n, 4),
        opacities=1.5 * normal(n, 1) + 0.5,
        features_dc=normal(n, 3),
        features_rest=0.15 * normal(n, (degree + 1) ** 2 - 1, 3),
    )
    gaussians.opacities[::9] = 9.0  # beyond the largest alpha
    viewmats = torch.eye(4, dtype=torch.float64).repeat(views, 1, 1)
    for view in range(views):
        angle = 0.15 * view
        viewmats[view, 0, 0] = viewmats[view, 2, 2] = math.cos(angle)
        viewmats[view, 0, 2], viewmats[view, 2, 0] = math.sin(angle), -math.sin(angle)
        viewmats[view, :3, 3] = 0.2 * normal(3)
    Ks = torch.tensor([[0.9 * width, 0, 0.47 * width], [0, 1.1 * width, 0.52 * height], [0, 0, 1]], dtype=torch.float64)
    cameras = PinholeCameras(viewmats, Ks.repeat(views, 1, 1), width, height)
    # Rounded to float32 first, so that both precisions see the same scene.
    return gaussians.to(torch.float32).to(dtype), cameras.to(torch.float32).to(dtype)


def one_gaussian(mean=(0.0, 0.0, 2.0), sigma=0.1, opacity=0.6, colour=(0.9, 0.5, 0.2), dtype=torch.float32):
    """A round Gaussian of one colour."""
    return Gaussians(
        means=torch.tensor([mean]),
        scales=torch.full((1, 3), math.log(sigma)),
        quats=torch.tensor([[1.0, 0.0, 0.0, 0.0]]),
        opacities=torch.logit(torch.tensor([[opacity]], dtype=torch.float64)),
        features_dc=(torch.tensor([colour]) - 0.5) / 0.28209479177387814,
        features_rest=torch.zeros(1, 0, 3),
    ).to(dtype)


def one_camera(width=33, height=33, focal=40.0, dtype=torch.float32):
    """A camera at the origin whose axis goes through the middle of the image."""
    K = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    return PinholeCameras(torch.eye(4)[None], K[None], width, height).to(dtype)


def merge(*scenes):
    """All Gaussians of several scenes."""
    return Gaussians.unpack(torch.cat([scene.pack() for scene in scenes]))


def images_of(rendering):
    return [image for image in (rendering.rgb, rendering.alpha, rendering.depth) if image is not None]


def random_like(rendering, seed=0):
    """Cotangents (or tangents) for all images of a rendering."""
    generator = torch.Generator().manual_seed(seed)
    return rendering.map(lambda image: torch.randn(image.shape, generator=generator, dtype=image.dtype))


def inner(a, b):
    """Inner product, in float64, of two renderings or two sets of Gaussians."""
    if isinstance(a, Rendering):
        pairs = zip(images_of(a), images_of(b), strict=True)
    else:
        pairs = ((x, y) for (_, x), (_, y) in zip(a.items(), b.items(), strict=True))
    return sum((x.double() * y.double()).sum() for x, y in pairs)


def gradients_of(render, gaussians, cotangents):
    """Gradient of the inner product of ``render(gaussians)`` with ``cotangents``."""
    leaves = gaussians.map(lambda tensor: tensor.detach().clone().requires_grad_())
    rendering = render(leaves)
    gradients = torch.autograd.grad(
        images_of(rendering), [leaf for _, leaf in leaves.items()], images_of(cotangents), materialize_grads=True
    )
    return Gaussians(*gradients)


def relative_errors(found, expected):
    """Norm of the difference by the norm of what is expected, per field."""
    return {
        name: ((tensor.double() - reference.double()).norm() / reference.double().norm().clamp(min=1e-12)).item()
        for (name, tensor), (_, reference) in zip(found.items(), expected.items(), strict=True)
    }
