"""The released ReSplat weights, with the behaviour that cannot be read from their tensors.

The files come without settings, so the behaviour is listed here by file name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from torch import Tensor

from l2o_splat.nets.resplat.config import NUMBERS_PER_GAUSSIAN
from l2o_splat.nets.resplat.layouts import LAYOUTS

REPOSITORY = "haofeixu/resplat"
"""Repository on the Hugging Face Hub."""
LICENCE = "see huggingface.co/haofeixu/resplat; attribution: ReSplat, Xu et al., arXiv 2510.08575 (its code is MIT)"
RASTER = {"rasterize_mode": "antialiased", "eps2d": 0.1, "image_rules": "1.5"}
"""Raster settings that all of them were trained with."""
FINE_LAYOUT = LAYOUTS["base-re10k-2v-256x256"].changes
"""Behaviour of the layout with one Gaussian per pixel, for pairs of views (RE10K)."""


@dataclass(frozen=True)
class ZooFile:
    """One released file."""

    file: str
    description: str
    behaviour: dict[str, Any] = field(default_factory=dict)
    """Fields of ``ReSplatConfig`` that differ from the defaults."""

    @property
    def name(self) -> str:
        """The file's name without suffix and hash."""
        return PurePath(self.file).stem.rsplit("-", 1)[0]


ZOO = [
    ZooFile(
        "resplat-small-dl3dv-256x448-view8-548993fe.pth",
        "Initial model and update, 8 context views of 256 x 448 (77 million parameters).",
    ),
    ZooFile(
        "resplat-base-dl3dv-256x448-view8-1934a04c.pth",
        "Initial model and update, 8 context views of 256 x 448 (224 million parameters).",
    ),
    ZooFile(
        "resplat-large-dl3dv-256x448-view8-62f1703a.pth",
        "Initial model alone, 8 context views of 256 x 448 (560 million parameters).",
        LAYOUTS["large-8v-256x448"].changes,
    ),
    ZooFile(
        "resplat-base-dl3dv-256x448-view16-f38bf984.pth",
        "Initial model and update, 16 context views of 256 x 448 (224 million parameters).",
        LAYOUTS["base-16v-256x448"].changes,
    ),
    ZooFile(
        "resplat-base-dl3dv-256x448-view32-439b63a6.pth",
        "Initial model and update, 32 context views of 256 x 448 (224 million parameters).",
        LAYOUTS["base-32v-256x448"].changes,
    ),
    ZooFile(
        "resplat-base-dl3dv-512x960-view8-8179ed87.pth",
        "Initial model and update, 4 to 16 context views of 512 x 960 or smaller (224 million parameters).",
        LAYOUTS["base-8v-512x960"].changes,
    ),
    ZooFile(
        "resplat-base-dl3dv-540x960-view16-a72dc6d0.pth",
        "Initial model and update, 16 context views of 540 x 960, depths at half resolution (224 million parameters).",
        LAYOUTS["base-16v-540x960"].changes,
    ),
    ZooFile(
        "resplat-base-re10k-256x256-view2-b90d1b53.pth",
        "Initial model and update, 2 context views of 256 x 256, a Gaussian per pixel (222 million parameters).",
        FINE_LAYOUT,
    ),
    ZooFile(
        "resplat-depth-small-352x640-b0ebc084.pth",
        "Depth network alone, as a start for training (36 million parameters).",
    ),
    ZooFile(
        "resplat-depth-base-352x640-60be7abf.pth",
        "Depth network alone, as a start for training (about 110 million parameters).",
    ),
    ZooFile(
        "resplat-depth-large-352x640-05f9beac.pth",
        "Depth network alone, as a start for training (330 million parameters).",
    ),
]


def released(path: PurePath) -> ZooFile | None:
    """The released file with the name of a path, with or without the hash; None if there is none."""
    return next((entry for entry in ZOO if path.stem in (PurePath(entry.file).stem, entry.name)), None)


def behaviour_of_layout(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Any], str]:
    """Behaviour of weights in a file with another name, and a description of its origin.

    Args:
        tensors: Named as in the released files.
    """
    head = tensors.get("encoder.gaussian_head.2.bias")
    if head is not None and len(head) > NUMBERS_PER_GAUSSIAN:
        return dict(FINE_LAYOUT), "the layout for RE10K"
    return {}, "the defaults, those for DL3DV"
