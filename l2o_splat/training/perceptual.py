"""The perceptual term of an objective: which network measures it, and at which size."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from l2o_splat.losses import equal_where_masked
from l2o_splat.losses.perceptual import perceptual_distances
from l2o_splat.metrics import Lpips
from l2o_splat.nets.perceptual_network import PerceptualNetwork
from l2o_splat.training.objective import Perceptual
from l2o_splat.weights.format import WeightsError, hash_of
from l2o_splat.weights.imported import how_to_import
from l2o_splat.weights.load import load_weights
from l2o_splat.weights.matconvnet import FILE, read_vgg19

logger = logging.getLogger(__name__)

SUBSTITUTE = "vgg16-substitute"
"""Name of what stands in for the papers' VGG-19, in options and in every record."""

Distances = Callable[[Tensor, Tensor], "Tensor | None"]
"""Distance [v] of every pair of images [v h w 3]; None if they are too small to be compared."""


@dataclass(frozen=True)
class PerceptualTerm:
    """Perceptual distance of rendered views and photographs."""

    used: str
    """What measures it, as training records name it."""
    distances: Distances
    scale: float = 1.0
    """Both images are resized by it first."""

    def __call__(
        self, rendered: Float[Tensor, "v h w 3"], images: Float[Tensor, "v h w 3"], masks: Tensor | None
    ) -> Float[Tensor, " v"] | None:
        """Distance of every pair; masked pixels change nothing. None if the images are too small."""
        pair = equal_where_masked(rendered, images, masks)
        if self.scale != 1:
            pair = tuple(_resized(batch, self.scale) for batch in pair)
        return self.distances(*pair)


def perceptual_term(kind: Perceptual, file: Path | None, scale: float) -> PerceptualTerm | None:
    """The term that options name; None, with one warning, if it can be left out and cannot be had.

    Raises:
        WeightsError: If ``file`` cannot be used, or a network that was asked for by its own name is not there.
    """
    if kind == "lpips":
        lpips = Lpips()
        return PerceptualTerm("lpips-alexnet", lpips.distances, scale) if lpips.available() else None
    if file is not None:
        return PerceptualTerm(f"vgg19 (SHA-256 {hash_of(file)})", _distances(read_vgg19(file)), scale)
    try:
        return PerceptualTerm(SUBSTITUTE, _distances(load_substitute()), scale)
    except WeightsError as error:
        if kind == SUBSTITUTE:
            raise
        logger.warning(
            "The perceptual term is left out: perceptual_file names no %s, and %s cannot be had. %s",
            FILE,
            SUBSTITUTE,
            error,
        )
        return None


def load_substitute() -> PerceptualNetwork:
    """The VGG-16 that comes with LPIPS, with the taps of the papers' VGG-19.

    Raises:
        WeightsError: If it was not imported, or is damaged.
    """
    weights = load_weights("lpips-vgg16", "lpips")
    with torch.device("meta"):
        names = PerceptualNetwork("vgg16").state_dict().keys()
    try:
        return PerceptualNetwork.of_tensors(
            "vgg16", {name: tensor for name, tensor in weights.tensors.items() if name in names}
        )
    except ValueError as error:
        raise WeightsError(f"{error} Import it again: {how_to_import()}") from None


def _distances(network: nn.Module) -> Distances:
    def distances(rendered: Tensor, images: Tensor) -> Tensor:
        return perceptual_distances(network.to(rendered.device), rendered, images)

    return distances


def _resized(images: Float[Tensor, "v h w 3"], scale: float) -> Float[Tensor, "v _ _ 3"]:
    """Bilinear, corner pixels on corner pixels, as in ReSplat's training at 540 x 960."""
    size = [max(int(side * scale), 1) for side in images.shape[1:3]]
    planes = F.interpolate(images.movedim(-1, 1), size, mode="bilinear", align_corners=True)
    return planes.movedim(1, -1)
