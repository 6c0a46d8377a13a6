import pytest
import torch

from l2o_splat.views import PinholeCameras, Views, opencv_from_opengl, opengl_from_opencv


def random_poses(v: int) -> torch.Tensor:
    rotation, _ = torch.linalg.qr(torch.randn(v, 3, 3, dtype=torch.float64))
    rotation *= torch.linalg.det(rotation)[:, None, None]
    return torch.cat([rotation, torch.randn(v, 3, 1, dtype=torch.float64)], dim=2)


def test_an_opengl_camera_looks_along_minus_z_and_an_opencv_one_along_plus_z():
    # At (0, 0, 5), looking at the origin, up is +y: the identity rotation in OpenGL axes.
    pose = torch.eye(4)[None, :3].clone()
    pose[0, 2, 3] = 5
    viewmat = opencv_from_opengl(pose)[0]
    in_front, above = torch.tensor([0.0, 0, 0, 1]), torch.tensor([0.0, 1, 0, 1])
    torch.testing.assert_close((viewmat @ in_front)[:3], torch.tensor([0.0, 0, 5]))
    torch.testing.assert_close((viewmat @ above)[:3], torch.tensor([0.0, -1, 5]))  # y points down


def test_the_door_between_conventions_swings_both_ways():
    poses = random_poses(6)
    torch.testing.assert_close(opengl_from_opencv(opencv_from_opengl(poses)), poses)


def test_camera_centres():
    poses = random_poses(4)
    cameras = PinholeCameras(opencv_from_opengl(poses), torch.eye(3, dtype=torch.float64).repeat(4, 1, 1), 8, 6)
    torch.testing.assert_close(cameras.centres, poses[:, :, 3])


def test_shapes_that_do_not_fit_are_refused():
    cameras = PinholeCameras(torch.eye(4).repeat(2, 1, 1), torch.eye(3).repeat(2, 1, 1), width=8, height=6)
    assert len(Views(cameras, torch.zeros(2, 6, 8, 3))) == 2
    with pytest.raises(ValueError, match="images have shape"):
        Views(cameras, torch.zeros(2, 8, 6, 3))
    with pytest.raises(ValueError, match="masks have shape"):
        Views(cameras, torch.zeros(2, 6, 8, 3), torch.zeros(2, 6, 8, 3))
    with pytest.raises(ValueError, match="at least 1 pixel"):
        PinholeCameras(torch.eye(4)[None], torch.eye(3)[None], 0, 6)
    with pytest.raises(ValueError, match="are needed"):
        PinholeCameras(torch.eye(4)[None], torch.eye(3).repeat(2, 1, 1), 8, 6)
