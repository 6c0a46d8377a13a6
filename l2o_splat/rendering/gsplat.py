"""The CUDA backend: gsplat 1.4 and later (arXiv 2409.06765)."""

from __future__ import annotations

from types import ModuleType

import torch

from l2o_splat.gaussians import Gaussians
from l2o_splat.raster_settings import RasterSettings
from l2o_splat.rendering import reference
from l2o_splat.rendering.once import differentiable_once
from l2o_splat.rendering.output import Rendering
from l2o_splat.views import PinholeCameras


def render(gaussians: Gaussians, cameras: PinholeCameras, settings: RasterSettings) -> Rendering:
    """Draw all views with gsplat; see :func:`l2o_splat.rendering.render`.

    Differentiable once, to the Gaussians and to ``cameras.viewmats``. ``settings.image_rules`` is not used:
    the rules are those of the installed gsplat.

    Raises:
        ValueError: If the tensors are not float32 on CUDA, or ``cameras.Ks`` require a gradient.
        ImportError: If gsplat is missing.
    """
    if not can_draw(gaussians):
        raise ValueError(
            f"The Gaussians are {gaussians.means.dtype} on {gaussians.device}; the gsplat backend needs float32 "
            "on CUDA: move them, or use the 'cpu' or 'reference' backend."
        )
    if torch.is_grad_enabled() and cameras.Ks.requires_grad:
        raise ValueError("cameras.Ks require a gradient, which gsplat does not give; use the 'reference' backend.")
    gsplat = _gsplat()
    if len(gaussians) == 0:
        return reference.render(gaussians, cameras, settings)
    *tensors, viewmats = differentiable_once("gsplat", *(tensor for _, tensor in gaussians.items()), cameras.viewmats)
    gaussians = Gaussians(*tensors)
    # Unpacked: the packed path has one row per visible pair of Gaussian and view, which costs more than it saves here.
    images, alpha, _ = gsplat.rasterization(
        means=gaussians.means,
        quats=gaussians.quats,
        scales=gaussians.scales.exp(),
        opacities=gaussians.opacities[:, 0].sigmoid(),
        colors=gaussians.sh,
        viewmats=viewmats,
        Ks=cameras.Ks,
        width=cameras.width,
        height=cameras.height,
        near_plane=settings.near,
        far_plane=settings.far,
        eps2d=settings.eps2d,
        sh_degree=settings.drawn_degree(gaussians.sh_degree),
        packed=False,
        backgrounds=gaussians.means.new_tensor(settings.background).expand(len(cameras), 3).contiguous(),
        render_mode="RGB+ED" if settings.depth else "RGB",
        rasterize_mode=settings.rasterize_mode,
    )
    return Rendering(images[..., :3], alpha, images[..., 3:] if settings.depth else None)


def can_draw(gaussians: Gaussians) -> bool:
    """Whether gsplat draws Gaussians of this device and dtype."""
    return gaussians.device.type == "cuda" and gaussians.means.dtype == torch.float32


def _gsplat() -> ModuleType:
    # Imported on first use: where nvcc is found without a GPU, the import alone starts a CUDA build.
    try:
        import gsplat
    except ImportError as error:
        raise ImportError(
            f"gsplat cannot be imported ({error}); the 'gsplat' backend needs it: `pip install gsplat==1.4.0`, "
            "or use the 'reference' backend."
        ) from error
    return gsplat
