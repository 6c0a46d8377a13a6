"""Projection on the CPU: from gradients of the records back to gradients of the Gaussians."""

from __future__ import annotations

import numpy as np

from l2o_splat.kernel import helper, kernel
from l2o_splat.lanes import LANES, filled, load, store, total
from l2o_splat.rendering.cpu_harmonics import sh_basis, sh_gradient
from l2o_splat.rendering.cpu_projection import (
    MOST_BANDS,
    exp_minus,
    footprint_of,
    sizes_of,
    split_channels,
)
from l2o_splat.rendering.cpu_records import RED, SUMS_WIDTH, camera_of
from l2o_splat.rendering.cpu_vectors import (
    add,
    apply,
    combined,
    cross,
    cross_of_columns,
    dot,
    normalized,
    product,
    rotation,
    rotation_vjp,
    row,
    scaled,
    scaled_columns,
    times,
    transposed,
    unit_quaternion,
    write_row,
)

F, U = np.float32, np.uint64


@kernel
def add_up(begin, end, records, pair_starts, entries, entry_sums, splat_sums):
    """Sum up what the tiles of a view know about Gaussians ``begin`` to ``end``, always in the same order.

    Args:
        records: ``[n, 16]``; a colour that was clamped at 0 has no gradient.
        pair_starts: ``[n + 1]`` first pair of every Gaussian.
        entries: ``[pairs]`` where each pair is to be found in ``entry_sums``.
        entry_sums: ``[pairs, 16]`` what :func:`cpu_compositing_vjp.composite_vjp` has summed up in each tile.
        splat_sums: Out: ``[n, 16]``
    """
    flat_entries, flat_splats = entry_sums.reshape(-1), splat_sums.reshape(-1)
    for g in range(begin, end):
        for column in range(U(0), U(SUMS_WIDTH), U(LANES)):
            sums = filled(F(0))
            for pair in range(pair_starts[g], pair_starts[g + 1]):
                sums = sums + load(flat_entries, U(entries[pair]) * U(SUMS_WIDTH) + column)
            store(flat_splats, U(g) * U(SUMS_WIDTH) + column, sums)
        if pair_starts[g] < pair_starts[g + 1]:
            for c in range(RED, RED + 3):
                if not records[g, c] > 0:
                    splat_sums[g, c] = 0


@helper
def write_zeros(gradients, g):
    """Write a Gaussian's gradient where no view draws it."""
    nothing = (0.0, 0.0, 0.0)
    write_row(gradients.means, g, nothing)
    write_row(gradients.scales, g, nothing)
    for i in range(4):
        gradients.quats[g, i] = 0
    gradients.opacities[g, 0] = 0
    write_row(gradients.features_dc, g, nothing)
    for k in range(gradients.features_rest.shape[1]):
        for c in range(3):
            gradients.features_rest[g, k, c] = 0


@helper
def add_to_row(array, index, column, vector):
    """Add a vector to three columns of a row."""
    array[index, column] += vector[0]
    array[index, column + 1] += vector[1]
    array[index, column + 2] += vector[2]


