"""One tiny image, so that kernels are compiled and known to work before anything depends on them."""

from __future__ import annotations

import time
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from l2o_splat.gaussians import Gaussians
from l2o_splat.rendering import RasterSettings, render
from l2o_splat.rendering.rendered_loss import rendered_loss
from l2o_splat.views import PinholeCameras, Views


def compile_rasterizer() -> None:
    """Compile the kernels of the CPU, or read their machine code from disk."""
    rows, cameras = _trial_scene("cpu")
    with torch.no_grad():
        render(Gaussians.unpack(rows), cameras, RasterSettings(depth=True))
    render(Gaussians.unpack(rows), cameras, RasterSettings()).rgb.sum().backward()


def compile_evidence() -> None:
    """Compile the kernels that find evidence beside the gradient, or read their machine code from disk."""
    rows, cameras = _trial_scene("cpu")
    photographs = Views(cameras, torch.zeros(1, 16, 16, 3))
    for evidence in (("colours",), ("error",)):
        rendered_loss(Gaussians.unpack(rows.detach()), photographs, RasterSettings(), evidence=evidence)


def compile_camera_gradients() -> None:
    """Compile the kernels that find gradients of the cameras, or read their machine code from disk."""
    rows, cameras = _trial_scene("cpu")
    moving = replace(cameras, viewmats=cameras.viewmats.requires_grad_())
    rendered_loss(Gaussians.unpack(rows), Views(moving, torch.zeros(1, 16, 16, 3)), RasterSettings()).loss.backward()


def compile_exposure() -> None:
    """Compile the kernels of a view's exposure, or read their machine code from disk."""
    rows, cameras = _trial_scene("cpu")
    photographs = Views(cameras, torch.zeros(1, 16, 16, 3), exposures=torch.eye(3, 4)[None])
    rendered_loss(Gaussians.unpack(rows), photographs, RasterSettings()).loss.backward()


def draw_trial_image(device: torch.device | str) -> float:
    """Draw one Gaussian and differentiate its loss with the backend that the device uses.

    numba and gsplat compile at the first image, for up to a minute. A viewer may abort an image at any line, and a
    clock should not start inside a compiler, so both call this first.

    Returns:
        Seconds it took; a fraction of one if the kernels were in the cache.

    Raises:
        RuntimeError: If the image is not the one expected.
    """
    start = time.perf_counter()
    rows, cameras = _trial_scene(device)
    with torch.no_grad():
        middle = float(render(Gaussians.unpack(rows), cameras, RasterSettings(depth=True)).alpha[0, 8, 8])
    photographs = Views(cameras, torch.zeros(1, 16, 16, 3, device=rows.device))
    for evidence in ((), ("colours",), ("error",)):
        rows.grad = None
        rendered_loss(Gaussians.unpack(rows), photographs, RasterSettings(), evidence=evidence).loss.backward()
    if not 0.5 < middle < 1 or not torch.isfinite(rows.grad).all() or not rows.grad.any():
        raise RuntimeError(f"The renderer drew a trial image with opacity {middle:.3f}; about 0.88 is expected.")
    return time.perf_counter() - start


def _trial_scene(device: torch.device | str) -> tuple[Float[Tensor, "1 14"], PinholeCameras]:
    """One Gaussian, packed, in the middle of the image of one camera."""
    rows = torch.zeros(1, 14)
    rows[0, Gaussians.columns("quats")] = torch.tensor([1.0, 0, 0, 0])
    rows[0, Gaussians.columns("opacities")] = 2
    rows[0, Gaussians.columns("features_dc")] = 2
    rows = rows.to(device).requires_grad_()
    viewmat = torch.eye(4)[None].clone()
    viewmat[0, 2, 3] = 5
    K = torch.tensor([[[16.0, 0, 8], [0, 16, 8], [0, 0, 1]]])
    cameras = PinholeCameras(viewmat, K, width=16, height=16).to(device)
    return rows, cameras
