"""Gaussians from cells of pixels: flat, on the surface, as wide as the cell looks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from l2o_splat import threads
from l2o_splat.gaussians import SH_C0, Gaussians
from l2o_splat.initializers.dense.choice import fitted_plane
from l2o_splat.initializers.dense.depths import Depths
from l2o_splat.initializers.dense.head import EVIDENCE
from l2o_splat.initializers.dense.working_views import WorkingViews
from l2o_splat.kernel import helper, kernel

WIDTH = 2.2
"""Standard deviation of a Gaussian, in standard deviations of its cell's pixels."""
FLATNESS = 0.2
"""Standard deviation across the surface, in the smaller one along it."""
LONGEST = 4.0
"""Most that a Gaussian is longer than wide."""
OPACITY = 0.8
UNSURE_OPACITY = 0.5
"""The same where views do not agree on the depth."""
DEPTH_EDGE = 0.03
"""Relative difference of inverse depths that belong to one surface."""


@helper
def write_quaternion(a, b, c, quats):
    """Unit quaternion w, x, y, z of the rotation with columns a, b, c."""
    trace = a[0] + b[1] + c[2]
    if trace > 0:
        s = np.sqrt(trace + 1.0) * 2
        quats[0], quats[1], quats[2], quats[3] = s / 4, (b[2] - c[1]) / s, (c[0] - a[2]) / s, (a[1] - b[0]) / s
    elif a[0] > b[1] and a[0] > c[2]:
        s = np.sqrt(1.0 + a[0] - b[1] - c[2]) * 2
        quats[0], quats[1], quats[2], quats[3] = (b[2] - c[1]) / s, s / 4, (b[0] + a[1]) / s, (c[0] + a[2]) / s
    elif b[1] > c[2]:
        s = np.sqrt(1.0 + b[1] - a[0] - c[2]) * 2
        quats[0], quats[1], quats[2], quats[3] = (c[0] - a[2]) / s, (b[0] + a[1]) / s, s / 4, (c[1] + b[2]) / s
    else:
        s = np.sqrt(1.0 + c[2] - a[0] - b[1]) * 2
        quats[0], quats[1], quats[2], quats[3] = (a[1] - b[0]) / s, (c[0] + a[2]) / s, (c[1] + b[2]) / s, s / 4


