"""Solid textures: colour as a function of the position in a solid's own frame (compiled).

All noise is interpolated from one periodic lattice of random values per scene. Detail finer than the
footprint of a pixel fades to its mean, so that distant surfaces do not flicker between views.
"""

from __future__ import annotations

import math

import numpy as np

from l2o_splat.scenes.kernel import inline
from l2o_splat.scenes.scene import BRICKS, CELLS, CHECKER, LATTICE_SIZE, MARBLE, PLAIN, SPOTS, STRIPES

_MASK = LATTICE_SIZE - 1
_SIDE = LATTICE_SIZE + 1


@inline
def _index(i, j, k):
    """Place of a cell's first corner in the flat lattice; unsigned, so that no sign is checked on access."""
    return np.uint64(((i & _MASK) * _SIDE + (j & _MASK)) * _SIDE + (k & _MASK))


@inline
def _noise(lattice, x, y, z):
    """Smoothly interpolated lattice values, -1 to 1."""
    fx, fy, fz = math.floor(x), math.floor(y), math.floor(z)
    u, v, w = x - fx, y - fy, z - fz
    u, v, w = u * u * (3.0 - 2.0 * u), v * v * (3.0 - 2.0 * v), w * w * (3.0 - 2.0 * w)
    n = _index(fx, fy, fz)
    a = lattice[n] + w * (lattice[n + np.uint64(1)] - lattice[n])
    n += np.uint64(_SIDE)
    b = lattice[n] + w * (lattice[n + np.uint64(1)] - lattice[n])
    n += np.uint64(_SIDE * _SIDE)
    d = lattice[n] + w * (lattice[n + np.uint64(1)] - lattice[n])
    n -= np.uint64(_SIDE)
    c = lattice[n] + w * (lattice[n + np.uint64(1)] - lattice[n])
    a += v * (b - a)
    c += v * (d - c)
    return a + u * (c - a)


@inline
def _fbm(lattice, x, y, z, footprint, octaves, gain=0.5):
    """Fractal noise, about -1 to 1; octaves finer than the footprint are left out.

    ``gain`` is the amplitude of an octave relative to the coarser one before it.
    """
    total, amplitude = 0.0, 0.6
    for _ in range(octaves):
        total += amplitude * _noise(lattice, x, y, z)
        amplitude *= gain
        footprint *= 2.0
        if footprint > 0.7:
            break
        # A lattice that is turned and slightly less than doubled hides the axes and the period.
        x, y, z = 1.6 * x + 1.2 * y + 0.3, 1.6 * y - 1.2 * x + 7.7, 2.03 * z + 3.1
    return total


@inline
def _cells(lattice, x, y, z):
    """Worley cells (Worley 1996): (value of the nearest cell, 0 to 1; margin to the second nearest)."""
    i, j, k = math.floor(x), math.floor(y), math.floor(z)
    u, v, w = x - i - 0.5, y - j - 0.5, z - k - 0.5
    first, second, value = 9.0, 9.0, 0.0
    for a in (0, -1, 1):
        # Centres lie at most 0.4 from the middle of their cell, so most neighbours cannot be the nearest.
        away_x = max(abs(a - u) - 0.4, 0.0)
        if away_x * away_x > second:
            continue
        for b in (0, -1, 1):
            away_y = max(abs(b - v) - 0.4, 0.0)
            if away_x * away_x + away_y * away_y > second:
                continue
            for c in (0, -1, 1):
                away_z = max(abs(c - w) - 0.4, 0.0)
                if away_x * away_x + away_y * away_y + away_z * away_z > second:
                    continue
                n = _index(i + a, j + b, k + c)
                px = a + 0.4 * lattice[n] - u
                py = b + 0.4 * lattice[n + np.uint64(1)] - v
                pz = c + 0.4 * lattice[n + np.uint64(_SIDE)] - w
                distance = px * px + py * py + pz * pz
                if distance < first:
                    first, second, value = distance, first, 0.5 + 0.5 * lattice[n + np.uint64(_SIDE + 1)]
                elif distance < second:
                    second = distance
    return value, math.sqrt(second) - math.sqrt(first)


@inline
def _spots(lattice, x, y, z):
    """One ball per cell: (how much inside it, 0 to 1; whether it is of the accent colour, 0 or 1)."""
    i, j, k = math.floor(x), math.floor(y), math.floor(z)
    n = _index(i, j, k)
    size = lattice[n]
    px = x - i - 0.5 + 0.12 * lattice[n + np.uint64(1)]
    py = y - j - 0.5 + 0.12 * lattice[n + np.uint64(_SIDE)]
    pz = z - k - 0.5 + 0.12 * size
    inside = step(-0.03, 0.03, 0.3 + 0.08 * size - math.sqrt(px * px + py * py + pz * pz))
    return inside, 1.0 if lattice[n + np.uint64(_SIDE + 1)] > 0.3 else 0.0


