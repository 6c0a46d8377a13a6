"""What a renderer returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Rendering:
    """Images of V views. Also carries their tangents and cotangents."""

    rgb: Float[Tensor, "v h w 3"]
    """Colour over the background, sRGB, not clamped."""
    alpha: Float[Tensor, "v h w 1"]
    """How much of the background is covered, 0 to 1."""
    depth: Float[Tensor, "v h w 1"] | None = None
    """Expected depth along the camera's z axis, scene units; 0 where nothing is drawn. None if not asked for."""

    def map(self, function: Callable[[Tensor], Tensor]) -> Rendering:
        """Apply ``function`` to each image."""
        return Rendering(function(self.rgb), function(self.alpha), None if self.depth is None else function(self.depth))
