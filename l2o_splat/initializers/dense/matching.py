"""Depth by comparing views: planes are proposed by neighbouring pixels, and the one kept under which views look alike.

PatchMatch stereo with slanted planes (Bleyer, Rhemann, Rother, BMVC 2011) over several views, the best half of which
counts, so that a view in which the place is hidden does no harm.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from l2o_splat.initializers.dense.working_views import WorkingViews
from l2o_splat.kernel import helper, kernel

REACH = 2
"""Pixels between samples of the window; 3 x 3 samples cover 5 x 5 pixels."""
UNSEEN = 2.0
"""Cost of a view that does not see the whole window."""
SOFTENING = 4e-4
"""Added to the variance of a window: below it, noise decides."""
EVEN = np.float32(4e-6)
"""Variance of a window too even to be matched, whose plane stays."""
BRIGHTNESS = 2.0
"""Cost of a difference of the windows' means of 1."""
STRIDE = 2
"""Every so many pixels of each axis one is matched, with windows of all pixels."""
GOOD = np.float32(0.02)
"""Cost below which a plane is not improved."""
ALIKE = 0.002
"""Relative difference of inverse depth below which a neighbour's plane is no news."""
BEYOND = np.float32(2.0)
"""Factor by which depths may leave the range of those that the view starts from. Nothing else would hold a plane that
runs towards the camera where views share nothing: its image in another view is a single point, which costs little."""
SWEEPS = 3
PERTURBATION = 0.03
"""Largest random change of inverse depth in the first sweep, relative; it is a third in each later one."""


@helper
def random_number(a, b, c):
    """Between -1 and 1, a function of three integers."""
    h = (
        np.uint32(a) * np.uint32(0x9E3779B1)
        ^ np.uint32(b) * np.uint32(0x85EBCA77)
        ^ np.uint32(c) * np.uint32(0xC2B2AE3D)
    )
    h ^= h >> np.uint32(15)
    h *= np.uint32(0x2C1B3C6D)
    h ^= h >> np.uint32(12)
    h *= np.uint32(0x297A2D39)
    h ^= h >> np.uint32(15)
    return np.float32(h >> np.uint32(8)) * np.float32(2.0 / 16777216) - np.float32(1.0)


@helper
def likeness(x, y, q, qx, qy, window, mean, variance, grey, A, t):
    """Cost of one view for one plane at one pixel; the plane's image is taken as affine."""
    height, width = grey.shape
    zero, half = np.float32(0.0), np.float32(0.5)
    u, v = np.float32(x) + half, np.float32(y) + half
    z = A[2, 0] * u + A[2, 1] * v + A[2, 2] + t[2] * q
    if not z > 0:
        return np.float32(UNSEEN)
    inverse = np.float32(1.0) / z
    px = (A[0, 0] * u + A[0, 1] * v + A[0, 2] + t[0] * q) * inverse
    py = (A[1, 0] * u + A[1, 1] * v + A[1, 2] + t[1] * q) * inverse
    # How the place moves with the pixel, times the step between samples.
    zx, zy, step = A[2, 0] + t[2] * qx, A[2, 1] + t[2] * qy, inverse * np.float32(REACH)
    xx, xy = (A[0, 0] + t[0] * qx - px * zx) * step, (A[0, 1] + t[0] * qy - px * zy) * step
    yx, yy = (A[1, 0] + t[1] * qx - py * zx) * step, (A[1, 1] + t[1] * qy - py * zy) * step
    px, py = px - half, py - half
    reach_x, reach_y = abs(xx) + abs(xy), abs(yx) + abs(yy)
    if not (px >= reach_x and py >= reach_y and px + reach_x < width - 1 and py + reach_y < height - 1):
        return np.float32(UNSEEN)
    total, squares, products = np.float32(0.0), np.float32(0.0), np.float32(0.0)
    for j in range(3):
        dy = np.float32(j - 1)
        for i in range(3):
            dx = np.float32(i - 1)
            sx, sy = px + xx * dx + xy * dy, py + yx * dx + yy * dy
            # Unsigned, so that no index counts from the end.
            c, r = np.uint64(max(sx, zero)), np.uint64(max(sy, zero))
            fx, fy = sx - np.float32(c), sy - np.float32(r)
            right, below = c + np.uint64(1), r + np.uint64(1)
            top = grey[r, c] + fx * (grey[r, right] - grey[r, c])
            bottom = grey[below, c] + fx * (grey[below, right] - grey[below, c])
            value = top + fy * (bottom - top)
            total += value
            squares += value * value
            products += value * window[3 * j + i]
    other_mean = total / np.float32(9.0)
    other_variance = max(squares / np.float32(9.0) - other_mean * other_mean, zero)
    covariance = products / np.float32(9.0) - other_mean * mean
    correlation = covariance / (np.sqrt(other_variance * variance) + np.float32(SOFTENING))
    difference = min(abs(other_mean - mean), np.float32(0.25))
    return np.float32(1.0) - correlation + np.float32(BRIGHTNESS) * difference


