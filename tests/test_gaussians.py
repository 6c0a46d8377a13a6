import pytest
import torch

from l2o_splat.gaussians import FIELDS, Gaussians


@pytest.mark.parametrize(("degree", "width"), [(0, 14), (1, 23), (2, 38), (3, 59)])
def test_packing_round_trip_in_the_documented_order(degree, width):
    rows = torch.randn(5, width)
    gaussians = Gaussians.unpack(rows)
    assert gaussians.sh_degree == degree
    assert len(gaussians) == 5
    assert torch.equal(gaussians.pack(), rows)
    assert torch.equal(gaussians.means, rows[:, 0:3])
    assert torch.equal(gaussians.scales, rows[:, 3:6])
    assert torch.equal(gaussians.quats, rows[:, 6:10])
    assert torch.equal(gaussians.opacities, rows[:, 10:11])
    assert torch.equal(gaussians.features_dc, rows[:, 11:14])
    # Coefficient-major: band 1 of all three channels first, as nerfstudio stores it.
    assert torch.equal(gaussians.features_rest.flatten(1), rows[:, 14:])
    assert torch.equal(gaussians.sh[:, 0], gaussians.features_dc)


def test_columns_name_the_packed_fields():
    rows = torch.randn(5, 38)
    for name, values in Gaussians.unpack(rows).items():
        assert torch.equal(rows[:, Gaussians.columns(name)], values.flatten(1))
    assert Gaussians.columns("scales") == slice(3, 6) and Gaussians.columns("features_rest", 8) == slice(14, 38)
    with pytest.raises(KeyError, match="'colours'"):
        Gaussians.columns("colours")


def test_packing_keeps_the_graph():
    rows = torch.randn(4, 23, requires_grad=True)
    Gaussians.unpack(rows).pack().square().sum().backward()
    torch.testing.assert_close(rows.grad, 2 * rows.detach())


def test_indexing_takes_whole_gaussians():
    gaussians = Gaussians.unpack(torch.arange(5.0)[:, None].repeat(1, 23))
    for index in (torch.tensor([3, 1]), torch.tensor([False, True, False, True, False])):
        picked = gaussians[index]
        assert sorted(picked.means[:, 0].tolist()) == [1.0, 3.0]
        assert all(torch.equal(getattr(picked, name).flatten(1)[:, 0], picked.means[:, 0]) for name in FIELDS)


def test_non_finite_entries_are_counted_per_field():
    gaussians = Gaussians.unpack(torch.zeros(4, 23))
    assert gaussians.count_non_finite() == {}
    gaussians.scales[1, 2] = float("nan")
    gaussians.features_rest[:2, 0] = float("inf")
    assert gaussians.count_non_finite() == {"scales": 1, "features_rest": 6}


def test_wrong_shapes_name_the_field():
    good = dict(Gaussians.unpack(torch.zeros(4, 23)).items())
    with pytest.raises(ValueError, match=r"quats has shape \(4, 3\); \(4, 4\) is needed"):
        Gaussians(**{**good, "quats": torch.zeros(4, 3)})
    with pytest.raises(ValueError, match="2 bands"):
        Gaussians(**{**good, "features_rest": torch.zeros(4, 2, 3)})
    with pytest.raises(ValueError, match="15 columns"):
        Gaussians.unpack(torch.zeros(4, 15))
    del good["opacities"]
    with pytest.raises(KeyError, match="opacities"):
        Gaussians.from_mapping(good)


def test_an_empty_scene_is_a_scene():
    empty = Gaussians.unpack(torch.zeros(0, 59))
    assert len(empty) == 0
    assert empty.pack().shape == (0, 59)
    assert empty.count_non_finite() == {}
