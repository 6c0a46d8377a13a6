"""Rotations of a scene: quaternions and spherical harmonics."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from l2o_splat.harmonics import sh_basis

SAMPLE_DIRECTIONS = 200
"""Directions from which rotated spherical harmonics are fitted; any number above 25 gives the same."""


def quaternion_product(a: Float[Tensor, "*n 4"], b: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
    """Hamilton product of quaternions w, x, y, z: the rotation ``b``, then ``a``. Lengths multiply."""
    aw, ax, ay, az = a.unbind(-1)
    bw, bx, by, bz = b.unbind(-1)
    products = [
        aw * bw - ax * bx - ay * by - az * bz,
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
    ]
    return torch.stack(products, dim=-1)


def conjugate(quats: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
    """Inverse rotation of unit quaternions w, x, y, z."""
    return torch.cat([quats[..., :1], -quats[..., 1:]], dim=-1)


def rotate(quats: Float[Tensor, "*n 4"], vectors: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3"]:
    """Vectors turned by quaternions w, x, y, z of any length but 0."""
    unit = quats / quats.norm(dim=-1, keepdim=True)
    turned = quaternion_product(quaternion_product(unit, F.pad(vectors, (1, 0))), conjugate(unit))
    return turned[..., 1:]


def quaternions_of(rotations: Float[Tensor, "*n 3 3"]) -> Float[Tensor, "*n 4"]:
    """Unit quaternions w, x, y, z of rotation matrices, of either sign.

    The eigenvector that I. Y. Bar-Itzhack, "New method for extracting the quaternion from a rotation matrix" (JGCD
    23(6), 2000) gives is that of the nearest rotation if rounding has left the matrix slightly off.
    """
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = (row.unbind(-1) for row in rotations.double().unbind(-2))
    rows = [
        [xx + yy + zz, zy - yz, xz - zx, yx - xy],
        [zy - yz, xx - yy - zz, xy + yx, xz + zx],
        [xz - zx, xy + yx, yy - xx - zz, yz + zy],
        [yx - xy, xz + zx, yz + zy, zz - xx - yy],
    ]
    symmetric = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
    return torch.linalg.eigh(symmetric).eigenvectors[..., -1].to(rotations.dtype)


def harmonics_rotation(rotation: Float[Tensor, "3 3"], degree: int) -> Float[Tensor, "k k"]:
    """Matrix that multiplies the coefficients of a function when the function is rotated.

    With ``c' = M c`` the function of ``c'`` has at ``R d`` the value that the function of ``c`` has at ``d``. Rotations
    keep each degree to itself, so the fit to sampled directions is exact.

    Args:
        rotation: R.
        degree: Highest degree, at most 4; k = (degree + 1)^2.
    """
    directions, inverse = (tensor.to(rotation.device, non_blocking=True) for tensor in _samples(degree))
    turned_back = directions @ rotation.double()
    return (inverse @ sh_basis(turned_back, degree)).to(rotation.dtype)


@functools.cache
def _samples(degree: int) -> tuple[Float[Tensor, "s 3"], Float[Tensor, "k s"]]:
    """Directions spread over the sphere, and the pseudo-inverse of the basis there, in float64."""
    index = torch.arange(SAMPLE_DIRECTIONS, dtype=torch.float64)
    z = 1 - (2 * index + 1) / SAMPLE_DIRECTIONS
    angle = index * torch.pi * (3 - 5**0.5)
    directions = torch.stack([(1 - z * z).sqrt() * angle.cos(), (1 - z * z).sqrt() * angle.sin(), z], dim=1)
    return directions, torch.linalg.pinv(sh_basis(directions, degree))
