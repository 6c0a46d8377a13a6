"""Quaternions and spherical harmonics under rotations."""

import pytest
import torch

from l2o_splat.harmonics import sh_basis
from l2o_splat.rotations import conjugate, harmonics_rotation, quaternion_product, quaternions_of, rotate


def matrices_of(quats):
    """Columns of the matrix: where q x q* takes the axes."""
    axes = torch.cat([torch.zeros(3, 1, dtype=quats.dtype), torch.eye(3, dtype=quats.dtype)], dim=1)
    quats = quats[:, None]
    return quaternion_product(quaternion_product(quats, axes), conjugate(quats))[..., 1:].mT


def random_quats(n):
    generator = torch.Generator().manual_seed(0)
    return torch.nn.functional.normalize(torch.randn(n, 4, generator=generator, dtype=torch.float64), dim=1)


def test_product_of_quaternions_is_product_of_rotations():
    a, b = random_quats(40).chunk(2)
    torch.testing.assert_close(matrices_of(quaternion_product(a, b)), matrices_of(a) @ matrices_of(b))
    x = torch.tensor([[0.5**0.5, 0.5**0.5, 0, 0]], dtype=torch.float64)
    quarter_turn = torch.tensor([[[1, 0, 0], [0, 0, -1], [0, 1, 0]]], dtype=torch.float64)
    torch.testing.assert_close(matrices_of(x), quarter_turn)


def test_vectors_turn_with_quaternions_of_any_length():
    quats = random_quats(20)
    vectors = random_quats(20)[:, :3]
    expected = (matrices_of(quats) @ vectors[..., None])[..., 0]
    torch.testing.assert_close(rotate(-3 * quats, vectors), expected)


def test_quaternions_of_matrices():
    half_turns = torch.diag_embed(torch.tensor([[1, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, 1]], dtype=torch.float64))
    for rotations in (matrices_of(random_quats(30)), half_turns):
        quats = quaternions_of(rotations)
        torch.testing.assert_close(quats.norm(dim=1), torch.ones(len(quats), dtype=torch.float64))
        torch.testing.assert_close(matrices_of(quats), rotations)


@pytest.mark.parametrize("degree", [0, 1, 3, 4])
def test_rotated_harmonics_have_the_old_values_at_rotated_directions(degree):
    rotation = matrices_of(random_quats(1))[0]
    coefficients = torch.randn((degree + 1) ** 2, 3, dtype=torch.float64)
    directions = torch.nn.functional.normalize(torch.randn(50, 3, dtype=torch.float64), dim=1)
    turned = harmonics_rotation(rotation, degree) @ coefficients
    before = sh_basis(directions, degree) @ coefficients
    torch.testing.assert_close(sh_basis(directions @ rotation.T, degree) @ turned, before)
