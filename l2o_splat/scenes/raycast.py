"""Rendering of a procedural scene by ray casting (compiled).

Every pixel is computed on its own, so an image does not depend on how many threads share the work.
Importing this module imports numba; compilation happens on the first call.
"""

from __future__ import annotations

import math

import numpy as np

from l2o_splat.scenes.kernel import inline, kernel
from l2o_splat.scenes.scene import BOX, DOME, PLANE, SHAFT_CELLS, SHAFT_REACH
from l2o_splat.scenes.solids import blocked, nearest, unit_normal
from l2o_splat.scenes.textures import albedo, step

_SURFACE = 1e-5
"""Shadow rays start this far off the surface, scene units."""
_TILE = 8
"""Side of the squares of pixels that share a list of the solids before them."""


@inline
def _shaft(shafts, px, py, pz):
    """Range of ``shafts.members`` for a point."""
    a = shafts.across
    scale = SHAFT_CELLS / (2.0 * SHAFT_REACH)
    column = math.floor(scale * (a[0, 0] * px + a[0, 1] * py + a[0, 2] * pz + SHAFT_REACH))
    row = math.floor(scale * (a[1, 0] * px + a[1, 1] * py + a[1, 2] * pz + SHAFT_REACH))
    cell = row * SHAFT_CELLS + column
    if column < 0 or row < 0 or column >= SHAFT_CELLS or row >= SHAFT_CELLS:
        cell = SHAFT_CELLS * SHAFT_CELLS
    return shafts.starts[cell], shafts.starts[cell + 1]


@inline
def _openness(scene, hit, px, py, pz, nx, ny, nz):
    """Share of the ambient light that reaches a point: walls and near solids (as spheres) darken it."""
    solids, share = scene.solids, 1.0
    for i in range(len(solids)):
        solid = solids[i]
        if solid.kind >= BOX:
            break
        if solid.kind == PLANE and i != hit:
            a = solid.axes
            rx, ry, rz = px - solid.centre[0], py - solid.centre[1], pz - solid.centre[2]
            height = (a[2, 0] * rx + a[2, 1] * ry + a[2, 2] * rz) / 0.35
            share *= 1.0 - 0.45 / (1.0 + height * height)
    start, stop = _shaft(scene.near_shafts, px, py, pz)
    for n in range(start, stop):
        solid = solids[scene.near_shafts.members[n]]
        rx, ry, rz = solid.centre[0] - px, solid.centre[1] - py, solid.centre[2] - pz
        facing = rx * nx + ry * ny + rz * nz
        squared, size = rx * rx + ry * ry + rz * rz, solid.girth * solid.girth
        if scene.near_shafts.members[n] != hit and facing > 0.0 and squared < 9.0 * size:
            # Form factor of a sphere (cosine times solid angle over pi), faded to nothing at three radii.
            covered = size / max(squared, size) - 0.1111
            share *= 1.0 - 0.8 * covered * min(facing / math.sqrt(squared), 1.0)
    return share


