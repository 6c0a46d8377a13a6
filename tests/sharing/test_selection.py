"""Which Gaussians are kept when a scene is cut down."""

from dataclasses import replace

import pytest
import torch

from l2o_splat.sharing import cut_harmonics, opaque, seen_in, used_degree
from l2o_splat.views import PinholeCameras
from tests.rendering.scenes import one_camera, random_scene
from tests.sharing.scenes import askew_scene


def test_photographs_are_counted_that_a_point_lies_in():
    narrow, wide = one_camera(), one_camera(focal=10.0)
    behind = PinholeCameras(torch.diag(torch.tensor([-1.0, 1.0, -1.0, 1.0]))[None], wide.Ks, wide.width, wide.height)
    means = torch.tensor([[0.0, 0.0, 2.0], [2.0, 0.0, 2.0], [0.0, 0.0, -2.0], [9.0, 0.0, 0.1]])
    assert seen_in(means, [narrow, wide, behind]).tolist() == [2, 1, 1, 0]


def test_opacities_are_compared_after_the_sigmoid():
    gaussians, _ = askew_scene(n=3)
    gaussians.opacities[:] = torch.logit(torch.tensor([[0.1], [0.3], [0.5]]))
    assert opaque(gaussians, 0.29).tolist() == [False, True, True]


@pytest.mark.parametrize(("degree", "bands"), [(0, 0), (1, 3), (2, 8)])
def test_harmonics_are_cut_at_a_degree(degree, bands):
    gaussians, _ = askew_scene(n=3)
    cut = cut_harmonics(gaussians, degree)
    assert cut.sh_degree == degree and torch.equal(cut.features_rest, gaussians.features_rest[:, :bands])


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_degrees_that_are_all_zero_are_not_used(degree):
    gaussians, _ = random_scene(n=5, degree=3)
    rest = gaussians.features_rest.clone()
    rest[:, (degree + 1) ** 2 - 1 :] = 0
    assert used_degree(replace(gaussians, features_rest=rest)) == degree
