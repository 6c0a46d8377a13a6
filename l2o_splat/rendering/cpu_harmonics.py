"""Spherical harmonics and their derivatives for the kernels; the functions are those of ``harmonics.py``."""

from __future__ import annotations

from l2o_splat.kernel import helper


@helper
def sh_basis(direction, degree, basis):
    """Write the (degree + 1)^2 functions at a unit vector into ``basis`` ``[25]``."""
    x, y, z = direction
    basis[0] = 0.28209479177387814
    if degree >= 1:
        basis[1] = -0.4886025119029199 * y
        basis[2] = 0.4886025119029199 * z
        basis[3] = -0.4886025119029199 * x
    xx, yy, zz = x * x, y * y, z * z
    if degree >= 2:
        basis[4] = 1.0925484305920792 * x * y
        basis[5] = -1.0925484305920792 * y * z
        basis[6] = 0.31539156525252005 * (2 * zz - xx - yy)
        basis[7] = -1.0925484305920792 * x * z
        basis[8] = 0.5462742152960396 * (xx - yy)
    if degree >= 3:
        basis[9] = -0.5900435899266435 * y * (3 * xx - yy)
        basis[10] = 2.890611442640554 * x * y * z
        basis[11] = -0.4570457994644658 * y * (4 * zz - xx - yy)
        basis[12] = 0.3731763325901154 * z * (2 * zz - 3 * xx - 3 * yy)
        basis[13] = -0.4570457994644658 * x * (4 * zz - xx - yy)
        basis[14] = 1.445305721320277 * z * (xx - yy)
        basis[15] = -0.5900435899266435 * x * (xx - 3 * yy)
    if degree >= 4:
        basis[16] = 2.5033429417967046 * x * y * (xx - yy)
        basis[17] = -1.7701307697799304 * y * z * (3 * xx - yy)
        basis[18] = 0.9461746957575601 * x * y * (7 * zz - 1)
        basis[19] = -0.6690465435572892 * y * z * (7 * zz - 3)
        basis[20] = 0.10578554691520431 * (zz * (35 * zz - 30) + 3)
        basis[21] = -0.6690465435572892 * x * z * (7 * zz - 3)
        basis[22] = 0.47308734787878004 * (xx - yy) * (7 * zz - 1)
        basis[23] = -1.7701307697799304 * x * z * (xx - 3 * yy)
        basis[24] = 0.6258357354491761 * (xx * (xx - 3 * yy) - yy * (3 * xx - yy))


@helper
def sh_gradient(direction, degree, by_x, by_y, by_z):
    """Write the derivatives of :func:`sh_basis` into three arrays ``[25]``; those that are 0 are left as they are."""
    x, y, z = direction
    if degree >= 1:
        by_y[1] = -0.4886025119029199
        by_z[2] = 0.4886025119029199
        by_x[3] = -0.4886025119029199
    xx, yy, zz = x * x, y * y, z * z
    if degree >= 2:
        c = 1.0925484305920792
        by_x[4], by_y[4] = c * y, c * x
        by_y[5], by_z[5] = -c * z, -c * y
        by_x[7], by_z[7] = -c * z, -c * x
        by_x[8], by_y[8] = c * x, -c * y
        c = 0.6307831305050401
        by_x[6], by_y[6], by_z[6] = -c * x, -c * y, 2 * c * z
    if degree >= 3:
        c = 0.5900435899266435
        by_x[9], by_y[9] = -6 * c * x * y, -3 * c * (xx - yy)
        by_x[15], by_y[15] = -3 * c * (xx - yy), 6 * c * x * y
        c = 2.890611442640554
        by_x[10], by_y[10], by_z[10] = c * y * z, c * x * z, c * x * y
        by_x[14], by_y[14], by_z[14] = c * x * z, -c * y * z, 0.5 * c * (xx - yy)
        c = 0.4570457994644658
        by_x[11], by_y[11], by_z[11] = 2 * c * x * y, -c * (4 * zz - xx - 3 * yy), -8 * c * y * z
        by_x[13], by_y[13], by_z[13] = -c * (4 * zz - 3 * xx - yy), 2 * c * x * y, -8 * c * x * z
        c = 1.1195289977703462
        by_x[12], by_y[12], by_z[12] = -2 * c * x * z, -2 * c * y * z, c * (2 * zz - xx - yy)
    if degree >= 4:
        c = 2.5033429417967046
        by_x[16], by_y[16] = c * y * (3 * xx - yy), c * x * (xx - 3 * yy)
        by_x[24], by_y[24] = c * x * (xx - 3 * yy), c * y * (yy - 3 * xx)
        c = 1.7701307697799304
        by_x[17], by_y[17], by_z[17] = -6 * c * x * y * z, -3 * c * z * (xx - yy), -c * y * (3 * xx - yy)
        by_x[23], by_y[23], by_z[23] = -3 * c * z * (xx - yy), 6 * c * x * y * z, -c * x * (xx - 3 * yy)
        c = 0.9461746957575601
        by_x[18], by_y[18], by_z[18] = c * y * (7 * zz - 1), c * x * (7 * zz - 1), 14 * c * x * y * z
        by_x[22], by_y[22], by_z[22] = c * x * (7 * zz - 1), -c * y * (7 * zz - 1), 7 * c * z * (xx - yy)
        c = 0.6690465435572892
        by_y[19], by_z[19] = -c * z * (7 * zz - 3), -c * y * (21 * zz - 3)
        by_x[21], by_z[21] = -c * z * (7 * zz - 3), -c * x * (21 * zz - 3)
        by_z[20] = 2.1157109383040862 * z * (7 * zz - 3)
