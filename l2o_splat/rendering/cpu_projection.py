"""From Gaussians to records on the CPU; backwards in :mod:`cpu_projection_vjp`, tangents in :mod:`cpu_projection_jvp`.

The formulas are those of ``reference.py``. Geometry is computed in float64: it costs little here, and thin Gaussians
lose most of their digits in float32.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from l2o_splat.kernel import helper, inlined, kernel
from l2o_splat.lanes import LANES, filled, load, total
from l2o_splat.rendering.cpu_harmonics import sh_basis
from l2o_splat.rendering.cpu_records import (
    CENTRE_X,
    CENTRE_Y,
    DEPTH,
    FIRST_COLUMN,
    FIRST_ROW,
    LAST_COLUMN,
    LAST_ROW,
    LOG_OPACITY,
    PRECISION_X,
    PRECISION_Y,
    REACH,
    RED,
    SLOPE,
    TILE_HEIGHT,
    TILE_WIDTH,
    camera_of,
)
from l2o_splat.rendering.cpu_vectors import (
    add,
    apply,
    combined,
    dot,
    normalized,
    product,
    rotation,
    row,
    scaled,
    scaled_columns,
    unit_quaternion,
)

F, U = np.float32, np.uint64
LARGEST = 3.4e38
"""What float32 can hold; beyond, a Gaussian is not drawn, as with the other backends."""
MOST_BANDS = 32
"""Bands of degree 4, rounded up to whole vectors."""


@helper
def image_rows(axes, scale_x, scale_y, slope_x, slope_y):
    """The rows of a footprint for the Gaussian's axes, or for tangents of them."""
    return (
        combined(scale_x, axes[0], -scale_x * slope_x, axes[2]),
        combined(scale_y, axes[1], -scale_y * slope_y, axes[2]),
    )


class Footprint(NamedTuple):
    """How a camera sees the shape of a Gaussian: the affine projection of EWA splatting (Zwicker et al. 2002)."""

    inverse_z: float
    scale_x: float
    scale_y: float
    """Pixels per scene unit at the Gaussian's depth."""
    exact_x: float
    exact_y: float
    """x / z and y / z."""
    slope_x: float
    slope_y: float
    """The same, kept within the field of view and a margin."""
    row_x: tuple
    row_y: tuple
    """The two rows whose inner products are the projected covariance."""
    sharp_xx: float
    xy: float
    sharp_yy: float
    """The projected covariance, pixels squared."""
    xx: float
    yy: float
    """Its diagonal with the screen-space blur."""
    sharp_determinant: float
    determinant: float
    """Without and with the blur."""


@helper
def footprint_of(axes, point, camera, eps2d):
    """The footprint of a Gaussian at ``point`` in the camera, with its axes there as columns."""
    inverse_z = 1 / point[2]
    scale_x, scale_y = camera.focal[0] * inverse_z, camera.focal[1] * inverse_z
    exact_x, exact_y = point[0] * inverse_z, point[1] * inverse_z
    slope_x = min(max(exact_x, camera.lowest_slope[0]), camera.highest_slope[0])
    slope_y = min(max(exact_y, camera.lowest_slope[1]), camera.highest_slope[1])
    row_x, row_y = image_rows(axes, scale_x, scale_y, slope_x, slope_y)
    sharp_xx, xy, sharp_yy = dot(row_x, row_x), dot(row_x, row_y), dot(row_y, row_y)
    xx, yy = sharp_xx + eps2d, sharp_yy + eps2d
    return Footprint(
        inverse_z, scale_x, scale_y, exact_x, exact_y, slope_x, slope_y, row_x, row_y, sharp_xx, xy, sharp_yy, xx, yy,
        sharp_xx * sharp_yy - xy * xy, xx * yy - xy * xy,
    )  # fmt: skip


@helper
def sizes_of(scales, index):
    """Standard deviations of a Gaussian."""
    return float(np.exp(scales[index, 0])), float(np.exp(scales[index, 1])), float(np.exp(scales[index, 2]))


@helper
def exp_minus(logits, index):
    return float(np.exp(-logits[index, 0]))


@inlined
def split_channels(parameters, g, bands, coefficients):
    """Write the SH coefficients of a Gaussian into ``[3 * MOST_BANDS]``, one channel after the other."""
    for c in range(3):
        coefficients[c * MOST_BANDS] = parameters.features_dc[g, c]
        for k in range(1, bands):
            coefficients[c * MOST_BANDS + k] = parameters.features_rest[g, k - 1, c]


@inlined
def colour_of(basis, coefficients, bands, colour):
    """Write the colour, sRGB before the clamp at 0, for values of the SH functions."""
    for c in range(3):
        products = filled(F(0))
        for k in range(U(0), U(bands), U(LANES)):
            products = products + load(basis, k) * load(coefficients, U(c * MOST_BANDS) + k)
        colour[c] = F(0.5) + total(products)