@inline
def _shade(scene, i, px, py, pz, dx, dy, dz, footprint):
    """Linear RGB that solid i sends from a surface point back along the unit direction (dx, dy, dz)."""
    solid, light = scene.solids[i], scene.light
    a, size, material = solid.axes, solid.half_size, scene.materials[solid.material]
    rx, ry, rz = px - solid.centre[0], py - solid.centre[1], pz - solid.centre[2]
    ux = a[0, 0] * rx + a[0, 1] * ry + a[0, 2] * rz
    uy = a[1, 0] * rx + a[1, 1] * ry + a[1, 2] * rz
    uz = a[2, 0] * rx + a[2, 1] * ry + a[2, 2] * rz
    gx, gy, gz = unit_normal(solid.kind, solid.shape, ux, uy, uz)
    nx = a[0, 0] * gx + a[1, 0] * gy + a[2, 0] * gz
    ny = a[0, 1] * gx + a[1, 1] * gy + a[2, 1] * gz
    nz = a[0, 2] * gx + a[1, 2] * gy + a[2, 2] * gz
    norm = 1.0 / math.sqrt(nx * nx + ny * ny + nz * nz)
    nx, ny, nz = nx * norm, ny * norm, nz * norm
    slant = max(-(nx * dx + ny * dy + nz * dz), 0.1)

    r, g, b = albedo(material, scene.lattice, ux * size[0], uy * size[1], uz * size[2], footprint / slant)
    lr, lg, lb, highlight = 1.0, 1.0, 1.0, 0.0
    if solid.kind != DOME:
        up = 0.5 + 0.5 * nz
        share = _openness(scene, i, px, py, pz, nx, ny, nz)
        lr = share * (up * light.above[0] + (1.0 - up) * light.below[0])
        lg = share * (up * light.above[1] + (1.0 - up) * light.below[1])
        lb = share * (up * light.above[2] + (1.0 - up) * light.below[2])
        sx, sy, sz = light.direction[0], light.direction[1], light.direction[2]
        facing = nx * sx + ny * sy + nz * sz
        if facing > 0.0:
            qx, qy, qz = px + _SURFACE * nx, py + _SURFACE * ny, pz + _SURFACE * nz
            start, stop = _shaft(scene.sun_shafts, px, py, pz)
            if not blocked(scene.solids, scene.sun_shafts.members, start, stop, qx, qy, qz, sx, sy, sz):
                lr, lg, lb = lr + facing * light.sun[0], lg + facing * light.sun[1], lb + facing * light.sun[2]
                # Blinn (1977): the half vector between light and eye, to the 32nd power.
                hx, hy, hz = sx - dx, sy - dy, sz - dz
                half = max((nx * hx + ny * hy + nz * hz) / math.sqrt(hx * hx + hy * hy + hz * hz), 0.0)
                half *= half
                half *= half
                half *= half
                half *= half
                highlight = material.gloss * half * half
        haze = step(light.haze_start, light.haze_end, math.sqrt(px * px + py * py + pz * pz))
    else:
        haze = 1.0 - step(0.0, 0.25, uz)
    clear = 1.0 - haze
    r = clear * (r * lr + highlight * light.sun[0]) + haze * light.haze[0]
    g = clear * (g * lg + highlight * light.sun[1]) + haze * light.haze[1]
    b = clear * (b * lb + highlight * light.sun[2]) + haze * light.haze[2]
    return r, g, b


@inline
def _srgb(x):
    """Filmic curve (Narkowicz 2015), then the sRGB curve (IEC 61966-2-1); 0 to 1."""
    x = max(x, 0.0)
    x = min(x * (2.51 * x + 0.03) / (x * (2.43 * x + 0.59) + 0.14), 1.0)
    return 12.92 * x if x <= 0.0031308 else 1.055 * x ** (1.0 / 2.4) - 0.055


@inline
def _before_cone(solids, ox, oy, oz, ax, ay, az, cosine, found, near):
    """List the solids that meet a cone of rays, front to back, then the enclosure; returns their number."""
    sine = math.sqrt(max(1.0 - cosine * cosine, 0.0))
    count, enclosure = 0, 0
    while enclosure < len(solids) and solids[enclosure].kind < BOX:
        enclosure += 1
    for i in range(enclosure, len(solids)):
        solid, bound = solids[i], solids[i].bound
        rx, ry, rz = solid.centre[0] - ox, solid.centre[1] - oy, solid.centre[2] - oz
        along, squared = rx * ax + ry * ay + rz * az, rx * rx + ry * ry + rz * rz
        aside = math.sqrt(max(squared - along * along, 0.0))
        # Distance of the sphere's centre from the cone's side, and from the plane through its apex.
        if aside * cosine - along * sine > bound or along < -bound:
            continue
        distance, place = math.sqrt(squared) - bound, count
        while place > 0 and near[place - 1] > distance:
            near[place], found[place] = near[place - 1], found[place - 1]
            place -= 1
        near[place], found[place] = distance, i
        count += 1
    for i in range(enclosure):
        found[count + i] = i
    return count + enclosure


@inline
def _ray(rotation, focal, x, y):
    """Unit direction through a place relative to the image centre in pixels, and its camera z."""
    x, y = x / focal, y / focal
    z = 1.0 / math.sqrt(x * x + y * y + 1.0)
    return (
        z * (rotation[0, 0] * x + rotation[0, 1] * y + rotation[0, 2]),
        z * (rotation[1, 0] * x + rotation[1, 1] * y + rotation[1, 2]),
        z * (rotation[2, 0] * x + rotation[2, 1] * y + rotation[2, 2]),
        z,
    )


