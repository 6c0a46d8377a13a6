"""What a procedural scene is made of: solids, materials and light, as flat arrays for the ray caster.

World frame of a scene under construction: z up, scene units. Solids are unit shapes (coordinates -1
to 1) placed by an affine frame, so that a ray parameter found in unit coordinates also holds in the
world. Records, not arrays per property: compiled code reads them several times faster.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int64

PLANE, DOME, BOX, ELLIPSOID, FRUSTUM, TORUS = range(6)
"""Kinds of solid. Planes (seen from the front) and the dome (a sphere seen from within, lit by itself)
enclose the scene and cast no shadow."""

PLAIN, MARBLE, CHECKER, STRIPES, CELLS, SPOTS, BRICKS, RINGS = range(8)
"""Solid textures: patterns of the position in a solid's own frame."""

LATTICE_SIZE = 32
"""Period of the lattice of random values that all noise is interpolated from; a power of two."""

SHAFT_REACH = 6.0
"""Half the side of the square that shafts divide into cells, scene units."""
SHAFT_CELLS = 64
"""Cells along a side of that square."""


SOLID = np.dtype(
    [
        ("kind", np.int64),
        ("centre", np.float64, 3),  # a point on it for a plane
        ("axes", np.float64, (3, 3)),  # unit coordinates = axes @ (position - centre); a plane faces along the third
        ("half_size", np.float64, 3),  # scene units per unit coordinate
        ("bound", np.float64),  # radius of the bounding sphere; 0 for the enclosure
        ("girth", np.float64),  # radius of the sphere that darkens its surroundings as much; 0 for the enclosure
        ("shape", np.float64),  # frustum: top radius / base radius; torus: tube radius / outer radius
        ("material", np.int64),
    ]
)
"""One solid. An array of them starts with the enclosure."""

MATERIAL = np.dtype(
    [
        ("pattern", np.int64),
        ("repeats", np.float64),  # texture units per scene unit; patterns repeat about once per texture unit
        ("basis", np.float64, (3, 3)),  # texture coordinates = basis @ metric position in the solid + offset
        ("offset", np.float64, 3),
        ("colours", np.float64, (3, 3)),  # ground, figure and accent; linear RGB
        ("warp", np.float64),  # how far noise bends the pattern, texture units
        ("grain", np.float64),  # relative brightness of the fine noise laid over the pattern
        ("gloss", np.float64),  # strength of the highlight
    ]
)
"""One material."""

LIGHT = np.dtype(
    [
        ("direction", np.float64, 3),  # towards the sun, unit length
        ("sun", np.float64, 3),  # linear RGB
        ("above", np.float64, 3),  # ambient light from above and below, linear RGB
        ("below", np.float64, 3),
        ("haze", np.float64, 3),  # colour that surfaces fade to, linear RGB
        ("haze_start", np.float64),  # distance from the origin (not the camera: it is part of the scene)
        ("haze_end", np.float64),
    ]
)
"""A directional light with shadow, ambient light and haze."""


class Shafts(NamedTuple):
    """Which solids a point can meet when it moves along one direction, by cell of a grid across it.

    Cell ``row * SHAFT_CELLS + column`` of the square around the origin; the last cell is all of the outside.
    """

    across: Float[np.ndarray, "2 3"]
    """Two unit vectors across the direction: position to column and row, scene units."""
    starts: Int64[np.ndarray, " cells_plus_1"]
    """Solids of cell c are ``members[starts[c] : starts[c + 1]]``."""
    members: Int64[np.ndarray, " k"]


class Scene(NamedTuple):
    """Everything that the ray caster needs of a scene."""

    solids: np.ndarray
    """[s] of SOLID."""
    materials: np.ndarray
    """[m] of MATERIAL."""
    light: np.void
    """One LIGHT."""
    lattice: Float32[np.ndarray, " n"]
    """Random values in -1..1, the source of all noise: a cube of side LATTICE_SIZE + 1 whose last layers
    repeat the first, flattened."""
    sun_shafts: Shafts
    """Solids that can shadow a point."""
    near_shafts: Shafts
    """Solids, bar the enclosure, that can darken a point by their nearness; shafts are vertical."""


def shafts(
    direction: Float[np.ndarray, " 3"], centres: Float[np.ndarray, "s 3"], radii: Float[np.ndarray, " s"]
) -> Shafts:
    """Sort spheres into the shafts along a unit direction; spheres of radius 0 are left out."""
    side = np.cross(direction, [1.0, 0.0, 0.0] if abs(direction[0]) < 0.7 else [0.0, 1.0, 0.0])
    side /= np.linalg.norm(side)
    across = np.stack([side, np.cross(direction, side)])
    flat = (centres @ across.T)[None, :, :]
    size = 2 * SHAFT_REACH / SHAFT_CELLS
    corners = np.arange(SHAFT_CELLS) * size - SHAFT_REACH
    gap = np.maximum(np.abs(flat - (corners + size / 2)[:, None, None]) - size / 2, 0.0)
    covered = gap[None, :, :, 0] ** 2 + gap[:, None, :, 1] ** 2 < radii**2
    outside = (np.abs(flat[0]) + radii[:, None] > SHAFT_REACH).any(axis=1)
    table = np.concatenate([covered.reshape(SHAFT_CELLS**2, -1), outside[None]]) & (radii > 0)
    cells, members = np.nonzero(table)
    starts = np.searchsorted(cells, np.arange(len(table) + 1))
    return Shafts(across, starts.astype(np.int64), members.astype(np.int64))
