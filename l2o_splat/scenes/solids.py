"""Where rays meet solids, and which way the surface faces there (compiled).

Intersections are taken in unit coordinates, where every solid lies within -1 to 1; the ray parameter is
the same there and in the world. Importing this module imports numba.
"""

from __future__ import annotations

import math

from l2o_splat.scenes.kernel import inline
from l2o_splat.scenes.scene import BOX, DOME, FRUSTUM, PLANE, TORUS

FAR = 1e30
"""Ray parameter of a miss."""


@inline
def _hit_box(ox, oy, oz, dx, dy, dz):
    ix, iy, iz = 1.0 / dx, 1.0 / dy, 1.0 / dz
    ax, bx = (-1.0 - ox) * ix, (1.0 - ox) * ix
    ay, by = (-1.0 - oy) * iy, (1.0 - oy) * iy
    az, bz = (-1.0 - oz) * iz, (1.0 - oz) * iz
    enter = max(min(ax, bx), min(ay, by), min(az, bz))
    leave = min(max(ax, bx), max(ay, by), max(az, bz))
    return enter if enter <= leave and enter > 0.0 else FAR


@inline
def _hit_sphere(ox, oy, oz, dx, dy, dz, inside):
    a = dx * dx + dy * dy + dz * dz
    b = ox * dx + oy * dy + oz * dz
    disc = b * b - a * (ox * ox + oy * oy + oz * oz - 1.0)
    if disc < 0.0:
        return FAR
    t = (-b + math.sqrt(disc)) / a if inside else (-b - math.sqrt(disc)) / a
    return t if t > 0.0 else FAR


@inline
def _hit_frustum(ox, oy, oz, dx, dy, dz, taper):
    """Radius 1 at z = -1, ``taper`` at z = 1, with both caps."""
    slope, middle = 0.5 * (1.0 - taper), 0.5 * (1.0 + taper)
    best = FAR
    radius = middle - slope * oz
    a = dx * dx + dy * dy - slope * slope * dz * dz
    b = ox * dx + oy * dy + slope * dz * radius
    disc = b * b - a * (ox * ox + oy * oy - radius * radius)
    if disc > 0.0:
        root = math.sqrt(disc)
        for sign in (-1.0, 1.0):
            t = (-b + sign * root) / a
            if 0.0 < t < best and abs(oz + t * dz) <= 1.0:
                best = t
    for z, limit in ((-1.0, 1.0), (1.0, taper)):
        t = (z - oz) / dz
        x, y = ox + t * dx, oy + t * dy
        if 0.0 < t < best and x * x + y * y <= limit * limit:
            best = t
    return best


@inline
def _torus_distance(x, y, z, tube):
    ring = math.sqrt(x * x + y * y) - (1.0 - tube)
    return math.sqrt(ring * ring + z * z) - tube


@inline
def _hit_torus(ox, oy, oz, dx, dy, dz, tube):
    """Around the z axis, outer radius 1: sphere tracing (Hart 1996) until a step ends within, then regula falsi."""
    length = math.sqrt(dx * dx + dy * dy + dz * dz)
    dx, dy, dz = dx / length, dy / length, dz / length
    b = ox * dx + oy * dy + oz * dz
    disc = b * b - (ox * ox + oy * oy + oz * oz - 1.0)
    if disc < 0.0:
        return FAR
    # Only the part of the ray between the planes that hold the ring can meet it, and none when it stays in the hole.
    first, second = (-tube - oz) / dz, (tube - oz) / dz
    low = max(-b - math.sqrt(disc), min(first, second), 0.0)
    leave = min(-b + math.sqrt(disc), max(first, second))
    hole = (1.0 - 2.0 * tube) ** 2
    if (ox + low * dx) ** 2 + (oy + low * dy) ** 2 < hole and (ox + leave * dx) ** 2 + (oy + leave * dy) ** 2 < hole:
        return FAR
    above = _torus_distance(ox + low * dx, oy + low * dy, oz + low * dz, tube)
    high, below = low, above
    while below > 0.0:
        low, above = high, below
        if low >= leave:
            return FAR
        # A least step, so that grazing rays end: it can only miss a sliver of the rim, a 3000th of the tube deep.
        high = low + max(above, 0.05 * tube)
        below = _torus_distance(ox + high * dx, oy + high * dy, oz + high * dz, tube)
    # The Illinois variant: an end that stays twice counts half.
    kept = 0
    for _ in range(8):
        t = low + (high - low) * above / (above - below + 1e-30)
        distance = _torus_distance(ox + t * dx, oy + t * dy, oz + t * dz, tube)
        if distance > 0.0:
            low, above = t, distance
            below *= 0.5 if kept == 1 else 1.0
            kept = 1
        else:
            high, below = t, distance
            above *= 0.5 if kept == -1 else 1.0
            kept = -1
    return low / length