@kernel
def render_view(scene, rotation, centre, focal, image, depth):
    """Ray cast one view into ``image`` [h w 3] (sRGB 0..1) and ``depth`` [h w] (camera z, scene units).

    Colours are the mean of 2x2 rays per pixel in linear light, or of the two on a diagonal where these
    agree (adaptive supersampling, Whitted 1980); depth is that of the ray through the pixel's centre.
    The camera is a centred pinhole, OpenCV axes; ``rotation`` is world-from-camera and ``focal`` is in
    pixels.
    """
    height, width = depth.shape
    ox, oy, oz = centre[0], centre[1], centre[2]
    solids = scene.solids
    found, near = np.empty(len(solids), np.int64), np.empty(len(solids))
    for top in range(0, height, _TILE):
        for left in range(0, width, _TILE):
            bottom, right = min(top + _TILE, height), min(left + _TILE, width)
            ax, ay, az, _ = _ray(rotation, focal, 0.5 * (left + right - width), 0.5 * (top + bottom - height))
            cosine = 1.0
            for corner in range(4):
                x, y = (left, right)[corner & 1] - 0.5 * width, (top, bottom)[corner >> 1] - 0.5 * height
                dx, dy, dz, _ = _ray(rotation, focal, x, y)
                cosine = min(cosine, ax * dx + ay * dy + az * dz)
            count = _before_cone(solids, ox, oy, oz, ax, ay, az, cosine, found, near)
            for row in range(top, bottom):
                for column in range(left, right):
                    x, y = column + 0.5 - 0.5 * width, row + 0.5 - 0.5 * height
                    dx, dy, dz, z = _ray(rotation, focal, x, y)
                    t, middle = nearest(solids, found, count, ox, oy, oz, dx, dy, dz)
                    depth[row, column] = z * t
                    red, green, blue, samples, differ = 0.0, 0.0, 0.0, 0, False
                    for sample in (0, 3, 1, 2):
                        if samples == 2 and not differ:
                            break
                        sx, sy = x + 0.5 * (sample & 1) - 0.25, y + 0.5 * (sample >> 1) - 0.25
                        dx, dy, dz, _ = _ray(rotation, focal, sx, sy)
                        t, i = nearest(solids, found, count, ox, oy, oz, dx, dy, dz)
                        px, py, pz = ox + t * dx, oy + t * dy, oz + t * dz
                        r, g, b = _shade(scene, i, px, py, pz, dx, dy, dz, 0.5 * t / focal)
                        change = abs(red - r) + abs(green - g) + abs(blue - b)
                        differ |= i != middle or (samples == 1 and change > 0.02 * (r + g + b))
                        red, green, blue, samples = red + r, green + g, blue + b, samples + 1
                    share = 1.0 / samples
                    image[row, column, 0] = _srgb(share * red)
                    image[row, column, 1] = _srgb(share * green)
                    image[row, column, 2] = _srgb(share * blue)


@kernel
def cast(solids, origins, directions, distances):
    """Distance to the first surface on each of n rays; ``directions`` [n 3] have unit length."""
    everything = np.arange(len(solids))
    for n in range(len(origins)):
        ox, oy, oz = origins[n, 0], origins[n, 1], origins[n, 2]
        dx, dy, dz = directions[n, 0], directions[n, 1], directions[n, 2]
        distances[n], _ = nearest(solids, everything, len(everything), ox, oy, oz, dx, dy, dz)


@kernel
def count_sightings(solids, points, rotations, centres, focal, width, height, counts):
    """In how many views each surface point [n 3] lies within the image with nothing before it."""
    everything = np.arange(len(solids))
    for n in range(len(points)):
        counts[n] = 0
        for v in range(len(centres)):
            r = rotations[v]
            dx, dy, dz = points[n, 0] - centres[v, 0], points[n, 1] - centres[v, 1], points[n, 2] - centres[v, 2]
            x = r[0, 0] * dx + r[1, 0] * dy + r[2, 0] * dz
            y = r[0, 1] * dx + r[1, 1] * dy + r[2, 1] * dz
            z = r[0, 2] * dx + r[1, 2] * dy + r[2, 2] * dz
            if z <= 0.0 or not (-0.5 * width * z <= x * focal < 0.5 * width * z):
                continue
            if not (-0.5 * height * z <= y * focal < 0.5 * height * z):
                continue
            distance = math.sqrt(dx * dx + dy * dy + dz * dz)
            dx, dy, dz = dx / distance, dy / distance, dz / distance
            ox, oy, oz = centres[v, 0], centres[v, 1], centres[v, 2]
            until = distance * (1.0 - 1e-6)
            counts[n] += nearest(solids, everything, len(everything), ox, oy, oz, dx, dy, dz)[0] >= until
