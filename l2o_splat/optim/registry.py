"""Every update rule by name: what ``ns-train``, ``l2o bench``, :class:`LearnedOptimizer` and the rule tests know.

To add a rule, write its file in this room and one line here; docs/architecture.md shows an example. A package of one's
own adds rules through the entry-point group ``l2o_splat.rules``, whose values are :class:`RuleEntry` objects.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any

from l2o_splat.optim.adam import OWN_SCALE, SPLATFACTO, AdamOptions, AdamRule, adam_options
from l2o_splat.optim.gain import GainRule
from l2o_splat.optim.learn2splat import Learn2SplatRule
from l2o_splat.optim.proximal import ProximalRule
from l2o_splat.optim.resplat import ReSplatRule
from l2o_splat.optim.rule import UpdateRule
from l2o_splat.optim.sgd import SgdRule
from l2o_splat.weights.format import System, Weights, WeightsError
from l2o_splat.weights.load import load_weights

ENTRY_POINTS = "l2o_splat.rules"
"""Entry-point group in which other packages register rules."""

NUM_STEPS = 2000
"""Steps of a run, and of the decay of rates, where nothing else says how many."""


@dataclass(frozen=True)
class RuleOptions:
    """What a rule can be built from; each rule takes what concerns it."""

    weights: Weights | None = None
    """Weights of a learned rule."""
    behaviour: Mapping[str, Any] = field(default_factory=dict)
    """Options of these weights that are replaced."""
    horizon: int = NUM_STEPS
    """Steps over which decaying rates decay."""
    rates: float = 1.0
    """Factor of the rates of hand-made rules."""
    prox_scale: float = 1.0
    """Strength of the pull of the proximal rule."""


@dataclass(frozen=True)
class RuleEntry:
    """How a rule is built, and what must be known before it is."""

    build: Callable[[RuleOptions], UpdateRule]
    systems: tuple[System, ...] = ()
    """Systems whose weights it takes; none for a rule without weights."""
    default_weights: str | None = None
    """Weights that come with the package; None if there are none, and the user must name some."""
    num_steps: int = NUM_STEPS
    """Steps of a run unless they are typed or the rule has a number of its own."""
    has_horizon: bool = False
    """Whether some of its rates decay over the horizon."""
    can_finish: bool = True
    """Whether it can follow another rule."""
    holds_start: bool = False
    """Whether it holds Gaussians near their start, as strongly as a precision says."""


def _adam(preset: str) -> RuleEntry:
    return RuleEntry(
        lambda options: AdamRule(adam_options(preset, options.horizon, options.rates)),
        has_horizon=adam_options(preset, 1).decays,
    )


def _proximal(adam: AdamOptions) -> RuleEntry:
    return RuleEntry(
        lambda options: ProximalRule(AdamRule(adam), options.prox_scale),
        num_steps=100,
        can_finish=False,
        holds_start=True,
    )


def _learn2splat(options: RuleOptions) -> UpdateRule:
    card = options.weights.card
    if card.system == "controller":
        # What it decides on reaches a rule as gains in the feedback; the steps are those of tuned Adam.
        rule = AdamRule(adam_options("own-scale", options.horizon, options.rates))
        rule.card = card
        return rule
    rule = GainRule if card.system == "gain" else Learn2SplatRule
    return rule.from_weights(options.weights, **options.behaviour)


_RULES: dict[str, RuleEntry] = {
    "adam": _adam("gsplat"),
    "adam-x5": _adam("x5"),
    "adam-own-scale": _adam("own-scale"),
    "sgd": RuleEntry(lambda options: SgdRule.faster(options.rates)),
    "learn2splat": RuleEntry(_learn2splat, systems=("learn2splat", "gain", "controller"), default_weights="gain-mini"),
    "resplat": RuleEntry(
        lambda options: ReSplatRule.from_weights(options.weights, **options.behaviour),
        systems=("resplat",),
        default_weights="resplat-mini",
        can_finish=False,
    ),
    "proximal": _proximal(SPLATFACTO),
    "proximal-own-scale": _proximal(OWN_SCALE),
}

ALIASES = {"anchored": "proximal"}
"""Names that rules had before."""


@functools.cache
def rules() -> dict[str, RuleEntry]:
    """All rules by name, those of other packages included.

    Raises:
        ValueError: If another package registers something else than a :class:`RuleEntry`, or a name that is taken.
    """
    found = dict(_RULES)
    for point in entry_points(group=ENTRY_POINTS):
        entry = point.load()
        if not isinstance(entry, RuleEntry) or point.name in found or point.name in ALIASES:
            raise ValueError(
                f"The entry point {point.name} = {point.value} in {ENTRY_POINTS} is {type(entry).__name__}; a "
                "RuleEntry under a new name is needed: mend or uninstall the package that brings it."
            )
        found[point.name] = entry
    return found


def rule_entry(name: str) -> RuleEntry:
    """The entry of a rule, by its name or a former one.

    Raises:
        ValueError: If there is no such rule.
    """
    name = ALIASES.get(name, name)
    if name not in rules():
        raise ValueError(f"The rule {name!r} is unknown; choose one of {list(rules())}.")
    return rules()[name]


def weights_of(name: str, reference: str | None) -> Weights | None:
    """Weights that a rule is to use.

    Args:
        name: Of the rule.
        reference: As for :func:`l2o_splat.weights.load.load_weights`; None takes those that come with the package.

    Returns:
        The weights; None for a rule without any.

    Raises:
        ValueError: If there is no such rule, or it has no weights and some are named.
        WeightsError: If the weights cannot be found, are damaged, or belong to another method; if none are named and
            none come with the package.
    """
    entry = rule_entry(name)
    if not entry.systems:
        if reference is not None:
            raise ValueError(f"Weights {reference} are named, but the rule {name} has none; leave them out.")
        return None
    chosen = reference or entry.default_weights
    if chosen is None:
        raise WeightsError(
            f"No weights come with the package for the rule {name}; name some of the system "
            f"{' or '.join(entry.systems)} (docs/train-controller.md)."
        )
    return load_weights(chosen).require(*entry.systems)
