"""Photographs and cameras at the size of a suite."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from l2o_splat.bench.errors import BenchError
from l2o_splat.bench.suites.suite import Cropped, Reduced
from l2o_splat.scenes.chunks.errors import ChunkError
from l2o_splat.scenes.chunks.resolution import covering_size


@dataclass(frozen=True)
class Fitting:
    """How a photograph comes to its size: rescaled, then cropped."""

    scaled: tuple[int, int]
    """Width and height after rescaling, pixels."""
    corner: tuple[int, int]
    """Column and row of the crop's first pixel."""
    size: tuple[int, int]
    """Width and height at the end, pixels."""

    def keeps(self, size: tuple[int, int]) -> bool:
        """Whether photographs of a size stay as they are."""
        return self.scaled == self.size == size

    def photograph(self, pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "height width 3"]:
        """Rescaled by Lanczos filtering (as ReSplat does) and cropped."""
        image = Image.fromarray(pixels)
        if image.size != self.scaled:
            image = image.resize(self.scaled, Image.Resampling.LANCZOS)
        column, row = self.corner
        return np.asarray(image.crop((column, row, column + self.size[0], row + self.size[1])))

    def intrinsics(self, K: Float[np.ndarray, "3 3"], size: tuple[int, int]) -> Float[np.ndarray, "3 3"]:
        """Intrinsics for the photograph from those for one of another size, pixels."""
        factors = np.array([self.scaled[0] / size[0], self.scaled[1] / size[1], 1.0])
        fitted = K * factors[:, None]
        fitted[:2, 2] -= self.corner
        return fitted


def fitting(rule: Reduced | Cropped, size: tuple[int, int], stored: int, where: str) -> Fitting:
    """How photographs of a size come to that of a suite.

    Args:
        rule: Of the suite.
        size: Width and height of the files, pixels.
        stored: Factor by which the files are reduced already.
        where: Name of the scene, for messages.

    Raises:
        BenchError: If the photograph would have to be enlarged.
    """
    width, height = size
    if isinstance(rule, Reduced):
        factor = rule.factor / stored
        scaled = (round(width / factor), round(height / factor))
        return Fitting(scaled, (0, 0), scaled)
    try:
        scaled = covering_size(width, height, (rule.height, rule.width))
    except ChunkError as error:
        raise BenchError(
            f"{where}: photographs have {height} x {width} pixels and the suite crops {rule} from them; "
            "enlarged ones would show no detail: use a version of the data set with larger photographs."
        ) from error
    corner = ((scaled[0] - rule.width) // 2, (scaled[1] - rule.height) // 2)
    return Fitting(scaled, corner, (rule.width, rule.height))
