"""What an evaluation of a paper is made of: plain declarations, which the rest of this room carries out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

DatasetName = Literal["mipnerf360", "llff", "dtu", "scannetpp", "dl3dv", "re10k", "acid"]


@dataclass(frozen=True)
class Reduced:
    """Photographs with both sides divided by a factor: from ``images_FACTOR`` beside the photographs if it exists."""

    factor: int

    def __str__(self) -> str:
        return "full size" if self.factor == 1 else f"sides / {self.factor}"


@dataclass(frozen=True)
class Cropped:
    """Photographs rescaled until they just cover a size, and cropped to it around their centre."""

    height: int
    """Pixels."""
    width: int

    def __str__(self) -> str:
        return f"{self.height} x {self.width}"


@dataclass(frozen=True)
class EveryEighth:
    """Views 0, 8, 16, ... are targets, all others context (arXiv 2111.12077)."""

    def __str__(self) -> str:
        return "every 8th view a target, the others context"


@dataclass(frozen=True)
class OwnSplit:
    """The training and test frames that the data set names."""

    def __str__(self) -> str:
        return "training and test frames of the data set"


@dataclass(frozen=True)
class Window:
    """Context views spread over the first frames by farthest-point sampling, targets evenly between them (ReSplat)."""

    frames: int
    """Length of the window; a shorter scene is used whole."""
    context: int
    targets: int

    def __str__(self) -> str:
        return f"{self.context} context views and {self.targets} targets in the first {self.frames} frames"


@dataclass(frozen=True)
class SpreadContext:
    """Views 7, 15, 23, ... of the whole scene are targets, the context is spread over the others (ReSplat)."""

    context: int

    def __str__(self) -> str:
        return f"every 8th view a target, {self.context} context views spread over the others"


@dataclass(frozen=True)
class Indexed:
    """Views that an index file of the paper names for each scene."""

    context: int
    """Number of context views in it."""

    def __str__(self) -> str:
        return f"{self.context} context views and the targets of an index file"


Split = EveryEighth | OwnSplit | Window | SpreadContext | Indexed


@dataclass(frozen=True)
class Published:
    """A row of a paper's table; what the paper does not give is None."""

    method: str
    psnr: float | None = None
    """At the end of the paper's budget, or the only one that it gives; dB."""
    ssim: float | None = None
    lpips: float | None = None
    best_psnr: float | None = None
    """At the best iteration within the budget, dB."""
    steps: int | None = None
    num_gaussians: int | None = None
    seconds: float | None = None
    peak_gb: float | None = None
    source: str = ""
    """Paper and table."""


@dataclass(frozen=True)
class Suite:
    """One evaluation: a data set, its views, their size, and what the papers report for it."""

    name: str
    dataset: DatasetName
    size: Reduced | Cropped
    split: Split
    published: tuple[Published, ...] = ()
    normalised: bool = False
    """Whether the scene is turned, moved and scaled by its cameras and points as gsplat's examples do."""
    steps: int = 2000
    """Steps of a run unless they are typed."""
    remark: str = ""
    """What is not as in the paper, or not known of it; a sentence."""

    @property
    def context(self) -> int | None:
        """Number of context views; None if it is what the targets leave."""
        return getattr(self.split, "context", None)
