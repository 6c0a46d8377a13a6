"""How nerfstudio's trainer gets a joint optimizer: one config, one flag for the rule."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import tyro
from nerfstudio.engine.optimizers import OptimizerConfig
from nerfstudio.utils.rich_utils import CONSOLE
from torch.nn import Parameter

from l2o_splat.gaussians import FIELDS
from l2o_splat.implicit.solvers import SPLATFACTO
from l2o_splat.optim.adam import AdamRule, adam_options
from l2o_splat.optim.anchored import AnchoredRule
from l2o_splat.optim.joint_optimizer import JointOptimizer
from l2o_splat.optim.learn2splat import SYSTEMS, Learn2SplatRule
from l2o_splat.optim.resplat import ReSplatRule
from l2o_splat.optim.rule import UpdateRule
from l2o_splat.optim.safeguard import SafeguardedRule
from l2o_splat.optim.sequence import SequencedRule
from l2o_splat.weights import WeightsError, load_weights

FinishingRuleName = Literal["adam", "adam-x5", "adam-own-scale", "learn2splat"]
RuleName = Literal[FinishingRuleName, "resplat", "anchored"]

DEFAULT_WEIGHTS = {"learn2splat": "gain-mini", "resplat": "resplat-mini", "diff3r": "diff3r-mini"}
"""Of each learned rule or start: those that come with the package."""

_ADAM_PRESETS = {"adam": "gsplat", "adam-x5": "x5", "adam-own-scale": "own-scale"}


@dataclass
class JointOptimizerConfig(OptimizerConfig):
    """Which rule moves the Gaussians."""

    _target: type = field(default_factory=lambda: JointOptimizer)
    rule: RuleName = "adam"
    """adam: gsplat's rates. adam-x5: five times those. adam-own-scale: position steps in units of each Gaussian's
    own scale, all rates decaying. learn2splat: the learned optimizer. resplat: the update that comes with ReSplat's
    initial model, a few steps from renders of the context views. anchored: splatfacto's rates without decay, and a pull
    towards the start, on some of the views (diff3r)."""
    horizon: int = 2000
    """Steps over which decaying rates decay; set it to the length of the run."""
    weights: str | None = None
    """Weights of a learned rule: a path, hf://owner/repo/file, a name from `l2o weights list`, or random:SEED. None
    takes those that come with the package, gain-mini or resplat-mini."""
    finish_with: FinishingRuleName | None = None
    """Another rule for the last part of the run."""
    finish_after: int | None = None
    """Steps after which the other rule takes over; its own steps and horizon count from there."""
    finish_weights: str | None = None
    """Weights of learn2splat after resplat; None as for weights."""
    safeguard: bool = False
    """Watch the training loss of learn2splat; where it rises, restore the best scene and go on with adam-own-scale."""
    prox_scale: float = 1.0
    """Strength of the pull of the rule anchored: 1 as its precision says, 0 none, inf lets nothing move."""
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
            WeightsError: for weights that no rule uses, or half a finish.
        """
        if self.finish_weights is not None and (self.rule, self.finish_with) != ("resplat", "learn2splat"):
            raise WeightsError(
                f"--optimizers.gaussians.optimizer.finish-weights names {self.finish_weights}, which only learn2splat "
                f"after resplat uses, and the rules are {self.rule} and {self.finish_with}; leave it out."
            )
        if (self.finish_with is None) != (self.finish_after is None):
            raise WeightsError(
                "Finishing with another rule needs both --optimizers.gaussians.optimizer.finish-with and finish-after; "
                f"found {self.finish_with} and {self.finish_after}."
            )

        if self.rule == "anchored":
            self._check_anchored()

    def _check_anchored(self) -> None:
        if not self.prox_scale >= 0:
            raise ValueError(
                f"--optimizers.gaussians.optimizer.prox-scale is {self.prox_scale}; 0 or more is needed, 1 holds as "
                "strongly as the precision says."
            )
        if self.weights is not None:
            raise WeightsError(
                f"--optimizers.gaussians.optimizer.weights names {self.weights}, but the rule anchored has none; those "
                "of a network that predicts precisions go to --pipeline.initialization.weights, with source diff3r."
            )
        if self.finish_with is not None:
            raise ValueError(
                f"--optimizers.gaussians.optimizer.finish-with is {self.finish_with}, but the rule anchored holds a "
                "scene on a few views to the end; leave it out, or start another rule from the exported scene's "
                "initializer."
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
        if name == "anchored":
            return AnchoredRule(AdamRule(SPLATFACTO), self.prox_scale)  # The pipeline calibrates it to the views.
        rule: UpdateRule
        if name == "resplat":
            weights = load_weights(self.weights or DEFAULT_WEIGHTS[name], name)
            rule = ReSplatRule.from_weights(weights)
        else:
            named = self.finish_weights if self.rule == "resplat" else self.weights
            weights = load_weights(named or DEFAULT_WEIGHTS[name], SYSTEMS)
            rule = Learn2SplatRule.from_weights(weights)
        if self.safeguard and name == "learn2splat":
            rule = SafeguardedRule(rule, AdamRule(adam_options("own-scale", self.horizon)))
        CONSOLE.log(f"Weights of {name}: {weights.card.source}, licence {weights.card.licence}; {rule.fingerprint}")
        return rule

    def setup(self, params: list[Parameter]) -> JointOptimizer:
        """The joint optimizer of the six fields, given in packing order."""
        rule = self.build_rule().to(params[0].device)
        return JointOptimizer(dict(zip(FIELDS, params, strict=True)), rule)
