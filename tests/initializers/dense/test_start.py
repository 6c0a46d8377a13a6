"""The dense start as a whole, on procedural captures."""

import pytest
import torch

from l2o_splat.initializers.dense import DenseOptions, dense_gaussians
from l2o_splat.initializers.dense.start import PER_POINT, PER_SECOND, PIXELS, number
from l2o_splat.scenes.procedural import ProceduralOptions, generate
from l2o_splat.threads import set_num_threads
from l2o_splat.views import Views


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


def test_the_number_follows_points_pixels_time_and_wish(capture):
    pixels = 8 * 96 * 80
    assert number([capture.views], 10**6) == pixels // PIXELS
    assert number([capture.views], 50) == PER_POINT * 50
    assert number([capture.views], 10**6, DenseOptions(seconds=0.1)) == PER_SECOND // 10
    assert number([capture.views], 10**6, DenseOptions(most=7, seconds=0.1)) == 7


def test_masked_pixels_make_no_gaussians(capture):
    masks = torch.ones(*capture.views.images.shape[:3], 1)
    masks[:, :, 48:] = 0
    masked = Views(capture.views.cameras, capture.views.images, masks)
    means = dense_gaussians([masked], capture.points.xyz, capture.points.rgb).means
    cameras = capture.views.cameras
    seen = torch.zeros(len(means), dtype=torch.bool)
    for viewmat, K in zip(cameras.viewmats, cameras.Ks, strict=True):
        x, _, z = (means @ viewmat[:3, :3].T + viewmat[:3, 3]).unbind(dim=1)
        column = K[0, 0] * x / z + K[0, 2]
        seen |= (z > 0) & (column > -1) & (column < 49)
    assert len(means) > 50 and seen.all()
