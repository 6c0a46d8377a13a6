"""Projection on the CPU: tangents of what :mod:`cpu_projection` writes into the records."""

from __future__ import annotations

import numpy as np

from l2o_splat.kernel import kernel
from l2o_splat.rendering.cpu_harmonics import sh_basis, sh_gradient
from l2o_splat.rendering.cpu_projection import MOST_BANDS, exp_minus, footprint_of, image_rows, sizes_of
from l2o_splat.rendering.cpu_records import (
    CENTRE_X,
    CENTRE_Y,
    DEPTH,
    LOG_OPACITY,
    PRECISION_X,
    PRECISION_Y,
    RED,
    SLOPE,
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
    rotation_jvp,
    row,
    scaled,
    times,
    unit_quaternion,
)

F = np.float32


@kernel
def project_jvp(begin, end, parameters, tangents, cameras, view, rules, records, tiles, d_splats):
    """Write tangents of the splats ``[n, 10]`` of those of Gaussians ``begin`` to ``end`` that a view draws.

    Args:
        records, tiles: What :func:`cpu_projection.project` has written for this view.
    """
    camera = camera_of(cameras, view)
    d_colour = np.empty(3, np.float32)
    basis, by_x = np.empty(MOST_BANDS, np.float32), np.zeros(MOST_BANDS, np.float32)
    by_y, by_z = np.zeros(MOST_BANDS, np.float32), np.zeros(MOST_BANDS, np.float32)
    bands = (rules.degree + 1) ** 2
    for g in range(begin, end):
        if tiles[g, 0] == tiles[g, 2]:
            continue
        mean, d_mean = row(parameters.means, g), row(tangents.means, g)
        point = add(apply(camera.rotation, mean), camera.translation)
        d_x, d_y, d_z = apply(camera.rotation, d_mean)
        quaternion, inverse_length = unit_quaternion(parameters.quats, g)
        sizes, turn = sizes_of(parameters.scales, g), product(camera.rotation, rotation(quaternion))
        axes = times(turn[0], sizes), times(turn[1], sizes), times(turn[2], sizes)
        seen = footprint_of(axes, point, camera, rules.eps2d)
        inverse_z, scale_x, scale_y = seen.inverse_z, seen.scale_x, seen.scale_y
        slope_x, slope_y, row_x, row_y = seen.slope_x, seen.slope_y, seen.row_x, seen.row_y
        xx, xy, yy, determinant = seen.xx, seen.xy, seen.yy, seen.determinant
        sharp_xx, sharp_yy, sharp_determinant = seen.sharp_xx, seen.sharp_yy, seen.sharp_determinant
        precision_x, slope, precision_y = yy / determinant, xy / yy, 1 / yy

        d_turn = product(camera.rotation, rotation_jvp(quaternion, inverse_length, tangents.quats, g))
        d_scales = row(tangents.scales, g)
        d_axes = (
            add(times(d_turn[0], sizes), times(axes[0], d_scales)),
            add(times(d_turn[1], sizes), times(axes[1], d_scales)),
            add(times(d_turn[2], sizes), times(axes[2], d_scales)),
        )
        d_row_x, d_row_y = image_rows(d_axes, scale_x, scale_y, slope_x, slope_y)
        d_row_x, d_row_y = (
            combined(1.0, d_row_x, -d_z * inverse_z, row_x),
            combined(1.0, d_row_y, -d_z * inverse_z, row_y),
        )
        if slope_x == seen.exact_x:
            d_row_x = combined(1.0, d_row_x, -scale_x * (d_x - slope_x * d_z) * inverse_z, axes[2])
        if slope_y == seen.exact_y:
            d_row_y = combined(1.0, d_row_y, -scale_y * (d_y - slope_y * d_z) * inverse_z, axes[2])
        d_xx, d_yy = 2 * dot(row_x, d_row_x), 2 * dot(row_y, d_row_y)
        d_xy = dot(row_x, d_row_y) + dot(row_y, d_row_x)

        minus = exp_minus(parameters.opacities, g)
        d_log_opacity = tangents.opacities[g, 0] * minus / (1 + minus)
        if rules.antialiased and sharp_determinant > rules.compensation_floor**2 * determinant:
            d_log_opacity += 0.5 * d_xx * (sharp_yy / sharp_determinant - yy / determinant)
            d_log_opacity += 0.5 * d_yy * (sharp_xx / sharp_determinant - xx / determinant)
            d_log_opacity += d_xy * xy * (1 / determinant - 1 / sharp_determinant)
        splat = d_splats[g]
        splat[CENTRE_X] = scale_x * (d_x - seen.exact_x * d_z)
        splat[CENTRE_Y] = scale_y * (d_y - seen.exact_y * d_z)
        splat[PRECISION_X] = -precision_x * precision_x * (d_xx - 2 * slope * d_xy + slope * slope * d_yy)
        splat[SLOPE] = precision_y * (d_xy - slope * d_yy)
        splat[PRECISION_Y] = -precision_y * precision_y * d_yy
        splat[LOG_OPACITY] = d_log_opacity
        splat[DEPTH] = d_z

        direction, inverse_distance = normalized(add(mean, scaled(-1.0, camera.centre)))
        d_direction = combined(inverse_distance, d_mean, -dot(direction, d_mean) * inverse_distance, direction)
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
