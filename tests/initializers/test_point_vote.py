"""Sparse points against depths that are known."""

import math

import pytest
import torch

from l2o_splat.initializers.point_vote import depth_error
from l2o_splat.scenes.procedural import ProceduralOptions, generate


@pytest.fixture(scope="module")
def capture():
    options = ProceduralOptions(
        num_views=6, width=96, height=80, num_points=800, trajectory="walk", environment="room", depth_noise=(0, 0)
    )
    return generate(1, options)


def error(capture, depths, points=slice(None)):
    return depth_error(depths, capture.views, capture.points.xyz[points], capture.points.rgb[points])


def test_points_agree_with_the_true_depths_and_measure_how_far_others_are_off(capture):
    assert error(capture, capture.depths) < 0.01
    assert error(capture, 1.2 * capture.depths) == pytest.approx(math.log(1.2), rel=0.05)
    plane = torch.full_like(capture.depths, float(capture.depths.median()))
    assert error(capture, plane) > 0.1


def test_depths_of_another_size_are_compared_at_the_same_places(capture):
    halved = torch.nn.functional.avg_pool2d(capture.depths[:, None], 2)[:, 0]
    assert error(capture, halved) < 0.02


def test_a_few_points_tell_nothing(capture):
    assert error(capture, capture.depths, slice(3)) is None
