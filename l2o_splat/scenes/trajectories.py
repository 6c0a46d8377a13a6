"""Camera paths of the procedural captures, in the manner people take photographs of a scene.

World frame: z up, the floor at z = 0, the subject around the origin and about as high as its radius
(1 to 2 scene units). A path is laid before the solids, which are then placed around it.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

Trajectory = Literal["orbit", "grid", "walk", "hemisphere"]
TRAJECTORIES: tuple[Trajectory, ...] = get_args(Trajectory)


def camera_path(
    trajectory: Trajectory, num_views: int, rng: np.random.Generator
) -> tuple[Float[np.ndarray, "v 3 3"], Float[np.ndarray, "v 3"]]:
    """Poses along one randomly drawn path.

    Returns:
        World-from-camera rotations (OpenCV axes) and camera centres.
    """
    centres, targets = _PATHS[trajectory](num_views, rng)
    targets = targets + rng.normal(0.0, 0.06, targets.shape)
    roll = rng.normal(0.0, np.radians(1.5), num_views)
    return _look_at(centres, targets, roll), centres


def _orbit(num_views: int, rng: np.random.Generator):
    """An orbit around the subject, a third of a circle to a full one, going up and down a little."""
    span = rng.uniform(np.radians(130), np.radians(360))
    angle = rng.uniform(0, 2 * np.pi) + span * np.linspace(0, 1, num_views, endpoint=False)
    phase = np.linspace(0, 2 * np.pi * rng.integers(1, 4), num_views) + rng.uniform(0, 2 * np.pi)
    radius = rng.uniform(3.0, 4.2) * (1 + rng.uniform(0.0, 0.1) * np.sin(phase + 1) + rng.normal(0, 0.02, num_views))
    height = rng.uniform(1.0, 2.4) + rng.uniform(0.1, 0.45) * np.sin(phase) + rng.normal(0, 0.03, num_views)
    centres = np.stack([radius * np.cos(angle), radius * np.sin(angle), height], axis=1)
    return centres, np.tile([0.0, 0.0, rng.uniform(0.5, 0.8)], (num_views, 1))


def _grid(num_views: int, rng: np.random.Generator):
    """Forward-facing, on a jittered plane grid before the subject (as LLFF, arXiv 1905.00889)."""
    columns = int(np.ceil(np.sqrt(num_views * rng.uniform(1.0, 2.0))))
    rows = int(np.ceil(num_views / columns))
    place = np.arange(num_views)
    row = place // columns
    column = np.where(row % 2 == 0, place % columns, columns - 1 - place % columns)
    spread = rng.uniform(0.9, 2.2)
    across = spread * (column / max(columns - 1, 1) - 0.5) * 2 + rng.normal(0, 0.05, num_views)
    height = rng.uniform(1.1, 1.6) + 0.4 * spread * (row / max(rows - 1, 1) - 0.5) + rng.normal(0, 0.03, num_views)
    away = -rng.uniform(3.2, 4.4) + rng.normal(0, 0.08, num_views)
    convergence = rng.uniform(0.2, 0.7)
    centres = np.stack([across, away, height], axis=1)
    targets = np.stack([(1 - convergence) * across, np.full(num_views, 0.5), np.full(num_views, 0.7)], axis=1)
    return _turned(centres, targets, rng)


def _walk(num_views: int, rng: np.random.Generator):
    """Past the subject on a bent path, looking half ahead and half at it."""
    along = np.linspace(-1, 1, num_views)
    bend = rng.uniform(-0.8, 0.8)
    gap = rng.uniform(2.9, 3.6)
    x = rng.uniform(2.4, 3.4) * along
    y = -gap + bend * along + 0.35 * np.sin(2.5 * along + rng.uniform(0, 6))
    height = rng.uniform(1.2, 1.8) + 0.06 * np.sin(9 * along)
    centres = np.stack([x, y, height], axis=1)
    ahead = rng.uniform(0.2, 0.5)
    targets = np.stack([ahead * (x + 1.5), ahead * y, np.full(num_views, 0.75)], axis=1)
    return _turned(centres, targets, rng)


def _hemisphere(num_views: int, rng: np.random.Generator):
    """Spread over a dome around the subject by the golden angle."""
    angle = rng.uniform(0, 2 * np.pi) + np.pi * (3 - np.sqrt(5)) * np.arange(num_views)
    low, high = np.sin(np.radians(rng.uniform(10, 20))), np.sin(np.radians(rng.uniform(50, 68)))
    rise = low + (high - low) * (np.arange(num_views) + 0.5) / num_views
    radius = rng.uniform(3.2, 4.2) * (1 + rng.normal(0, 0.05, num_views))
    flat = radius * np.sqrt(1 - rise**2)
    centres = np.stack([flat * np.cos(angle), flat * np.sin(angle), 0.4 + radius * rise], axis=1)
    return centres, np.tile([0.0, 0.0, rng.uniform(0.4, 0.8)], (num_views, 1))


_PATHS = {"orbit": _orbit, "grid": _grid, "walk": _walk, "hemisphere": _hemisphere}


def _turned(centres: Float[np.ndarray, "v 3"], targets: Float[np.ndarray, "v 3"], rng: np.random.Generator):
    """Both turned about the vertical by one random angle."""
    angle = rng.uniform(0, 2 * np.pi)
    c, s = np.cos(angle), np.sin(angle)
    turn = np.array([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]])
    return centres @ turn, targets @ turn


def _look_at(
    centres: Float[np.ndarray, "v 3"], targets: Float[np.ndarray, "v 3"], roll: Float[np.ndarray, " v"]
) -> Float[np.ndarray, "v 3 3"]:
    """World-from-camera rotations with the optical axis through the target; roll in radians."""
    forward = targets - centres
    forward /= np.linalg.norm(forward, axis=1, keepdims=True)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    down = np.cross(forward, right)
    c, s = np.cos(roll)[:, None], np.sin(roll)[:, None]
    return np.stack([c * right + s * down, c * down - s * right, forward], axis=2)
