"""Options of initializer training. They load no torch, so that `--help` does not wait for it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from l2o_splat.implicit.backward_mode import BackwardMode
from l2o_splat.nets.resplat.config import ReSplatConfig, ReSplatShape, UpdateShape
from l2o_splat.training.objective import Objective
from l2o_splat.training.options import OuterOptions

if TYPE_CHECKING:
    import numpy as np

MINI = ReSplatShape(
    vit="mini",
    cnn_widths=(16, 24, 32),
    width=64,
    feature_downsample=4,
    latent_downsample=4,
    num_depths=32,
    unet_width=32,
    num_transformer_layers=2,
    attention_width=32,
    num_blocks=2,
    guide_width=16,
    update=UpdateShape(state_width=64, attention_width=32, num_blocks=2, error_widths=(16, 32), front_error=True),
)
"""Widths narrow enough for training on a CPU."""

MINI_CONFIG = ReSplatConfig(
    depth_range="points",
    units="near",
    reference_views=3,
    gaussian_units="cells",
    scale_min=0.02,
    scale_max=4.0,
    scale_bias=0.4,
    neighbours=8,
    update_neighbours=8,
    longer_side=224,
    portrait=True,
)
"""Behaviour for scenes of any size: depth ranges from points, scales in cells."""

Stage = Literal["initial", "update", "dense"]
"""Which networks are trained: depths and Gaussians, the update on top of them, or the head of the dense start."""
Start = Literal["resplat", "points", "random"]
"""Kinds of scenes that an update starts from."""


@dataclass(frozen=True)
class BatchOptions:
    """How views are drawn from a capture."""

    context_views: tuple[int, int] = (2, 8)
    """Fewest and most context views."""
    target_views: int = 3
    """Views that only the loss sees."""
    context_pixels: int = 32_000
    """Most pixels of all context views together; larger images come with fewer context views."""
    longer_side: int = 112
    """Longer side of images, pixels; larger images are reduced to it."""
    size_multiple: int = 16
    """Image sides are reduced to multiples of this, which the networks need."""
    image_size: tuple[int, int] | None = None
    """Height and width that images are brought to in place of these two: resized until they cover it, then cropped."""
    reach: tuple[float, float] = (0.2, 1.0)
    """Smallest and largest share of the cameras that views are drawn from, those nearest to one of them, so that views
    lie close together in some batches and far apart in others."""
    range_jitter: float = 0.1
    """Standard deviation of the noise that is added to the logarithms of the nearest and the farthest depth."""
    flip_probability: float = 0.5
    """Probability that a capture is mirrored."""
    turn_probability: float = 0.5
    """Probability that all images are turned by one to three quarters, so that the floor is not always below."""
    recolour_probability: float = 0.5
    """Probability that colour channels are permuted and their contrast is changed."""
    guide_probability: float = 0.8
    """Probability that networks that take the sparse points are shown them."""

    def __post_init__(self) -> None:
        if not 2 <= self.context_views[0] <= self.context_views[1]:
            raise ValueError(f"context_views is {self.context_views}; an ascending range from at least 2 is needed.")


@dataclass(frozen=True)
class FaultOptions:
    """What befalls one of the context images, each with a probability of its own."""

    exposure_probability: float = 0.5
    """Probability that one is brighter or darker."""
    exposure: tuple[float, float] = (0.75, 1.25)
    """Smallest and largest factor of that image."""
    exposure_offset: float = 0.0
    """Largest number that is added to or taken from that image, sRGB 0 to 1."""
    shake_probability: float = 0.25
    """Probability that one is smeared along a line."""
    shake: tuple[float, float] = (0.01, 0.04)
    """Shortest and longest line, as a share of the width of the image."""
    passer_by_probability: float = 0.25
    """Probability that a person hides a part of one."""
    passer_by: tuple[float, float] = (0.3, 0.9)
    """Smallest and largest height of the person, as a share of the height of the image."""

    def __post_init__(self) -> None:
        for name in ("exposure_probability", "shake_probability", "passer_by_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"faults.{name} is {getattr(self, name)}; a number from 0 to 1 is needed.")
        for name in ("exposure", "shake", "passer_by"):
            least, most = getattr(self, name)
            if not 0 < least <= most:
                raise ValueError(f"faults.{name} is {(least, most)}; an ascending range above 0 is needed.")


@dataclass(frozen=True)
class RefinementOptions:
    """How predictions are refined in training, and what is wrong with photographs."""

    steps: tuple[int, int] = (60, 500)
    """Fewest and most Adam steps. What should have been held shows after many steps. ``0 0`` trains predictions as they
    are, which is what the others are compared with; precisions learn nothing then."""
    drawn: Literal["log-uniform", "uniform"] = "log-uniform"
    """How their number is drawn."""
    rates: Literal["splatfacto", "own-scale"] = "splatfacto"
    """Rates of the Adam steps: splatfacto's, held, or those of l2o-adam-tuned, in units of each Gaussian's size."""
    backward: BackwardMode = BackwardMode.IMPLICIT_DAMPED
    """How gradients pass through the steps."""
    solver_iterations: int = 16
    """Most iterations of the linear solver in the backward pass."""
    error: Literal["log-mse", "mse", "l1-ssim"] = "log-mse"
    """Error of target views: the logarithm of the mean squared difference (ours), that difference, or 0.8 L1 + 0.2
    (1 - SSIM)."""
    lpips_weight: float = 0.0
    """Weight of LPIPS, which is added to it, if its network can be had."""
    train_initial: bool = False
    """Train the initial model too, not only the head that predicts precisions."""
    first_share: float = 0.1
    """Weight of the error before the refinement if the initial model is trained: without it, what the refinement
    overwrites would have no supervision."""
    faults: FaultOptions = field(default_factory=FaultOptions)
    """What befalls context images; target images are as they were photographed."""
    evaluated_steps: tuple[int, ...] = (500,)
    """Numbers of steps after which validation captures are evaluated."""
    reference_scenes: int = 8
    """Number of scenes on which the typical precision is measured, relative to which the head predicts."""
    reference_scale: float = 100.0
    """Factor of the typical precision: most predicted Gaussians are hidden by others, and the median says little about
    the rest."""

    def __post_init__(self) -> None:
        if self.steps != (0, 0) and not 1 <= self.steps[0] <= self.steps[1]:
            raise ValueError(f"refinement.steps is {self.steps}; an ascending range from at least 1 is needed, or 0 0.")
        if self.backward is BackwardMode.FIRST_ORDER:
            raise ValueError(
                "refinement.backward is first_order, which lets no precision learn; choose implicit_damped."
            )

    def drawn_steps(self, rng: np.random.Generator) -> int:
        """Number of inner steps."""
        few, many = self.steps
        if many == 0:
            return 0
        if self.drawn == "uniform":
            return int(rng.integers(few, many, endpoint=True))
        return round(math.exp(rng.uniform(math.log(few), math.log(many))))


@dataclass(frozen=True)
class InitializerTrainingOptions(OuterOptions):
    """Everything that the weights depend on besides networks, losses and scenes."""

    iterations: int = 6000
    averaging: float = 0.995
    scenes_per_iteration: int = 1
    """Scenes of one update in each process; they are seen one after another, and their gradients are averaged."""
    backbone_learning_rate: float | None = None
    """Highest rate of the image transformer, with --through-optimization of the initial model without its head; None
    for that of everything else."""
    batch: BatchOptions = field(default_factory=BatchOptions)
    """How views are drawn from a capture."""


@dataclass(frozen=True)
class DepthLossWeights:
    """Weights of the terms of the predicted depths."""

    regression: float = 1.0
    """Weight of the mean absolute error of log-depth, at the resolution of the images; needs the exact depths of
    procedural scenes (ours)."""
    classification: float = 0.1
    """Weight of the cross-entropy over depth candidates, at the resolution of the cost volume; needs them, too."""
    smoothness: float = 0.01
    """Weight of the edge-aware smoothness, as in the original."""

    @property
    def need_exact(self) -> bool:
        """Whether exact depths are needed."""
        return bool(self.regression or self.classification)


def default_objective() -> Objective:
    """L1 and SSIM; LPIPS if its weight is set and its backbone is available."""
    return Objective(relative=False)


@dataclass(frozen=True)
class Losses:
    """Terms of the losses and their weights."""

    images: Objective = field(default_factory=default_objective)
    """Error of rendered views."""
    rendered: float = 1.0
    """Weight of that error; with 0 the initial stage trains the depth network alone, in about half the time."""
    context_share: float = 0.25
    """Share of the error of context views; target views have the rest."""
    depth: DepthLossWeights = field(default_factory=DepthLossWeights)
    """Error of predicted depths, in the initial stage."""
    growth: float = 0.9
    """Weight of the error after an update, relative to that after the next one."""
    mean_over_updates: bool = True
    """Divide the sum of these errors by the number of updates; the original does not."""