@kernel
def project_vjp(begin, end, parameters, cameras, rules, tiles, splat_sums, gradients, motions):
    """Write the gradients of all views together to ``gradients`` of Gaussians ``begin`` to ``end``.

    Args:
        tiles: What :func:`cpu_projection.project` has written.
        splat_sums: ``[v, n, 16]`` what :func:`add_up` has found.
        motions: ``[v, 6]`` float64, to which these Gaussians' part of the gradients of rigid motions is added, see
            :mod:`camera_motion`; None if nobody asks for them.
    """
    basis, coefficients = np.zeros(MOST_BANDS, np.float32), np.zeros(3 * MOST_BANDS, np.float32)
    by_x, by_y, by_z = (
        np.zeros(MOST_BANDS, np.float32),
        np.zeros(MOST_BANDS, np.float32),
        np.zeros(MOST_BANDS, np.float32),
    )
    v_coefficients, v_colour = np.zeros(3 * MOST_BANDS, np.float32), np.empty(3, np.float32)
    nothing = (0.0, 0.0, 0.0)
    bands = (rules.degree + 1) ** 2
    for g in range(begin, end):
        drawn = False
        for view in range(len(cameras)):
            drawn |= tiles[view, g, 0] < tiles[view, g, 2]
        if not drawn:
            # Its parameters may not be finite.
            write_zeros(gradients, g)
            continue
        mean = row(parameters.means, g)
        quaternion, inverse_length = unit_quaternion(parameters.quats, g)
        sizes, turn = sizes_of(parameters.scales, g), rotation(quaternion)
        axes_in_world = scaled_columns(turn, sizes)
        split_channels(parameters, g, bands, coefficients)
        v_coefficients[:] = 0
        v_axes_in_world, v_mean, v_logit = (nothing, nothing, nothing), nothing, 0.0
        for view in range(len(cameras)):
            if tiles[view, g, 0] == tiles[view, g, 2]:
                continue
            camera, sums = camera_of(cameras, view), splat_sums[view, g]
            point = add(apply(camera.rotation, mean), camera.translation)
            axes = product(camera.rotation, axes_in_world)
            seen = footprint_of(axes, point, camera, rules.eps2d)
            inverse_z, scale_x, scale_y = seen.inverse_z, seen.scale_x, seen.scale_y
            slope_x, slope_y, row_x, row_y = seen.slope_x, seen.slope_y, seen.row_x, seen.row_y
            xx, xy, yy, determinant = seen.xx, seen.xy, seen.yy, seen.determinant
            sharp_xx, sharp_yy, sharp_determinant = seen.sharp_xx, seen.sharp_yy, seen.sharp_determinant
            precision_y, inverse_determinant = 1 / yy, 1 / determinant
            precision_x, slope = yy * inverse_determinant, xy * precision_y

            # From moments of d loss / d ln(alpha) to the splat; see cpu_strips for the exponent.
            v_log_opacity = float(sums[0])
            v_centre_x = precision_x * sums[1]
            v_centre_y = precision_y * sums[3] - slope * v_centre_x
            v_slope = precision_x * sums[4]
            v_logit += v_log_opacity

            # From the splat to the covariance: precision_x = 1 / (xx - xy^2 / yy).
            v_xx = 0.5 * precision_x * precision_x * sums[2]
            v_xy = precision_y * v_slope - 2 * slope * v_xx
            v_yy = slope * slope * v_xx - precision_y * (slope * v_slope - 0.5 * precision_y * sums[5])
            if rules.antialiased and sharp_determinant > rules.compensation_floor**2 * determinant:
                v_xx += 0.5 * v_log_opacity * (sharp_yy / sharp_determinant - yy * inverse_determinant)
                v_yy += 0.5 * v_log_opacity * (sharp_xx / sharp_determinant - xx * inverse_determinant)
                v_xy += v_log_opacity * xy * (inverse_determinant - 1 / sharp_determinant)

            # From the covariance to the axes and the centre in the camera.
            v_row_x, v_row_y = combined(2 * v_xx, row_x, v_xy, row_y), combined(2 * v_yy, row_y, v_xy, row_x)
            v_x, v_y = v_centre_x * scale_x, v_centre_y * scale_y
            from_rows = v_x * point[0] + v_y * point[1] + dot(v_row_x, row_x) + dot(v_row_y, row_y)
            v_z = sums[9] - from_rows * inverse_z
            if slope_x == seen.exact_x:
                v_slope_x = scale_x * dot(v_row_x, axes[2]) * inverse_z
                v_x -= v_slope_x
                v_z += v_slope_x * slope_x
            if slope_y == seen.exact_y:
                v_slope_y = scale_y * dot(v_row_y, axes[2]) * inverse_z
                v_y -= v_slope_y
                v_z += v_slope_y * slope_y
            v_axes_x, v_axes_y = scaled(scale_x, v_row_x), scaled(scale_y, v_row_y)
            v_axes = v_axes_x, v_axes_y, combined(-slope_x, v_axes_x, -slope_y, v_axes_y)
            if motions is not None:
                # Moving the camera moves the centre and, as columns of `axes`, the axes. The direction below is that
                # from the camera's centre, which a turn leaves in its place.
                add_to_row(motions, view, 0, (v_x, v_y, v_z))
                add_to_row(motions, view, 3, add(cross(point, (v_x, v_y, v_z)), cross_of_columns(axes, v_axes)))
            to_world = transposed(camera.rotation)
            v_axes = product(to_world, v_axes)
            v_axes_in_world = (
                add(v_axes_in_world[0], v_axes[0]),
                add(v_axes_in_world[1], v_axes[1]),
                add(v_axes_in_world[2], v_axes[2]),
            )
            v_mean = add(v_mean, apply(to_world, (v_x, v_y, v_z)))

            # From the colour to its spherical harmonics and the direction.
            direction, inverse_distance = normalized(add(mean, scaled(-1.0, camera.centre)))
            sh_basis(direction, rules.degree, basis)
            for c in range(3):
                v_colour[c] = sums[RED + c]
            for k in range(U(0), U(bands), U(LANES)):
                values = load(basis, k)
                for c in range(3):
                    place = U(c * MOST_BANDS) + k
                    store(v_coefficients, place, load(v_coefficients, place) + values * v_colour[c])
            if rules.degree > 0:
                sh_gradient(direction, rules.degree, by_x, by_y, by_z)
                along_x, along_y, along_z = filled(F(0)), filled(F(0)), filled(F(0))
                for k in range(U(0), U(bands), U(LANES)):
                    v_basis = load(coefficients, k) * v_colour[0]
                    v_basis = v_basis + load(coefficients, U(MOST_BANDS) + k) * v_colour[1]
                    v_basis = v_basis + load(coefficients, U(2 * MOST_BANDS) + k) * v_colour[2]
                    along_x = along_x + v_basis * load(by_x, k)
                    along_y = along_y + v_basis * load(by_y, k)
                    along_z = along_z + v_basis * load(by_z, k)
                v_direction = float(total(along_x)), float(total(along_y)), float(total(along_z))
                radial = dot(v_direction, direction)
                by_direction = combined(inverse_distance, v_direction, -radial * inverse_distance, direction)
                v_mean = add(v_mean, by_direction)
                if motions is not None:
                    add_to_row(motions, view, 0, apply(camera.rotation, by_direction))

        # From the axes to sizes and rotation, and the sums of all views to their places.
        v_sizes = add(
            add(times(v_axes_in_world[0], turn[0]), times(v_axes_in_world[1], turn[1])),
            times(v_axes_in_world[2], turn[2]),
        )
        write_row(gradients.means, g, v_mean)
        write_row(gradients.scales, g, times(v_sizes, sizes))
        rotation_vjp(quaternion, inverse_length, scaled_columns(v_axes_in_world, sizes), gradients.quats, g)
        minus = exp_minus(parameters.opacities, g)
        gradients.opacities[g, 0] = v_logit * minus / (1 + minus)
        for c in range(3):
            gradients.features_dc[g, c] = v_coefficients[c * MOST_BANDS]
        for k in range(1, bands):
            for c in range(3):
                gradients.features_rest[g, k - 1, c] = v_coefficients[c * MOST_BANDS + k]
        for k in range(bands - 1, gradients.features_rest.shape[1]):
            for c in range(3):
                gradients.features_rest[g, k, c] = 0
