"""Gaussians as ReSplat's networks read and write them: scales linear, rotations in the camera of the source view."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from l2o_splat.gaussians import Gaussians
from l2o_splat.rotations import conjugate, quaternion_product

OPACITY_EPS = 1e-6
"""Opacities are read as if they lay so far inside 0 to 1."""


@dataclass(frozen=True)
class CameraGaussians:
    """N Gaussians, each predicted from a pixel of one view; means in the frame of the networks."""

    means: Float[Tensor, "n 3"]
    scales: Float[Tensor, "n 3"]
    """Standard deviations, units of the means."""
    rotations: Float[Tensor, "n 4"]
    """Camera-from-Gaussian rotation x, y, z, w in the source view's camera, any length."""
    opacity_logits: Float[Tensor, "n 1"]
    harmonics: Float[Tensor, "n 3 k"]
    """All SH bands of R, then G, then B, in the frame of the means."""

    def pack(self) -> Float[Tensor, "n d"]:
        """One row per Gaussian in this order; d = 11 + 3 k."""
        fields = (self.means, self.scales, self.rotations, self.opacity_logits, self.harmonics.flatten(1))
        return torch.cat(fields, dim=1)

    @classmethod
    def unpack(cls, rows: Float[Tensor, "n d"]) -> CameraGaussians:
        """The inverse of :meth:`pack`."""
        *fields, harmonics = rows.split((3, 3, 4, 1, rows.shape[1] - 11), dim=1)
        return cls(*fields, harmonics.unflatten(1, (3, -1)))

    def to_gaussians(self, view_quats: Float[Tensor, "n 4"]) -> Gaussians:
        """The same in the package's parametrisation.

        Args:
            view_quats: World-from-camera rotation w, x, y, z of each one's source view.
        """
        harmonics = self.harmonics.mT
        return Gaussians(
            means=self.means,
            scales=self.scales.log(),
            quats=quaternion_product(view_quats, self.rotations[:, [3, 0, 1, 2]]),
            opacities=self.opacity_logits,
            features_dc=harmonics[:, 0],
            features_rest=harmonics[:, 1:],
        )

    @classmethod
    def from_gaussians(cls, gaussians: Gaussians, view_quats: Float[Tensor, "n 4"]) -> CameraGaussians:
        """The inverse of :meth:`to_gaussians`."""
        return cls(
            means=gaussians.means,
            scales=gaussians.scales.exp(),
            rotations=quaternion_product(conjugate(view_quats), gaussians.quats)[:, [1, 2, 3, 0]],
            opacity_logits=gaussians.opacities,
            harmonics=gaussians.sh.mT,
        )
