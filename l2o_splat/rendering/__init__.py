"""Rendering: one entry, three backends that follow the same rules.

* ``gsplat``: CUDA, float32.
* ``cpu``: numba kernels, float32 on the CPU.
* ``reference``: PyTorch operations, any dtype and device, differentiable any number of times; slow.

Every activation of the package happens here and nowhere else: exp of the log scales, sigmoid of the opacity logits,
normalisation of the quaternions, spherical harmonics + 0.5 cut off below 0.
"""

from __future__ import annotations

from types import ModuleType
from typing import Literal

import torch

from l2o_splat.compiler import numba_works
from l2o_splat.gaussians import Gaussians
from l2o_splat.raster_settings import ImageRules, RasterSettings
from l2o_splat.rendering.linearization import Linearization
from l2o_splat.rendering.output import Rendering
from l2o_splat.threads import get_num_threads, set_num_threads
from l2o_splat.views import PinholeCameras

__all__ = [
    "Backend",
    "ImageRules",
    "Linearization",
    "RasterSettings",
    "Rendering",
    "backend_for",
    "get_num_threads",
    "linearize",
    "render",
    "render_jvp",
    "set_num_threads",
]

Backend = Literal["gsplat", "cpu", "reference"]

_DEFAULT = RasterSettings()


def render(
    gaussians: Gaussians,
    cameras: PinholeCameras,
    settings: RasterSettings = _DEFAULT,
    backend: Backend | None = None,
) -> Rendering:
    """Images of a scene from all cameras.

    Differentiable to the six tensors of ``gaussians`` and to ``cameras.viewmats``, with ``reference`` to ``cameras.Ks``
    as well and any number of times. Gradients of ``viewmats`` are those of rigid motions: backends may differ in what
    they say of changes that no motion of a camera makes (:mod:`camera_motion`).

    Gaussians that are out of sight are not drawn and have zero gradients; with the ``cpu`` and ``reference`` backends
    the same holds for those whose projection is not finite.

    Args:
        gaussians: Unactivated scene of any size, also empty.
        cameras: Where from, and the image size; on the same device and of the same dtype.
        settings: What changes the image.
        backend: None chooses ``gsplat`` for float32 on CUDA, ``cpu`` for float32 on the CPU if numba can be
            imported, ``reference`` otherwise.

    Raises:
        ValueError: If the tensors do not suit each other or the backend, or a gradient is asked for that the backend
            does not give.
        ImportError: If what the chosen backend needs is missing.
    """
    _check(gaussians, cameras)
    return _module(backend or backend_for(gaussians)).render(gaussians, cameras, settings)


def linearize(
    gaussians: Gaussians,
    cameras: PinholeCameras,
    settings: RasterSettings = _DEFAULT,
    backend: Literal["cpu", "reference"] | None = None,
) -> Linearization:
    """Images of a scene, and an object for products with their Jacobian by the Gaussians' parameters.

    Arguments and errors as for :func:`render`; None chooses ``cpu`` if it can, ``reference`` otherwise.
    """
    _check(gaussians, cameras)
    backend = backend or backend_for(gaussians, products=True)
    if backend == "gsplat":
        raise ValueError("The gsplat backend has no Jacobian products; use the 'reference' or 'cpu' backend.")
    return _module(backend).linearize(gaussians, cameras, settings)


def render_jvp(
    gaussians: Gaussians,
    tangents: Gaussians,
    cameras: PinholeCameras,
    settings: RasterSettings = _DEFAULT,
    backend: Literal["cpu", "reference"] | None = None,
) -> tuple[Rendering, Rendering]:
    """Images of a scene and how they change along ``tangents`` (forward-mode derivative).

    For several products at one point, use :func:`linearize`.
    """
    linearization = linearize(gaussians, cameras, settings, backend)
    return linearization.rendering, linearization.jvp(tangents)


def _check(gaussians: Gaussians, cameras: PinholeCameras) -> None:
    tensors = {**dict(gaussians.items()), "viewmats": cameras.viewmats, "Ks": cameras.Ks}
    for name, tensor in tensors.items():
        if (tensor.dtype, tensor.device) != (gaussians.means.dtype, gaussians.device):
            raise ValueError(
                f"{name} is {tensor.dtype} on {tensor.device}, but the means are {gaussians.means.dtype} on "
                f"{gaussians.device}; convert it with .to()."
            )


def backend_for(gaussians: Gaussians, products: bool = False) -> Backend:
    """The fastest backend that suits the Gaussians, and gives products with the Jacobian if they are needed."""
    if not products and _module("gsplat").can_draw(gaussians):
        return "gsplat"
    if gaussians.means.dtype == torch.float32 and gaussians.device.type == "cpu" and numba_works():
        return "cpu"
    return "reference"


def _module(backend: Backend) -> ModuleType:
    # Imported on first use: the kernels take a while to load, and only some machines have gsplat.
    if backend == "gsplat":
        from l2o_splat.rendering import gsplat as module
    elif backend == "cpu":
        from l2o_splat.rendering import cpu as module
    elif backend == "reference":
        from l2o_splat.rendering import reference as module
    else:
        raise ValueError(f"The backend is {backend!r}; 'gsplat', 'cpu', 'reference' or None is needed.")
    return module
