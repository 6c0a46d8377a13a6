"""Procedural captures: endless ray-cast multi-view scenes for meta-training, tests and the demo.

A capture is a deterministic function of (seed, options): textured solids in a room or on open ground
under a sky, photographed along a path by exact pinhole cameras, with points as structure from motion
would find them. In the manner of MegaSynth (arXiv 2412.14166).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from l2o_splat.scenes.capture import Capture, Points
from l2o_splat.scenes.composition import ENVIRONMENTS, Environment, compose
from l2o_splat.scenes.stage import random_rotation
from l2o_splat.scenes.trajectories import TRAJECTORIES, Trajectory, camera_path
from l2o_splat.views import PinholeCameras, Views

GENERATOR_VERSION = 1
"""Goes up whenever the same seed and options give another capture."""


@dataclass(frozen=True)
class ProceduralOptions:
    """What to generate; everything else is drawn from the seed."""

    num_views: int = 20
    """Photographs."""
    width: int = 128
    """Image width, pixels."""
    height: int = 96
    """Image height, pixels."""
    num_points: int = 2000
    """Points of the sparse cloud."""
    trajectory: Trajectory | None = None
    """Path of the cameras; None draws one."""
    environment: Environment | None = None
    """A closed room or open ground under a sky; None draws one."""
    fov_degrees: tuple[float, float] = (45.0, 70.0)
    """Range of the angle of view along the longer image side."""
    depth_noise: tuple[float, float] = (0.0, 0.012)
    """Range of the standard deviation of the points' depth, relative to depth; one value per capture."""
    outliers: float = 0.02
    """Share of points at a wrong depth."""
    random_world: bool = True
    """Whether the world frame is turned, moved and scaled at random; otherwise z points up and the
    subject stands around the origin."""

    def __post_init__(self) -> None:
        if self.num_views < 2 or self.num_points < 1:
            raise ValueError(
                f"num_views is {self.num_views} and num_points {self.num_points}; "
                "a capture needs at least 2 views and 1 point."
            )
        if self.width < 8 or self.height < 8:
            raise ValueError(f"The image size is {self.width} x {self.height}; both must be at least 8 pixels.")
        if self.trajectory not in (None, *TRAJECTORIES) or self.environment not in (None, *ENVIRONMENTS):
            raise ValueError(
                f"trajectory is {self.trajectory!r} and environment {self.environment!r}; "
                f"one of {TRAJECTORIES} and one of {ENVIRONMENTS}, or None, are needed."
            )
        if not 10 <= self.fov_degrees[0] <= self.fov_degrees[1] <= 120:
            raise ValueError(f"fov_degrees is {self.fov_degrees}; an ascending range within 10 to 120 is needed.")
        if not 0 <= self.depth_noise[0] <= self.depth_noise[1] <= 0.5 or not 0 <= self.outliers <= 1:
            raise ValueError(
                f"depth_noise is {self.depth_noise} and outliers {self.outliers}; "
                "an ascending range within 0 to 0.5 and a share within 0 to 1 are needed."
            )


@dataclass(frozen=True)
class ProceduralCapture(Capture):
    """A capture whose geometry is known."""

    depths: Float[Tensor, "v h w"]
    """Camera z of the surface behind the centre of every pixel, scene units; finite everywhere."""


def generate(seed: int, options: ProceduralOptions | None = None, *, threads: int = 1) -> ProceduralCapture:
    """Generate the capture of a seed.

    Args:
        seed: Not negative; another seed gives another scene, path, lens and light.
        options: Sizes and ranges; None takes the defaults.
        threads: Views rendered at the same time; the result is the same, bit for bit.
    """
    from l2o_splat.scenes import raycast  # imports numba

    options = options or ProceduralOptions()
    # One stream per part, so that an option of one part leaves the others as they are.
    kinds, path, things, features, world = np.random.default_rng(seed).spawn(5)
    drawn = TRAJECTORIES[kinds.integers(len(TRAJECTORIES))], ENVIRONMENTS[kinds.integers(len(ENVIRONMENTS))]
    trajectory, environment = options.trajectory or drawn[0], options.environment or drawn[1]
    fov = np.radians(kinds.uniform(*options.fov_degrees))
    focal = max(options.width, options.height) / (2 * np.tan(fov / 2))
    rotations, centres = camera_path(trajectory, options.num_views, path)
    scene = compose(environment, centres, things)

    size = (options.num_views, options.height, options.width)
    images, depths = np.empty((*size, 3), np.float32), np.empty(size, np.float32)

    def render(view: int) -> None:
        raycast.render_view(scene, rotations[view], centres[view], focal, images[view], depths[view])

    if threads == 1:
        for view in range(options.num_views):
            render(view)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(render, range(options.num_views)))

    xyz, rgb = _sparse_points(scene.solids, images, rotations, centres, focal, options, features)

    world_rotation, shift, scale = np.eye(3), np.zeros(3), 1.0
    if options.random_world:
        world_rotation, shift = random_rotation(world), world.normal(0, 2, 3)
        scale = np.exp(world.uniform(-1.2, 1.2))
    rotations, centres = world_rotation @ rotations, scale * centres @ world_rotation.T + shift
    xyz = scale * xyz @ world_rotation.T + shift
    depths *= np.float32(scale)

    Ks = np.array([[focal, 0, options.width / 2], [0, focal, options.height / 2], [0, 0, 1]])
    cameras = PinholeCameras(
        torch.from_numpy(_viewmats(rotations, centres)).float(),
        torch.from_numpy(Ks).float().repeat(options.num_views, 1, 1),
        options.width,
        options.height,
    )
    return ProceduralCapture(
        views=Views(cameras, torch.from_numpy(images)),
        points=Points(torch.from_numpy(xyz).float(), torch.from_numpy(rgb)),
        depths=torch.from_numpy(depths),
    )


