"""What photographs of real places have and ray-cast ones lack: changing light and exposure, noise, and poses a little
off.

In some real captures, half of the squared error that a run leaves is smooth over sixteen pixels and more; hence the
shading.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from l2o_splat.scenes.capture import Capture

SHADING_PATCHES = 5
"""Places along each side of a photograph between which its brightness is interpolated."""


@dataclass(frozen=True)
class Imperfections:
    """How much photographs and their cameras differ from perfect ones; a draw for each photograph."""

    exposure: float = 0.02
    """Standard deviation of the logarithm of the exposure."""
    tint: float = 0.006
    """Standard deviation of the logarithm of the factor of a single colour channel."""
    shading: float = 0.05
    """Standard deviation of the logarithm of the brightness of places in a photograph, which changes smoothly over a
    quarter of it: shadows of people and clouds, reflections, vignetting."""
    noise: float = 0.008
    """Standard deviation of the noise in each channel of each pixel, sRGB 0 to 1."""
    pose: float = 0.4
    """Standard deviation of the camera's rotation about each of its axes, in pixels at the image centre."""

    def times(self, factor: float) -> Imperfections:
        """The same, all of them this many times as large."""
        return Imperfections(*(factor * value for value in astuple(self)))

    def spoil(self, capture: Capture, views: Sequence[int], seed: int) -> Capture:
        """The capture with imperfect photographs and poses of some views; the others are as they were.

        Args:
            capture: Any.
            views: Those that train; the ones that are held out should stay as they are, to be compared with.
            seed: Of the draws; those of a view depend on its place in the capture.
        """
        generator = torch.Generator().manual_seed(seed)
        images, cameras = capture.views.images, capture.views.cameras
        n, chosen = len(images), torch.zeros(len(images), dtype=torch.bool)
        chosen[list(views)] = True

        def drawn(*shape: int) -> Float[Tensor, " n ..."]:
            numbers = torch.randn(n, *shape, generator=generator)
            return torch.where(chosen.view(n, *[1] * len(shape)), numbers, 0)

        brightness = self.exposure * drawn(1, 1, 1) + self.tint * drawn(1, 1, 3)
        noise, angles = self.noise * drawn(*images.shape[1:]), self.pose / cameras.Ks[:, :1, 0] * drawn(3)
        coarse = drawn(1, SHADING_PATCHES, SHADING_PATCHES)
        places = F.interpolate(coarse, images.shape[1:3], mode="bicubic", align_corners=True).movedim(1, 3)
        noisy = (images * (brightness + self.shading * places).exp() + noise).clamp(0, 1)
        viewmats = cameras.viewmats.clone()
        viewmats[:, :3] = _rotations(angles).to(viewmats) @ viewmats[:, :3]
        moved = replace(cameras, viewmats=torch.where(chosen.view(n, 1, 1), viewmats, cameras.viewmats))
        kept = torch.where(chosen.view(n, 1, 1, 1), noisy, images)
        return replace(capture, views=replace(capture.views, cameras=moved, images=kept))


def softened(capture: Capture, sigma: float) -> Capture:
    """The capture with all photographs blurred by a Gaussian: as smooth, pixel by pixel, as larger photographs are.

    Args:
        capture: Any.
        sigma: Standard deviation, pixels; 0 leaves the photographs as they are.
    """
    if sigma == 0:
        return capture
    reach = math.ceil(3 * sigma)
    blurred = gaussian_blur(capture.views.images.movedim(3, 1), [2 * reach + 1] * 2, [sigma, sigma]).movedim(1, 3)
    return replace(capture, views=replace(capture.views, images=blurred.contiguous()))


def _rotations(vectors: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3 3"]:
    """Rotations about vectors by their length, radians."""
    x, y, z = vectors.double().unbind(dim=1)
    zero = torch.zeros_like(x)
    skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=1).view(-1, 3, 3)
    return torch.linalg.matrix_exp(skew)
