"""The CPU backend: fused numba kernels, float32; :mod:`cpu_scene` says how they work together.

With several threads on a busy machine, set ``OMP_WAIT_POLICY=PASSIVE`` before Python starts: otherwise the idle
threads of PyTorch's own pool take half of the time that the kernels could use.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from l2o_splat import threads
from l2o_splat.gaussians import Gaussians
from l2o_splat.raster_settings import RasterSettings
from l2o_splat.rendering.camera_motion import viewmats_gradient
from l2o_splat.rendering.cpu_scene import Images, ProjectedScene, Tiles, parameters_of
from l2o_splat.rendering.linearization import Linearization
from l2o_splat.rendering.once import differentiable_once
from l2o_splat.rendering.output import Rendering
from l2o_splat.views import PinholeCameras


def render(gaussians: Gaussians, cameras: PinholeCameras, settings: RasterSettings) -> Rendering:
    """Draw all views; see :func:`l2o_splat.rendering.render`.

    Differentiable once, to the Gaussians and to rigid motions of the cameras (:mod:`camera_motion`).

    Raises:
        ValueError: If a tensor is not float32 on the CPU, or ``cameras.Ks`` require a gradient.
    """
    check(gaussians, cameras)
    viewmats, *tensors = differentiable_once("cpu", cameras.viewmats, *(tensor for _, tensor in gaussians.items()))
    return Rendering(*_Render.apply(cameras, settings, viewmats, *tensors))


def linearize(gaussians: Gaussians, cameras: PinholeCameras, settings: RasterSettings) -> Linearization:
    """Images and Jacobian products at ``gaussians``; see :func:`l2o_splat.rendering.linearize`.

    Raises:
        ValueError: If a tensor is not float32 on the CPU, or the cameras require a gradient.
    """
    check(gaussians, cameras)
    if torch.is_grad_enabled() and cameras.viewmats.requires_grad:
        raise ValueError("cameras.viewmats require a gradient, which a linearization does not give; detach them.")
    return CpuLinearization(gaussians.map(lambda tensor: tensor.detach().clone()), cameras, settings)


def check(gaussians: Gaussians, cameras: PinholeCameras) -> None:
    """Refuse what this backend cannot draw or differentiate.

    Raises:
        ValueError: If a tensor is not float32 on the CPU, or ``cameras.Ks`` require a gradient.
    """
    for name, tensor in (*gaussians.items(), ("viewmats", cameras.viewmats), ("Ks", cameras.Ks)):
        if tensor.device.type != "cpu" or tensor.dtype != torch.float32:
            raise ValueError(
                f"{name} is {tensor.dtype} on {tensor.device}; the cpu backend needs float32 on the CPU: convert it, "
                "or use the 'reference' backend."
            )
    if torch.is_grad_enabled() and cameras.Ks.requires_grad:
        raise ValueError(
            "cameras.Ks require a gradient, which the cpu backend does not give; use the 'reference' backend, or "
            "detach them."
        )


class CpuLinearization(Linearization):
    """A scene that is projected, binned and drawn, ready for products with the Jacobian."""

    def __init__(self, gaussians: Gaussians, cameras: PinholeCameras, settings: RasterSettings) -> None:
        """Draw the scene. The tensors of ``gaussians`` must not change while this object is in use."""
        self._scene, self._with_depth = ProjectedScene(gaussians, cameras, settings), settings.depth
        self._images = _Stack(self._scene, with_depth=True)
        self._tiles = _draw(self._scene, self._images)

    @property
    def rendering(self) -> Rendering:
        # Copies: the images are read again by both products.
        return self._images.as_rendering(self._with_depth).map(torch.clone)

    def jvp(self, tangents: Gaussians) -> Rendering:
        scene, d_parameters = self._scene, parameters_of(tangents)
        d_images = _Stack(scene, with_depth=True)

        def draw(view: int) -> None:
            scene.draw_tangents(view, self._tiles[view], self._images[view], d_parameters, d_images[view])

        threads.run(draw, len(scene))
        return d_images.as_rendering(self._with_depth)

    def vjp(self, cotangents: Rendering) -> Gaussians:
        return _differentiate(self._scene, self._tiles, self._images, cotangents)[0]


class _Stack:
    """The images of all views, as arrays of the views and as tensors that share their memory."""

    def __init__(self, scene: ProjectedScene, with_depth: bool) -> None:
        shape = (len(scene), scene.rules.height, scene.rules.width)
        self.rgb, self.alpha = np.empty((*shape, 3), np.float32), np.empty(shape, np.float32)
        self.depth = np.empty(shape, np.float32) if with_depth else None

    def __getitem__(self, view: int) -> Images:
        return Images(self.rgb[view], self.alpha[view], None if self.depth is None else self.depth[view])

    def as_rendering(self, with_depth: bool) -> Rendering:
        rgb, alpha = torch.from_numpy(self.rgb), torch.from_numpy(self.alpha)[..., None]
        return Rendering(rgb, alpha, torch.from_numpy(self.depth)[..., None] if with_depth else None)


def _draw(scene: ProjectedScene, images: _Stack) -> list[Tiles]:
    """Draw all views."""

    def draw(view: int) -> Tiles:
        tiles = scene.bin(view)
        scene.draw(view, tiles, images[view])
        return tiles

    return threads.run(draw, len(scene))


def _differentiate(
    scene: ProjectedScene, tiles: list[Tiles], images: _Stack, cotangents: Rendering, cameras: bool = False
) -> tuple[Gaussians, Tensor | None]:
    """What :meth:`ProjectedScene.gradients` makes of the gradients of the images, any of which may be None."""
    v_rgb = _array(cotangents.rgb, images.rgb)
    # With fewer kinds of calls, fewer versions of the kernel have to be compiled.
    plain = cotangents.alpha is None and cotangents.depth is None
    v_alpha = None if plain else _array(cotangents.alpha, images.alpha)
    v_depth = None if plain or images.depth is None else _array(cotangents.depth, images.depth)
    splat_sums = scene.empty_splat_sums()

    def differentiate(view: int) -> None:
        given = [None if array is None else array[view] for array in (v_rgb, v_alpha, v_depth)]
        scene.differentiate(view, tiles[view], images[view], *given, splat_sums[view])

    threads.run(differentiate, len(scene))
    return scene.gradients(splat_sums, cameras)


def _array(tensor: Tensor | None, like: np.ndarray) -> np.ndarray:
    """A cotangent in the shape of its image; zeros for None."""
    return np.zeros_like(like) if tensor is None else tensor.detach().contiguous().numpy().reshape(like.shape)


class _Render(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, cameras: PinholeCameras, settings: RasterSettings, viewmats: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.scene = ProjectedScene(Gaussians(*tensors), cameras, settings)
        ctx.stack = _Stack(ctx.scene, settings.depth)
        ctx.tiles = _draw(ctx.scene, ctx.stack)
        images = tuple(image for image in vars(ctx.stack.as_rendering(settings.depth)).values() if image is not None)
        # The kernels read the memory of these; saving them lets autograd notice when one is changed in place.
        ctx.save_for_backward(viewmats, *tensors, *images)
        ctx.set_materialize_grads(False)
        return images

    @staticmethod
    def backward(ctx, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        viewmats, *_ = ctx.saved_tensors  # Reading them is the check as well.
        moves = ctx.needs_input_grad[2]
        gradients, motions = _differentiate(ctx.scene, ctx.tiles, ctx.stack, Rendering(*cotangents), moves)
        v_viewmats = viewmats_gradient(motions, viewmats) if moves else None
        return None, None, v_viewmats, *(tensor for _, tensor in gradients.items())
