"""A learned rule with a net under it: when the loss rises, the scene goes back and Adam takes over."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from l2o_splat.gaussians import Gaussians
from l2o_splat.optim.rule import Columns, Feedback, RuleState, UpdateRule, nested_moments
from l2o_splat.optim.wrapped import WrappedRule
from l2o_splat.scene import SceneKnowledge, SceneStart

INTERVAL = 10
"""Steps between comparisons of the loss; enough for most captures' views to have come round."""
TOLERANCE = 0.03
"""Relative rise of the mean loss over the best so far that is put down to the choice of views."""

SUM, BEST, FALL = range(3)
"""Entries of ``losses``: sum since the last comparison, lowest mean, and the step after which ``fallback`` began."""


class SafeguardedRule(WrappedRule):
    """Compares the training loss, which each step's feedback holds anyway, with the best so far (ours, not a paper's).

    Every ``INTERVAL`` steps the mean loss since the last comparison is compared with the lowest such mean so far, at
    first with the loss of the very first step. If it is lower, the scene is remembered; if it is higher by more than
    ``TOLERANCE``, the remembered scene is restored and ``fallback`` goes on from it, with its own steps counted from
    there. Without a loss in the feedback the learned rule works as if alone.

    State: that of the rule at work, ``losses [3]`` of the scene, and ``remembered [n d]``, the packed best scene, until
    the fallback has begun.
    """

    def __init__(self, rule: UpdateRule, fallback: UpdateRule) -> None:
        super().__init__(rule)
        self.fallback = fallback

    def around(self, rule: UpdateRule) -> SafeguardedRule:
        return SafeguardedRule(rule, self.fallback)

    def bind(self, scene: SceneKnowledge) -> SafeguardedRule:
        return SafeguardedRule(self.rule.bind(scene), self.fallback.bind(scene))

    @property
    def fingerprint(self) -> str:
        return f"[{self.rule.fingerprint}] safeguarded by [{self.fallback.fingerprint}]"

    def init_state(self, start: SceneStart) -> RuleState:
        losses = start.gaussians.means.new_tensor([0.0, float("inf"), -1.0])
        own = RuleState({"remembered": start.gaussians.detach().pack()}, {"losses": losses})
        return own | self.rule.init_state(start).nested("rule")

    def forward(self, gaussians: Gaussians, feedback: Feedback, state: RuleState) -> tuple[Gaussians, RuleState]:
        if "remembered" not in state:
            return self._fall_back(gaussians, feedback, state)
        losses, remembered = state["losses"], state["remembered"]
        if feedback.loss is not None:
            losses = losses.clone()
            if feedback.step == 0:
                losses[BEST] = feedback.loss
            elif feedback.step % INTERVAL == 0:
                mean, best = losses[SUM] / INTERVAL, losses[BEST]
                if mean > (1 + TOLERANCE) * best:
                    return self._restore(gaussians, feedback, state)
                if mean < best:
                    remembered = gaussians.detach().pack()
                    losses[BEST] = mean
                losses[SUM] = 0
            losses[SUM] += feedback.loss
        delta, inner = self.rule(gaussians, feedback, state.part("rule"))
        return delta, RuleState({"remembered": remembered}, {"losses": losses}) | inner.nested("rule")

    def _restore(self, gaussians: Gaussians, feedback: Feedback, state: RuleState) -> tuple[Gaussians, RuleState]:
        restored = Gaussians.unpack(state["remembered"])
        losses = state["losses"].clone()
        losses[FALL] = feedback.step + 1
        begun = self.fallback.init_state(SceneStart(restored)).nested("fallback")
        return restored.zip_map(torch.sub, gaussians), RuleState({}, {"losses": losses}) | begun

    def _fall_back(self, gaussians: Gaussians, feedback: Feedback, state: RuleState) -> tuple[Gaussians, RuleState]:
        since = feedback.step - int(state["losses"][FALL])
        delta, inner = self.fallback(gaussians, replace(feedback, step=since), state.part("fallback"))
        return delta, RuleState({}, {"losses": state["losses"]}) | inner.nested("fallback")

    def moments(self, state: RuleState, field: str) -> list[tuple[str, Columns]]:
        return nested_moments(state, field, {"rule": self.rule, "fallback": self.fallback})

    def resize_state(self, state: RuleState, source: Int[Tensor, " m"], fresh: Bool[Tensor, " m"]) -> RuleState:
        """An added Gaussian is remembered as its parent was."""
        remembered = {name: state[name][source] for name in ("remembered",) if name in state}
        resized = RuleState(remembered, {"losses": state["losses"]})
        for prefix, rule in (("rule", self.rule), ("fallback", self.fallback)):
            if part := state.part(prefix):
                resized |= rule.resize_state(part, source, fresh).nested(prefix)
        return resized
