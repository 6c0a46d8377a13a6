"""Image quality of a rendered view: PSNR, SSIM and, when its backbone can be had, LPIPS."""

from __future__ import annotations

import contextlib
import io
import logging
import socket
import warnings

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

logger = logging.getLogger(__name__)

DOWNLOAD_TIMEOUT_SECONDS = 20.0


def psnr(
    rendered: Float[Tensor, "h w 3"], photograph: Float[Tensor, "h w 3"], mask: Float[Tensor, "h w 1"] | None = None
) -> float:
    """Peak signal-to-noise ratio in dB of images in 0..1, over the pixels where ``mask`` is 1."""
    return float(-10 * torch.log10(_mean((rendered - photograph).square(), mask)))


def ssim(
    rendered: Float[Tensor, "h w 3"], photograph: Float[Tensor, "h w 3"], mask: Float[Tensor, "h w 1"] | None = None
) -> float:
    """Structural similarity (Wang et al. 2004; 11 x 11 Gaussian window, sigma 1.5) of images in 0..1."""
    _, similarity = structural_similarity_index_measure(
        rendered.movedim(-1, 0)[None], photograph.movedim(-1, 0)[None], data_range=1.0, return_full_image=True
    )
    return float(_mean(similarity[0].movedim(0, -1), mask))


def _mean(values: Tensor, mask: Tensor | None) -> Tensor:
    return values.mean() if mask is None else (values * mask).sum() / (3 * mask.sum()).clamp(min=1)


class Lpips:
    """LPIPS (Zhang et al. 2018, AlexNet), built at its first use because its backbone may need a download.

    Where the backbone can be neither found nor fetched, one warning says so and every value is None.
    """

    def __init__(self) -> None:
        self._network: torch.nn.Module | None = None
        self._unavailable = False

    def __call__(self, rendered: Float[Tensor, "h w 3"], photograph: Float[Tensor, "h w 3"]) -> float | None:
        """Distance of two images in 0..1; lower is more alike."""
        with torch.no_grad():
            distances = self.distances(rendered[None], photograph[None])
        return None if distances is None else float(distances)

    def distances(
        self, rendered: Float[Tensor, "v h w 3"], photographs: Float[Tensor, "v h w 3"]
    ) -> Float[Tensor, " v"] | None:
        """Distance of every pair of images in 0..1, differentiable."""
        if self._network is None and not self._unavailable:
            self._build()
        if self._network is None:
            return None
        network = self._network.to(rendered.device)
        return network(rendered.movedim(-1, 1), photographs.movedim(-1, 1), normalize=True).flatten()

    def _build(self) -> None:
        import lpips

        try:
            # torch.hub announces its download attempt on stderr; the outcome is what matters.
            with _download_timeout(), warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
                warnings.simplefilter("ignore")
                self._network = lpips.LPIPS(net="alex", verbose=False).eval().requires_grad_(False)
        except OSError as error:
            self._unavailable = True
            logger.warning(
                "LPIPS is left out: its AlexNet backbone is not in %s/checkpoints and could not be fetched (%s); "
                "with a network, run once: python -c 'import lpips; lpips.LPIPS(net=\"alex\")'.",
                torch.hub.get_dir(),
                error,
            )


@contextlib.contextmanager
def _download_timeout():
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
