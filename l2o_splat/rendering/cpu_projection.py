"""From Gaussians to records on the CPU, backwards for gradients and forwards for tangents.

The formulas are those of ``reference.py``. Geometry is computed in float64: it costs little here, and thin Gaussians
lose most of their digits in float32.
"""

from __future__ import annotations

import math

import numpy as np

from l2o_splat.kernel import helper, kernel
from l2o_splat.rendering.cpu_harmonics import sh_basis, sh_gradient
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
    RED,
    SLOPE,
    SPLAT_WIDTH,
    TILE_HEIGHT,
    TILE_WIDTH,
)
from l2o_splat.rendering.cpu_vectors import (
    add,
    add_to_row,
    apply,
    combined,
    dot,
    normalized,
    product,
    rotation,
    rotation_jvp,
    rotation_vjp,
    row,
    scaled,
    times,
    transposed,
    unit_quaternion,
)

F = np.float32
LARGEST = 3.4e38
"""What float32 can hold; beyond, a Gaussian is not drawn, as with the other backends."""
MOST_BANDS = 25
GROUP = 64
"""Gaussians whose sums are fetched together; the memory accesses then overlap."""


@helper
def _limited_slopes(point, camera):
    """x / z and y / z, kept within the field of view and a margin."""
    slope_x = min(max(point[0] / point[2], camera.lowest_slope[0]), camera.highest_slope[0])
    slope_y = min(max(point[1] / point[2], camera.lowest_slope[1]), camera.highest_slope[1])
    return slope_x, slope_y


@helper
def _sizes(scales, index):
    """Standard deviations of a Gaussian."""
    return float(np.exp(scales[index, 0])), float(np.exp(scales[index, 1])), float(np.exp(scales[index, 2]))


@helper
def _image_rows(axes, point, slopes, camera):
    """The two rows whose inner products are the projected covariance. ``axes`` has the Gaussian's axes as columns."""
    scale_x, scale_y = camera.focal[0] / point[2], camera.focal[1] / point[2]
    return (
        combined(scale_x, axes[0], -scale_x * slopes[0], axes[2]),
        combined(scale_y, axes[1], -scale_y * slopes[1], axes[2]),
    )


@helper
def _exp_minus(logits, index):
    return float(np.exp(-logits[index, 0]))


@kernel
def project(begin, end, parameters, camera, rules, records, tiles):
    """Write ``records`` ``[n, 16]`` and ``tiles`` ``[n, 4]`` of Gaussians ``begin`` to ``end``.

    ``tiles`` holds the first column and row of tiles, and the column and row after the last. It is empty for Gaussians
    that are not drawn because they are out of sight or not finite; their records are not written.
    """
    basis, colour = np.empty(MOST_BANDS, np.float32), np.empty(3, np.float32)
    bands = (rules.degree + 1) ** 2
    for g in range(begin, end):
        for side in range(4):
            tiles[g, side] = 0
        mean = row(parameters.means, g)
        point = add(apply(camera.rotation, mean), camera.translation)
        z = point[2]
        if not rules.near <= z <= rules.far:
            continue
        quaternion, _ = unit_quaternion(parameters.quats, g)
        sizes, turn = _sizes(parameters.scales, g), product(camera.rotation, rotation(quaternion))
        axes = times(turn[0], sizes), times(turn[1], sizes), times(turn[2], sizes)
        row_x, row_y = _image_rows(axes, point, _limited_slopes(point, camera), camera)
        xx, xy, yy = dot(row_x, row_x), dot(row_x, row_y), dot(row_y, row_y)
        sharp_determinant = xx * yy - xy * xy
        xx, yy = xx + rules.eps2d, yy + rules.eps2d
        determinant = xx * yy - xy * xy
        if not 0 < determinant < LARGEST:
            continue
        log_opacity = math.log(255.0) - np.log1p(_exp_minus(parameters.opacities, g))
        if rules.antialiased:
            log_opacity += 0.5 * np.log(max(sharp_determinant / determinant, rules.compensation_floor**2))
        if not log_opacity >= 0:
            continue

        centre_x = camera.focal[0] * point[0] / z + camera.principal[0]
        centre_y = camera.focal[1] * point[1] / z + camera.principal[1]
        # The bounding box of the ellipse on which alpha is 1/255, and a margin for rounding.
        half_x = math.sqrt(2 * log_opacity * xx) + 0.01
        half_y = math.sqrt(2 * log_opacity * yy) + 0.01
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
        for c in range(3):
            colour[c] = F(0.5) + basis[0] * parameters.features_dc[g, c]
        for k in range(1, bands):
            for c in range(3):
                colour[c] += basis[k] * parameters.features_rest[g, k - 1, c]
        if not np.isfinite(colour[0] + colour[1] + colour[2]):
            continue
        record = records[g]
        for c in range(3):
            record[RED + c] = max(colour[c], F(0))
        record[CENTRE_X], record[CENTRE_Y], record[DEPTH] = centre_x, centre_y, z
        record[PRECISION_X], record[SLOPE], record[PRECISION_Y] = yy / determinant, xy / yy, 1 / yy
        record[LOG_OPACITY] = log_opacity
        record[FIRST_COLUMN], record[FIRST_ROW] = first_column, first_row
        record[LAST_COLUMN], record[LAST_ROW] = last_column, last_row
        tiles[g, 0], tiles[g, 1] = int(first_column) // TILE_WIDTH, int(first_row) // TILE_HEIGHT
        tiles[g, 2], tiles[g, 3] = int(last_column) // TILE_WIDTH + 1, int(last_row) // TILE_HEIGHT + 1


