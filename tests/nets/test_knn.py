"""Neighbour search against brute force."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from l2o_splat.nets.knn import nearest_neighbours, tree_search


def clouds(n):
    generator = torch.Generator().manual_seed(n)

    def normal(width=3):
        return torch.randn(n, width, generator=generator)

    return {
        "uniform": torch.rand(n, 3, generator=generator),
        "clustered": 0.01 * normal() + torch.randint(0, 5, (n, 1), generator=generator),
        "planar": torch.cat([normal(2), torch.zeros(n, 1)], dim=1),
        "wildly scaled": normal() * 10 ** (12 * torch.rand(n, 1, generator=generator) - 6),
        "lattice with duplicates": torch.randint(0, 6, (n, 3), generator=generator).float(),
        "half in one place": normal() * (torch.arange(n)[:, None] % 2),
        "all in one place": torch.ones(n, 3),
    }


def test_neighbours_do_not_depend_on_the_number_of_threads():
    before, found = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(nearest_neighbours(clouds(1001)["clustered"], 8))
    finally:
        torch.set_num_threads(before)
    assert found[0].equal(found[1])


@pytest.mark.parametrize("search", [nearest_neighbours, tree_search])
@pytest.mark.parametrize("n", [4, 30, 1001])
@pytest.mark.parametrize("kind", clouds(4))
def test_same_distances_as_brute_force(search, n, kind):
    points = clouds(n)[kind]
    distances = (points[:, None] - points[None]).square().sum(dim=2)
    for k in (1, 4, 16):
        if k > n:
            continue
        neighbours = search(points, k)
        assert neighbours.dtype == torch.int64 and neighbours.shape == (n, k)
        assert (neighbours.sort(dim=1).values.diff(dim=1) > 0).all(), "a neighbour is listed twice"
        found = distances.gather(1, neighbours).sort(dim=1).values
        torch.testing.assert_close(found, distances.topk(k, dim=1, largest=False).values, rtol=1e-6, atol=0)


def test_tree_search_in_pieces(monkeypatch):
    points = clouds(1001)["clustered"]
    whole = tree_search(points, 4).sort(dim=1).values
    monkeypatch.setattr("l2o_splat.nets.knn.QUERIES_AT_ONCE", 100)
    assert torch.equal(tree_search(points, 4).sort(dim=1).values, whole)


class Watch(TorchDispatchMode):
    """Size in bytes of the largest tensor that is made, and how often a host would wait for a device."""

    def __init__(self):
        super().__init__()
        self.largest, self.waits = 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.untyped_storage().nbytes())
        names = ("nonzero", "_local_scalar_dense", "masked_select", "_unique", "repeat_interleave.Tensor")
        self.waits += any(name in str(function) for name in names)
        return made


@pytest.mark.parametrize("kind", ["uniform", "clustered", "wildly scaled", "half in one place"])
def test_tree_search_needs_no_matrix_of_all_pairs_and_few_waits(kind):
    n = 12_000
    with Watch() as watch:
        tree_search(clouds(n)[kind], 4)
    assert watch.largest < 2000 * n, "a row of all distances would take 4 n bytes for each point"
    assert watch.waits < 3 * math.log2(n), "one for each level of the tree, not for each leaf"


@pytest.mark.parametrize("kind", clouds(4))
def test_every_point_is_its_own_neighbour(kind):
    points = clouds(300)[kind]
    assert (nearest_neighbours(points, 4) == torch.arange(300)[:, None]).any(dim=1).all()


def test_refusals():
    with pytest.raises(ValueError, match="There are 3 points; a search for 4 neighbours"):
        nearest_neighbours(torch.rand(3, 3), 4)
    with pytest.raises(ValueError, match="not finite"):
        nearest_neighbours(torch.full((5, 3), torch.nan), 4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_equals_cpu():
    def distances(points, neighbours):
        return (points[neighbours] - points[:, None]).square().sum(dim=2).sort(dim=1).values

    for points in clouds(20_000).values():
        on_gpu = nearest_neighbours(points.cuda(), 4).cpu()
        on_cpu = nearest_neighbours(points, 4)
        torch.testing.assert_close(distances(points, on_gpu), distances(points, on_cpu), rtol=1e-5, atol=0)
