"""Needles and the bound that keeps Gaussians from becoming one."""

from dataclasses import replace

import pytest
import torch

from l2o_splat.growth.needles import bound_elongation, share_of_needles
from tests.rendering.scenes import random_scene


def scene_of(axes):
    axes = torch.tensor(axes)
    return replace(random_scene(n=len(axes))[0], scales=axes.log())


def test_a_needle_is_long_and_a_flat_gaussian_is_none():
    needle, flat, thread, ball = (11.0, 1.0, 1.0), (1.0, 1.0, 0.001), (0.01, 1.0, 0.05), (1.0, 1.0, 1.0)
    assert share_of_needles(scene_of([needle, flat, thread, ball])) == 0.5
    assert share_of_needles(scene_of([needle, flat, thread, ball]), ratio=15) == 0.25
    assert share_of_needles(scene_of([needle])[:0]) == 0.0


def test_the_bound_shortens_the_longest_axis_and_nothing_else():
    scene = scene_of([(50.0, 1.0, 0.1), (1.0, 2.0, 30.0), (1.0, 1.0, 0.001), (5.0, 1.0, 1.0)])
    before = scene.map(torch.clone)
    bound_elongation(scene, 10)
    expected = torch.tensor([[10.0, 1.0, 0.1], [1.0, 2.0, 20.0], [1.0, 1.0, 0.001], [5.0, 1.0, 1.0]])
    assert torch.allclose(scene.scales.exp(), expected, rtol=1e-4)
    assert torch.equal(scene.scales[2:], before.scales[2:])
    assert torch.equal(scene.scales[0, 1:], before.scales[0, 1:])
    assert torch.equal(scene.means, before.means)


@pytest.mark.parametrize("ratio", [1.0, 3.0, 10.0])
def test_no_needle_is_left_by_the_bound_and_a_second_time_changes_nothing(ratio):
    scene, _ = random_scene(n=2000)
    scene = replace(scene, scales=4 * scene.scales)
    bound_elongation(scene, ratio)
    assert share_of_needles(scene, ratio) == 0
    once = scene.scales.clone()
    bound_elongation(scene, ratio)
    assert torch.equal(scene.scales, once)


def test_a_bound_below_one_is_refused():
    with pytest.raises(ValueError, match="0.5"):
        bound_elongation(random_scene(n=2)[0], 0.5)
