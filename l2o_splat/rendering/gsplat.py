"""The CUDA backend: gsplat 1.4 and later (arXiv 2409.06765)."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import torch
from jaxtyping import Float, Int
from torch import Tensor

from l2o_splat.devices import numbers_like
from l2o_splat.gaussians import Gaussians
from l2o_splat.raster_settings import RasterSettings
from l2o_splat.rendering import reference
from l2o_splat.rendering.once import differentiable_once
from l2o_splat.rendering.output import Rendering
from l2o_splat.views import PinholeCameras


@dataclass(frozen=True)
class ScreenStatistics:
    """Where a scene is too coarse, as gsplat's rasterizer sees it; what densification goes by."""

    gradients: Float[Tensor, " n"]
    """Sum over views of the size of the loss's gradient to the Gaussian's centre on the screen, with half the image as
    unit of length, as in 3DGS (arXiv 2308.04079, section 5.2); absolute pixel by pixel if asked for (AbsGS, arXiv
    2404.10484, equation 6)."""
    views: Int[Tensor, " n"]
    """Views in which the Gaussian is drawn."""
    radii: Float[Tensor, " n"]
    """Its largest radius in any view, pixels; 0 where it is never drawn."""


@dataclass(frozen=True)
class DrawnGaussians:
    """The Gaussians of a rendering on the screen; knows their gradients once a loss went backward."""

    _means2d: Float[Tensor, "v n 2"]
    _radii: Int[Tensor, "v n"]
    _size: tuple[int, int]
    _absolute: bool

    def statistics(self) -> ScreenStatistics:
        """What the views say about each Gaussian.

        Raises:
            RuntimeError: If no loss of the rendering went backward yet.
        """
        gradients = getattr(self._means2d, "absgrad", None) if self._absolute else self._means2d.grad
        if gradients is None:
            raise RuntimeError("The images have no gradient yet; call backward() of their loss first.")
        drawn = self._radii > 0
        x, y = gradients.unbind(dim=2)
        sizes = torch.hypot(x * (self._size[0] / 2), y * (self._size[1] / 2))
        # Rows of what is not drawn hold whatever was in the memory.
        return ScreenStatistics(
            torch.where(drawn, sizes, 0).sum(dim=0), drawn.sum(dim=0), self._radii.amax(dim=0).to(sizes)
        )


def render(gaussians: Gaussians, cameras: PinholeCameras, settings: RasterSettings) -> Rendering:
    """Draw all views with gsplat; see :func:`l2o_splat.rendering.render`.

    Differentiable once, to the Gaussians and to ``cameras.viewmats``. ``settings.image_rules`` is not used:
    the rules are those of the installed gsplat.

    Raises:
        ValueError: If the tensors are not float32 on CUDA, or ``cameras.Ks`` require a gradient.
        ImportError: If gsplat is missing.
    """
    return _rasterize(gaussians, cameras, settings)[0]


def render_and_watch(
    gaussians: Gaussians, cameras: PinholeCameras, settings: RasterSettings, absolute: bool = False
) -> tuple[Rendering, DrawnGaussians]:
    """Draw all views, and keep what gsplat finds out about the Gaussians on the way.

    Args:
        gaussians: At least one, one of its tensors with a gradient.
        cameras: As for :func:`render`.
        settings: As for :func:`render`.
        absolute: Whether to sum the gradient to a centre pixel by pixel without signs; costs gsplat a little.

    Raises:
        ValueError, ImportError: As :func:`render`.
    """
    rendering, means2d, radii = _rasterize(gaussians, cameras, settings, absolute)
    means2d.retain_grad()
    # From 1.5 on, a radius for each axis.
    radii = radii.amax(dim=2) if radii.ndim == 3 else radii
    return rendering, DrawnGaussians(means2d, radii, (cameras.width, cameras.height), absolute)


def _rasterize(
    gaussians: Gaussians, cameras: PinholeCameras, settings: RasterSettings, absgrad: bool = False
) -> tuple[Rendering, Float[Tensor, "v n 2"], Tensor]:
    """Images, and centres (pixels) and radii of the Gaussians on the screen.

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
        nothing = gaussians.means.new_zeros(len(cameras), 0, 2)
        return reference.render(gaussians, cameras, settings), nothing, nothing
    *tensors, viewmats = differentiable_once("gsplat", *(tensor for _, tensor in gaussians.items()), cameras.viewmats)
    gaussians = Gaussians(*tensors)
    # Unpacked: the packed path has one row per visible pair of Gaussian and view, which costs more than it saves here.
    images, alpha, meta = gsplat.rasterization(
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
        backgrounds=numbers_like(gaussians.means, settings.background).expand(len(cameras), 3).contiguous(),
        render_mode="RGB+ED" if settings.depth else "RGB",
        rasterize_mode=settings.rasterize_mode,
        absgrad=absgrad,
    )
    rendering = Rendering(images[..., :3], alpha, images[..., 3:] if settings.depth else None)
    return rendering, meta["means2d"], meta["radii"]


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
