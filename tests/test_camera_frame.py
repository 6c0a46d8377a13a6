"""A scene seen from one of its cameras is the same scene."""

import torch

from l2o_splat.camera_frame import CameraFrame
from l2o_splat.gaussians import Gaussians
from l2o_splat.rendering import render
from tests.resplat_networks import context


def scene(n=40):
    generator = torch.Generator().manual_seed(1)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    means = normal(n, 3) * 0.6 + torch.tensor([0.0, 0.0, 3.0])
    features = normal(n, 3) * 0.5, normal(n, 15, 3) * 0.3
    return Gaussians(means, normal(n, 3) * 0.3 - 1.5, normal(n, 4), normal(n, 1), *features)


def test_there_and_back():
    gaussians, cameras = scene(), context().cameras
    frame = CameraFrame.of_view(cameras, 1, scale=2.5)
    back = frame.to_world(frame.to_local(gaussians))
    for name, tensor in gaussians.items():
        torch.testing.assert_close(getattr(back, name), tensor, rtol=1e-5, atol=1e-5, msg=name)
    delta = gaussians.map(lambda tensor: 0.1 * torch.ones_like(tensor))
    moved = frame.to_world(frame.to_local(gaussians).zip_map(torch.add, delta))
    added = gaussians.zip_map(torch.add, frame.deltas_to_world(delta))
    for name, tensor in moved.items():
        torch.testing.assert_close(getattr(added, name), tensor, rtol=1e-5, atol=1e-5, msg=name)


def test_the_own_camera_becomes_the_origin():
    cameras = context().cameras
    local = CameraFrame.of_view(cameras, 2, scale=0.5).cameras_to_local(cameras)
    torch.testing.assert_close(local.viewmats[2], torch.eye(4))


def test_images_stay_the_same():
    gaussians, cameras = scene(), context().cameras
    expected = render(gaussians, cameras).rgb
    assert expected.std() > 0.05
    for frame in (CameraFrame.of_view(cameras, 0, scale=3.0), CameraFrame.of_world(cameras.viewmats.device, 0.2)):
        found = render(frame.to_local(gaussians), frame.cameras_to_local(cameras)).rgb
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-4)
