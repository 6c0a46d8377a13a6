"""Three-dimensional algebra on tuples for the kernels; the compiler keeps tuples in registers.

A vector is a tuple of three numbers, a matrix a tuple of three rows.
"""

from __future__ import annotations

import math

from l2o_splat.kernel import helper


@helper
def row(array, index):
    """Row of an ``[n, 3]`` array as a vector of float64."""
    return float(array[index, 0]), float(array[index, 1]), float(array[index, 2])


@helper
def write_row(array, index, vector):
    """Write a vector into a row of an ``[n, 3]`` array."""
    array[index, 0], array[index, 1], array[index, 2] = vector


@helper
def add(a, b):
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


@helper
def scaled(scale, a):
    return scale * a[0], scale * a[1], scale * a[2]


@helper
def combined(s, a, t, b):
    """s a + t b"""
    return s * a[0] + t * b[0], s * a[1] + t * b[1], s * a[2] + t * b[2]


@helper
def times(a, b):
    """Product entry by entry."""
    return a[0] * b[0], a[1] * b[1], a[2] * b[2]


@helper
def dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@helper
def cross(a, b):
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


@helper
def cross_of_columns(a, b):
    """Sum of the cross products of the columns of two matrices."""
    return dot(a[1], b[2]) - dot(a[2], b[1]), dot(a[2], b[0]) - dot(a[0], b[2]), dot(a[0], b[1]) - dot(a[1], b[0])


@helper
def apply(matrix, vector):
    return dot(matrix[0], vector), dot(matrix[1], vector), dot(matrix[2], vector)


@helper
def transposed(m):
    return (m[0][0], m[1][0], m[2][0]), (m[0][1], m[1][1], m[2][1]), (m[0][2], m[1][2], m[2][2])


@helper
def product(a, b):
    """Matrix product."""
    columns = transposed(b)
    return apply(columns, a[0]), apply(columns, a[1]), apply(columns, a[2])


@helper
def scaled_columns(matrix, scales):
    """The matrix with each column multiplied by a number."""
    return times(matrix[0], scales), times(matrix[1], scales), times(matrix[2], scales)


@helper
def normalized(a):
    """The unit vector, and 1 / length."""
    inverse = 1 / math.sqrt(dot(a, a))
    return scaled(inverse, a), inverse


@helper
def unit_quaternion(quats, index):
    """Row of an ``[n, 4]`` array w, x, y, z scaled to length 1, and 1 / the length it had."""
    w, x, y, z = float(quats[index, 0]), float(quats[index, 1]), float(quats[index, 2]), float(quats[index, 3])
    inverse = 1 / math.sqrt(w * w + x * x + y * y + z * z)
    return (w * inverse, x * inverse, y * inverse, z * inverse), inverse


@helper
def rotation(quaternion):
    """Rotation matrix of a unit quaternion."""
    w, x, y, z = quaternion
    return (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )


@helper
def rotation_jvp(quaternion, inverse, d_quats, index):
    """Tangent of :func:`rotation` for a tangent of the quaternion of length 1 / ``inverse``."""
    w, x, y, z = quaternion
    dw, dx, dy, dz = (
        float(d_quats[index, 0]),
        float(d_quats[index, 1]),
        float(d_quats[index, 2]),
        float(d_quats[index, 3]),
    )
    radial = w * dw + x * dx + y * dy + z * dz
    dw, dx, dy, dz = (
        (dw - radial * w) * inverse,
        (dx - radial * x) * inverse,
        (dy - radial * y) * inverse,
        (dz - radial * z) * inverse,
    )
    wx, wy, wz = dw * x + w * dx, dw * y + w * dy, dw * z + w * dz
    xy, xz, yz = dx * y + x * dy, dx * z + x * dz, dy * z + y * dz
    xx, yy, zz = 2 * x * dx, 2 * y * dy, 2 * z * dz
    return (
        (-2 * (yy + zz), 2 * (xy - wz), 2 * (xz + wy)),
        (2 * (xy + wz), -2 * (xx + zz), 2 * (yz - wx)),
        (2 * (xz - wy), 2 * (yz + wx), -2 * (xx + yy)),
    )


@helper
def rotation_vjp(quaternion, inverse, v, v_quats, index):
    """Write into a row of ``v_quats`` ``[n, 4]`` what the gradient ``v`` of the rotation matrix makes of it."""
    w, x, y, z = quaternion
    v_w = 2 * (x * (v[2][1] - v[1][2]) + y * (v[0][2] - v[2][0]) + z * (v[1][0] - v[0][1]))
    v_x = 2 * (
        w * (v[2][1] - v[1][2]) + y * (v[1][0] + v[0][1]) + z * (v[2][0] + v[0][2]) - 2 * x * (v[1][1] + v[2][2])
    )
    v_y = 2 * (
        w * (v[0][2] - v[2][0]) + x * (v[1][0] + v[0][1]) + z * (v[2][1] + v[1][2]) - 2 * y * (v[0][0] + v[2][2])
    )
    v_z = 2 * (
        w * (v[1][0] - v[0][1]) + x * (v[2][0] + v[0][2]) + y * (v[2][1] + v[1][2]) - 2 * z * (v[0][0] + v[1][1])
    )
    radial = v_w * w + v_x * x + v_y * y + v_z * z
    v_quats[index, 0] = (v_w - radial * w) * inverse
    v_quats[index, 1] = (v_x - radial * x) * inverse
    v_quats[index, 2] = (v_y - radial * y) * inverse
    v_quats[index, 3] = (v_z - radial * z) * inverse
