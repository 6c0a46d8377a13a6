"""Tiny calls of the kernels of a dense start, so that these are compiled before a run needs them."""

from __future__ import annotations

import torch

from l2o_splat.initializers.dense.start import find_surfaces
from l2o_splat.views import PinholeCameras, Views


def compile_dense_start() -> None:
    """Compile the kernels of a dense start, or read their machine code from disk."""
    # Three grey views, and points in front of them.
    viewmats = torch.eye(4).repeat(3, 1, 1)
    viewmats[:, 0, 3] = torch.tensor([-0.1, 0.0, 0.1])
    Ks = torch.tensor([[32.0, 0.0, 16.0], [0.0, 32.0, 16.0], [0.0, 0.0, 1.0]]).repeat(3, 1, 1)
    views = Views(PinholeCameras(viewmats, Ks, 32, 32), torch.full((3, 32, 32, 3), 0.5))
    across = torch.linspace(-0.4, 0.4, 8)
    xyz = torch.cartesian_prod(across, across, torch.ones(1))
    find_surfaces([views], xyz, torch.full_like(xyz, 0.5))
