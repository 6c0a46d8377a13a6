"""Training through optimization: how strongly the refinement is to hold each predicted Gaussian.

As in DIFF3R (arXiv 2604.01030), the prediction is refined on the context views, the error is that of target views, and
the gradient passes through the refinement by the implicit function theorem. The paper does not give its schedule and
numbers; these, and the faults of photographs, are ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from l2o_splat.gaussians import Gaussians
from l2o_splat.implicit.backward_mode import BackwardMode
from l2o_splat.implicit.heuristic import heuristic_precision, reference_precision
from l2o_splat.implicit.layer import LayerStatus, proximal_refine
from l2o_splat.implicit.linearized_views import ContextViews
from l2o_splat.implicit.pcg import PCG
from l2o_splat.implicit.solvers import AdamSolver
from l2o_splat.implicit.uncertainty_head import PREFIX, UncertaintyHead
from l2o_splat.initializer_training.batches import Batch
from l2o_splat.initializer_training.faulty_photographs import with_exposure, with_fault
from l2o_splat.initializer_training.initial_stage import RASTER
from l2o_splat.initializer_training.options import RefinementOptions
from l2o_splat.initializers.diff3r import predicted_precision
from l2o_splat.initializers.resplat import InitialScene, ReSplatInitializer
from l2o_splat.losses import equal_where_masked, photometric_loss
from l2o_splat.metrics import Lpips
from l2o_splat.nets.resplat.model import InitialModel
from l2o_splat.optim.adam import OWN_SCALE, SPLATFACTO
from l2o_splat.rendering import RasterSettings, render
from l2o_splat.scene import SceneKnowledge
from l2o_splat.training.evaluation import mean_psnr
from l2o_splat.training.statistics import Statistics
from l2o_splat.views import Views
from l2o_splat.weights.format import System

SSIM_SHARE = 0.2
"""Share of SSIM in the error "l1-ssim"."""
NOTHING = 1e-30
"""Precision that holds nothing, with which the refinement is plain Adam."""


@dataclass(frozen=True)
class RefinementTerms(Statistics):
    """Numbers of one training step."""

    image_error: float
    """Error of target views after the refinement."""
    first_error: float
    """The same before the refinement."""
    gradient_ratio: float
    """Norm of the gradient of the refinement's energy, after relative to before."""
    left_out: bool
    """Whether the refinement failed, so that the step has no gradient."""
    log_precision: float
    """Mean logarithm of the predicted precisions relative to their reference, without those of the means."""


class RefinedModel(nn.Module):
    """The initial model, and the head that predicts precisions from its features."""

    def __init__(self, initial: InitialModel, head: UncertaintyHead, train_initial: bool = False) -> None:
        super().__init__()
        self.initial, self.head = initial.requires_grad_(train_initial), head
        self.train_initial = train_initial

    def forward(self, batch: Batch) -> tuple[InitialScene, Float[Tensor, "n 5"], Views]:
        """Predicted scene, its precisions and the target views, in the frame of the networks."""
        initializer = ReSplatInitializer(self.initial)
        shown = initializer.show(batch.context, 1.0, batch.depth_range, points=batch.shown_points)
        with torch.set_grad_enabled(self.train_initial and torch.is_grad_enabled()):
            found = self.initial(shown.images, shown.cameras, shown.guide)
            features = initializer.features_of_gaussians(found.features, shown.images.shape[2:])
            scene = InitialScene(
                gaussians=shown.gaussians(found),
                features=features,
                context=shown.frame.views_to_local(shown.views),
                depth=found.depth[:, 0],
                grid=initializer.grid(shown.views),
            )
        return scene, predicted_precision(self.head, scene, RASTER), shown.frame.views_to_local(batch.target)