@helper
def plane_cost(x, y, q, qx, qy, window, mean, variance, greys, others, maps, offsets):
    """Mean cost of the better half of the views."""
    best = second = np.float32(UNSEEN)
    for m in range(len(others)):
        cost = likeness(x, y, q, qx, qy, window, mean, variance, greys[others[m]], maps[m], offsets[m])
        if cost < best:
            best, second = cost, best
        elif cost < second:
            second = cost
    return best if len(others) < 3 else np.float32(0.5) * (best + second)


@kernel
def match(grey, greys, others, maps, offsets, planes, costs, seed, inverse):
    """Improve the planes of a view.

    Args:
        grey: ``[h, w]`` the view.
        greys: ``[v, h, w]`` all views.
        others: ``[m]`` indices of the views that it is compared with.
        maps: ``[m, 3, 3]`` and
        offsets: ``[m, 3]``: pixel p with inverse depth q appears at maps p + offsets q; float32.
        planes: ``[rows, columns, 3]`` inverse depth, and its change per pixel to the right and down, of every
            ``STRIDE``-th pixel of each axis; a start, changed in place.
        costs: ``[rows, columns]`` written.
        seed: Of the random changes.
        inverse: ``[h, w]`` written; inverse depths of all pixels. Those between lie on the plane before them.
    """
    height, width = grey.shape
    rows, columns = costs.shape
    window = np.empty(9, np.float32)
    least, most = planes[:, :, 0].min() / BEYOND, planes[:, :, 0].max() * BEYOND
    for sweep in range(SWEEPS + 1):
        forward = sweep % 2 == 1
        amplitude = np.float32(PERTURBATION * 3.0 ** (1 - sweep))
        back = -1 if forward else 1
        for line in range(rows):
            row = line if forward else rows - 1 - line
            for place in range(columns):
                column = place if forward else columns - 1 - place
                x, y = STRIDE * column, STRIDE * row
                best = costs[row, column]
                if sweep > 0 and (best < GOOD or best >= UNSEEN):
                    continue
                total, squares = np.float32(0.0), np.float32(0.0)
                for j in range(3):
                    r = min(max(y + REACH * (j - 1), 0), height - 1)
                    for i in range(3):
                        value = grey[r, min(max(x + REACH * (i - 1), 0), width - 1)]
                        window[3 * j + i] = value
                        total += value
                        squares += value * value
                mean = total / np.float32(9.0)
                variance = max(squares / np.float32(9.0) - mean * mean, np.float32(0.0))
                q, qx, qy = planes[row, column]
                if sweep == 0:
                    costs[row, column] = UNSEEN
                    if variance >= EVEN:
                        costs[row, column] = plane_cost(
                            x, y, q, qx, qy, window, mean, variance, greys, others, maps, offsets
                        )
                    continue
                for proposal in range(3):
                    if proposal == 0:
                        if not (0 <= column + back < columns):
                            continue
                        nq, nx, ny = planes[row, column + back]
                        nq -= np.float32(STRIDE * back) * nx
                    elif proposal == 1:
                        if not (0 <= row + back < rows):
                            continue
                        nq, nx, ny = planes[row + back, column]
                        nq -= np.float32(STRIDE * back) * ny
                    else:
                        place_number, tilt = y * width + x, np.float32(0.3) * amplitude * q
                        nq = q * (1 + amplitude * random_number(place_number, sweep, seed))
                        nx = qx + tilt * random_number(place_number, sweep + 100, seed)
                        ny = qy + tilt * random_number(place_number, sweep + 200, seed)
                    if not least <= nq <= most or (proposal < 2 and abs(nq - q) < np.float32(ALIKE) * q):
                        continue
                    cost = plane_cost(x, y, nq, nx, ny, window, mean, variance, greys, others, maps, offsets)
                    if cost < best:
                        best, q, qx, qy = cost, nq, nx, ny
                costs[row, column] = best
                planes[row, column, 0], planes[row, column, 1], planes[row, column, 2] = q, qx, qy
    for y in range(height):
        for x in range(width):
            q, qx, qy = planes[y // STRIDE, x // STRIDE]
            inverse[y, x] = q + np.float32(x % STRIDE) * qx + np.float32(y % STRIDE) * qy


def matched(
    views: WorkingViews, v: int, others: Int[np.ndarray, " m"], inverse: Float[np.ndarray, "h w"]
) -> Float[np.ndarray, "h w"]:
    """Inverse depths of view ``v``, starting from ``inverse``, under which it looks like the others."""
    maps, offsets = views.maps(v, others)
    planes = np.zeros((*inverse[::STRIDE, ::STRIDE].shape, 3), np.float32)
    slopes = np.gradient(inverse)
    for part, values in enumerate((inverse, slopes[1], slopes[0])):
        planes[..., part] = values[::STRIDE, ::STRIDE]
    costs = np.empty(planes.shape[:2], np.float32)
    result = np.empty_like(inverse)
    match(views.grey[v], views.grey, others, maps, offsets, planes, costs, v, result)
    return result
