"""Depth everywhere from depth at some pixels: the smoothest inverse depth that may bend at colour edges.

Inverse depth is linear in the pixel on a plane, so that planes are reproduced.
"""

from __future__ import annotations

import numpy as np

from l2o_splat.kernel import helper, kernel

COLOUR_EDGE = 0.04
"""Difference of neighbouring pixels (root mean square of the channels) at which smoothness gives way."""
WEAKEST = 2e-3
"""Weight of smoothness across the strongest edge, against 1 within a surface."""
SWEEPS = 6
"""Sweeps of relaxation on each level of the pyramid."""
RELAXATION = 1.6
"""Factor of successive over-relaxation."""


@helper
def halved(values, weights, image):
    """Sums of weights, means of values and of colours over 2 x 2 pixels."""
    height, width = values.shape
    rows, columns = (height + 1) // 2, (width + 1) // 2
    small, small_weights = np.zeros((rows, columns), np.float32), np.zeros((rows, columns), np.float32)
    small_image = np.zeros((rows, columns, 3), np.float32)
    for r in range(rows):
        for c in range(columns):
            pixels = np.float32(0.0)
            for y in range(2 * r, min(2 * r + 2, height)):
                for x in range(2 * c, min(2 * c + 2, width)):
                    small[r, c] += weights[y, x] * values[y, x]
                    small_weights[r, c] += weights[y, x]
                    pixels += np.float32(1.0)
                    for k in range(3):
                        small_image[r, c, k] += image[y, x, k]
            for k in range(3):
                small_image[r, c, k] /= pixels
            if small_weights[r, c] > 0:
                small[r, c] /= small_weights[r, c]
    return small, small_weights, small_image


@helper
def relax(solution, values, weights, image):
    """Sweeps of successive over-relaxation of one level, in place."""
    height, width = values.shape
    across, down = np.zeros((height, width), np.float32), np.zeros((height, width), np.float32)
    scale = np.float32(-1 / (6 * COLOUR_EDGE**2))
    for y in range(height):
        for x in range(width):
            right, below = np.float32(0.0), np.float32(0.0)
            for k in range(3):
                if x + 1 < width:
                    right += (image[y, x, k] - image[y, x + 1, k]) ** 2
                if y + 1 < height:
                    below += (image[y, x, k] - image[y + 1, x, k]) ** 2
            if x + 1 < width:
                across[y, x] = max(np.exp(scale * right), np.float32(WEAKEST))
            if y + 1 < height:
                down[y, x] = max(np.exp(scale * below), np.float32(WEAKEST))
    for sweep in range(SWEEPS):
        for i in range(height):
            y = i if sweep % 2 == 0 else height - 1 - i
            for j in range(width):
                x = j if sweep % 2 == 0 else width - 1 - j
                total, weight = weights[y, x] * values[y, x], weights[y, x]
                if x > 0:
                    total += across[y, x - 1] * solution[y, x - 1]
                    weight += across[y, x - 1]
                if x + 1 < width:
                    total += across[y, x] * solution[y, x + 1]
                    weight += across[y, x]
                if y > 0:
                    total += down[y - 1, x] * solution[y - 1, x]
                    weight += down[y - 1, x]
                if y + 1 < height:
                    total += down[y, x] * solution[y + 1, x]
                    weight += down[y, x]
                solution[y, x] += np.float32(RELAXATION) * (total / weight - solution[y, x])


@kernel
def interpolate(values, weights, image, solution):
    """Solve for inverse depth, from coarse to fine.

    Args:
        values: ``[h, w]`` inverse depths where they are known; float32.
        weights: ``[h, w]`` how much each counts, 0 where it is unknown; some must be positive.
        image: ``[h, w, 3]``
        solution: ``[h, w]`` written.
    """
    pyramid = [(values, weights, image)]
    while min(pyramid[-1][0].shape) > 3:
        v, w, i = pyramid[-1]
        pyramid.append(halved(v, w, i))
    v, w, i = pyramid[-1]
    mean, total = np.float32(0.0), np.float32(0.0)
    for r in range(v.shape[0]):
        for c in range(v.shape[1]):
            mean += w[r, c] * v[r, c]
            total += w[r, c]
    coarse = np.full(v.shape, mean / total, np.float32)
    relax(coarse, v, w, i)
    for level in range(len(pyramid) - 2, -1, -1):
        v, w, i = pyramid[level]
        fine = np.empty(v.shape, np.float32)
        for r in range(v.shape[0]):
            for c in range(v.shape[1]):
                fine[r, c] = coarse[r // 2, c // 2]
        relax(fine, v, w, i)
        coarse = fine
    solution[:] = coarse
