"""Rigid motions of cameras, and how six numbers per view stand for the gradient of a camera's matrix.

A motion is a vector of se(3) for each view: a shift ``u`` (scene units) and a turn ``w`` (radians) of the world before
the camera, in the camera's axes and about its centre, ``viewmat <- exp([u, w]) viewmat``. Everything that the camera
sees moves by it, so that its gradient is a sum over the Gaussians, of the gradients of their centres and of the moments
of these; the kernels find it in passing.

Autograd asks for a gradient in the shape of the matrix. :func:`viewmats_gradient` gives the one of least norm that
agrees with the six numbers on all rigid motions. It is exact for every parametrisation of poses, and says nothing of
changes that shear or stretch.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def viewmats_gradient(motions: Float[Tensor, "v 6"], viewmats: Float[Tensor, "v 4 4"]) -> Float[Tensor, "v 4 4"]:
    """The gradient of camera-from-world matrices for that of the cameras' motions, in the dtype of the matrices.

    With ``viewmat = [R t]``, a motion changes it by ``[w]R`` and ``[w]t + u``. The gradient ``[G g]`` gives the same
    change of the loss for all motions if ``g = v_u`` and ``G = [v_w - t x v_u] R / 2``.
    """
    v_u, v_w = motions[:, :3], motions[:, 3:]
    rotations, shifts = viewmats[:, :3, :3].to(motions), viewmats[:, :3, 3].to(motions)
    turns = v_w - torch.linalg.cross(shifts, v_u)
    gradient = torch.zeros_like(viewmats)
    # Columns of R, each crossed with the turn: [a] R.
    gradient[:, :3, :3] = torch.linalg.cross(turns[:, :, None].expand_as(rotations), rotations, dim=1) / 2
    gradient[:, :3, 3] = v_u
    return gradient
