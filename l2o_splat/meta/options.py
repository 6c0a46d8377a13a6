"""Options of meta-training. They load no torch, so that `--help` does not wait for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from l2o_splat.raster_settings import RasterSettings
from l2o_splat.training.objective import Objective
from l2o_splat.training.options import OuterOptions


@dataclass(frozen=True)
class BufferOptions:
    """Options of the checkpoint buffer of Learn2Splat (arXiv 2605.15760); the defaults are those of its code."""

    capacity: int = 20
    """Most episodes in the buffer; none is resumed before it was full once."""
    resume_probability: float = 0.7
    """Probability that a meta-iteration resumes an episode of a full buffer instead of starting a fresh one."""
    keep_fresh: float = 0.7
    """Probability that a fresh episode enters a full buffer after its unroll."""
    keep_resumed: float = 0.99
    """Probability that a resumed episode returns to the buffer."""
    clear_every: int | None = None
    """Meta-iterations after which the buffer is emptied; None never empties it."""


@dataclass(frozen=True)
class EpisodeOptions:
    """How a capture becomes an episode."""

    target_views: int = 3
    """Views that inner steps never see; the meta-loss measures the worth of a step on them."""
    start: Literal["points", "resplat"] = "points"
    """What a scene starts from: its sparse points, or the Gaussians and features that ``start_weights`` predict from
    the context views."""
    start_weights: str = "resplat-mini"
    """Weights of the initial model for ``start`` resplat; they stay as they are."""
    context_views: tuple[int, int] = (5, 25)
    """Fewest and most views that inner steps see, drawn log-uniformly; all views if a capture has fewer."""
    views_per_step: tuple[int, int] = (4, 8)
    """Fewest and most context views of an inner step, drawn once per episode."""
    context_choice: Literal["random", "fps"] = "random"
    """Which views become context views: any, or those farthest from each other."""
    view_strategy: Literal["fps", "random"] = "fps"
    """How the context views of an inner step are chosen: those farthest from each other, or any."""
    kept_points: tuple[float, float] = (0.1, 1.0)
    """Smallest and largest share of the sparse points that is kept."""
    max_points: int = 5000
    """Most points that are kept, chosen at random."""
    drop_black: bool = True
    """Leave out points whose colour is exactly black."""
    flip_probability: float = 0.5
    """Probability that images, cameras and points are mirrored."""
    sh_degree: int = 3
    """Degree of the spherical harmonics."""

    def __post_init__(self) -> None:
        ranges = {"context_views": self.context_views, "views_per_step": self.views_per_step}
        if self.target_views < 1 or not all(1 <= low <= high for low, high in ranges.values()):
            raise ValueError(
                f"target_views is {self.target_views} and {ranges}; at least one target and ascending ranges from 1 "
                "are needed."
            )
        if not 0 < self.kept_points[0] <= self.kept_points[1] <= 1 or self.max_points < 1:
            raise ValueError(
                f"kept_points is {self.kept_points} and max_points {self.max_points}; an ascending range within "
                "(0, 1] and at least one point are needed."
            )


@dataclass(frozen=True)
class InnerLoop:
    """How inner steps render and compare images; the same as in ``ns-train``."""

    raster: RasterSettings = field(default_factory=RasterSettings)
    """Settings of the rasterizer."""
    ssim_weight: float = 0.2
    """Share of the SSIM term."""
    max_active: int | None = None
    """Most Gaussians that a recorded step may process; a scene with more is left out. None allows any number."""


@dataclass(frozen=True)
class MetaLossWeights:
    """Weights of the terms of the meta-loss of one unroll."""

    discount: float = 0.9
    """Weight of each step relative to the one after it."""
    foresight: float = 0.0
    """Weight of a step at the scene after the one it leads to, relative to its weight there; it is applied once more
    for each later scene. With 0 a step counts at the scene it leads to alone, as in the paper, with 1 equally at all
    later scenes of the unroll."""
    uphill: float = 1.0
    """Weight of steps uphill or without a gradient, see :func:`uphill_loss`."""
    uphill_start: int = 0
    """Meta-iterations after which that term counts; an untrained network of Learn2Splat could not begin to move against
    it."""
    stability: float = 0.5
    """Weight of rises of the error on target views, see :func:`stability_loss`."""
    context_stability: bool = False
    """Count rises on context views too, in episodes whose inner steps see all of them."""
    context_views: int | None = None
    """Number of views of the step before on which the error of context views is measured, chosen at random; None
    measures it on the views of the next step, whose images the inner gradient needs anyway."""


@dataclass(frozen=True)
class MetaOptions(OuterOptions):
    """Everything that the trained weights depend on besides rule and source. An iteration is a meta-iteration."""

    iterations: int = 400
    averaging: float = 0.98
    scenes_per_iteration: int = 1
    """Unrolls in one meta-iteration of each process; their gradients are averaged."""
    unroll_steps: tuple[int, int] = (1, 6)
    """Fewest and most recorded inner steps of an unroll."""
    rollout_steps: int = 200
    """Most frozen steps before an episode enters the buffer; 0 takes none."""
    rollout_draw: Literal["log-uniform", "uniform"] = "log-uniform"
    """How their number is drawn, from 1."""
    rollout_growth: float = 0.4
    """Share of the training over which their largest number grows from 1."""
    episode: EpisodeOptions = field(default_factory=EpisodeOptions)
    """How a capture becomes an episode."""
    buffer: BufferOptions = field(default_factory=BufferOptions)
    """Which episodes are resumed."""
    objective: Objective = field(default_factory=Objective)
    """Error of rendered views in the meta-loss."""
    terms: MetaLossWeights = field(default_factory=MetaLossWeights)
    """Weights of the terms of the meta-loss."""
    loop: InnerLoop = field(default_factory=InnerLoop)
    """How inner steps render and compare."""