@inline
def _bricks(lattice, x, y, z):
    """Bricks 1 long and half as high: (value of the brick, 0 to 1; distance to its edge)."""
    row, layer = math.floor(2.0 * z), math.floor(y)
    shifted = x + 0.5 * (row & 1)
    column = math.floor(shifted)
    value = 0.5 + 0.5 * lattice[_index(column, layer, row)]
    edge = min(0.5 - abs(shifted - column - 0.5), 0.5 - abs(y - layer - 0.5), 0.25 - abs(z - 0.5 * row - 0.25))
    return value, edge


@inline
def step(low, high, x):
    """0 below low, 1 above high, smooth between."""
    t = min(max((x - low) / (high - low), 0.0), 1.0)
    return t * t * (3.0 - 2.0 * t)


@inline
def _pattern(lattice, pattern, warp, x, y, z, footprint):
    """Weights of figure and accent at texture coordinates; footprint in texture units."""
    fade = step(0.4, 1.2, footprint)
    keep = 1.0 - fade
    if pattern == PLAIN:
        return 0.5 + 0.6 * _fbm(lattice, x, y, z, footprint, 4), 0.0
    if pattern == MARBLE:
        bend = _fbm(lattice, x, y, z, footprint, 3)
        vein = 1.0 - abs(_fbm(lattice, x + 9.1 + warp * bend, y + warp * bend, z, footprint, 3))
        return step(-0.4, 0.4, bend), keep * step(0.86, 0.99, vein)
    if pattern == CHECKER:
        parity = (math.floor(x) + math.floor(y) + math.floor(z)) & 1
        return keep * parity + fade * 0.5, 0.0
    if pattern == STRIPES:
        wave = math.sin(6.2831853 * (x + warp * _fbm(lattice, 0.7 * x, 0.7 * y, 0.7 * z, footprint, 3)))
        return keep * step(-0.25, 0.25, wave) + fade * 0.5, keep * step(0.85, 0.95, -wave)
    if pattern == CELLS:
        value, margin = _cells(lattice, x, y, z)
        return keep * value + fade * 0.5, keep * (1.0 - step(0.03, 0.09, margin))
    if pattern == SPOTS:
        inside, accent = _spots(lattice, x, y, z)
        inside = keep * inside + fade * 0.15
        return inside, inside * accent
    if pattern == BRICKS:
        value, edge = _bricks(lattice, x, y, z)
        return keep * value + fade * 0.5, keep * (1.0 - step(0.02, 0.04, edge)) + fade * 0.15
    # RINGS: the grain of wood around the z axis.
    radius = math.sqrt(x * x + y * y) + warp * _fbm(lattice, 0.5 * x, 0.5 * y, 0.1 * z, footprint, 3)
    ring = radius - math.floor(radius)
    return keep * ring * step(1.0, 0.85, ring) + fade * 0.45, 0.0


@inline
def albedo(material, lattice, x, y, z, footprint):
    """Linear RGB at a metric position in the solid's frame; footprint in scene units."""
    basis, colours = material.basis, material.colours
    u = basis[0, 0] * x + basis[0, 1] * y + basis[0, 2] * z + material.offset[0]
    v = basis[1, 0] * x + basis[1, 1] * y + basis[1, 2] * z + material.offset[1]
    w = basis[2, 0] * x + basis[2, 1] * y + basis[2, 2] * z + material.offset[2]
    footprint *= material.repeats
    figure, accent = _pattern(lattice, material.pattern, material.warp, u, v, w, footprint)
    grain = 1.0
    if material.grain > 0.0:
        grain += material.grain * _fbm(lattice, 4.3 * u, 4.3 * v, 4.3 * w, 4.3 * footprint, 5, 0.7)
    ground = grain * (1.0 - accent) * (1.0 - figure)
    figure, accent = grain * (1.0 - accent) * figure, grain * accent
    r = ground * colours[0, 0] + figure * colours[1, 0] + accent * colours[2, 0]
    g = ground * colours[0, 1] + figure * colours[1, 1] + accent * colours[2, 1]
    b = ground * colours[0, 2] + figure * colours[1, 2] + accent * colours[2, 2]
    return r, g, b
