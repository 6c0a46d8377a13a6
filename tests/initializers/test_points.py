"""Gaussians from points: golden values, degenerate clouds, options; random points."""

from pathlib import Path

import pytest
import torch

from l2o_splat.gaussians import SH_C0
from l2o_splat.initializers.points import PADDING, PointInitOptions, gaussians_from_points, random_points
from l2o_splat.views import PinholeCameras

FIXTURE = Path(__file__).resolve().parents[3] / "shared" / "golden" / "learn2splat_a.pt"


def cloud(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, generator=generator), torch.rand(n, 3, generator=generator)


@pytest.mark.skipif(not FIXTURE.exists(), reason=f"{FIXTURE} is absent")
def test_golden_sfm_start():
    golden = torch.load(FIXTURE, weights_only=True)
    gaussians = gaussians_from_points(golden["sfm/xyz"], golden["sfm/rgb"])
    torch.testing.assert_close(gaussians.means, golden["sfm/xyz"])
    torch.testing.assert_close(gaussians.scales.exp(), golden["sfm/scales"], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(gaussians.opacities.sigmoid()[:, 0], golden["sfm/opacities"])
    torch.testing.assert_close(gaussians.quats[:, [1, 2, 3, 0]], golden["sfm/quats"])
    torch.testing.assert_close(gaussians.sh.mT, golden["sfm/sh"], rtol=1e-5, atol=1e-6)


def test_spacing_of_a_unit_lattice_is_one():
    lattice = torch.cartesian_prod(*[torch.arange(4.0)] * 3)
    gaussians = gaussians_from_points(lattice, torch.zeros_like(lattice), PointInitOptions(scaling_factor=0.5))
    torch.testing.assert_close(gaussians.scales.exp(), torch.full((64, 3), 0.5))


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_few_points_and_duplicates_have_finite_sizes(n):
    for xyz in (cloud(n)[0], torch.ones(n, 3)):
        gaussians = gaussians_from_points(xyz, torch.full((n, 3), 0.5))
        assert len(gaussians) == n and not gaussians.count_non_finite()
    two = gaussians_from_points(torch.tensor([[0.0, 0, 0], [2.0, 0, 0]]), torch.zeros(2, 3))
    torch.testing.assert_close(two.scales.exp(), torch.full((2, 3), 2.0))


def test_integer_colours_are_bytes():
    gaussians = gaussians_from_points(cloud(2)[0], torch.tensor([[255, 0, 51], [0, 0, 0]], dtype=torch.uint8))
    torch.testing.assert_close(gaussians.features_dc[0] * SH_C0 + 0.5, torch.tensor([1.0, 0.0, 0.2]))


def test_subset_is_seeded_and_sized_by_its_own_spacing():
    xyz, rgb = cloud(500)
    few, again, other = (
        gaussians_from_points(xyz, rgb, PointInitOptions(num_points=50, seed=seed)) for seed in (1, 1, 2)
    )
    assert len(few) == 50 and torch.equal(few.means, again.means) and not torch.equal(few.means, other.means)
    assert (few.means[:, None] == xyz).all(2).any(1).all()
    assert few.scales.mean() > gaussians_from_points(xyz, rgb).scales.mean()


def test_padding_adds_invisible_gaussians_after_the_points():
    xyz, rgb = cloud(6)
    rgb[2] = 0
    options = PointInitOptions(num_points=9, pad=True, drop_black=True, sh_degree=1)
    gaussians = gaussians_from_points(xyz, rgb, options)
    assert len(gaussians) == 9 and gaussians.sh_degree == 1
    torch.testing.assert_close(gaussians.means[:5], xyz[[0, 1, 3, 4, 5]])
    assert gaussians.means[5:].abs().max() == 0
    torch.testing.assert_close(gaussians.scales[5:].exp(), torch.full((4, 3), PADDING), rtol=1e-4, atol=0)
    torch.testing.assert_close(gaussians.opacities[5:].sigmoid(), torch.full((4, 1), PADDING), rtol=1e-4, atol=0)
    assert not gaussians.count_non_finite()


def test_refusals():
    xyz, rgb = cloud(3)
    with pytest.raises(ValueError, match="no points to start from"):
        gaussians_from_points(xyz, torch.zeros(3, 3), PointInitOptions(drop_black=True))
    xyz[1, 0] = torch.nan
    with pytest.raises(ValueError, match="1 of 3 points"):
        gaussians_from_points(xyz, rgb)
    with pytest.raises(ValueError, match="pad is on without num_points"):
        PointInitOptions(pad=True)


def test_random_points_are_all_in_view():
    turn = torch.linalg.qr(torch.randn(5, 3, 3, generator=torch.Generator().manual_seed(0))).Q
    viewmats = torch.eye(4).repeat(5, 1, 1)
    viewmats[:, :3, :3] = turn * torch.linalg.det(turn)[:, None, None]
    viewmats[:, :3, 3] = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    Ks = torch.tensor([[30.0, 0, 20], [0, 30, 15], [0, 0, 1]]).repeat(5, 1, 1)
    cameras = PinholeCameras(viewmats, Ks, 40, 30)
    xyz, rgb = random_points(cameras, 300, seed=3)
    assert torch.equal(xyz, random_points(cameras, 300, seed=3)[0])
    assert rgb.min() >= 0 and rgb.max() <= 1
    pixels, depth = cameras.project(xyz)
    u, v = pixels.unbind(dim=2)
    margin = 1e-3
    inside = (depth > 0) & (u > -margin) & (u < 40 + margin) & (v > -margin) & (v < 30 + margin)
    assert inside.any(dim=0).all()
    assert not random_points(cameras[:1], 10)[0].isnan().any()
