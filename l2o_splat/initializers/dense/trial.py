"""Tiny calls of the kernels of a dense start, so that these are compiled before a run needs them."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from l2o_splat.initializers.dense.start import dense_gaussians
from l2o_splat.views import PinholeCameras, Views


def compile_dense_start() -> None:
    """Compile the kernels of a dense start, or read their machine code from disk."""
    views, xyz = _tiny()
    dense_gaussians([views], xyz, torch.full_like(xyz, 0.5))


def compile_sightings() -> None:
    """The same for the one by which points vote on a prediction."""
    from l2o_splat.initializers.point_vote import depth_error

    views, xyz = _tiny()
    depth_error(torch.ones(3, 32, 32), views, xyz, torch.full_like(xyz, 0.5))


def _tiny() -> tuple[Views, Float[Tensor, "p 3"]]:
    """Three grey views, and points in front of them."""
    viewmats = torch.eye(4).repeat(3, 1, 1)
    viewmats[:, 0, 3] = torch.tensor([-0.1, 0.0, 0.1])
    Ks = torch.tensor([[32.0, 0.0, 16.0], [0.0, 32.0, 16.0], [0.0, 0.0, 1.0]]).repeat(3, 1, 1)
    views = Views(PinholeCameras(viewmats, Ks, 32, 32), torch.full((3, 32, 32, 3), 0.5))
    across = torch.linspace(-0.4, 0.4, 8)
    return views, torch.cartesian_prod(across, across, torch.ones(1))
