"""What a run does after all defaults: one pure function from the config to the effective values.

No field of the config is changed after parsing. ``None`` there means "as rule, weights and method say"; what was typed
wins.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.models.splatfacto import SplatfactoModelConfig
from nerfstudio.utils.rich_utils import CONSOLE

from l2o_splat.implicit.checks import check_background, check_fixed_gaussians
from l2o_splat.optim.registry import rule_entry
from l2o_splat.optim.rule import Needs, UpdateRule
from l2o_splat.plugin.optimizer_config import JointOptimizerConfig
from l2o_splat.plugin.starts import START_WEIGHTS, InitializationConfig
from l2o_splat.weights.format import WeightsCard


@dataclass(frozen=True)
class RunPlan:
    """The effective values of a run, as far as they are known before the capture is read."""

    rules: tuple[str, ...]
    """The rule, and the one that finishes if there is one."""
    cards: tuple[WeightsCard, ...]
    """Cards of the weights of these rules."""
    switch_after: int | None
    """Steps after which the second rule takes over; None if there is none."""
    horizon: int | None
    """Steps over which rates decay; None if no rate does."""
    num_steps: int
    """Steps of this run."""
    needs: Needs
    """What the rules need of the start and of every step."""
    source: str
    """Where the Gaussians start; ``auto`` is decided when the capture has been read."""
    start_weights: str | None
    """Weights of the network that predicts the start; None for points."""

    def describe(self) -> dict[str, object]:
        """The same as plain data, for people and for JSON."""
        return {
            "rules": list(self.rules),
            "weights": [{"source": card.source, "licence": card.licence, "sha256": card.sha256} for card in self.cards],
            "switch_after": self.switch_after,
            "horizon": self.horizon,
            "num_steps": self.num_steps,
            "start": self.source,
            "start_weights": self.start_weights,
        }


def resolve(config: TrainerConfig) -> RunPlan:
    """The effective values of a run; ``config`` stays as it is.

    Raises:
        ValueError: If options do not go together, or weights cannot be used.
    """
    optimizer: JointOptimizerConfig = config.optimizers["gaussians"]["optimizer"]
    start: InitializationConfig = config.pipeline.initialization
    names, rule = optimizer.rule_names, optimizer.build_rule()
    steps = config.max_num_iterations
    if rule.needs.fixed_count:
        check_background(config.pipeline.model.background_color)
        check_fixed_gaussians(densifies=isinstance(config.pipeline.model, SplatfactoModelConfig))
    if rule.needs.evidence and getattr(config.pipeline.model, "loss", None) == "squared":
        raise ValueError(
            "--optimizers.gaussians.optimizer.colour-steps needs the photometric loss, and --pipeline.model.loss is "
            "squared; set it to photometric, or colour-steps to 0."
        )
    _check_start(start, names[0], rule)
    return RunPlan(
        rules=names,
        cards=tuple(part.card for part in rule.modules() if isinstance(part, UpdateRule) and part.card is not None),
        switch_after=optimizer.finish_after,
        horizon=optimizer.horizon if optimizer.has_horizon else None,
        num_steps=_default_steps(optimizer, rule) if steps is None else steps,
        needs=rule.needs,
        source=start.source,
        start_weights=_start_weights(start, optimizer),
    )


def effective_config(config: TrainerConfig, plan: RunPlan) -> TrainerConfig:
    """A copy of the config with the steps of the plan and a device that this machine has."""
    machine = config.machine
    if machine.device_type == "cuda" and not torch.cuda.is_available():
        CONSOLE.log("No CUDA device was found, so this run uses the CPU.")
        machine = replace(machine, device_type="cpu")
    return replace(config, max_num_iterations=plan.num_steps, machine=machine)


def _default_steps(optimizer: JointOptimizerConfig, rule: UpdateRule) -> int:
    last = rule_entry(optimizer.rule_names[-1]).num_steps
    if optimizer.finish_after is not None:
        return optimizer.finish_after + last
    return rule.num_steps or last


def _start_weights(start: InitializationConfig, optimizer: JointOptimizerConfig) -> str | None:
    if start.source not in START_WEIGHTS:
        return None
    of_rule = optimizer.weights if optimizer.rule_names[0] == "resplat" else None
    return start.weights or of_rule or START_WEIGHTS[start.source]


def _check_start(start: InitializationConfig, name: str, rule: UpdateRule) -> None:
    """Refuse a start that does not suit the rule, and options that have no effect."""
    if name == "resplat" and start.source == "diff3r":
        raise ValueError(
            "The rule resplat updates scenes of its own initial model or of points, and "
            "--pipeline.initialization.source is diff3r; set it to resplat, or choose another rule."
        )
    if start.source not in START_WEIGHTS:
        if start.weights is not None:
            raise ValueError(
                f"--pipeline.initialization.weights names {start.weights}, and --pipeline.initialization.source is "
                f"{start.source}, which needs none; set it to resplat, or leave the weights out."
            )
        if rule.needs.own_start:
            sources = ", ".join(part.card.source for part in rule.modules() if getattr(part, "card", None) is not None)
            raise ValueError(
                f"The update of the weights from {sources} was trained on scenes of its own initial model "
                "only; set --pipeline.initialization.source to resplat, or use weights such as resplat-mini."
            )
    elif start.num_points is not None or start.pad:
        raise ValueError(
            f"--pipeline.initialization.num-points is {start.num_points} and pad {start.pad}, but ReSplat makes a "
            "fixed number of Gaussians per context view; leave both out, and choose the views instead with "
            "--pipeline.initialization.context.num-views."
        )
