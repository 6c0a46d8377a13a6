"""A learned rule with a net under it: when the loss rises, the scene goes back and Adam takes over."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from l2o_splat.gaussians import Gaussians
from l2o_splat.optim.rule import Feedback, RuleState, UpdateRule
from l2o_splat.optim.sequence import own_state, prefixed
from l2o_splat.scene import SceneKnowledge

INTERVAL = 10
"""Steps between looks at the loss; enough for most captures' views to have come round."""
TOLERANCE = 0.03
"""Relative rise of the mean loss over the best so far that is put down to the choice of views."""


class SafeguardedRule(UpdateRule):
    """Watches the training loss that each step is told anyway (ours, not of a paper).

    Every ``INTERVAL`` steps the mean loss since the last look is compared with the lowest such mean so far, at first
    with the loss of the very first step. Where it is lower, the scene is remembered; where it is higher by more than
    ``TOLERANCE``, the remembered scene is restored and ``fallback`` goes on from it, with its own steps counted from
    there. Without a told loss the learned rule works as if alone.

    State: that of the rule at work, and three columns of its own with one number in all rows: the sum of the losses
    since the last look, the lowest mean, and the step of the fall (-1 before); the remembered scene until then.
    """

    def __init__(self, rule: UpdateRule, fallback: UpdateRule) -> None:
        super().__init__()
        self.rule = rule
        self.fallback = fallback
        self.trained_raster = rule.trained_raster

    def in_scene(self, scene: SceneKnowledge) -> UpdateRule:
        return SafeguardedRule(self.rule.in_scene(scene), self.fallback.in_scene(scene))

    @property
    def fingerprint(self) -> str:
        return f"[{self.rule.fingerprint}] safeguarded by [{self.fallback.fingerprint}]"

    def init_state(self, gaussians: Gaussians, features: Float[Tensor, "n f"] | None = None) -> RuleState:
        watch = gaussians.means.new_tensor([0.0, float("inf"), -1.0]).repeat(len(gaussians), 1)
        kept = {"watch": watch, "remembered": gaussians.detach().pack()}
        return kept | prefixed("rule", self.rule.init_state(gaussians, features))

    def forward(self, gaussians: Gaussians, feedback: Feedback, state: RuleState) -> tuple[Gaussians, RuleState]:
        if "remembered" not in state:
            return self._fall_back(gaussians, feedback, state)
        watch = state["watch"]
        if feedback.loss is not None and len(watch):
            watch = watch.clone()
            if feedback.step == 0:
                watch[:, 1] = feedback.loss
            elif feedback.step % INTERVAL == 0:
                mean, best = watch[0, 0] / INTERVAL, watch[0, 1]
                if mean > (1 + TOLERANCE) * best:
                    return self._restore(gaussians, feedback, state)
                if mean < best:
                    state = state | {"remembered": gaussians.detach().pack()}
                    watch[:, 1] = mean
                watch[:, 0] = 0
            watch[:, 0] += feedback.loss
        delta, own = self.rule(gaussians, feedback, own_state("rule", state))
        return delta, {"watch": watch, "remembered": state["remembered"]} | prefixed("rule", own)

    def _restore(self, gaussians: Gaussians, feedback: Feedback, state: RuleState) -> tuple[Gaussians, RuleState]:
        restored = Gaussians.unpack(state["remembered"])
        watch = state["watch"].clone()
        watch[:, 2] = feedback.step + 1
        delta = restored.zip_map(torch.sub, gaussians)
        return delta, {"watch": watch} | prefixed("fallback", self.fallback.init_state(restored))

    def _fall_back(self, gaussians: Gaussians, feedback: Feedback, state: RuleState) -> tuple[Gaussians, RuleState]:
        since = feedback.step - int(state["watch"][0, 2]) if len(gaussians) else 0
        delta, own = self.fallback(gaussians, replace(feedback, step=since), own_state("fallback", state))
        return delta, {"watch": state["watch"]} | prefixed("fallback", own)

    def resize_state(self, state: RuleState, source: Int[Tensor, " m"], fresh: Bool[Tensor, " m"]) -> RuleState:
        """Numbers of the whole scene are the same in added rows; an added Gaussian is remembered as its parent was."""
        resized = {name: state[name][source] for name in ("watch", "remembered") if name in state}
        for prefix, rule in (("rule", self.rule), ("fallback", self.fallback)):
            if own := own_state(prefix, state):
                resized |= prefixed(prefix, rule.resize_state(own, source, fresh))
        return resized
