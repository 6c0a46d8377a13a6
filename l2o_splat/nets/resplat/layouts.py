"""The released networks of ReSplat (arXiv 2510.08575): widths, and behaviour that their files do not hold.

It loads no torch: presets of training are made of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from l2o_splat.nets.resplat.config import ReSplatConfig, ReSplatShape

SMALL = ReSplatShape()
BASE = ReSplatShape(vit="vitb", width=512)
LARGE = ReSplatShape(vit="vitl", width=768, update=None)
FINE_BASE = ReSplatShape(vit="vitb", width=512, feature_downsample=4, latent_downsample=2, gaussians_per_cell=4)
"""A Gaussian per pixel, for pairs of views (RE10K)."""


@dataclass(frozen=True)
class Layout:
    """One released network."""

    shape: ReSplatShape
    image_size: tuple[int, int]
    """Height and width of the context views in training, pixels."""
    changes: dict[str, Any] = field(default_factory=dict)
    """Fields of :class:`ReSplatConfig` that differ from the defaults."""

    @property
    def behaviour(self) -> ReSplatConfig:
        return ReSplatConfig(**self.changes)


LAYOUTS = {
    "small-8v-256x448": Layout(SMALL, (256, 448)),
    "base-8v-256x448": Layout(BASE, (256, 448)),
    "large-8v-256x448": Layout(LARGE, (256, 448), {"world": "raw", "iterations": 0}),
    "base-16v-256x448": Layout(BASE, (256, 448), {"context_views": 16}),
    "base-32v-256x448": Layout(BASE, (256, 448), {"context_views": 32}),
    "base-8v-512x960": Layout(BASE, (512, 960), {"longer_side": 960}),
    "base-16v-540x960": Layout(
        BASE,
        (512, 960),
        {
            "longer_side": 960,
            "scale_max": 3.0,
            "half_resolution_depth": True,
            "fit": "enlarge",
            "iterations": 2,
            "context_views": 16,
        },
    ),
    "base-re10k-2v-256x256": Layout(
        FINE_BASE, (256, 256), {"far": 100.0, "longer_side": 256, "iterations": 2, "context_views": 2}
    ),
}
"""By size, number of context views and the image size in their names; 540 x 960 is trained at 512 x 960."""