@inline
def hit(solid, rx, ry, rz, dx, dy, dz):
    """Ray parameter of the first surface of a solid; the origin is given relative to its centre."""
    a, kind = solid.axes, solid.kind
    oz, uz = a[2, 0] * rx + a[2, 1] * ry + a[2, 2] * rz, a[2, 0] * dx + a[2, 1] * dy + a[2, 2] * dz
    if kind == PLANE:
        return -oz / uz if uz < 0.0 and oz > 0.0 else FAR
    ox, ux = a[0, 0] * rx + a[0, 1] * ry + a[0, 2] * rz, a[0, 0] * dx + a[0, 1] * dy + a[0, 2] * dz
    oy, uy = a[1, 0] * rx + a[1, 1] * ry + a[1, 2] * rz, a[1, 0] * dx + a[1, 1] * dy + a[1, 2] * dz
    if kind == BOX:
        return _hit_box(ox, oy, oz, ux, uy, uz)
    if kind == FRUSTUM:
        return _hit_frustum(ox, oy, oz, ux, uy, uz, solid.shape)
    if kind == TORUS:
        return _hit_torus(ox, oy, oz, ux, uy, uz, solid.shape)
    return _hit_sphere(ox, oy, oz, ux, uy, uz, kind == DOME)


@inline
def _reaches(solid, rx, ry, rz, dx, dy, dz, limit):
    """Whether a ray meets the bounding sphere nearer than ``limit``; always true for the enclosure."""
    if solid.kind < BOX:
        return True
    bound = solid.bound
    closest = -(rx * dx + ry * dy + rz * dz)
    if closest < -bound or closest - bound > limit:
        return False
    return rx * rx + ry * ry + rz * rz - closest * closest <= bound * bound


@inline
def nearest(solids, candidates, count, ox, oy, oz, dx, dy, dz):
    """First of the candidate solids on a ray of unit direction: (distance, index), index -1 for a miss."""
    best, index = FAR, -1
    for n in range(count):
        solid = solids[candidates[n]]
        rx, ry, rz = ox - solid.centre[0], oy - solid.centre[1], oz - solid.centre[2]
        if _reaches(solid, rx, ry, rz, dx, dy, dz, best):
            t = hit(solid, rx, ry, rz, dx, dy, dz)
            if t < best:
                best, index = t, candidates[n]
    return best, index


@inline
def blocked(solids, candidates, start, stop, ox, oy, oz, dx, dy, dz):
    """Whether one of the candidate solids lies on a ray of unit direction."""
    for n in range(start, stop):
        solid = solids[candidates[n]]
        rx, ry, rz = ox - solid.centre[0], oy - solid.centre[1], oz - solid.centre[2]
        if _reaches(solid, rx, ry, rz, dx, dy, dz, FAR) and hit(solid, rx, ry, rz, dx, dy, dz) < FAR:
            return True
    return False


@inline
def unit_normal(kind, shape, x, y, z):
    """Outward gradient at a surface point, unit coordinates (inward for the enclosure)."""
    if kind == PLANE:
        return 0.0, 0.0, 1.0
    if kind == BOX:
        ax, ay, az = abs(x), abs(y), abs(z)
        if ax >= ay and ax >= az:
            return x, 0.0, 0.0
        return (0.0, y, 0.0) if ay >= az else (0.0, 0.0, z)
    if kind == FRUSTUM:
        slope = 0.5 * (1.0 - shape)
        radius = 0.5 * (1.0 + shape) - slope * z
        if radius - math.sqrt(x * x + y * y) > 1.0 - abs(z):
            return 0.0, 0.0, z
        return x, y, slope * radius
    if kind == TORUS:
        ring = (1.0 - shape) / math.sqrt(x * x + y * y)
        return x - x * ring, y - y * ring, z
    return (-x, -y, -z) if kind == DOME else (x, y, z)