@kernel
def project(begin, end, parameters, cameras, rules, records, tiles):
    """Write ``records`` ``[v, n, 16]`` and ``tiles`` ``[v, n, 4]`` of Gaussians ``begin`` to ``end``.

    ``tiles`` holds the first column and row of tiles, and the column and row after the last. It is empty for Gaussians
    that are not drawn because they are out of sight or not finite; their records are not written.
    """
    basis, colour = np.zeros(MOST_BANDS, np.float32), np.empty(3, np.float32)
    coefficients = np.zeros(3 * MOST_BANDS, np.float32)
    bands = (rules.degree + 1) ** 2
    for g in range(begin, end):
        mean = row(parameters.means, g)
        quaternion, _ = unit_quaternion(parameters.quats, g)
        axes_in_world = scaled_columns(rotation(quaternion), sizes_of(parameters.scales, g))
        sharp_log_opacity = math.log(255.0) - math.log(1 + exp_minus(parameters.opacities, g))
        split_channels(parameters, g, bands, coefficients)
        for view in range(len(cameras)):
            camera = camera_of(cameras, view)
            for side in range(4):
                tiles[view, g, side] = 0
            point = add(apply(camera.rotation, mean), camera.translation)
            z = point[2]
            if not rules.near <= z <= rules.far:
                continue
            axes = product(camera.rotation, axes_in_world)
            seen = footprint_of(axes, point, camera, rules.eps2d)
            xx, xy, yy, determinant = seen.xx, seen.xy, seen.yy, seen.determinant
            if not 0 < determinant < LARGEST:
                continue
            log_opacity = sharp_log_opacity
            if rules.antialiased:
                log_opacity += 0.5 * np.log(max(seen.sharp_determinant / determinant, rules.compensation_floor**2))
            if not log_opacity >= 0:
                continue

            centre_x = seen.scale_x * point[0] + camera.principal[0]
            centre_y = seen.scale_y * point[1] + camera.principal[1]
            # The bounding box of the ellipse on which alpha is 1/255, and a margin for rounding.
            half_x = np.sqrt(F(2 * log_opacity * xx)) + F(0.01)
            half_y = np.sqrt(F(2 * log_opacity * yy)) + F(0.01)
            first_column, last_column = np.ceil(centre_x - half_x - 0.5), np.floor(centre_x + half_x - 0.5)
            first_row, last_row = np.ceil(centre_y - half_y - 0.5), np.floor(centre_y + half_y - 0.5)
            if rules.three_sigma_tiles:
                middle = 0.5 * (xx + yy)
                radius = np.ceil(3 * math.sqrt(middle + math.sqrt(max(0.01, middle * middle - determinant))))
                if centre_x - radius >= rules.width or centre_y - radius >= rules.height:
                    continue
                first_column = max(first_column, np.floor((centre_x - radius) / 16) * 16)
                first_row = max(first_row, np.floor((centre_y - radius) / 16) * 16)
                last_column = min(last_column, np.ceil((centre_x + radius) / 16) * 16 - 1)
                last_row = min(last_row, np.ceil((centre_y + radius) / 16) * 16 - 1)
            first_column, last_column = max(first_column, 0.0), min(last_column, rules.width - 1.0)
            first_row, last_row = max(first_row, 0.0), min(last_row, rules.height - 1.0)
            if not (first_column <= last_column and first_row <= last_row):
                continue

            direction, _ = normalized(add(mean, scaled(-1.0, camera.centre)))
            sh_basis(direction, rules.degree, basis)
            colour_of(basis, coefficients, bands, colour)
            if not np.isfinite(colour[0] + colour[1] + colour[2]):
                continue
            record = records[view, g]
            for c in range(3):
                record[RED + c] = max(colour[c], F(0))
            record[CENTRE_X], record[CENTRE_Y], record[DEPTH] = centre_x, centre_y, z
            precision_y = 1 / yy
            record[PRECISION_X], record[SLOPE], record[PRECISION_Y] = yy / determinant, xy * precision_y, precision_y
            record[LOG_OPACITY], record[REACH] = log_opacity, np.sqrt(F(8 * determinant * precision_y))
            record[FIRST_COLUMN], record[FIRST_ROW] = first_column, first_row
            record[LAST_COLUMN], record[LAST_ROW] = last_column, last_row
            tiles[view, g, 0], tiles[view, g, 1] = int(first_column) // TILE_WIDTH, int(first_row) // TILE_HEIGHT
            tiles[view, g, 2], tiles[view, g, 3] = int(last_column) // TILE_WIDTH + 1, int(last_row) // TILE_HEIGHT + 1
