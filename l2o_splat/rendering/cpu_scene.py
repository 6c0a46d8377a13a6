"""A scene on its way through the kernels of the cpu backend, view by view.

A rendering goes through three stages, each a kernel run by several threads: *project* every Gaussian into a record for
each view (:mod:`cpu_projection`), *bin* the records into tiles by depth (:mod:`cpu_binning`), *composite* the tiles
(:mod:`cpu_compositing`). Gradients pass through the same stages backwards, tangents forwards. Results are the same bit
for bit for any number of threads: tiles never add to the same number, and what they find for a Gaussian is summed in a
fixed order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from l2o_splat import threads
from l2o_splat.gaussians import Gaussians
from l2o_splat.raster_settings import RasterSettings
from l2o_splat.rendering import (
    cpu_binning,
    cpu_compositing,
    cpu_compositing_jvp,
    cpu_compositing_vjp,
    cpu_projection,
    cpu_projection_jvp,
    cpu_projection_vjp,
)
from l2o_splat.rendering.cpu_records import (
    RECORD_WIDTH,
    SPLAT_WIDTH,
    SUMS_WIDTH,
    TILE_HEIGHT,
    TILE_WIDTH,
    Camera,
    Parameters,
    Rules,
)
from l2o_splat.views import PinholeCameras

GAUSSIANS_PER_JOB = 2048
JOBS_PER_VIEW = 32
"""Jobs that the tiles of a view are split into; many, because some tiles take much longer than others."""


@dataclass(frozen=True)
class Tiles:
    """Which Gaussians of a view are drawn in which tile; for the arrays see :mod:`cpu_binning`."""

    pair_starts: np.ndarray
    entries: np.ndarray
    starts: np.ndarray
    gaussians: np.ndarray


@dataclass(frozen=True)
class Images:
    """What one view looks like: colour ``[h, w, 3]``, alpha ``[h, w]`` and depth ``[h, w]``, or None."""

    rgb: np.ndarray
    alpha: np.ndarray
    depth: np.ndarray | None


def empty_images(size: tuple[int, int]) -> Images:
    """Room for colour and alpha of one view of a height and width."""
    return Images(np.empty((*size, 3), np.float32), np.empty(size, np.float32), None)


class ProjectedScene:
    """A scene seen by some cameras, ready to be drawn view by view.

    The methods that take a view may be called by several threads at a time.
    """

    def __init__(self, gaussians: Gaussians, cameras: PinholeCameras, settings: RasterSettings) -> None:
        """Project the scene. The tensors of ``gaussians`` must not change while this object is in use."""
        self.parameters = parameters_of(gaussians)
        self.rules = _rules(gaussians, cameras, settings)
        self.cameras = _cameras(cameras)
        self._background = np.array(settings.background, np.float32)
        self._tiles_x, self._tiles_y = -(-cameras.width // TILE_WIDTH), -(-cameras.height // TILE_HEIGHT)
        num_views, n = len(cameras), len(gaussians)
        self.records = np.empty((num_views, n, RECORD_WIDTH), np.float32)
        self.tiles = np.empty((num_views, n, 4), np.int16)

        def project(begin: int, end: int) -> None:
            cpu_projection.project(
                begin, end, self.parameters, self.cameras, self.rules, self.records, self.tiles
            )  # fmt: skip

        self.run_over_gaussians(project)

    def __len__(self) -> int:
        return len(self.cameras)

    def bin(self, view: int) -> Tiles:
        """List the Gaussians of every tile of a view, nearest first."""
        pair_starts, starts, *lists = cpu_binning.bin_into_tiles(
            self.records[view], self.tiles[view], self._tiles_x, self._tiles_y
        )
        entries = np.empty_like(lists[0])
        self.run_over_tiles(lambda begin, end: cpu_binning.sort_tiles(begin, end, starts, *lists, entries))
        return Tiles(pair_starts, entries, starts, lists[0])

    def draw(self, view: int, tiles: Tiles, images: Images) -> None:
        """Draw a view into ``images``."""

        def composite(begin: int, end: int) -> None:
            cpu_compositing.composite(
                begin, end, self._tiles_x, self.records[view], tiles.starts, tiles.gaussians, self.rules.alpha_limit,
                self._background, images.rgb, images.alpha, images.depth,
            )  # fmt: skip

        self.run_over_tiles(composite)

    def draw_tangents(self, view: int, tiles: Tiles, images: Images, tangents: Parameters, d_images: Images) -> None:
        """Draw how a view changes along ``tangents``."""
        records = self.records[view]
        d_splats = np.empty((len(records), SPLAT_WIDTH), np.float32)

        def project(begin: int, end: int) -> None:
            cpu_projection_jvp.project_jvp(
                begin, end, self.parameters, tangents, self.cameras, view, self.rules, records, self.tiles[view],
                d_splats,
            )  # fmt: skip

        def composite(begin: int, end: int) -> None:
            cpu_compositing_jvp.composite_jvp(
                begin, end, self._tiles_x, records, d_splats, tiles.starts, tiles.gaussians, self.rules.alpha_limit,
                self._background, images.alpha, images.depth, d_images.rgb, d_images.alpha, d_images.depth,
            )  # fmt: skip

        self.run_over_gaussians(project)
        self.run_over_tiles(composite)

    def differentiate(
        self,
        view: int,
        tiles: Tiles,
        images: Images,
        v_rgb: np.ndarray,
        v_alpha: np.ndarray | None,
        v_depth: np.ndarray | None,
        splat_sums: np.ndarray,
        curvature: np.ndarray | None = None,
        error: np.ndarray | None = None,
    ) -> None:
        """Carry gradients of a view's images back to its splats, ``splat_sums`` ``[n, 16]``.

        The gradients of alpha and depth may be None. With a ``curvature`` of the pixels, and possibly an ``error``, the
        columns from ``VISIBILITY`` on hold what :func:`cpu_compositing_vjp.composite_vjp` sums up with them.
        """
        depth = None if v_depth is None else images.depth
        entry_sums = np.empty((len(tiles.entries), SUMS_WIDTH), np.float32)

        def composite(begin: int, end: int) -> None:
            cpu_compositing_vjp.composite_vjp(
                begin, end, self._tiles_x, self.records[view], tiles.starts, tiles.gaussians, self.rules.alpha_limit,
                images.rgb, images.alpha, depth, v_rgb, v_alpha, v_depth, curvature, error, entry_sums,
            )  # fmt: skip

        def add_up(begin: int, end: int) -> None:
            cpu_projection_vjp.add_up(
                begin, end, self.records[view], tiles.pair_starts, tiles.entries, entry_sums, splat_sums
            )  # fmt: skip

        self.run_over_tiles(composite)
        self.run_over_gaussians(add_up)

    def gradients(self, splat_sums: np.ndarray, cameras: bool = False) -> tuple[Gaussians, Tensor | None]:
        """Gradients of the Gaussians from those of the splats of all views, ``[v, n, 16]``.

        Returns:
            Beside them, if ``cameras``, those of the cameras' rigid motions ``[v, 6]``, see :mod:`camera_motion`.
        """
        gradients = Parameters(*(np.empty(array.shape, np.float32) for array in self.parameters))
        jobs = -(-len(self.parameters.means) // GAUSSIANS_PER_JOB)
        # One place for each job, so that the order of the sum does not depend on the threads.
        motions = np.zeros((jobs, len(self), 6)) if cameras else None

        def project(begin: int, end: int) -> None:
            cpu_projection_vjp.project_vjp(
                begin, end, self.parameters, self.cameras, self.rules, self.tiles, splat_sums, gradients,
                None if motions is None else motions[begin // GAUSSIANS_PER_JOB],
            )  # fmt: skip

        self.run_over_gaussians(project)
        found = Gaussians(*(torch.from_numpy(array) for array in gradients))
        return found, None if motions is None else torch.from_numpy(motions.sum(axis=0))

    def empty_splat_sums(self) -> np.ndarray:
        """Room for the sums of all views, ``[v, n, 16]``."""
        return np.empty((*self.records.shape[:2], SUMS_WIDTH), np.float32)

    def run_over_gaussians(self, function: Callable[[int, int], None]) -> None:
        """Call ``function(begin, end)`` for groups of Gaussians."""
        _run(function, len(self.parameters.means), GAUSSIANS_PER_JOB)

    def run_over_tiles(self, function: Callable[[int, int], None]) -> None:
        """Call ``function(begin, end)`` for groups of tiles."""
        tiles = self._tiles_x * self._tiles_y
        _run(function, tiles, -(-tiles // JOBS_PER_VIEW))


def _run(function: Callable[[int, int], None], total: int, size: int) -> None:
    jobs = [(begin, min(begin + size, total)) for begin in range(0, total, size)]
    threads.run(lambda job: function(*jobs[job]), len(jobs))


def parameters_of(gaussians: Gaussians) -> Parameters:
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


def _cameras(cameras: PinholeCameras) -> np.ndarray:
    """The numbers of all cameras, ``[v, 23]``; :func:`cpu_records.camera_of` reads them."""
    viewmats, Ks = cameras.viewmats.detach().double().numpy(), cameras.Ks.detach().double().numpy()
    size = np.array([cameras.width, cameras.height])
    focal, principal = Ks[:, (0, 1), (0, 1)], Ks[:, :2, 2]
    margin = 0.15 * size / focal
    camera = Camera(
        rotation=viewmats[:, :3, :3],
        translation=viewmats[:, :3, 3],
        centre=np.linalg.inv(viewmats)[:, :3, 3],
        focal=focal,
        principal=principal,
        lowest_slope=-principal / focal - margin,
        highest_slope=(size - principal) / focal + margin,
    )
    return np.concatenate([numbers.reshape(len(cameras), math.prod(numbers.shape[1:])) for numbers in camera], axis=1)
