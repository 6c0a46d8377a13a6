"""gsplat on the card against the torch renderer in float64, on random scenes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from l2o_splat.prove.part import Judgement, Numbers, Part, Setting, judged

if TYPE_CHECKING:
    import torch

    from l2o_splat.gaussians import Gaussians
    from l2o_splat.raster_settings import RasterSettings
    from l2o_splat.rendering import Rendering
    from l2o_splat.views import PinholeCameras

IMAGES = "The images of 20 random scenes are those of the reference renderer"
GRADIENTS = "The gradients of 20 random scenes are those of the reference renderer"

LARGEST, PSNR, ALPHA, DEPTH, GRADIENT = 6e-3, 85.0, 1e-4, 1e-3, 5e-3
"""Tolerances of tests/rendering/test_gsplat.py: largest error of a colour, PSNR of the colours (dB), error of alpha
(quantile 0.999) and of depth (quantile 0.99), relative error of a field's gradient."""


@dataclass(frozen=True)
class Sizes:
    scenes: int
    gaussians: int
    width: int
    height: int


FULL, TINY = Sizes(20, 2000, 200, 130), Sizes(3, 100, 40, 30)


def measure(setting: Setting) -> Numbers:
    """The errors of every scene."""
    from l2o_splat.implicit.reverse_only import installed_image_rules

    sizes = TINY if setting.rehearsal else FULL
    backend, rules = ("cpu", "1.4") if setting.rehearsal else ("gsplat", installed_image_rules())
    return {
        "image_rules": rules,
        "scenes": [_errors(seed, sizes, setting, backend, rules) for seed in range(sizes.scenes)],
    }


def _errors(seed: int, sizes: Sizes, setting: Setting, backend: str, rules: str) -> Numbers:
    import torch

    from l2o_splat.raster_settings import RasterSettings

    settings = RasterSettings(
        depth=seed % 3 == 2,
        rasterize_mode=("classic", "antialiased")[seed % 2],
        background=(0.2, 0.5, 0.9),
        image_rules=rules,
    )
    degree = seed % 4
    gaussians, cameras = random_scene(seed, sizes, degree)
    found, gradients = _drawn(gaussians.to(setting.device), cameras.to(setting.device), settings, backend)
    expected, slopes = _drawn(gaussians.to(torch.float64), cameras.to(torch.float64), settings, "reference")
    error = (found.rgb - expected.rgb).abs()
    relative = {
        name: float((gradient - slope).norm() / slope.norm().clamp(min=1e-12))
        for (name, gradient), (_, slope) in zip(gradients.items(), slopes.items(), strict=True)
    }
    worst = max(relative, key=relative.get)
    return {
        "seed": seed,
        "mode": settings.rasterize_mode,
        "degree": degree,
        "largest": float(error.max()),
        "psnr": 20 * math.log10(1 / max(float(error.square().mean().sqrt()), 1e-12)),
        "alpha": float((found.alpha - expected.alpha).abs().quantile(0.999)),
        "depth": float((found.depth - expected.depth).abs().quantile(0.99)) if settings.depth else None,
        "gradient": relative[worst],
        "worst_field": worst,
    }


def _drawn(
    gaussians: Gaussians, cameras: PinholeCameras, settings: RasterSettings, backend: str
) -> tuple[Rendering, Gaussians]:
    """Images, and the gradient of their product with random numbers; both in float64 on the CPU."""
    import torch

    from l2o_splat.gaussians import Gaussians
    from l2o_splat.rendering import render

    leaves = gaussians.map(lambda tensor: tensor.detach().clone().requires_grad_())
    rendering = render(leaves, cameras, settings, backend)
    generator = torch.Generator().manual_seed(1)
    images = [image for image in (rendering.rgb, rendering.alpha, rendering.depth) if image is not None]
    products = [torch.randn(image.shape, generator=generator).to(image) for image in images]
    gradients = torch.autograd.grad(images, [leaf for _, leaf in leaves.items()], products, materialize_grads=True)
    to_compare = rendering.map(lambda image: image.detach().cpu().double())
    return to_compare, Gaussians(*gradients).map(lambda tensor: tensor.cpu().double())


def random_scene(seed: int, sizes: Sizes, degree: int) -> tuple[Gaussians, PinholeCameras]:
    """A cloud in front of two cameras: round and thin, small and large, a few beside and behind the cameras."""
    import torch

    from l2o_splat.gaussians import Gaussians
    from l2o_splat.views import PinholeCameras

    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    n = sizes.gaussians
    gaussians = Gaussians(
        means=normal(n, 3) * torch.tensor([1.6, 1.2, 1.6]) + torch.tensor([0.0, 0.0, 4.0]),
        scales=0.7 * normal(n, 3) - 2.2,
        quats=normal(n, 4),
        opacities=1.5 * normal(n, 1) + 0.5,
        features_dc=normal(n, 3),
        features_rest=0.15 * normal(n, (degree + 1) ** 2 - 1, 3),
    )
    gaussians.opacities[::9] = 9.0  # Beyond the largest alpha.
    viewmats = torch.eye(4).repeat(2, 1, 1)
    angle = 0.15
    viewmats[1, 0, 0] = viewmats[1, 2, 2] = math.cos(angle)
    viewmats[1, 0, 2], viewmats[1, 2, 0] = math.sin(angle), -math.sin(angle)
    viewmats[:, :3, 3] = 0.2 * normal(2, 3)
    width, height = sizes.width, sizes.height
    K = torch.tensor([[0.9 * width, 0, 0.47 * width], [0, 1.1 * width, 0.52 * height], [0, 0, 1]])
    return gaussians, PinholeCameras(viewmats, K.repeat(2, 1, 1), width, height)


def judge(numbers: Numbers) -> list[Judgement]:
    scenes = numbers["scenes"]
    drawn = all(
        scene["largest"] < LARGEST
        and scene["psnr"] > PSNR
        and scene["alpha"] < ALPHA
        and (scene["depth"] is None or scene["depth"] < DEPTH)
        for scene in scenes
    )
    depths = [scene["depth"] for scene in scenes if scene["depth"] is not None]
    images = (
        f"{len(scenes)} scenes: largest error {_worst(scenes, 'largest'):.1e} (at most {LARGEST:g}), PSNR "
        f"{min((scene['psnr'] for scene in scenes), key=_as_bad):.1f} dB (at least {PSNR:g}), alpha "
        f"{_worst(scenes, 'alpha'):.1e} ({ALPHA:g}), depth {max(depths, key=_as_worst):.1e} ({DEPTH:g})"
    )
    worst = max(scenes, key=lambda scene: _as_worst(scene["gradient"]))
    gradients = f"largest relative error {worst['gradient']:.1e} ({worst['worst_field']}), at most {GRADIENT:g}"
    return [
        judged(IMAGES, drawn, images),
        judged(GRADIENTS, all(scene["gradient"] < GRADIENT for scene in scenes), gradients),
    ]


def _worst(scenes: list[Numbers], name: str) -> float:
    return max((scene[name] for scene in scenes), key=_as_worst)


def _as_worst(value: float) -> float:
    """For the largest of some errors: what is no number is larger than any."""
    return math.inf if math.isnan(value) else value


def _as_bad(value: float) -> float:
    """For the lowest of some qualities: what is no number is lower than any."""
    return -math.inf if math.isnan(value) else value


BACKENDS = Part(
    "backends",
    "Whether gsplat draws and differentiates as the reference renderer does, for its installed release.",
    (IMAGES, GRADIENTS),
    2,
    measure,
    judge,
)
