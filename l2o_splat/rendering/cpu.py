"""The CPU backend: fused numba kernels, float32.

A rendering goes through three stages, each a kernel run by several threads: *project* every Gaussian into a record
(:mod:`cpu_projection`), *bin* the records into tiles by depth (:mod:`cpu_binning`), *composite* the tiles
(:mod:`cpu_compositing`). Gradients pass through the same stages backwards, tangents forwards. Results are the same bit
for bit for any number of threads: tiles never add to the same number, and what they find for a Gaussian is summed in a
fixed order.

With several threads on a busy machine, set ``OMP_WAIT_POLICY=PASSIVE`` before Python starts: otherwise the idle
threads of PyTorch's own pool take half of the time that the kernels could use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from l2o_splat import threads
from l2o_splat.gaussians import Gaussians
from l2o_splat.raster_settings import RasterSettings
from l2o_splat.rendering import cpu_binning, cpu_compositing, cpu_projection
from l2o_splat.rendering.cpu_records import (
    RECORD_WIDTH,
    SPLAT_WIDTH,
    TILE_HEIGHT,
    TILE_WIDTH,
    Camera,
    Parameters,
    Rules,
)
from l2o_splat.rendering.linearization import Linearization
from l2o_splat.rendering.once import differentiable_once
from l2o_splat.rendering.output import Rendering
from l2o_splat.views import PinholeCameras

GAUSSIANS_PER_JOB = 2048
JOBS_PER_VIEW = 32
"""Jobs that the tiles of a view are split into; many, because some tiles take much longer than others."""


def render(gaussians: Gaussians, cameras: PinholeCameras, settings: RasterSettings) -> Rendering:
    """Draw all views; see :func:`l2o_splat.rendering.render`.

    Differentiable once, to the Gaussians.

    Raises:
        ValueError: If a tensor is not float32 on the CPU, or the cameras require a gradient.
    """
    _check(gaussians, cameras)
    tensors = differentiable_once("cpu", *(tensor for _, tensor in gaussians.items()))
    return Rendering(*_Render.apply(cameras, settings, *tensors))


def linearize(gaussians: Gaussians, cameras: PinholeCameras, settings: RasterSettings) -> Linearization:
    """Images and Jacobian products at ``gaussians``; see :func:`l2o_splat.rendering.linearize`.

    Raises:
        ValueError: If a tensor is not float32 on the CPU, or the cameras require a gradient.
    """
    _check(gaussians, cameras)
    return CpuLinearization(gaussians.map(lambda tensor: tensor.detach().clone()), cameras, settings)


def _check(gaussians: Gaussians, cameras: PinholeCameras) -> None:
    for name, tensor in (*gaussians.items(), ("viewmats", cameras.viewmats), ("Ks", cameras.Ks)):
        if tensor.device.type != "cpu" or tensor.dtype != torch.float32:
            raise ValueError(
                f"{name} is {tensor.dtype} on {tensor.device}; the cpu backend needs float32 on the CPU: convert it, "
                "or use the 'reference' backend."
            )
    if torch.is_grad_enabled() and (cameras.viewmats.requires_grad or cameras.Ks.requires_grad):
        raise ValueError(
            "The cameras require a gradient, which the cpu backend does not give; use the 'reference' backend, or "
            "detach them."
        )


@dataclass(frozen=True)
class _View:
    """What is known of one view before it is drawn; for the arrays see the kernels."""

    camera: Camera
    records: np.ndarray
    pair_starts: np.ndarray
    entries: np.ndarray
    tile_starts: np.ndarray
    tile_gaussians: np.ndarray


class CpuLinearization(Linearization):
    """A scene that is projected, binned and drawn, ready for products with the Jacobian."""

    def __init__(self, gaussians: Gaussians, cameras: PinholeCameras, settings: RasterSettings) -> None:
        """Draw the scene. The tensors of ``gaussians`` must not change while this object is in use."""
        self._parameters = _parameters(gaussians)
        self._rules = _rules(gaussians, cameras, settings)
        self._background = np.array(settings.background, np.float32)
        self._with_depth = settings.depth
        self._tiles_x, self._tiles_y = -(-cameras.width // TILE_WIDTH), -(-cameras.height // TILE_HEIGHT)
        self._views = self._prepare(_cameras(cameras))
        self._images = self._empty_images()

        def composite(v: int, begin: int, end: int) -> None:
            view = self._views[v]
            cpu_compositing.composite(
                begin, end, self._tiles_x, view.records, view.tile_starts, view.tile_gaussians,
                self._rules.alpha_limit, self._background, *(image[v] for image in self._images),
            )  # fmt: skip

        self._run_over_tiles(composite, range(len(self._views)))

    @property
    def rendering(self) -> Rendering:
        # Copies: the images are read again by both products.
        return self.images.map(torch.clone)

    @property
    def images(self) -> Rendering:
        """The images in the memory that the products read."""
        return self._as_rendering(self._images)

    def jvp(self, tangents: Gaussians) -> Rendering:
        d_parameters = _parameters(tangents)
        d_splats = [np.empty((len(view.records), SPLAT_WIDTH), np.float32) for view in self._views]
        d_images = self._empty_images()
        _, alpha, depth = self._images

        def project(v: int, begin: int, end: int) -> None:
            view = self._views[v]
            cpu_projection.project_jvp(
                begin, end, self._parameters, d_parameters, view.camera, self._rules, view.records, view.pair_starts,
                d_splats[v],
            )  # fmt: skip

        def composite(v: int, begin: int, end: int) -> None:
            view = self._views[v]
            cpu_compositing.composite_jvp(
                begin, end, self._tiles_x, view.records, d_splats[v], view.tile_starts, view.tile_gaussians,
                self._rules.alpha_limit, self._background, alpha[v], depth[v], *(image[v] for image in d_images),
            )  # fmt: skip

        views = range(len(self._views))
        self._run_over_gaussians(project, views)
        self._run_over_tiles(composite, views)
        return self._as_rendering(d_images)

    def vjp(self, cotangents: Rendering) -> Gaussians:
        gradients = Parameters(*(np.zeros(array.shape, np.float32) for array in self._parameters))
        given = (cotangents.rgb, cotangents.alpha, cotangents.depth)
        v_images = [
            np.zeros_like(image) if tensor is None else tensor.detach().contiguous().numpy().reshape(image.shape)
            for image, tensor in zip(self._images, given, strict=True)
        ]
        # What the tiles sum up takes much memory, so it is used for one view after the other.
        pairs = max((len(view.entries) for view in self._views), default=0)
        entry_sums = np.empty((pairs, SPLAT_WIDTH), np.float32)

        def composite(v: int, begin: int, end: int) -> None:
            view = self._views[v]
            cpu_compositing.composite_vjp(
                begin, end, self._tiles_x, view.records, view.tile_starts, view.tile_gaussians,
                self._rules.alpha_limit, *(image[v] for image in (*self._images, *v_images)), entry_sums,
            )  # fmt: skip

        def project(v: int, begin: int, end: int) -> None:
            view = self._views[v]
            cpu_projection.project_vjp(
                begin, end, self._parameters, view.camera, self._rules, view.records, view.pair_starts, view.entries,
                entry_sums, gradients,
            )  # fmt: skip

        for v in range(len(self._views)):
            self._run_over_tiles(composite, [v])
            self._run_over_gaussians(project, [v])
        return Gaussians(*(torch.from_numpy(array) for array in gradients))

    def _prepare(self, cameras: list[Camera]) -> list[_View]:
        """Project, bin and sort."""
        n, views = len(self._parameters.means), range(len(cameras))
        records = [np.empty((n, RECORD_WIDTH), np.float32) for _ in views]
        tiles = [np.empty((n, 4), np.int16) for _ in views]

        def project(v: int, begin: int, end: int) -> None:
            cpu_projection.project(begin, end, self._parameters, cameras[v], self._rules, records[v], tiles[v])

        def bin_into_tiles(v: int) -> tuple[np.ndarray, ...]:
            return cpu_binning.bin_into_tiles(records[v], tiles[v], self._tiles_x, self._tiles_y)

        def sort(v: int, begin: int, end: int) -> None:
            _, *lists = binned[v]
            cpu_binning.sort_tiles(begin, end, *lists, entries[v])

        self._run_over_gaussians(project, views)
        binned = threads.run(bin_into_tiles, len(views))
        entries = [np.empty_like(gaussians) for _, _, gaussians, _, _ in binned]
        self._run_over_tiles(sort, views)
        return [
            _View(cameras[v], records[v], pair_starts, entries[v], tile_starts, tile_gaussians)
            for v, (pair_starts, tile_starts, tile_gaussians, _, _) in enumerate(binned)
        ]

    def _run_over_gaussians(self, function: Callable[[int, int, int], None], views: Iterable[int]) -> None:
        """Call ``function(view, begin, end)`` for groups of Gaussians."""
        _run(function, views, len(self._parameters.means), GAUSSIANS_PER_JOB)

    def _run_over_tiles(self, function: Callable[[int, int, int], None], views: Iterable[int]) -> None:
        """Call ``function(view, begin, end)`` for groups of tiles."""
        tiles = self._tiles_x * self._tiles_y
        _run(function, views, tiles, -(-tiles // JOBS_PER_VIEW))

    def _empty_images(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Colour, alpha and depth of all views."""
        shape = (len(self._views), self._rules.height, self._rules.width)
        return np.empty((*shape, 3), np.float32), np.empty(shape, np.float32), np.empty(shape, np.float32)

    def _as_rendering(self, images: tuple[np.ndarray, np.ndarray, np.ndarray]) -> Rendering:
        rgb, alpha, depth = (torch.from_numpy(image) for image in images)
        return Rendering(rgb, alpha[..., None], depth[..., None] if self._with_depth else None)


