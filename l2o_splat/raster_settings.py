"""What a renderer needs to know beyond Gaussians and cameras."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

MAX_DEGREE = 4
"""Highest degree of spherical harmonics that any backend draws."""
ImageRules = Literal["1.4", "1.5", "1.6"]
"""gsplat release whose image rules hold (alpha clamp, cull radius, antialiasing floor)."""


@dataclass(frozen=True)
class RasterSettings:
    """Settings that change the image, the same for every backend.

    Learned rules depend on them, so they are saved with weights and with every checkpoint.
    """

    rasterize_mode: Literal["classic", "antialiased"] = "classic"
    """``antialiased`` scales opacities to make up for the screen-space blur (Mip-Splatting, arXiv 2311.16493)."""
    eps2d: float = 0.3
    """Screen-space blur: added to the diagonal of every projected covariance, pixels squared."""
    near: float = 0.01
    """Gaussians nearer than this depth are not drawn, scene units."""
    far: float = 1e10
    """Gaussians beyond this depth are not drawn, scene units."""
    background: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Colour behind the scene, sRGB 0 to 1."""
    sh_degree: int | None = None
    """Highest SH degree drawn; None draws all that the Gaussians hold."""
    depth: bool = False
    """Whether to render expected depth as well (alpha-weighted mean of camera z, scene units)."""
    image_rules: ImageRules = "1.4"
    """Image rules of the CPU backends; the gsplat backend always follows the gsplat that is installed."""

    def __post_init__(self) -> None:
        if self.rasterize_mode not in ("classic", "antialiased"):
            raise ValueError(f"rasterize_mode is {self.rasterize_mode!r}; 'classic' or 'antialiased' is needed.")
        if self.image_rules not in ("1.4", "1.5", "1.6"):
            raise ValueError(f"image_rules is {self.image_rules!r}; '1.4', '1.5' or '1.6' is needed.")
        if self.eps2d < 0:
            raise ValueError(f"eps2d is {self.eps2d}; it must not be negative.")
        if not 0 < self.near < self.far:
            raise ValueError(f"near is {self.near} and far {self.far}; 0 < near < far is needed.")
        if self.sh_degree is not None and not 0 <= self.sh_degree <= MAX_DEGREE:
            raise ValueError(f"sh_degree is {self.sh_degree}; None or 0 to {MAX_DEGREE} is needed.")

    def reduced(self, scale: float) -> RasterSettings:
        """Settings of photographs whose sides are multiplied by a scale.

        The blur shrinks with the area of a pixel, so that it blurs the scene as much as at full size: Gaussians would
        come out too thin otherwise.
        """
        return replace(self, eps2d=self.eps2d * scale**2)

    def drawn_degree(self, stored: int) -> int:
        """SH degree that is drawn of Gaussians that hold degree ``stored``.

        Raises:
            ValueError: If it is higher than any renderer can draw.
        """
        degree = stored if self.sh_degree is None else min(self.sh_degree, stored)
        if degree > MAX_DEGREE:
            raise ValueError(
                f"The Gaussians hold SH degree {stored}; set sh_degree to {MAX_DEGREE} or less to draw them."
            )
        return degree
