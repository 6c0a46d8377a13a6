"""Image quality of a rendered view: PSNR, SSIM and, when its network can be had, LPIPS.

Pixels under a mask change none of them, whatever they hold. A view with nothing that counts has no quality (None), and
is left out of means.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from l2o_splat.losses import WINDOW, equal_where_masked

logger = logging.getLogger(__name__)

SMALLEST_LPIPS_SIDE = 31
"""Pixels; of a smaller image the convolutions of AlexNet leave nothing."""
STRIP_ROWS = 64
"""Rows of an image whose SSIM is computed together."""


def psnr(
    rendered: Float[Tensor, "h w 3"], photograph: Float[Tensor, "h w 3"], mask: Float[Tensor, "h w 1"] | None = None
) -> float | None:
    """Peak signal-to-noise ratio in dB of images in 0..1.

    Args:
        rendered: Image to judge.
        photograph: What it should look like.
        mask: A pixel counts where it exceeds 0.5; the others, even if not finite, do not matter. None counts all.

    Returns:
        Over the pixels that count; None if none does.
    """
    if mask is not None and not (mask > 0.5).any():
        return None
    rendered, photograph = equal_where_masked(rendered, photograph, mask)
    return float(-10 * torch.log10(_mean((rendered - photograph).square(), None if mask is None else mask > 0.5)))


def ssim(
    rendered: Float[Tensor, "h w 3"], photograph: Float[Tensor, "h w 3"], mask: Float[Tensor, "h w 1"] | None = None
) -> float | None:
    """Structural similarity (Wang et al. 2004; 11 x 11 Gaussian window, sigma 1.5) of images in 0..1.

    Args:
        rendered: Image to judge.
        photograph: What it should look like.
        mask: See :func:`psnr`. As in the loss, a window that touches a masked pixel does not count.

    Returns:
        Mean over the windows that count, one around every pixel (images are reflected at their borders); None if none
        does.
    """
    whole = None if mask is None else _whole_windows(mask)
    if whole is not None and not whole.any():
        return None
    rendered, photograph = equal_where_masked(rendered, photograph, mask)
    return float(_mean(_similarity(rendered, photograph), whole))


def _similarity(rendered: Float[Tensor, "h w 3"], photograph: Float[Tensor, "h w 3"]) -> Float[Tensor, "h w 3"]:
    """SSIM of the window around every pixel, a strip of rows at a time: that of a whole photograph takes gigabytes."""
    # Here, not above: the import takes a second, which `ns-train METHOD --help` would wait for.
    from torchmetrics.functional.image import structural_similarity_index_measure

    height, border = len(rendered), WINDOW // 2
    strips = []
    for first in range(0, height, STRIP_ROWS):
        # With the rows that its windows reach, and enough of them to be reflected at the border of the image.
        top, bottom = max(first - WINDOW, 0), min(first + STRIP_ROWS + border, height)
        pair = (image[top:bottom].movedim(-1, 0)[None] for image in (rendered, photograph))
        _, similarity = structural_similarity_index_measure(*pair, data_range=1.0, return_full_image=True)
        strips.append(similarity[0, :, first - top : first - top + STRIP_ROWS].movedim(0, -1))
    return torch.cat(strips)


def colour_corrected(
    rendered: Float[Tensor, "h w 3"], photograph: Float[Tensor, "h w 3"], mask: Float[Tensor, "h w 1"] | None = None
) -> Float[Tensor, "h w 3"]:
    """The image after the affine transform of its colours that brings it nearest to the photograph, in 0..1.

    For scenes of photographs that differ in exposure: what is left is not the exposure's. It needs the photograph, so
    that it measures less than the plain numbers do. Least squares over the pixels that count.
    """
    counted = slice(None) if mask is None else (mask > 0.5).flatten()
    colours, wanted = (image.flatten(0, 1)[counted].double() for image in (rendered, photograph))
    if len(colours) == 0:
        return rendered
    # About the means, and by the normal equations: pixels are many and a flat image has no unique transform.
    mean, wanted_mean = colours.mean(dim=0), wanted.mean(dim=0)
    centred = colours - mean
    matrix = torch.linalg.pinv(centred.mT @ centred, hermitian=True) @ (centred.mT @ (wanted - wanted_mean))
    return ((rendered.double() - mean) @ matrix + wanted_mean).clamp(0, 1).to(rendered)


def mean_of_measured(values: Iterable[float | None]) -> float | None:
    """Mean over the views that have a value; None if none has."""
    measured = [value for value in values if value is not None]
    return sum(measured) / len(measured) if measured else None


def _whole_windows(mask: Float[Tensor, "h w 1"]) -> Bool[Tensor, "h w 1"]:
    """Whether the window around each pixel touches no masked one; what is reflected at a border lies in it, too."""
    masked = (mask <= 0.5).to(torch.float32).movedim(-1, 0)[None]
    return F.max_pool2d(masked, WINDOW, stride=1, padding=WINDOW // 2)[0].movedim(0, -1) == 0


def _mean(values: Float[Tensor, "h w 3"], counted: Bool[Tensor, "h w 1"] | None) -> Float[Tensor, ""]:
    return values.mean() if counted is None else torch.where(counted, values, 0).sum() / (3 * counted.sum())


class Lpips:
    """LPIPS (Zhang et al. 2018, AlexNet), built at its first use.

    Where its network is not on this machine and cannot be fetched, one warning says so and every value is None.
    """

    def __init__(self) -> None:
        self._network: torch.nn.Module | None = None
        self._unavailable = False

    def __call__(
        self,
        rendered: Float[Tensor, "h w 3"],
        photograph: Float[Tensor, "h w 3"],
        mask: Float[Tensor, "h w 1"] | None = None,
    ) -> float | None:
        """Distance of two images in 0..1; lower is more alike.

        Args:
            rendered: Image to judge.
            photograph: What it should look like.
            mask: See :func:`psnr`. Both images are black where a pixel does not count, so that it differs in nothing;
                the mean over the image goes on over all of it.

        Returns:
            None if no pixel counts, a side has fewer than ``SMALLEST_LPIPS_SIDE`` pixels, or the network cannot be had.
        """
        if mask is not None and not (mask > 0.5).any():
            return None
        with torch.no_grad():
            distances = self.distances(rendered[None], photograph[None], None if mask is None else mask[None])
        return None if distances is None else float(distances)

    def distances(
        self,
        rendered: Float[Tensor, "v h w 3"],
        photographs: Float[Tensor, "v h w 3"],
        masks: Float[Tensor, "v h w 1"] | None = None,
    ) -> Float[Tensor, " v"] | None:
        """Distance of every pair of images in 0..1, differentiable; masks and None as for a single pair."""
        if min(rendered.shape[1:3]) < SMALLEST_LPIPS_SIDE:
            return None
        if not self.available():
            return None
        network = self._network.to(rendered.device)
        rendered, photographs = equal_where_masked(rendered, photographs, masks)
        return network(rendered, photographs)

    def available(self) -> bool:
        """Whether its network can be had."""
        if self._network is None and not self._unavailable:
            self._build()
        return self._network is not None

    def _build(self) -> None:
        from l2o_splat.weights.format import WeightsError
        from l2o_splat.weights.lpips import load_lpips

        try:
            self._network = load_lpips()
        except WeightsError as error:
            self._unavailable = True
            logger.warning("LPIPS is left out: %s", error)
