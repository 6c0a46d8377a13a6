"""A scene that is turned right side up is seen by its cameras as before."""

import pytest
import torch

from l2o_splat.metrics import psnr
from l2o_splat.rendering import render
from l2o_splat.sharing import SharingError, up_direction, upright_frame
from tests.sharing.scenes import UP, askew_scene


@pytest.mark.parametrize(("axis", "sign"), [("y", 1.0), ("y-down", -1.0)])
def test_up_is_turned_to_the_axis_and_the_images_stay(axis, sign):
    gaussians, cameras = askew_scene()
    up = up_direction(cameras)
    torch.testing.assert_close(up, UP, atol=1e-6, rtol=0)
    frame = upright_frame(up, axis)
    turned, there = frame.to_local(gaussians), frame.cameras_to_local(cameras)
    torch.testing.assert_close(up_direction(there), torch.tensor([0.0, sign, 0.0]).double(), atol=1e-6, rtol=0)
    assert torch.linalg.det(frame.rotation) == pytest.approx(1)
    for image, expected in zip(render(turned, there).rgb, render(gaussians, cameras).rgb, strict=True):
        assert psnr(image.clamp(0, 1), expected.clamp(0, 1)) > 60


def test_the_two_conventions_differ_by_half_a_turn_about_z():
    points = torch.randn(9, 3, dtype=torch.float64)
    y, down = (upright_frame(UP, axis).points_to_local(points) for axis in ("y", "y-down"))
    torch.testing.assert_close(down, y * torch.tensor([-1.0, -1.0, 1.0]))


def test_a_world_whose_z_points_up_keeps_its_x():
    points = torch.tensor([[1.0, 2.0, 3.0]])
    for up, expected in (([0.0, 0.0, 1.0], [1.0, 3.0, -2.0]), ([0.0, 1.0, 0.0], [1.0, 2.0, 3.0])):
        turned = upright_frame(torch.tensor(up), "y").points_to_local(points)
        torch.testing.assert_close(turned, torch.tensor([expected]))


def test_a_world_whose_x_points_up_is_turned_as_well():
    frame = upright_frame(torch.tensor([2.0, 0.0, 0.0]), "y")
    torch.testing.assert_close(frame.points_to_local(torch.tensor([[1.0, 0.0, 0.0]])), torch.tensor([[0.0, 1.0, 0.0]]))


def test_photographs_without_a_common_up_direction_are_refused():
    _, cameras = askew_scene(views=2)
    cameras.viewmats[1, :2] *= -1  # upside down
    with pytest.raises(SharingError, match="2 photographs have no common upright direction"):
        up_direction(cameras)