@kernel
def surfels(
    cells, image, owned, inverse, known, trusted, confirmed, refuted, K, viewmat,
    means, scales, quats, colours, sure, evidence,
):  # fmt: skip
    """Make a Gaussian of each cell.

    Args:
        cells: ``[n, 3]`` level, row, column.
        image: ``[h, w, 3]``
        owned: ``[h, w]`` pixels that the cells cover.
        inverse: ``[h, w]`` inverse depths.
        known: ``[h, w]`` where they may be used for the normal.
        trusted: ``[h, w]`` where views agree on them.
        confirmed: ``[h, w]`` how many agree.
        refuted: ``[h, w]`` how many look through the place.
        K: ``[3, 3]``
        viewmat: ``[4, 4]``
        means: ``[n, 3]`` world frame; written, like
        scales: ``[n, 3]`` standard deviations, scene units,
        quats: ``[n, 4]``,
        colours: ``[n, 3]``,
        sure: ``[n]`` bool, whether views agree on at least half of the pixels, and
        evidence: ``[n, EVIDENCE]`` float32: 1; level; share of the cell that it covers; share of that on which views
            agree; how many agree, and how many look through; standard deviation of the colours; how far the depths are
            from a plane, relative; cosine of the viewing angle; logarithms of the ratio of the Gaussian's axes, of the
            share of the view's pixels on which views agree, and of the Gaussian's width in pixels.
    """
    height, width = owned.shape
    fx, fy = K[0, 0], K[1, 1]
    along, up, a, b, c = np.empty(3), np.empty(3), np.empty(3), np.empty(3), np.empty(3)
    known_share = 0.0
    for y in range(height):
        for x in range(width):
            known_share += trusted[y, x]
    known_share /= height * width
    for i in range(len(cells)):
        level, row, column = cells[i]
        size = 1 << level
        top, left = row * size, column * size
        n = agreed = agreeing = through = 0
        sx = sy = sxx = sxy = syy = depth = 0.0
        red = green = blue = squares = 0.0
        for y in range(top, top + size):
            for x in range(left, left + size):
                if owned[y, x]:
                    n += 1
                    agreed += trusted[y, x]
                    agreeing += confirmed[y, x]
                    through += refuted[y, x]
                    u, v = x + 0.5, y + 0.5
                    sx += u
                    sy += v
                    sxx += u * u
                    sxy += u * v
                    syy += v * v
                    depth += inverse[y, x]
                    red += image[y, x, 0]
                    green += image[y, x, 1]
                    blue += image[y, x, 2]
                    for k in range(3):
                        squares += image[y, x, k] ** 2
        sure[i] = 2 * agreed >= n
        mx, my = sx / n, sy / n
        xx, xy, yy = sxx / n - mx * mx + 1 / 12, sxy / n - mx * my, syy / n - my * my + 1 / 12
        colours[i, 0], colours[i, 1], colours[i, 2] = red / n, green / n, blue / n
        q, qx, qy, residual = fitted_plane(
            inverse, known, max(top - 2, 0), min(top + size + 2, height), max(left - 2, 0), min(left + size + 2, width),
            mx, my, depth / n, DEPTH_EDGE,
        )  # fmt: skip
        z = 1 / q
        rx, ry = (mx - K[0, 2]) / fx, (my - K[1, 2]) / fy
        # Change of the point per pixel to the right and down, on the plane.
        zx, zy = -z * z * qx, -z * z * qy
        along[0], along[1], along[2] = z / fx + rx * zx, ry * zx, zx
        up[0], up[1], up[2] = rx * zy, z / fy + ry * zy, zy
        # Covariance along the plane in an orthonormal basis of it.
        length = np.sqrt(along[0] ** 2 + along[1] ** 2 + along[2] ** 2)
        for k in range(3):
            a[k] = along[k] / length
        shared = up[0] * a[0] + up[1] * a[1] + up[2] * a[2]
        rest = 0.0
        for k in range(3):
            b[k] = up[k] - shared * a[k]
            rest += b[k] ** 2
        rest = np.sqrt(rest)
        for k in range(3):
            b[k] /= rest
        # Pixel offset (dx, dy) -> (length dx + shared dy, rest dy)
        aa = length * length * xx + 2 * length * shared * xy + shared * shared * yy
        ab = rest * (length * xy + shared * yy)
        bb = rest * rest * yy
        angle = 0.5 * np.arctan2(2 * ab, aa - bb)
        cosine, sine = np.cos(angle), np.sin(angle)
        middle, radius = 0.5 * (aa + bb), np.sqrt(0.25 * (aa - bb) ** 2 + ab * ab)
        for k in range(3):
            along[k] = cosine * a[k] + sine * b[k]
            up[k] = cosine * b[k] - sine * a[k]
        long = WIDTH * np.sqrt(middle + radius)
        short = WIDTH * np.sqrt(max(middle - radius, 1e-12 * middle))
        long = min(long, LONGEST * short)
        scales[i, 0], scales[i, 1], scales[i, 2] = long, short, FLATNESS * short
        px, py, pz = rx * z - viewmat[0, 3], ry * z - viewmat[1, 3], z - viewmat[2, 3]
        for k in range(3):
            means[i, k] = viewmat[0, k] * px + viewmat[1, k] * py + viewmat[2, k] * pz
            a[k] = viewmat[0, k] * along[0] + viewmat[1, k] * along[1] + viewmat[2, k] * along[2]
            b[k] = viewmat[0, k] * up[0] + viewmat[1, k] * up[1] + viewmat[2, k] * up[2]
        c[0], c[1], c[2] = a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]
        write_quaternion(a, b, c, quats[i])
        facing = abs(rx * (along[1] * up[2] - along[2] * up[1]) + ry * (along[2] * up[0] - along[0] * up[2])
                     + along[0] * up[1] - along[1] * up[0]) / np.sqrt(rx * rx + ry * ry + 1)  # fmt: skip
        spread = squares / n - (red * red + green * green + blue * blue) / (n * n)
        evidence[i, 0] = 1
        evidence[i, 1] = level
        evidence[i, 2] = n / (size * size)
        evidence[i, 3] = agreed / n
        evidence[i, 4] = min(agreeing / n, 8) / 4
        evidence[i, 5] = min(through / n, 8) / 4
        evidence[i, 6] = 4 * np.sqrt(max(spread, 0.0))
        evidence[i, 7] = min(50 * residual / q, 4)
        evidence[i, 8] = facing
        evidence[i, 9] = np.log(long / short)
        evidence[i, 10] = 0.25 * np.log(known_share + 1e-3)
        evidence[i, 11] = np.log(short * q * np.sqrt(fx * fy))


def gaussians_of_cells(
    cells: Sequence[Int[np.ndarray, "n 3"]],
    views: WorkingViews,
    depths: Depths,
    owned: Bool[np.ndarray, "v h w"],
    sh_degree: int,
) -> tuple[Gaussians, Float[Tensor, "n e"]]:
    """One Gaussian for each cell (level, row, column) of each view, and what is known of it."""

    def make(v: int) -> list[np.ndarray]:
        n = len(cells[v])
        rows = [*(np.empty((n, columns)) for columns in (3, 3, 4, 3)), np.empty(n, bool), np.empty((n, EVIDENCE))]
        known = depths.trusted[v] | owned[v]
        camera = views.Ks[v], views.viewmats[v]
        seen = depths.colours[v], owned[v], depths.inverse[v], known
        votes = depths.trusted[v], depths.confirmed[v], depths.refuted[v]
        surfels(cells[v], *seen, *votes, *camera, *rows)
        return rows

    made = zip(*threads.run(make, len(views)), strict=True)
    means, scales, quats, colours, sure, evidence = (torch.from_numpy(np.concatenate(rows)).float() for rows in made)
    n = len(means)
    gaussians = Gaussians(
        means=means,
        scales=scales.log(),
        quats=quats,
        opacities=torch.where(sure > 0, OPACITY, UNSURE_OPACITY)[:, None].logit(),
        features_dc=(colours - 0.5) / SH_C0,
        features_rest=torch.zeros(n, (sh_degree + 1) ** 2 - 1, 3),
    )
    return gaussians, evidence