def _run(function: Callable[[int, int, int], None], views: Iterable[int], total: int, size: int) -> None:
    jobs = [(view, begin, min(begin + size, total)) for view in views for begin in range(0, total, size)]
    threads.run(lambda job: function(*jobs[job]), len(jobs))


def _parameters(gaussians: Gaussians) -> Parameters:
    return Parameters(*(tensor.detach().contiguous().numpy() for _, tensor in gaussians.items()))


def _rules(gaussians: Gaussians, cameras: PinholeCameras, settings: RasterSettings) -> Rules:
    newest = settings.image_rules == "1.6"
    return Rules(
        width=cameras.width,
        height=cameras.height,
        near=float(settings.near),
        far=float(settings.far),
        eps2d=float(settings.eps2d),
        degree=settings.drawn_degree(gaussians.sh_degree),
        antialiased=settings.rasterize_mode == "antialiased",
        compensation_floor=0.005 if newest else 0.0,
        three_sigma_tiles=settings.image_rules == "1.4",
        alpha_limit=np.float32(0.99 if newest else 0.999),
    )


def _cameras(cameras: PinholeCameras) -> list[Camera]:
    size = np.array([cameras.width, cameras.height])
    found = []
    for viewmat, K in zip(
        cameras.viewmats.detach().double().numpy(), cameras.Ks.detach().double().numpy(), strict=True
    ):
        focal, principal = np.array([K[0, 0], K[1, 1]]), np.array([K[0, 2], K[1, 2]])
        margin = 0.15 * size / focal
        found.append(
            Camera(
                rotation=tuple(tuple(row) for row in viewmat[:3, :3].tolist()),
                translation=tuple(viewmat[:3, 3].tolist()),
                centre=tuple(np.linalg.inv(viewmat)[:3, 3].tolist()),
                focal=tuple(focal.tolist()),
                principal=tuple(principal.tolist()),
                lowest_slope=tuple((-principal / focal - margin).tolist()),
                highest_slope=tuple(((size - principal) / focal + margin).tolist()),
            )
        )
    return found


class _Render(torch.autograd.Function):
    @staticmethod
    def forward(ctx, cameras: PinholeCameras, settings: RasterSettings, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.linearization = CpuLinearization(Gaussians(*tensors), cameras, settings)
        images = tuple(image for image in vars(ctx.linearization.images).values() if image is not None)
        # The kernels read the memory of these; saving them lets autograd notice when one is changed in place.
        ctx.save_for_backward(*tensors, *images)
        ctx.set_materialize_grads(False)
        return images

    @staticmethod
    def backward(ctx, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        ctx.saved_tensors  # noqa: B018 - reading them is the check
        gradients = ctx.linearization.vjp(Rendering(*cotangents))
        return None, None, *(tensor for _, tensor in gradients.items())
