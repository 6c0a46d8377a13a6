"""Small scenes that stand askew in their world."""

from dataclasses import replace

import torch

from l2o_splat.frame import Frame
from tests.rendering.scenes import random_scene

UP = torch.tensor([0.48, -0.6, 0.64], dtype=torch.float64)
"""Where up is in :func:`askew_scene`."""


def askew_scene(n=300, width=64, height=48, views=4, degree=3):
    """Random Gaussians before upright cameras, in a world whose up direction is ``UP``."""
    gaussians, cameras = random_scene(n, width, height, views, degree)
    Ks = cameras.Ks.clone()
    Ks[:, 1, 1] = Ks[:, 0, 0]
    Ks[:, 0, 2], Ks[:, 1, 2] = width / 2, height / 2
    right = torch.linalg.cross(UP, torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64))
    right /= right.norm()
    # The scene's y points down.
    world_from_scene = torch.stack([right, -UP, torch.linalg.cross(right, -UP)], dim=1)
    frame = Frame(rotation=world_from_scene, origin=torch.tensor([0.3, 0.2, -0.1], dtype=torch.float64))
    return frame.to_world(gaussians), frame.inverse.cameras_to_local(replace(cameras, Ks=Ks))
