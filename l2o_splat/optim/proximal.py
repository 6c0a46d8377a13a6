"""The inner rule of diff3r: another rule, usually Adam, with every parameter held near its anchor.

The inner problem of DIFF3R (arXiv 2604.01030) as a training loop sees it: the gradient of the proximal term is added to
that of the images, inside the gradient and not as a decay beside it, so that the two come to rest at the same point as
:func:`l2o_splat.implicit.layer.proximal_refine`.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from l2o_splat.gaussians import FIELDS, Gaussians
from l2o_splat.optim.precision import check_precision, per_channel
from l2o_splat.optim.rule import ContextNeeds, Feedback, Moments, Needs, RuleState, UpdateRule, nested_moments
from l2o_splat.optim.wrapped import WrappedRule
from l2o_splat.scene import SceneKnowledge, SceneStart


def proximal_weight(views_per_step: int, num_views: int, width: int, height: int, prox_scale: float = 1.0) -> float:
    """Weight of the proximal term beside an image loss that is a mean over pixels and a sum over a step's views.

    A precision is calibrated to half the squared difference, summed over the m = 3 width height num_views numbers of
    all training images. With :func:`l2o_splat.losses.squared_loss` as image loss, ``2 E / m`` times the
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


class ProximalRule(WrappedRule):
    """Adds ``weight * sum_j precision_j (x_j - anchor_j)^2`` to the loss whose gradient another rule gets.

    The anchor is the scene at the first step. Anchor and precision are part of the state, so that a run that is resumed
    goes on with the same ones. A step with renders has no gradient that the term could be added to; its feedback goes
    to the other rule as it is.

    Args:
        rule: What moves the Gaussians; :class:`l2o_splat.optim.adam.AdamRule` in DIFF3R.
        prox_scale: Strength of the term: 1 as the precision says, 0 none. Infinity lets nothing move, which is where
            the optimum then is.
        weight: See :func:`proximal_weight`. None lets :meth:`bind` find it from ``prox_scale`` and the context views.
    """

    def __init__(self, rule: UpdateRule, prox_scale: float = 1.0, weight: float | None = None) -> None:
        super().__init__(rule)
        for name, value in (("prox_scale", prox_scale), ("proximal weight", 0.0 if weight is None else weight)):
            if not value >= 0:
                raise ValueError(f"The {name} is {value}; 0 or more is needed, see proximal_weight.")
        self.prox_scale = prox_scale
        self.weight = self._given_weight = weight

    def around(self, rule: UpdateRule) -> ProximalRule:
        other = ProximalRule(rule, self.prox_scale, self._given_weight)
        other.weight = self.weight
        return other

    @property
    def needs(self) -> Needs:
        needs = self.rule.needs
        return replace(
            needs,
            context=needs.context or ContextNeeds(),
            context_steps=math.inf,
            precision=True,
            fixed_steps=math.inf,
        )

    def bind(self, scene: SceneKnowledge) -> ProximalRule:
        """The rule with the weight for steps that show all context views; without context views it stays as it is."""
        bound, shown = self.around(self.rule.bind(scene)), scene.context
        if self._given_weight is None and shown is not None:
            bound.weight = proximal_weight(len(shown), len(shown), shown.width, shown.height, self.prox_scale)
        return bound

    @property
    def fingerprint(self) -> str:
        return f"[{self.rule.fingerprint}] anchored with weight {self.weight!r}"

    def init_state(self, start: SceneStart) -> RuleState:
        """The state before the first step.

        Args:
            start: Its Gaussians are the anchor, its precision holds them; see :mod:`l2o_splat.optim.precision`.

        Raises:
            ValueError: If there is no precision, or it cannot hold the Gaussians.
        """
        gaussians, precision = start.gaussians, start.precision
        if precision is None:
            raise ValueError(
                "The proximal rule got no precision; put one into SceneStart.precision, such as "
                "l2o_splat.implicit.heuristic.heuristic_precision."
            )
        check_precision(gaussians, precision)
        anchor = {f"anchor.{name}": value.detach().clone() for name, value in gaussians.items()}
        own = RuleState({**anchor, "precision": precision.detach().clone()})
        return own | self.rule.init_state(start).nested("rule")

    def forward(self, gaussians: Gaussians, feedback: Feedback, state: RuleState) -> tuple[Gaussians, RuleState]:
        """See :meth:`UpdateRule.forward`.

        Raises:
            ValueError: If the rule has no weight, since it was neither given nor found by :meth:`bind`.
        """
        if self._is_held():
            return gaussians.map(torch.zeros_like), state
        delta, inner = self.rule(gaussians, self._pulled(gaussians, feedback, state), state.part("rule"))
        return delta, _own(state) | inner.nested("rule")

    def step_in_place(self, gaussians: Gaussians, feedback: Feedback, state: RuleState) -> RuleState | None:
        if self._is_held():
            return super().step_in_place(gaussians, feedback, state)
        inner = self.rule.step_in_place(gaussians, self._pulled(gaussians, feedback, state), state.part("rule"))
        return None if inner is None else _own(state) | inner.nested("rule")

    def _is_held(self) -> bool:
        """Whether the term lets nothing move."""
        if self.weight is None:
            raise ValueError(
                "The proximal rule has no weight; bind it to a scene with context views, or give it one, see "
                "proximal_weight."
            )
        return math.isinf(self.weight)

    def insight(self, state: RuleState, step: int) -> dict[str, Tensor]:
        return self.rule.insight(state.part("rule"), step)

    def moments(self, state: RuleState, field: str) -> list[Moments]:
        return nested_moments(state, field, {"rule": self.rule})

    def _pulled(self, gaussians: Gaussians, feedback: Feedback, state: RuleState) -> Feedback:
        """The feedback with the proximal term added to the gradients, if there are any."""
        if feedback.gradients is None:
            return feedback
        precision = Gaussians.unpack(per_channel(state["precision"], gaussians.features_rest.shape[1]))
        pulled = {}
        for name, gradient in feedback.gradients.items():
            away = getattr(gaussians, name) - state[f"anchor.{name}"]
            pulled[name] = gradient + 2 * self.weight * getattr(precision, name) * away
        return replace(feedback, gradients=Gaussians(**pulled))

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
        inner = self.rule.resize_state(state.part("rule"), source, fresh)
        return _own(state).at(source) | inner.nested("rule")


def _own(state: RuleState) -> RuleState:
    """The part of a state that is not that of the other rule."""
    return RuleState({name: state[name] for name in (*(f"anchor.{name}" for name in FIELDS), "precision")})