@dataclass
class RefinedStage:
    """Trains the head, and the initial model if ``options.train_initial`` says so."""

    system: ClassVar[System] = "diff3r"
    raster: ClassVar[RasterSettings] = RASTER
    objective: ClassVar[None] = None
    network: RefinedModel
    options: RefinementOptions = field(default_factory=RefinementOptions)
    _lpips: Lpips = field(default_factory=Lpips, init=False)
    _unlearned: dict[str, dict[str, float]] = field(default_factory=dict, init=False)
    """PSNR by scene of the precisions that are not learned, which a frozen initial model need not measure twice."""

    def backbone(self) -> Iterable[nn.Parameter]:
        """Those of the initial model but its head, which predicts the Gaussians."""
        head = set(self.network.initial.gaussian_head.parameters())
        return (parameter for parameter in self.network.initial.parameters() if parameter not in head)

    def heaviest(self) -> RefinedStage:
        """With one inner step: its memory does not depend on their number, unless they are unrolled."""
        steps = self.options.steps[1] if self.options.backward is BackwardMode.UNROLL else 1
        stage = copy(self)
        stage.options = replace(self.options, steps=(steps, steps))
        return stage

    def loss(self, batch: Batch, rng: np.random.Generator) -> tuple[Tensor, RefinementTerms]:
        """Loss with a graph to the network, and its terms."""
        options = self.options
        batch = replace(batch, context=with_fault(batch.context, options.faults, rng))
        steps = options.drawn_steps(rng)
        scene, precision, target = self.network(batch)
        refined, status = self.refine(scene, precision, steps)
        error = self.error(refined, target)
        with torch.set_grad_enabled(self.network.train_initial):
            first = self.error(scene.gaussians, target)
        loss = error + options.first_share * first if self.network.train_initial else error
        if status.failure is not None:
            loss = loss * math.nan  # The trainer makes no step along a gradient that is not finite.
        return loss, RefinementTerms(
            image_error=float(error.detach()),
            first_error=float(first.detach()),
            gradient_ratio=status.gradient_ratio,
            left_out=status.failure is not None,
            log_precision=float((precision.detach() / self.network.head.reference)[:, 1:].log().mean()),
        )

    def error(self, gaussians: Gaussians, views: Views) -> Float[Tensor, ""]:
        """The error that ``options`` name, mean over views."""
        rendered = render(gaussians, views.cameras, RASTER).rgb
        if self.options.error == "l1-ssim":
            error = photometric_loss(rendered, views.images, views.masks, SSIM_SHARE) / len(views)
        else:
            error = squared_error(rendered, views, logarithm=self.options.error == "log-mse")
        if self.options.lpips_weight:
            distances = self._lpips.distances(rendered, views.images, views.masks)
            if distances is not None:
                error = error + self.options.lpips_weight * distances.mean()
        return error

    def refine(self, scene: InitialScene, precision: Float[Tensor, "n 5"], steps: int) -> tuple[Gaussians, LayerStatus]:
        """The scene after ``steps`` Adam steps on its context views, differentiable in scene and precision; the scene
        itself after 0."""
        if steps == 0:
            return scene.gaussians, LayerStatus(energy_before=0.0, energy_after=0.0, gradient_ratio=1.0)
        return refined(scene.gaussians, precision, ContextViews(scene.context, RASTER), steps, self.options)

    @torch.no_grad()
    def evaluate(self, network: nn.Module, batches: Sequence[Batch]) -> dict[str, float]:
        """PSNR (dB) of target views before the refinement and after some steps of it, with the precision of the head,
        the heuristic one and none, as photographed and with the first context image brighter (``_exposed``)."""
        rows: list[dict[str, float]] = []
        gain = self.options.faults.exposure[1]
        for number, batch in enumerate(batches):
            row = {}
            brighter = replace(batch, context=with_exposure(batch.context, 0, gain))
            for condition, shown in (("", batch), ("_exposed", brighter)):
                scene, precision, target = network(shown)
                row[f"psnr_0{condition}"] = mean_psnr(scene.gaussians, target, RASTER)
                row |= self._curve(f"head{condition}", scene, precision, target)
                key = f"{number}{condition}"
                if network.train_initial or key not in self._unlearned:
                    heuristic = heuristic_precision(scene.gaussians, ContextViews(scene.context, RASTER))
                    self._unlearned[key] = self._curve(f"heuristic{condition}", scene, heuristic, target)
                    nothing = torch.full_like(precision, NOTHING)
                    self._unlearned[key] |= self._curve(f"adam{condition}", scene, nothing, target)
                row |= self._unlearned[key]
            rows.append(row)
        numbers = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
        return {"psnr": float(np.mean([value for name, value in numbers.items() if "head" in name]))} | numbers

    def _curve(self, name: str, scene: InitialScene, precision: Tensor, target: Views) -> dict[str, float]:
        return {
            f"psnr_{name}_{steps}": mean_psnr(self.refine(scene, precision, steps)[0], target, RASTER)
            for steps in self.options.evaluated_steps
        }

    def tensors(self, network: nn.Module) -> dict[str, Tensor]:
        """Tensors of the whole model; those of the head have the prefix of the weights of diff3r."""
        head = {PREFIX + name: tensor for name, tensor in network.head.state_dict().items()}
        return network.initial.state_dict() | head


def refined(
    gaussians: Gaussians, precision: Float[Tensor, "n 5"], views: ContextViews, steps: int, options: RefinementOptions
) -> tuple[Gaussians, LayerStatus]:
    """Gaussians after some Adam steps on all context views, differentiable in where they began and the precision."""
    rates = SPLATFACTO if options.rates == "splatfacto" else OWN_SCALE
    solver = AdamSolver(steps, rates, SceneKnowledge(views.cameras.centres).extent)
    linear = PCG(max_iterations=options.solver_iterations)
    return proximal_refine(gaussians, precision, views, solver, options.backward, linear)


def squared_error(rendered: Float[Tensor, "v h w 3"], views: Views, logarithm: bool) -> Float[Tensor, ""]:
    """Mean over views of the mean squared difference, or of its logarithm (-0.23 times PSNR), without clamping.

    With the logarithm good and bad scenes count equally, and unlike L1 it shows the cost of a few Gaussians that went
    astray. Masked pixels count as right.
    """
    rendered, images = equal_where_masked(rendered, views.images, views.masks)
    error = (rendered - images).square().mean(dim=(1, 2, 3))
    return error.log().mean() if logarithm else error.mean()


@torch.no_grad()
def typical_precision(initial: InitialModel, batches: Sequence[Batch], scale: float) -> Float[Tensor, " 5"]:
    """Median over scenes of their reference precisions (those of the means per squared pixel), times ``scale``.

    Args:
        initial: Predicts the scenes.
        batches: Batches of the scenes.
        scale: Factor, see :class:`RefinementOptions`.
    """
    initializer = ReSplatInitializer(initial)
    found = []
    for batch in batches:
        scene = initializer(batch.context, 1.0, batch.depth_range, points=batch.shown_points)
        found.append(reference_precision(scene.gaussians, ContextViews(scene.context, RASTER)))
    return scale * torch.stack(found).median(dim=0).values
