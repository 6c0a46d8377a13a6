"""The dense stage: trains the head that gives a dense start its sizes, by renders of views that it has not seen.

Before and after some steps of tuned Adam on the context views: what makes the best first image, small and opaque, is
hard to move afterwards. The gradient passes through the steps as in DIFF3R (arXiv 2604.01030), with nothing held.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from l2o_splat.gaussians import Gaussians
from l2o_splat.implicit.layer import LayerStatus
from l2o_splat.implicit.linearized_views import ContextViews
from l2o_splat.initializer_training.batches import Batch
from l2o_splat.initializer_training.initial_stage import shared_error
from l2o_splat.initializer_training.options import Losses, RefinementOptions
from l2o_splat.initializer_training.refined_stage import NOTHING, refined
from l2o_splat.initializers.dense import DenseHead, DenseOptions, Surfaces, find_surfaces
from l2o_splat.optim.precision import GROUPS
from l2o_splat.rendering import RasterSettings
from l2o_splat.training.errors import UnusableCaptureError
from l2o_splat.training.evaluation import mean_psnr
from l2o_splat.training.objective import Objective
from l2o_splat.training.statistics import Statistics
from l2o_splat.weights.format import System


@dataclass(frozen=True)
class DenseTerms(Statistics):
    """Errors of one training step."""

    image_error: float
    """Error of rendered views after the refinement."""
    first_error: float
    """The same before it."""


@dataclass
class DenseStage:
    """Trains the head; the depths that views agree on are not learnt."""

    system: ClassVar[System] = "dense"
    raster: ClassVar[RasterSettings] = RasterSettings()
    """That of a run which starts on surfaces."""
    network: DenseHead
    losses: Losses
    refinement: RefinementOptions

    @property
    def objective(self) -> Objective:
        return self.losses.images

    def backbone(self) -> Iterable[nn.Parameter]:
        """None: the head has no image transformer."""
        return ()

    def heaviest(self) -> DenseStage:
        """With one step of the refinement: its memory does not depend on their number."""
        return replace(self, refinement=replace(self.refinement, steps=(1, 1)))

    def loss(self, batch: Batch, rng: np.random.Generator) -> tuple[Tensor, DenseTerms]:
        """Loss with a graph to the head, and its terms.

        Raises:
            UnusableCaptureError: If views agree on nothing.
        """
        found = surfaces_of(batch)
        gaussians = self.network(found.gaussians, found.evidence, found.views)
        first, options = self._error(gaussians, batch), self.refinement
        after, status = self._refined(gaussians, batch, options.drawn_steps(rng))
        error = self._error(after, batch)
        loss = options.first_share * first + (1 - options.first_share) * error
        if status.failure is not None:
            loss = loss * math.nan  # The trainer makes no step along a gradient that is not finite.
        return loss, DenseTerms(float(error.detach()), float(first.detach()))

    def _error(self, gaussians: Gaussians, batch: Batch) -> Tensor:
        return shared_error(gaussians, batch.target, batch.context, self.losses, self.raster)

    def _refined(self, gaussians: Gaussians, batch: Batch, steps: int) -> tuple[Gaussians, LayerStatus]:
        nothing = gaussians.means.new_full((len(gaussians), len(GROUPS)), NOTHING)
        return refined(gaussians, nothing, ContextViews(batch.context, self.raster), steps, self.refinement)

    @torch.no_grad()
    def evaluate(self, network: nn.Module, batches: Sequence[Batch]) -> dict[str, float]:
        """PSNR of target views before and after the refinement, and the same sized by rules of thumb."""
        rows, steps = [], self.refinement.steps[1]
        for batch in batches:
            found, row = surfaces_of(batch), {}
            learnt = network(found.gaussians, found.evidence, found.views)
            for name, gaussians in (("", learnt), ("_untrained", found.gaussians)):
                after, _ = self._refined(gaussians, batch, steps)
                row[f"psnr_0{name}"] = mean_psnr(gaussians, batch.target, self.raster)
                row[f"psnr_{steps}{name}"] = mean_psnr(after, batch.target, self.raster)
            share = self.refinement.first_share
            rows.append(row | {"psnr": share * row["psnr_0"] + (1 - share) * row[f"psnr_{steps}"]})
        return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}

    def tensors(self, network: nn.Module) -> dict[str, Tensor]:
        """Tensors of the head."""
        return network.state_dict()


def surfaces_of(batch: Batch) -> Surfaces:
    """The surfaces that context views agree on.

    Raises:
        UnusableCaptureError: If they agree on nothing.
    """
    try:
        return find_surfaces([batch.context], batch.points.xyz, batch.points.rgb, DenseOptions(sh_degree=0))
    except ValueError as error:
        raise UnusableCaptureError(str(error)) from error
