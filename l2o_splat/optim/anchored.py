"""The inner rule of diff3r: another rule, Adam as a rule, with every parameter held near its anchor.

The inner problem of DIFF3R (arXiv 2604.01030) as a training loop sees it: the gradient of the proximal term is added to
that of the images, inside the gradient and not as a decay beside it, so that the two come to rest at the same point as
:func:`l2o_splat.implicit.layer.proximal_refine`.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from l2o_splat.gaussians import FIELDS, Gaussians
from l2o_splat.implicit.precision import check_precision, per_channel
from l2o_splat.optim.rule import Feedback, RuleState, UpdateRule
from l2o_splat.optim.sequence import own_state, prefixed
from l2o_splat.scene import SceneKnowledge


def proximal_weight(views_per_step: int, num_views: int, width: int, height: int, prox_scale: float = 1.0) -> float:
    """Weight of the proximal term beside an image loss that is a mean over pixels and a sum over a step's views.

    A precision is calibrated to half the squared difference, summed over the m = 3 width height num_views numbers of
    all training images. With the mean squared difference as image loss (:func:`squared_loss`), ``2 E / m`` times the
    views of a step is what a step minimises on average, so that the proximal term weighs ``views_per_step / m``. With
    another image loss the precision is not calibrated, and ``prox_scale`` has to be found by trial.

    Args:
        views_per_step: Views that the loss of one step sums over.
        num_views: Training views.
        width: Of the images that are trained on, pixels.
        height: Of the images that are trained on, pixels.
        prox_scale: Factor on top: 0 holds nothing, infinity everything.

    Raises:
        ValueError: If there are no views or pixels, a step has more views than there are, or the factor is negative.
    """
    if min(views_per_step, num_views, width, height) < 1 or views_per_step > num_views:
        raise ValueError(
            f"A step has {views_per_step} of {num_views} views of {width} x {height} pixels; at least 1 of each is "
            "needed, and no more views per step than there are."
        )
    if not prox_scale >= 0:
        raise ValueError(f"prox_scale is {prox_scale}; 0 or more is needed.")
    return prox_scale * views_per_step / (3 * width * height * num_views)


def squared_loss(
    rendered: Float[Tensor, "v h w 3"], images: Float[Tensor, "v h w 3"], masks: Float[Tensor, "v h w 1"] | None = None
) -> Float[Tensor, ""]:
    """Squared difference, mean over all pixels and channels, sum over views: the image loss precisions are made for.

    Args:
        rendered: Rendered views, sRGB, not clamped.
        images: Photographs, sRGB 0 to 1.
        masks: Where a mask does not exceed 0.5 the difference counts as 0, in a mean over all pixels still, so that
            the weight of the others beside the proximal term stays the same.
    """
    difference = rendered - images
    if masks is not None:
        difference = torch.where(masks > 0.5, difference, 0)
    return difference.square().mean(dim=(1, 2, 3)).sum()


class AnchoredRule(UpdateRule):
    """Adds ``weight * sum_j precision_j (x_j - anchor_j)^2`` to the loss that another rule sees the gradient of.

    The anchor is the scene at the first step. Anchor and precision are part of the state, so that a run that is resumed
    goes on with the same ones.

    Args:
        rule: What moves the Gaussians; :class:`l2o_splat.optim.adam.AdamRule` in DIFF3R.
        weight: See :func:`proximal_weight`. With 0 the other rule works as if alone; with infinity nothing moves, which
            is where the optimum then is.
    """

    def __init__(self, rule: UpdateRule, weight: float) -> None:
        super().__init__()
        if not weight >= 0:
            raise ValueError(f"The proximal weight is {weight}; 0 or more is needed, see proximal_weight.")
        self.rule = rule
        self.weight = weight
        self.trained_raster = rule.trained_raster

    def in_scene(self, scene: SceneKnowledge) -> UpdateRule:
        return AnchoredRule(self.rule.in_scene(scene), self.weight)

    def calibrated(self, num_views: int, width: int, height: int) -> AnchoredRule:
        """This rule for steps that show all training views, its weight so far taken for the factor ``prox_scale``.

        Arguments as for :func:`proximal_weight`.
        """
        return AnchoredRule(self.rule, proximal_weight(num_views, num_views, width, height, prox_scale=self.weight))

    @property
    def fingerprint(self) -> str:
        return f"[{self.rule.fingerprint}] anchored with weight {self.weight!r}"

    def init_state(self, gaussians: Gaussians, features: Float[Tensor, "n 5"] | None = None) -> RuleState:
        """The state before the first step.

        Args:
            gaussians: The anchor.
            features: The precision; see :mod:`l2o_splat.implicit.precision`.

        Raises:
            ValueError: If there is no precision, or it cannot hold the Gaussians.
        """
        if features is None:
            raise ValueError(
                "The anchored rule was given no precision; pass one as the initializer's features, such as "
                "l2o_splat.implicit.heuristic.heuristic_precision."
            )
        check_precision(gaussians, features)
        anchor = {f"anchor.{name}": value.detach().clone() for name, value in gaussians.items()}
        return {**anchor, "precision": features.detach().clone(), **prefixed("rule", self.rule.init_state(gaussians))}

    def forward(self, gaussians: Gaussians, feedback: Feedback, state: RuleState) -> tuple[Gaussians, RuleState]:
        if math.isinf(self.weight):
            return gaussians.map(torch.zeros_like), state
        precision = Gaussians.unpack(per_channel(state["precision"], gaussians.features_rest.shape[1]))
        pulled = {}
        for name, gradient in feedback.gradients.items():
            away = getattr(gaussians, name) - state[f"anchor.{name}"]
            pulled[name] = gradient + 2 * self.weight * getattr(precision, name) * away
        pulled_feedback = replace(feedback, gradients=Gaussians(**pulled))
        delta, inner = self.rule(gaussians, pulled_feedback, own_state("rule", state))
        held = {key: state[key] for key in (*(f"anchor.{name}" for name in FIELDS), "precision")}
        return delta, {**held, **prefixed("rule", inner)}

    def resize_state(self, state: RuleState, source: Int[Tensor, " m"], fresh: Bool[Tensor, " m"]) -> RuleState:
        """The state after Gaussians were removed.

        Raises:
            ValueError: If any were added; they have no anchor.
        """
        if torch.any(fresh):
            raise ValueError(
                f"{int(fresh.sum())} Gaussians were added, but new ones have no anchor and no precision; switch "
                "densification off, or train with another rule."
            )
        return super().resize_state(state, source, fresh)