@helper
def _add_up(begin, end, pair_starts, entries, entry_sums, group_sums):
    """Sum up what the tiles know about each of a few Gaussians, always in the same order."""
    for g in range(begin, end):
        for i in range(SPLAT_WIDTH):
            group_sums[g - begin, i] = 0
        for pair in range(pair_starts[g], pair_starts[g + 1]):
            for i in range(SPLAT_WIDTH):
                group_sums[g - begin, i] += entry_sums[entries[pair], i]


@kernel
def project_vjp(begin, end, parameters, camera, rules, records, pair_starts, entries, entry_sums, gradients):
    """Add the gradients of one view to ``gradients`` of Gaussians ``begin`` to ``end``.

    Args:
        pair_starts: ``[n + 1]`` first pair of every Gaussian.
        entries: ``[pairs]`` where each pair is to be found in ``entry_sums``.
        entry_sums: ``[pairs, 10]`` what :func:`cpu_compositing.composite_vjp` has summed up in each tile.
    """
    group_sums, v_colour = np.empty((GROUP, SPLAT_WIDTH)), np.empty(3, np.float32)
    basis, by_x = np.empty(MOST_BANDS, np.float32), np.zeros(MOST_BANDS, np.float32)
    by_y, by_z = np.zeros(MOST_BANDS, np.float32), np.zeros(MOST_BANDS, np.float32)
    to_world = transposed(camera.rotation)
    bands = (rules.degree + 1) ** 2
    for g in range(begin, end):
        if (g - begin) % GROUP == 0:
            _add_up(g, min(g + GROUP, end), pair_starts, entries, entry_sums, group_sums)
        if pair_starts[g] == pair_starts[g + 1]:
            continue
        sums = group_sums[(g - begin) % GROUP]

        mean = row(parameters.means, g)
        point = add(apply(camera.rotation, mean), camera.translation)
        z = point[2]
        quaternion, length = unit_quaternion(parameters.quats, g)
        sizes, turn = _sizes(parameters.scales, g), product(camera.rotation, rotation(quaternion))
        axes = times(turn[0], sizes), times(turn[1], sizes), times(turn[2], sizes)
        slope_x, slope_y = _limited_slopes(point, camera)
        row_x, row_y = _image_rows(axes, point, (slope_x, slope_y), camera)
        sharp_xx, xy, sharp_yy = dot(row_x, row_x), dot(row_x, row_y), dot(row_y, row_y)
        xx, yy = sharp_xx + rules.eps2d, sharp_yy + rules.eps2d
        sharp_determinant, determinant = sharp_xx * sharp_yy - xy * xy, xx * yy - xy * xy
        precision_x, slope, precision_y = yy / determinant, xy / yy, 1 / yy

        # From moments of d loss / d ln(alpha) to the splat; see cpu_compositing for the exponent.
        v_log_opacity = sums[0]
        v_centre_x = precision_x * sums[1]
        v_centre_y = precision_y * sums[3] - slope * v_centre_x
        v_slope = precision_x * sums[4]

        # From the splat to the covariance: precision_x = 1 / (xx - xy^2 / yy).
        v_xx = 0.5 * precision_x * precision_x * sums[2]
        v_xy = precision_y * v_slope - 2 * slope * v_xx
        v_yy = slope * slope * v_xx - precision_y * (slope * v_slope - 0.5 * precision_y * sums[5])
        if rules.antialiased and sharp_determinant > rules.compensation_floor**2 * determinant:
            v_xx += 0.5 * v_log_opacity * (sharp_yy / sharp_determinant - yy / determinant)
            v_yy += 0.5 * v_log_opacity * (sharp_xx / sharp_determinant - xx / determinant)
            v_xy += v_log_opacity * xy * (1 / determinant - 1 / sharp_determinant)
        exp_minus = _exp_minus(parameters.opacities, g)
        gradients.opacities[g, 0] += v_log_opacity * exp_minus / (1 + exp_minus)

        # From the covariance to the axes and the centre in the camera.
        v_row_x, v_row_y = combined(2 * v_xx, row_x, v_xy, row_y), combined(2 * v_yy, row_y, v_xy, row_x)
        scale_x, scale_y = camera.focal[0] / z, camera.focal[1] / z
        v_x, v_y = v_centre_x * scale_x, v_centre_y * scale_y
        v_z = sums[9] - (v_x * point[0] + v_y * point[1] + dot(v_row_x, row_x) + dot(v_row_y, row_y)) / z
        if slope_x == point[0] / z:
            v_slope_x = scale_x * dot(v_row_x, axes[2]) / z
            v_x -= v_slope_x
            v_z += v_slope_x * slope_x
        if slope_y == point[1] / z:
            v_slope_y = scale_y * dot(v_row_y, axes[2]) / z
            v_y -= v_slope_y
            v_z += v_slope_y * slope_y
        v_axes_x, v_axes_y = scaled(scale_x, v_row_x), scaled(scale_y, v_row_y)
        v_axes = v_axes_x, v_axes_y, combined(-slope_x, v_axes_x, -slope_y, v_axes_y)

        # From the axes to sizes and rotation.
        v_sizes = add(add(times(v_axes[0], turn[0]), times(v_axes[1], turn[1])), times(v_axes[2], turn[2]))
        add_to_row(gradients.scales, g, times(v_sizes, sizes))
        v_turned = product(to_world, v_axes)
        v_turn = times(v_turned[0], sizes), times(v_turned[1], sizes), times(v_turned[2], sizes)
        rotation_vjp(quaternion, length, v_turn, gradients.quats, g)
        v_mean = apply(to_world, (v_x, v_y, v_z))

        # From the colour to its spherical harmonics and the direction.
        direction, distance = normalized(add(mean, scaled(-1.0, camera.centre)))
        sh_basis(direction, rules.degree, basis)
        for c in range(3):
            v_colour[c] = F(sums[6 + c]) if records[g, RED + c] > 0 else F(0)
            gradients.features_dc[g, c] += basis[0] * v_colour[c]
        if rules.degree > 0:
            sh_gradient(direction, rules.degree, by_x, by_y, by_z)
            v_x, v_y, v_z = F(0), F(0), F(0)
            for k in range(1, bands):
                v_basis = F(0)
                for c in range(3):
                    gradients.features_rest[g, k - 1, c] += basis[k] * v_colour[c]
                    v_basis += v_colour[c] * parameters.features_rest[g, k - 1, c]
                v_x += v_basis * by_x[k]
                v_y += v_basis * by_y[k]
                v_z += v_basis * by_z[k]
            v_direction = float(v_x), float(v_y), float(v_z)
            radial = dot(v_direction, direction)
            v_mean = add(v_mean, combined(1 / distance, v_direction, -radial / distance, direction))
        add_to_row(gradients.means, g, v_mean)


