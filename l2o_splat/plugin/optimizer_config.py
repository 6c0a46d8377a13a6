"""How nerfstudio's trainer gets a joint optimizer: one config, one flag for the rule."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import tyro
from nerfstudio.engine.optimizers import OptimizerConfig
from torch.nn import Parameter

from l2o_splat.gaussians import FIELDS
from l2o_splat.optim.adam import AdamRule, adam_options
from l2o_splat.optim.colour_step import ColourStepRule
from l2o_splat.optim.decayed import DecayedRule
from l2o_splat.optim.joint_optimizer import JointOptimizer
from l2o_splat.optim.registry import ALIASES, NUM_STEPS, RuleOptions, rule_entry, rules, weights_of
from l2o_splat.optim.rule import UpdateRule
from l2o_splat.optim.safeguard import SafeguardedRule
from l2o_splat.optim.sequence import SequencedRule
from l2o_splat.weights import WeightsError

RuleName = Literal[tuple([*rules(), *ALIASES])]
FinishingRuleName = Literal[tuple(name for name, entry in rules().items() if entry.can_finish)]

_OPTION = "--optimizers.gaussians.optimizer"


@dataclass
class JointOptimizerConfig(OptimizerConfig):
    """Which rule moves the Gaussians."""

    _target: type = field(default_factory=lambda: JointOptimizer)
    rule: RuleName = "adam"
    """adam: gsplat's rates. adam-x5: five times those. adam-own-scale: position steps in units of each Gaussian's
    own scale, all rates decaying. sgd: gradient descent without moments, for comparisons. learn2splat: the learned
    optimizer. resplat: the update that comes with ReSplat's initial model, a few steps from renders of the context
    views. proximal-own-scale: the rates of adam-own-scale without decay, and a pull towards the start, on some of the
    views (diff3r). proximal (or anchored, as before): the same with splatfacto's rates."""
    horizon: int | None = None
    """Steps over which rates decay, and whatever else changes during a run that counts steps. None: with the preset
    fast those of the run, else 2000."""
    weights: str | None = None
    """Weights of a learned rule: a path, hf://owner/repo/file, a name from `l2o weights list`, or random:SEED. None
    takes those that come with the package, gain-mini or resplat-mini."""
    finish_with: FinishingRuleName | None = None
    """Another rule for the last part of the run. None: with the preset fast adam-own-scale after weights of
    Learn2Splat's paper and after a rule that holds the start, else none."""
    finish_after: int | None = None
    """Steps after which the other rule takes over; its own steps and horizon count from there, or its share of the
    budget does. None: 20 with the preset fast, after what adam-own-scale follows."""
    finish_weights: str | None = None
    """Weights of learn2splat after resplat or a rule that holds the start; None as for weights."""
    safeguard: bool = False
    """Compare the training loss of learn2splat with its best; if it rises, restore the best scene and go on with
    adam-own-scale."""
    colour_steps: int = 0
    """First steps in which colours also move by the closed form, with a share that falls to 0. For rules that follow
    gradients."""
    rates: float | None = None
    """Factor of the rates of sgd, adam and the rules that begin with its name. None: as the preset says."""
    decay_to: float = 1.0
    """Factor of the rule's steps at the end of the horizon, beside what its own rates do; they fall exponentially. 1:
    no decay."""
    prox_scale: float = 1.0
    """Strength of the pull towards the start: 1 as its precision says, 0 none, inf lets nothing move."""
    # Read by nerfstudio's Optimizers; the rule has rates of its own, and clipping would change its gradients.
    lr: tyro.conf.Suppress[float] = 1.0
    eps: tyro.conf.Suppress[float] = 1e-15
    max_norm: tyro.conf.Suppress[float | None] = None

    @property
    def rule_names(self) -> tuple[str, ...]:
        """The rule and, if there is one, the rule that finishes, without former names."""
        return tuple(ALIASES.get(name, name) for name in (self.rule, self.finish_with) if name is not None)

    @property
    def holds_start(self) -> bool:
        """Whether the first rule holds Gaussians near their start."""
        return rule_entry(self.rule_names[0]).holds_start

    @property
    def learn2splat_finishes(self) -> bool:
        """Whether learn2splat follows a rule that ``weights`` cannot be meant for, so that it has some of its own."""
        return self.rule_names[1:] == ("learn2splat",) and (self.holds_start or self.rule_names[0] == "resplat")

    @property
    def has_horizon(self) -> bool:
        """Whether ``horizon`` changes anything: some rule of this config has rates that decay over it."""
        return self.decays or any(rule_entry(name).has_horizon for name in self.rule_names)

    @property
    def decays(self) -> bool:
        """Whether steps decay beside what the rule's own rates do."""
        return self.decay_to not in (None, 1.0)  # None in the config of a run from before.

    @property
    def takes_colour_steps(self) -> bool:
        """Whether colours can move in closed form beside the rule."""
        return not self.holds_start and self.rule_names[0] != "resplat"

    def check(self) -> None:
        """Refuse options that do not go together, before any long work.

        Raises:
            ValueError: For numbers out of range and rules that cannot follow each other.
            WeightsError: For weights that no rule uses, or half a finish.
        """
        if self.finish_weights is not None and not self.learn2splat_finishes:
            raise WeightsError(
                f"{_OPTION}.finish-weights names {self.finish_weights}, which only learn2splat "
                f"after resplat uses, or after proximal, and the rules are {self.rule} and {self.finish_with}; leave "
                "it out."
            )
        if (self.finish_with is None) != (self.finish_after is None):
            raise WeightsError(
                f"Finishing with another rule needs both {_OPTION}.finish-with and finish-after; "
                f"found {self.finish_with} and {self.finish_after}."
            )
        if self.rates is not None and not 0 < self.rates < math.inf:
            raise ValueError(f"{_OPTION}.rates is {self.rates}; a factor above 0 is needed.")
        if self.decays and not 0 < self.decay_to < math.inf:
            raise ValueError(f"{_OPTION}.decay-to is {self.decay_to}; a factor above 0 is needed.")
        if (self.colour_steps or 0) < 0:  # None in the config of a run from before.
            raise ValueError(f"{_OPTION}.colour-steps is {self.colour_steps}; 0 or more is needed.")
        if self.colour_steps and not self.takes_colour_steps:
            raise ValueError(
                f"{_OPTION}.colour-steps is {self.colour_steps}, but colours can move in closed form beside gradients "
                f"alone, which the rule {self.rule} does not follow; set it to 0, or choose another rule."
            )
        if self.holds_start:
            self._check_proximal()
        elif self.weights is not None and not any(rule_entry(name).systems for name in self.rule_names):
            raise WeightsError(
                f"{_OPTION}.weights names {self.weights}, but no rule of this run ({', '.join(self.rule_names)}) has "
                "weights; leave it out, or choose a learned rule."
            )

    def _check_proximal(self) -> None:
        if not self.prox_scale >= 0:
            raise ValueError(
                f"{_OPTION}.prox-scale is {self.prox_scale}; 0 or more is needed, 1 holds as "
                "strongly as the precision says."
            )
        if self.weights is not None:
            raise WeightsError(
                f"{_OPTION}.weights names {self.weights}, but the rule {self.rule} has none; those "
                "of a network that predicts precisions go to --pipeline.initialization.weights, with source diff3r."
            )

    def build_rule(self) -> UpdateRule:
        """The update rule this config names, not yet bound to a scene.

        Raises:
            ValueError: As :meth:`check`, and for weights that cannot be used.
        """
        self.check()
        first, *later = (self._build(name) for name in self.rule_names)
        return SequencedRule(first, later[0], self.finish_after) if later else first

    def _build(self, name: str) -> UpdateRule:
        weights, horizon = None, NUM_STEPS if self.horizon is None else self.horizon
        if rule_entry(name).systems:
            finishes = self.learn2splat_finishes and name == "learn2splat"
            weights = weights_of(name, self.finish_weights if finishes else self.weights)
        rule = rule_entry(name).build(
            RuleOptions(weights, horizon=horizon, rates=self.rates or 1.0, prox_scale=self.prox_scale)
        )
        if self.decays:
            rule = DecayedRule(rule, self.decay_to, horizon)
        if self.colour_steps and name == self.rule_names[0]:
            rule = ColourStepRule(rule, self.colour_steps)
        if self.safeguard and name == "learn2splat":
            rule = SafeguardedRule(rule, AdamRule(adam_options("own-scale", horizon, self.rates or 1.0)))
        return rule

    def setup(self, params: list[Parameter]) -> JointOptimizer:
        """The joint optimizer of the six fields, given in packing order."""
        rule = self.build_rule().to(params[0].device)
        return JointOptimizer(dict(zip(FIELDS, params, strict=True)), rule)
