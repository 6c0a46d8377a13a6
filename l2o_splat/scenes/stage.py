"""The stage of a procedural scene: collects solids and materials and keeps them clear of the cameras.

World frame: z up, floor at z = 0, scene units.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from l2o_splat.scenes.scene import (
    BOX,
    BRICKS,
    CELLS,
    CHECKER,
    FRUSTUM,
    LATTICE_SIZE,
    MARBLE,
    MATERIAL,
    PLAIN,
    RINGS,
    SOLID,
    SPOTS,
    STRIPES,
    Scene,
    shafts,
)

CAMERA_CLEARANCE = 0.35
"""No solid's bounding sphere comes nearer to a camera than this, scene units."""

NUM_HUES = 5
"""Lively colours of a palette, before the earthy and neutral ones."""

ALL_PATTERNS = (PLAIN, MARBLE, CHECKER, STRIPES, CELLS, SPOTS, BRICKS, RINGS)


class Stage:
    """Solids and materials of a scene under construction."""

    def __init__(self, cameras: Float[np.ndarray, "v 3"], rng: np.random.Generator) -> None:
        """
        Args:
            cameras: Centres of the cameras, which solids must stay clear of.
            rng: Source of everything random.
        """
        self.cameras = cameras
        self.rng = rng
        self._palette = _palette(rng)
        self._enclosure: list[tuple] = []
        self._solids: list[tuple] = []
        self._materials: list[tuple] = []

    def enclose(
        self, kind: int, point: Sequence[float], rotation: Float[np.ndarray, "3 3"], radius: float, material: int
    ) -> None:
        """Add a plane through ``point`` that faces along the third column of ``rotation``, or a dome around it."""
        half_size = np.full(3, radius)
        self._enclosure.append((kind, point, rotation.T / radius, half_size, 0.0, 0.0, 0.0, material))

    def add(
        self,
        kind: int,
        centre: Sequence[float],
        half_size: Sequence[float],
        material: int,
        *,
        rotation: Float[np.ndarray, "3 3"] | None = None,
        shape: float = 0.3,
    ) -> bool:
        """Add a solid unless a camera would be too near it.

        Args:
            kind: BOX, ELLIPSOID, FRUSTUM or TORUS.
            centre: Position of its centre.
            half_size: Half its size along its own axes; three equal numbers for a torus.
            material: Index from :meth:`material`.
            rotation: World-from-solid rotation.
            shape: Top radius / base radius of a frustum, tube radius / outer radius of a torus.

        Returns:
            Whether it was added.
        """
        half_size = np.asarray(half_size, dtype=np.float64)
        bound = half_size.max()
        if kind == BOX:
            bound = np.linalg.norm(half_size)
        elif kind == FRUSTUM:
            bound = np.hypot(half_size[:2].max(), half_size[2])
        if np.linalg.norm(self.cameras - np.asarray(centre), axis=1).min() < bound + CAMERA_CLEARANCE:
            return False
        axes = (np.eye(3) if rotation is None else rotation).T / half_size[:, None]
        girth = np.cbrt(half_size.prod())
        self._solids.append((kind, centre, axes, half_size, bound * (1 + 1e-9), girth, shape, material))
        return True

    def material(
        self,
        repeats: tuple[float, float],
        patterns: Sequence[int] = ALL_PATTERNS,
        *,
        upright: bool = False,
        calm: bool = False,
    ) -> int:
        """Add a random material and return its index.

        Args:
            repeats: Range of the pattern's repeats per scene unit.
            patterns: Patterns to choose from.
            upright: Whether it is for a wall, whose frame has the vertical as second axis.
            calm: Whether it is for a large surface: an earthy ground colour and less contrast.
        """
        rng = self.rng
        pattern = patterns[rng.integers(len(patterns))]
        frame = np.eye(3)
        if upright:
            frame = frame[[0, 2, 1]]
        elif pattern in (PLAIN, MARBLE, STRIPES, CELLS):
            frame = random_rotation(rng)
        scale = rng.uniform(*repeats) * np.ones(3)
        if pattern != CHECKER:
            scale *= np.exp(rng.normal(0, 0.15, 3))
        colours = self._palette[rng.choice(len(self._palette), 3, replace=False)]
        if calm:
            colours[0] = self._palette[rng.integers(NUM_HUES, len(self._palette))]
            colours[1:] = 0.5 * colours[0] + 0.5 * colours[1:]
        gloss = rng.uniform(0.05, 0.5) if rng.random() < 0.4 else 0.0
        offset = rng.uniform(2, 20, 3)
        warp, grain = rng.uniform(0.1, 0.9), rng.uniform(0.15, 0.5)
        self._materials.append((pattern, scale.max(), scale[:, None] * frame, offset, colours, warp, grain, gloss))
        return len(self._materials) - 1

    def clouds(self, zenith: Float[np.ndarray, " 3"], repeats: float) -> int:
        """Add a cloudy sky (linear RGB at the zenith) and return its index."""
        colours = np.stack([zenith, [0.9, 0.9, 0.9], zenith])
        basis = repeats * np.diag([1.0, 1.0, 2.0])
        self._materials.append((PLAIN, repeats, basis, self.rng.uniform(2, 20, 3), colours, 0.9, 0.0, 0.0))
        return len(self._materials) - 1

    def scene(self, light: np.void) -> Scene:
        """What has been collected, in the given light."""
        solids = np.array(self._enclosure + self._solids, SOLID)
        lattice = self.rng.uniform(-1, 1, (LATTICE_SIZE,) * 3).astype(np.float32)
        return Scene(
            solids,
            np.array(self._materials, MATERIAL),
            light,
            np.pad(lattice, (0, 1), mode="wrap").ravel(),
            sun_shafts=shafts(light["direction"], solids["centre"], solids["bound"]),
            near_shafts=shafts(np.array([0.0, 0.0, 1.0]), solids["centre"], 3 * solids["girth"]),
        )


def random_rotation(rng: np.random.Generator) -> Float[np.ndarray, "3 3"]:
    """Uniform over all rotations: a normalised Gaussian quaternion (Shoemake 1992)."""
    w, x, y, z = (q := rng.normal(size=4)) / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def _palette(rng: np.random.Generator) -> Float[np.ndarray, "c 3"]:
    """Colours that go together, linear RGB: first around a few related hues, then earthy and neutral ones."""
    hue = rng.random()
    harmonies = ((0, 0.08, 0.5), (0, 1 / 3, 2 / 3), (0, 0.06, 0.12), (0, 0.42, 0.58))
    offsets = harmonies[rng.integers(len(harmonies))]
    hsv = [((hue + offsets[i % 3]) % 1.0, rng.uniform(0.25, 0.8), rng.uniform(0.4, 0.95)) for i in range(NUM_HUES)]
    earthy = ((0.08, 0.55, 0.55), (0.04, 0.6, 0.65), (0.11, 0.35, 0.8), (0.25, 0.4, 0.45), (0.6, 0.12, 0.55))
    hsv += [earthy[i] for i in rng.choice(len(earthy), 3, replace=False)]
    hsv += [(0.1, 0.15, rng.uniform(0.18, 0.35)), (0.12, 0.1, rng.uniform(0.7, 0.9))]
    colours = np.array([colorsys.hsv_to_rgb(*colour) for colour in hsv])
    return np.clip(colours + rng.normal(0, 0.03, colours.shape), 0.02, 0.98) ** 2.2