def _viewmats(rotations: Float[np.ndarray, "v 3 3"], centres: Float[np.ndarray, "v 3"]) -> Float[np.ndarray, "v 4 4"]:
    """Camera-from-world matrices from world-from-camera rotations and camera centres."""
    viewmats = np.tile(np.eye(4), (len(centres), 1, 1))
    viewmats[:, :3, :3] = rotations.transpose(0, 2, 1)
    viewmats[:, :3, 3] = -np.einsum("vji,vj->vi", rotations, centres)
    return viewmats


def _sparse_points(
    solids: np.ndarray,
    images: Float[np.ndarray, "v h w 3"],
    rotations: Float[np.ndarray, "v 3 3"],
    centres: Float[np.ndarray, "v 3"],
    focal: float,
    options: ProceduralOptions,
    rng: np.random.Generator,
) -> tuple[Float[np.ndarray, "p 3"], Float[np.ndarray, "p 3"]]:
    """Points where structure from motion finds features: strong image gradient, seen in two views or more.

    A pixel is drawn with probability proportional to its gradient; the surface behind a random place
    in it becomes a point with that pixel's colour. Fewer than ``num_points`` are returned when too
    little of the scene is seen twice.
    """
    from l2o_splat.scenes import raycast

    chance = _gradient_magnitude(images)
    chance += 0.02 * chance.mean()
    cumulative = np.cumsum(chance, axis=None, dtype=np.float64)
    noise = rng.uniform(*options.depth_noise)
    found_xyz, found_rgb, found = [], [], 0
    for _ in range(8):
        drawn = np.searchsorted(cumulative, rng.random(options.num_points) * cumulative[-1])
        view, row, column = np.unravel_index(np.minimum(drawn, chance.size - 1), chance.shape)
        place = np.stack([column, row], axis=1) + rng.random((options.num_points, 2))
        rays = np.ones((options.num_points, 3))
        rays[:, :2] = (place - [options.width / 2, options.height / 2]) / focal
        rays = np.einsum("nij,nj->ni", rotations[view], rays)
        rays /= np.linalg.norm(rays, axis=1, keepdims=True)
        distance, sightings = np.empty(len(rays)), np.empty(len(rays), np.int64)
        raycast.cast(solids, centres[view], rays, distance)
        raycast.count_sightings(
            solids,
            centres[view] + distance[:, None] * rays,
            rotations,
            centres,
            focal,
            options.width,
            options.height,
            sightings,
        )
        seen = sightings >= 2
        distance *= 1 + noise * rng.normal(size=len(distance))
        astray = np.exp(rng.uniform(-0.7, 0.7, len(distance)))
        distance *= np.where(rng.random(len(distance)) < options.outliers, astray, 1.0)
        found_xyz.append((centres[view] + distance[:, None] * rays)[seen])
        found_rgb.append(images[view, row, column][seen])
        found += int(seen.sum())
        if found >= options.num_points:
            break
    return np.concatenate(found_xyz)[: options.num_points], np.concatenate(found_rgb)[: options.num_points]


def _gradient_magnitude(images: Float[np.ndarray, "v h w 3"]) -> Float[np.ndarray, "v h w"]:
    """Absolute differences to the pixels right and below, of the mean colour."""
    grey = images.mean(axis=3)
    gradient = np.zeros_like(grey)
    gradient[:, :, :-1] += np.abs(np.diff(grey, axis=2))
    gradient[:, :-1] += np.abs(np.diff(grey, axis=1))
    return gradient
