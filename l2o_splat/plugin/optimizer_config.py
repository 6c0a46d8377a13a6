"""How nerfstudio's trainer gets a joint optimizer: one config, one flag for the rule."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import tyro
from nerfstudio.engine.optimizers import OptimizerConfig
from nerfstudio.utils.rich_utils import CONSOLE
from torch.nn import Parameter

from l2o_splat.gaussians import FIELDS
from l2o_splat.optim.adam import AdamRule, adam_options
from l2o_splat.optim.joint_optimizer import JointOptimizer
from l2o_splat.optim.learn2splat import Learn2SplatRule
from l2o_splat.optim.rule import UpdateRule
from l2o_splat.optim.sequence import SequencedRule
from l2o_splat.weights import WeightsError, load_weights

RuleName = Literal["adam", "adam-x5", "adam-own-scale", "learn2splat"]

_ADAM_PRESETS = {"adam": "gsplat", "adam-x5": "x5", "adam-own-scale": "own-scale"}


@dataclass
class JointOptimizerConfig(OptimizerConfig):
    """Which rule moves the Gaussians."""

    _target: type = field(default_factory=lambda: JointOptimizer)
    rule: RuleName = "adam"
    """adam: gsplat's rates. adam-x5: five times those. adam-own-scale: position steps in units of each Gaussian's
    own scale, all rates decaying. learn2splat: the learned optimizer, with --...weights."""
    horizon: int = 2000
    """Steps over which decaying rates decay; set it to the length of the run."""
    weights: str | None = None
    """Weights of a learned rule: a path, hf://owner/repo/file, a name from `l2o weights list`, or random:SEED."""
    finish_with: RuleName | None = None
    """Another rule for the last part of the run."""
    finish_after: int | None = None
    """Steps after which the other rule takes over; its own steps and horizon count from there."""
    # Read by nerfstudio's Optimizers; the rule has rates of its own, and clipping would change what it sees.
    lr: tyro.conf.Suppress[float] = 1.0
    eps: tyro.conf.Suppress[float] = 1e-15
    max_norm: tyro.conf.Suppress[float | None] = None

    @property
    def has_horizon(self) -> bool:
        """Whether ``horizon`` changes anything: some rule of this config has rates that decay over it."""
        presets = [_ADAM_PRESETS[name] for name in (self.rule, self.finish_with) if name in _ADAM_PRESETS]
        return any(adam_options(preset, self.horizon).decays for preset in presets)

    def check(self) -> None:
        """Refuse options that do not go together, before any long work.

        Raises:
            WeightsError: for a learned rule without weights, or half a finish.
        """
        if "learn2splat" in (self.rule, self.finish_with) and self.weights is None:
            raise WeightsError(
                "The rule learn2splat needs weights and none are named; give "
                "--optimizers.gaussians.optimizer.weights a file, a name from `l2o weights list`, or random:SEED for a "
                "trial."
            )
        if (self.finish_with is None) != (self.finish_after is None):
            raise WeightsError(
                "Finishing with another rule needs both --optimizers.gaussians.optimizer.finish-with and finish-after; "
                f"found {self.finish_with} and {self.finish_after}."
            )

    def build_rule(self) -> UpdateRule:
        """The update rule this config names; says which weights run."""
        self.check()
        first = self._build(self.rule)
        if self.finish_with is None:
            return first
        return SequencedRule(first, self._build(self.finish_with), self.finish_after)

    def _build(self, name: RuleName) -> UpdateRule:
        if name in _ADAM_PRESETS:
            return AdamRule(adam_options(_ADAM_PRESETS[name], self.horizon))
        weights = load_weights(self.weights, "learn2splat")
        rule = Learn2SplatRule.from_weights(weights)
        CONSOLE.log(f"Weights of {name}: {weights.card.source}, licence {weights.card.licence}; {rule.fingerprint}")
        return rule

    def setup(self, params: list[Parameter]) -> JointOptimizer:
        """The joint optimizer of the six fields, given in packing order."""
        rule = self.build_rule().to(params[0].device)
        return JointOptimizer(dict(zip(FIELDS, params, strict=True)), rule)
