"""The dense start as a whole, on procedural captures."""

import pytest
import torch

from l2o_splat.initializers.dense import DenseOptions, dense_gaussians
from l2o_splat.scenes.procedural import ProceduralOptions, generate
from l2o_splat.threads import set_num_threads


@pytest.fixture(scope="module")
def capture():
    return generate(3, ProceduralOptions(num_views=8, width=96, height=80, num_points=800, trajectory="orbit"))


@pytest.fixture
def threads():
    yield set_num_threads
    set_num_threads(None)


def test_threads_change_nothing(capture, threads):
    points = capture.points.xyz, capture.points.rgb
    threads(1)
    alone = dense_gaussians([capture.views], *points)
    threads(3)
    together = dense_gaussians([capture.views], *points)
    assert torch.equal(alone.pack(), together.pack())


def test_no_more_gaussians_than_asked_for(capture):
    gaussians = dense_gaussians([capture.views], capture.points.xyz, capture.points.rgb, DenseOptions(500, sh_degree=1))
    assert 300 < len(gaussians) <= 500 and gaussians.sh_degree == 1
    assert not gaussians.count_non_finite()


def test_a_single_view_is_refused(capture):
    with pytest.raises(ValueError, match="compares views"):
        dense_gaussians([capture.views[[0]]], capture.points.xyz, capture.points.rgb)