@kernel
def project_jvp(begin, end, parameters, tangents, camera, rules, records, pair_starts, d_splats):
    """Write tangents of the splats ``[n, 10]`` of those of Gaussians ``begin`` to ``end`` that are drawn."""
    d_colour = np.empty(3, np.float32)
    basis, by_x = np.empty(MOST_BANDS, np.float32), np.zeros(MOST_BANDS, np.float32)
    by_y, by_z = np.zeros(MOST_BANDS, np.float32), np.zeros(MOST_BANDS, np.float32)
    bands = (rules.degree + 1) ** 2
    for g in range(begin, end):
        if pair_starts[g] == pair_starts[g + 1]:
            continue
        mean, d_mean = row(parameters.means, g), row(tangents.means, g)
        point = add(apply(camera.rotation, mean), camera.translation)
        d_x, d_y, d_z = apply(camera.rotation, d_mean)
        z = point[2]
        quaternion, length = unit_quaternion(parameters.quats, g)
        sizes, turn = _sizes(parameters.scales, g), product(camera.rotation, rotation(quaternion))
        axes = times(turn[0], sizes), times(turn[1], sizes), times(turn[2], sizes)
        slope_x, slope_y = _limited_slopes(point, camera)
        row_x, row_y = _image_rows(axes, point, (slope_x, slope_y), camera)
        sharp_xx, xy, sharp_yy = dot(row_x, row_x), dot(row_x, row_y), dot(row_y, row_y)
        xx, yy = sharp_xx + rules.eps2d, sharp_yy + rules.eps2d
        sharp_determinant, determinant = sharp_xx * sharp_yy - xy * xy, xx * yy - xy * xy
        precision_x, slope, precision_y = yy / determinant, xy / yy, 1 / yy

        d_turn = product(camera.rotation, rotation_jvp(quaternion, length, tangents.quats, g))
        d_scales = row(tangents.scales, g)
        d_axes = (
            add(times(d_turn[0], sizes), times(axes[0], d_scales)),
            add(times(d_turn[1], sizes), times(axes[1], d_scales)),
            add(times(d_turn[2], sizes), times(axes[2], d_scales)),
        )
        d_row_x, d_row_y = _image_rows(d_axes, point, (slope_x, slope_y), camera)
        d_row_x, d_row_y = combined(1.0, d_row_x, -d_z / z, row_x), combined(1.0, d_row_y, -d_z / z, row_y)
        scale_x, scale_y = camera.focal[0] / z, camera.focal[1] / z
        if slope_x == point[0] / z:
            d_row_x = combined(1.0, d_row_x, -scale_x * (d_x - slope_x * d_z) / z, axes[2])
        if slope_y == point[1] / z:
            d_row_y = combined(1.0, d_row_y, -scale_y * (d_y - slope_y * d_z) / z, axes[2])
        d_xx, d_yy = 2 * dot(row_x, d_row_x), 2 * dot(row_y, d_row_y)
        d_xy = dot(row_x, d_row_y) + dot(row_y, d_row_x)

        exp_minus = _exp_minus(parameters.opacities, g)
        d_log_opacity = tangents.opacities[g, 0] * exp_minus / (1 + exp_minus)
        if rules.antialiased and sharp_determinant > rules.compensation_floor**2 * determinant:
            d_log_opacity += 0.5 * d_xx * (sharp_yy / sharp_determinant - yy / determinant)
            d_log_opacity += 0.5 * d_yy * (sharp_xx / sharp_determinant - xx / determinant)
            d_log_opacity += d_xy * xy * (1 / determinant - 1 / sharp_determinant)
        splat = d_splats[g]
        splat[CENTRE_X] = scale_x * (d_x - point[0] / z * d_z)
        splat[CENTRE_Y] = scale_y * (d_y - point[1] / z * d_z)
        splat[PRECISION_X] = -precision_x * precision_x * (d_xx - 2 * slope * d_xy + slope * slope * d_yy)
        splat[SLOPE] = precision_y * (d_xy - slope * d_yy)
        splat[PRECISION_Y] = -precision_y * precision_y * d_yy
        splat[LOG_OPACITY] = d_log_opacity
        splat[DEPTH] = d_z

        direction, distance = normalized(add(mean, scaled(-1.0, camera.centre)))
        d_direction = combined(1 / distance, d_mean, -dot(direction, d_mean) / distance, direction)
        sh_basis(direction, rules.degree, basis)
        sh_gradient(direction, rules.degree, by_x, by_y, by_z)
        for c in range(3):
            d_colour[c] = basis[0] * tangents.features_dc[g, c]
        for k in range(1, bands):
            d_basis = by_x[k] * F(d_direction[0]) + by_y[k] * F(d_direction[1]) + by_z[k] * F(d_direction[2])
            for c in range(3):
                d_colour[c] += basis[k] * tangents.features_rest[g, k - 1, c]
                d_colour[c] += d_basis * parameters.features_rest[g, k - 1, c]
        for c in range(3):
            splat[RED + c] = d_colour[c] if records[g, RED + c] > 0 else F(0)
