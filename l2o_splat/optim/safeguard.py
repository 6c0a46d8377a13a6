"""A learned rule with a net under it: when the loss rises, the scene goes back and Adam takes over."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from l2o_splat.devices import Remembered
from l2o_splat.gaussians import Gaussians
from l2o_splat.optim.rule import Feedback, Moments, RuleState, UpdateRule, nested_moments
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
        self._fall = Remembered()

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
        at_work = self._at_work(gaussians, feedback, state)
        if at_work is None:
            return self._restore(gaussians, feedback, state)
        name, rule, feedback, own = at_work
        delta, inner = rule(gaussians, feedback, state.part(name))
        return delta, own | inner.nested(name)

    def step_in_place(self, gaussians: Gaussians, feedback: Feedback, state: RuleState) -> RuleState | None:
        at_work = self._at_work(gaussians, feedback, state)
        if at_work is None:
            return super().step_in_place(gaussians, feedback, state)
        name, rule, feedback, own = at_work
        inner = rule.step_in_place(gaussians, feedback, state.part(name))
        return None if inner is None else own | inner.nested(name)

    def _at_work(
        self, gaussians: Gaussians, feedback: Feedback, state: RuleState
    ) -> tuple[str, UpdateRule, Feedback, RuleState] | None:
        """Which rule is at work, the feedback as it sees it, and the rest of the next state.

        None if the loss has risen, so that the remembered scene is to be restored.
        """
        losses = state["losses"]
        if "remembered" not in state:
            since = feedback.step - self._fall(lambda: int(losses[FALL]), losses)
            return "fallback", self.fallback, replace(feedback, step=since), RuleState({}, {"losses": losses})
        remembered = state["remembered"]
        if feedback.loss is not None:
            losses = losses.clone()
            if feedback.step == 0:
                losses[BEST] = feedback.loss
            elif feedback.step % INTERVAL == 0:
                mean, best = losses[SUM] / INTERVAL, losses[BEST]
                risen, fallen = torch.stack([mean > (1 + TOLERANCE) * best, mean < best]).tolist()
                if risen:
                    return None
                if fallen:
                    remembered = gaussians.detach().pack()
                    losses[BEST] = mean
                losses[SUM] = 0
            losses[SUM] += feedback.loss
        return "rule", self.rule, feedback, RuleState({"remembered": remembered}, {"losses": losses})

    def _restore(self, gaussians: Gaussians, feedback: Feedback, state: RuleState) -> tuple[Gaussians, RuleState]:
        restored = Gaussians.unpack(state["remembered"])
        losses = state["losses"].clone()
        losses[FALL] = feedback.step + 1
        begun = self.fallback.init_state(SceneStart(restored)).nested("fallback")
        return restored.zip_map(torch.sub, gaussians), RuleState({}, {"losses": losses}) | begun

    def insight(self, state: RuleState, step: int) -> dict[str, Tensor]:
        if "remembered" in state:
            return self.rule.insight(state.part("rule"), step)
        return self.fallback.insight(state.part("fallback"), step - int(state["losses"][FALL]))

    def moments(self, state: RuleState, field: str) -> list[Moments]:
        return nested_moments(state, field, {"rule": self.rule, "fallback": self.fallback})

    def resize_state(self, state: RuleState, source: Int[Tensor, " m"], fresh: Bool[Tensor, " m"]) -> RuleState:
        """An added Gaussian is remembered as its parent was."""
        remembered = {name: state[name][source] for name in ("remembered",) if name in state}
        resized = RuleState(remembered, {"losses": state["losses"]})
        for prefix, rule in (("rule", self.rule), ("fallback", self.fallback)):
            if part := state.part(prefix):
                resized |= rule.resize_state(part, source, fresh).nested(prefix)
        return resized
