"""Every update rule of the package, for the behaviour all of them share."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from l2o_splat.frame import Frame
from l2o_splat.gaussians import FIELDS, Gaussians
from l2o_splat.optim.adam import OWN_SCALE, SPLATFACTO, AdamRule, adam_options
from l2o_splat.optim.colour_step import ColourStepRule
from l2o_splat.optim.decayed import DecayedRule
from l2o_splat.optim.framed import FramedRule
from l2o_splat.optim.joint_optimizer import JointOptimizer
from l2o_splat.optim.proximal import ProximalRule
from l2o_splat.optim.registry import rules as registered_rules
from l2o_splat.optim.rule import Feedback, RenderedViews, UpdateRule
from l2o_splat.optim.safeguard import SafeguardedRule
from l2o_splat.optim.sequence import SequencedRule
from l2o_splat.optim.sgd import SgdRule
from l2o_splat.rendering import render
from l2o_splat.rendering.evidence import ColourEvidence, Evidence
from l2o_splat.scene import SceneKnowledge, SceneStart
from l2o_splat.views import Views
from tests.optim.gain import make_rule as make_gain
from tests.optim.test_learn2splat_rule import make_rule as make_learn2splat
from tests.resplat_networks import context
from tests.resplat_networks import rule as make_resplat


@dataclass(frozen=True)
class RuleCase:
    """A rule, and how a loop drives it."""

    rule: UpdateRule
    registered: str | None = None
    """Its name in the registry; None for rules that stand around others."""
    context: Views | None = None
    """What a rule that gets renders is shown."""

    def start(self, gaussians: Gaussians) -> SceneStart:
        """A start with all that the rule needs."""
        precision = torch.linspace(0.1, 2.0, 5 * len(gaussians)).view(-1, 5) if self.rule.needs.precision else None
        return SceneStart(gaussians, precision=precision, context=self.context)

    def rendered(self, gaussians: Gaussians, step: int) -> RenderedViews | None:
        """What the context views look like, if the rule gets renders in this step."""
        if self.rule.needs.feedback_at(step) == "gradients":
            return None
        return RenderedViews(self.context, render(gaussians, self.context.cameras).rgb)

    def evidence(self, gradients: Gaussians, step: int) -> Evidence | None:
        """Some evidence of each Gaussian, if the rule makes use of any in this step; its rows follow the gradients."""
        if not self.rule.needs.evidence_at(step):
            return None
        seen = gradients.means.abs()
        centres = torch.tensor([[3.0, 0.0, 0.0], [-3.0, 0.0, 1.0]])
        by_view = torch.stack([gradients.features_dc, gradients.scales])
        colours = ColourEvidence(by_view, torch.stack([seen[:, 0], seen[:, 1]]), centres, sh_degree=3)
        return Evidence(seen.sum(dim=1), torch.full((len(gradients),), 2), colours)

    def feedback(self, gaussians: Gaussians, gradients: Gaussians, step: int = 0) -> Feedback:
        """What a loop tells the rule in a step."""
        rendered, evidence = self.rendered(gaussians, step), self.evidence(gradients, step)
        return Feedback(None if rendered else gradients, step, 1.0, rendered, torch.tensor(0.5), evidence=evidence)

    def optimizer(self, parameters: torch.nn.ParameterDict, reach: float = 3.0) -> JointOptimizer:
        """A joint optimizer, bound to cameras at a distance ``reach`` from their mean."""
        optimizer = JointOptimizer(parameters, self.rule)
        centres = torch.tensor([[reach, 0.0, 0.0], [-reach, 0.0, 0.0]])
        scene = SceneKnowledge(centres, 0.5, None if self.context is None else self.context.cameras)
        optimizer.bind(scene, self.start(optimizer.gaussians))
        return optimizer

    def train(self, parameters: torch.nn.ParameterDict, optimizer: JointOptimizer, steps) -> None:
        """Steps on a loss that depends on the parameters and on the step."""
        for step in steps:
            backward(parameters, seed=step)
            optimizer.rendered = self.rendered(optimizer.gaussians, optimizer.inner_step)
            gradients = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in parameters.items()}
            optimizer.evidence = self.evidence(Gaussians(**gradients), optimizer.inner_step)
            optimizer.step()


def make_parameters(n: int = 24, seed: int = 0) -> torch.nn.ParameterDict:
    generator = torch.Generator().manual_seed(seed)
    rows = Gaussians.unpack(torch.randn(n, 59, generator=generator))
    return torch.nn.ParameterDict({name: torch.nn.Parameter(value.clone()) for name, value in rows.items()})


def backward(parameters, seed: int) -> None:
    """Gradients of a loss that depends on the parameters and on the seed."""
    generator = torch.Generator().manual_seed(seed)
    for name in FIELDS:
        parameters[name].grad = None
    target = {name: torch.randn(parameters[name].shape[1:], generator=generator) for name in FIELDS}
    sum(((parameters[name] - target[name]) ** 2).mean() for name in FIELDS).backward()


def all_cases() -> dict[str, RuleCase]:
    """Name to rule, built small and without files."""
    views = context(3, 64, 64)
    presets = {"adam": "gsplat", "adam-x5": "x5", "adam-own-scale": "own-scale"}
    adam = {name: AdamRule(adam_options(preset, horizon=50)) for name, preset in presets.items()}
    # Latents drawn at random belong to rows, so a permuted scene starts from other ones.
    paper, gain = make_learn2splat(latent_init="zeros"), make_gain(trained=True, query_growth=2.0)
    resplat = make_resplat(update_starts="any")
    proximal = ProximalRule(AdamRule(SPLATFACTO), weight=0.3)
    frame = Frame(origin=torch.tensor([1.0, -2.0, 0.5]).double(), scale=3.0)
    cases = {name: RuleCase(rule, registered=name) for name, rule in adam.items()}
    cases |= {
        "sgd": RuleCase(SgdRule(), registered="sgd"),
        "learn2splat": RuleCase(paper, registered="learn2splat"),
        "gain": RuleCase(gain, registered="learn2splat"),
        "resplat": RuleCase(resplat, registered="resplat", context=views),
        "proximal": RuleCase(proximal, registered="proximal", context=views),
        "proximal-own-scale": RuleCase(
            ProximalRule(AdamRule(OWN_SCALE), weight=0.3), registered="proximal-own-scale", context=views
        ),
        "framed learn2splat": RuleCase(FramedRule(paper, frame)),
        "framed resplat": RuleCase(FramedRule(resplat, frame), context=views),
        "safeguarded gain": RuleCase(SafeguardedRule(gain, adam["adam-own-scale"])),
        "safeguarded resplat": RuleCase(SafeguardedRule(resplat, adam["adam-own-scale"]), context=views),
        "decayed gain": RuleCase(DecayedRule(gain, 0.1, 6)),
        "decayed resplat": RuleCase(DecayedRule(resplat, 0.1, 6), context=views),
        "framed, decayed learn2splat": RuleCase(FramedRule(DecayedRule(paper, 0.1, 6), frame)),
        "proximal gain": RuleCase(ProximalRule(gain, weight=0.3), context=views),
        "proximal resplat": RuleCase(ProximalRule(resplat, weight=0.3), context=views),
        "learn2splat, then adam": RuleCase(SequencedRule(paper, adam["adam-own-scale"], switch_after=4)),
        "resplat, then gain": RuleCase(SequencedRule(resplat, gain, switch_after=2), context=views),
        "adam with colours": RuleCase(ColourStepRule(adam["adam-own-scale"], steps=8)),
        "gain with colours": RuleCase(ColourStepRule(gain, steps=4)),
        "framed adam with colours": RuleCase(FramedRule(ColourStepRule(adam["adam"], steps=8), frame)),
        "safeguarded gain with colours": RuleCase(
            SafeguardedRule(ColourStepRule(gain, steps=8), adam["adam-own-scale"])
        ),
        "adam with colours, then gain with colours": RuleCase(
            SequencedRule(ColourStepRule(adam["adam"], steps=8), ColourStepRule(gain, steps=2), switch_after=4)
        ),
        "gain, then resplat": RuleCase(SequencedRule(gain, resplat, switch_after=2), context=views),
    }
    others = registered_rules().keys() - {case.registered for case in cases.values()}
    assert not others, f"The registry holds {sorted(others)}, which the rule tests do not build; add a case above."
    return cases
