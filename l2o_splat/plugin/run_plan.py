"""What a run does after all defaults: one pure function from the config to the effective values.

No field of the config is changed after parsing. ``None`` there means "as rule, weights and method say"; what was typed
wins.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.models.splatfacto import SplatfactoModelConfig
from nerfstudio.utils.rich_utils import CONSOLE

from l2o_splat.implicit.checks import check_background, check_fixed_gaussians
from l2o_splat.optim.registry import NUM_STEPS, rule_entry, weights_of
from l2o_splat.optim.rule import Needs, UpdateRule
from l2o_splat.optim.sequence import SequencedRule
from l2o_splat.plugin.file_start import check_file
from l2o_splat.plugin.optimizer_config import JointOptimizerConfig
from l2o_splat.plugin.starts import PREDICTIONS, START_WEIGHTS, InitializationConfig
from l2o_splat.schedule.controller import Controller
from l2o_splat.schedule.presets import PRESETS, Preset, PresetName
from l2o_splat.weights.format import Weights, WeightsCard
from l2o_splat.weights.load import load_weights

if TYPE_CHECKING:
    from l2o_splat.plugin.model import Exposure

CONTROLLER = "controller-mini"
"""Weights of the rule learn2splat under the preset fast, for which they are made."""
CONSTANTS = "constants-mini"
"""Weights of a controller without responses, with which tuned Adam runs under the preset fast."""
NO_CONTROLLER = "none"
"""What is typed to leave the preset fast as it is."""
RULE = "rule"
"""Entry of a run's schedule in a checkpoint: its first rule; absent in runs of versions whose start was held by
splatfacto's rates alone."""
HALF_A_MEGAPIXEL = 5e5
SECONDS_ON_CPU, SECONDS_ON_CUDA = 120.0, 30.0
"""Time budgets for photographs of half a megapixel; larger ones get more."""


@dataclass(frozen=True)
class RunPlan:
    """The effective values of a run, as far as they are known before the capture is read."""

    rules: tuple[str, ...]
    """The rule, and the one that finishes if there is one."""
    weights: str | None
    """Weights of the first learned rule; None for those of the rule."""
    finish_weights: str | None
    """Weights of learn2splat after resplat or proximal."""
    cards: tuple[WeightsCard, ...]
    """Cards of the weights of these rules."""
    switch_after: int | None
    """Steps after which the second rule takes over; None if there is none."""
    preset: PresetName
    """Name of the table that :attr:`schedule` comes from."""
    schedule: Preset
    """What changes during the run, typed options included."""
    horizon: int | None
    """Steps over which rates decay; None if no rate does, or rates follow the share of the budget."""
    num_steps: int | None
    """Steps of this run; None if it has a time budget."""
    seconds: float | Literal["auto"] | None
    """Time budget of the run; ``auto`` is decided when the capture has been read, see :func:`default_seconds`. None if
    steps were typed or the preset counts them."""
    needs: Needs
    """What the rules need of the start and of every step."""
    last_needs: Needs
    """The same of the last rule alone."""
    source: str
    """Where the Gaussians start; ``auto`` is decided when the capture has been read."""
    start_weights: str | None
    """Weights of the network that predicts the start; None for points."""
    controller: Weights | None
    """Weights of the controller that changes the schedule; None if there is none."""
    exposure: Exposure
    """Which training photographs have transforms of colours."""

    @property
    def fixed_steps(self) -> int:
        """First steps in which the scene does not grow: those of the paper's network, or of a rule that holds the
        start, if another rule follows."""
        paper = self.rules[0] == "learn2splat" and self.cards[0].system == "learn2splat"
        return self.switch_after if (paper or self.needs.fixed_steps) and self.switch_after is not None else 0

    @property
    def thinned_after(self) -> int | None:
        """Steps after which Gaussians that a network predicted, and fewer than two photographs see, are removed: those
        that hold the scene to its prediction, if the preset fast lets it go; None if nothing is removed."""
        held = self.preset == "fast" and rule_entry(self.rules[0]).holds_start and self.source in ("diff3r", "resplat")
        return self.switch_after if held else None

    @property
    def guards_start(self) -> bool:
        """Whether the run goes on without a prediction that is not worth its time: where the best picture for the time
        is wanted, and another rule follows the updates."""
        return self.preset == "fast" and self.rules[0] == "resplat" and self.source == "resplat"

    def without_prediction(self, source: str) -> RunPlan:
        """The plan of a guarded run whose prediction is given up: the last rule alone, from another source."""
        return replace(
            self,
            rules=self.rules[1:],
            weights=self.finish_weights,
            finish_weights=None,
            cards=tuple(card for card in self.cards if card.system != "resplat"),
            switch_after=None,
            needs=self.last_needs,
            source=source,
            start_weights=self.start_weights if source in START_WEIGHTS else None,
        )

    def describe(self) -> dict[str, object]:
        """The same as plain data, for people and for JSON."""
        return {
            "rules": list(self.rules),
            "weights": [_described(card) for card in self.cards],
            "switch_after": self.switch_after,
            "preset": self.preset,
            "schedule": asdict(self.schedule),
            "seconds": self.seconds,
            "horizon": self.horizon,
            "num_steps": self.num_steps,
            "start": self.source,
            "start_weights": self.start_weights,
            "controller": None if self.controller is None else _described(self.controller.card),
            "exposure": self.exposure,
        }


def _described(card: WeightsCard) -> dict[str, object]:
    return {"source": card.source, "licence": card.licence, "sha256": card.sha256}


def resolve(config: TrainerConfig, resumed: Mapping[str, object] | None = None) -> RunPlan:
    """The effective values of a run; ``config`` stays as it is.

    Args:
        config: Of the run.
        resumed: Schedule of the checkpoint that it goes on from, empty if that holds none; None for a new run. Runs of
            versions that had no schedule, or no constants of tuned Adam, go on as they began.

    Raises:
        ValueError: If options do not go together, or weights cannot be used.
    """
    asked = _asked_preset(config, resumed)
    optimizer = _as_begun(config.optimizers["gaussians"]["optimizer"], resumed)
    optimizer = _handing_over(_controlled(optimizer, asked), asked)
    start: InitializationConfig = config.pipeline.initialization
    names, rule = optimizer.rule_names, optimizer.build_rule()
    steps, cards = config.max_num_iterations, _cards(rule)
    preset = asked or _preset_of(names, cards)
    schedule = _with_typed(PRESETS[preset], config)
    _check_schedule(preset, schedule, config, rule)
    if rule.needs.fixed_steps:
        check_background(config.pipeline.model.background_color)
        check_fixed_gaussians(densifies=isinstance(config.pipeline.model, SplatfactoModelConfig))
    if rule.needs.evidence and getattr(config.pipeline.model, "loss", None) == "squared":
        raise ValueError(
            "--optimizers.gaussians.optimizer.colour-steps needs the photometric loss, and --pipeline.model.loss is "
            "squared; set it to photometric, or colour-steps to 0."
        )
    _check_poses(config, names)
    exposure = _exposure(config, names, preset)
    _check_exposure(exposure, rule)
    _check_start(start, names[0], rule)
    _check_file(start, resumes=config.load_dir is not None or config.load_checkpoint is not None)
    seconds = config.seconds
    if seconds is None and steps is None and preset == "fast":
        seconds = "auto"
    return RunPlan(
        rules=names,
        weights=optimizer.weights,
        finish_weights=optimizer.finish_weights,
        cards=cards,
        switch_after=optimizer.finish_after,
        preset=preset,
        schedule=schedule,
        horizon=_horizon(optimizer, schedule),
        num_steps=_default_steps(optimizer, rule) if steps is None and seconds is None else steps,
        seconds=seconds,
        needs=rule.needs,
        last_needs=rule.second.needs if isinstance(rule, SequencedRule) else rule.needs,
        source=start.source,
        start_weights=_start_weights(start, optimizer),
        controller=_controller(config.schedule.controller, optimizer, cards, preset, resumed),
        exposure=exposure,
    )


def effective_config(config: TrainerConfig, plan: RunPlan) -> TrainerConfig:
    """A copy of the config with the values of the plan and a device that this machine has."""
    machine = config.machine
    if machine.device_type == "cuda" and not torch.cuda.is_available():
        CONSOLE.log("No CUDA device was found, so this run uses the CPU.")
        machine = replace(machine, device_type="cpu")
    # nerfstudio's loop needs a number of steps; one with a time budget is stopped by the clock.
    steps = sys.maxsize // 2 if plan.num_steps is None else plan.num_steps
    optimizers = {"gaussians": dict(config.optimizers["gaussians"])}
    optimizers["gaussians"]["optimizer"] = replace(
        optimizers["gaussians"]["optimizer"],
        rule=plan.rules[0],
        rates=plan.schedule.rates,
        weights=plan.weights,
        finish_weights=plan.finish_weights,
        finish_with=plan.rules[1] if len(plan.rules) > 1 else None,
        finish_after=plan.switch_after,
    )
    pipeline = config.pipeline
    if getattr(pipeline.model, "exposure", plan.exposure) != plan.exposure:
        pipeline = replace(pipeline, model=replace(pipeline.model, exposure=plan.exposure))
    # Runs with a time budget are evaluated at shares of it instead.
    between = config.steps_per_eval_all_images if plan.seconds is None else 0
    return replace(
        config,
        max_num_iterations=steps,
        steps_per_eval_all_images=between,
        machine=machine,
        optimizers=optimizers,
        pipeline=pipeline,
    )


def default_seconds(device: str, pixels: float) -> float:
    """Time budget of a run for which none is given.

    Args:
        device: Of the run.
        pixels: Of a training photograph, their mean.
    """
    size = min(max(pixels / HALF_A_MEGAPIXEL, 0.5), 4.0)
    return (SECONDS_ON_CUDA if device.startswith("cuda") else SECONDS_ON_CPU) * size**0.5


def _asked_preset(config: TrainerConfig, resumed: Mapping[str, object] | None) -> PresetName | None:
    """The preset that was typed, or that the rest of the config or of a checkpoint stands for."""
    if config.preset is not None:
        return config.preset
    if resumed == {}:
        return "plain"
    optimizer: JointOptimizerConfig = config.optimizers["gaussians"]["optimizer"]
    holds = optimizer.holds_start and len(optimizer.rule_names) == 1
    # Without a time budget it is the paper's refinement, in steps.
    return "fast" if holds and config.seconds is not None and _is_of_now(resumed) else None


def _is_of_now(resumed: Mapping[str, object] | None) -> bool:
    """Whether a run is new, or began with a version that had constants of tuned Adam."""
    return resumed is None or "controller" in resumed


def _as_begun(optimizer: JointOptimizerConfig, resumed: Mapping[str, object] | None) -> JointOptimizerConfig:
    """The optimizer; splatfacto's rates hold the start of a run that began with a version that had no others."""
    if resumed is None or RULE in resumed or optimizer.rule != "proximal-own-scale":
        return optimizer
    return replace(optimizer, rule="proximal")


def _controlled(optimizer: JointOptimizerConfig, preset: PresetName | None) -> JointOptimizerConfig:
    """The optimizer, with a controller as weights of learn2splat if none are named and the preset is made for it."""
    names = optimizer.rule_names
    if preset not in (None, "fast") or names[-1] != "learn2splat":
        return optimizer
    if optimizer.learn2splat_finishes:
        return replace(optimizer, finish_weights=optimizer.finish_weights or CONTROLLER)
    return replace(optimizer, weights=optimizer.weights or CONTROLLER)


def _handing_over(optimizer: JointOptimizerConfig, preset: PresetName | None) -> JointOptimizerConfig:
    """The optimizer, with a second rule if the preset hands the first one over to one.

    The paper's network of learn2splat makes the most of its first steps, each of which costs as much as several of
    Adam, and its steps are too long for Gaussians that growth has added. A rule that holds the start
    pulls back to a scene that growth soon leaves behind.
    """
    after = None if preset is None else PRESETS[preset].hand_over_after
    learned = optimizer.rule_names == ("learn2splat",)
    if after is None or len(optimizer.rule_names) > 1 or not (learned or optimizer.holds_start):
        return optimizer
    if learned and weights_of("learn2splat", optimizer.weights).card.system != "learn2splat":
        return optimizer
    after = after if optimizer.finish_after is None else optimizer.finish_after
    return replace(optimizer, finish_with="adam-own-scale", finish_after=after)


def _cards(rule: UpdateRule) -> tuple[WeightsCard, ...]:
    return tuple(part.card for part in rule.modules() if isinstance(part, UpdateRule) and part.card is not None)


def _preset_of(names: Sequence[str], cards: Sequence[WeightsCard]) -> PresetName:
    """fast for rules that are made for it; the papers' protocols for their own rules and weights."""
    last = names[-1]
    ours = last == "learn2splat" and any(card.system in ("gain", "controller") for card in cards)
    made_for_it = ours or last == "adam-own-scale"
    return "fast" if made_for_it else "paper"


def _with_typed(preset: Preset, config: TrainerConfig) -> Preset:
    """The preset with the options that were typed."""
    typed = config.schedule
    changes: dict[str, object] = {}
    if typed.coarse_to_fine is not None:
        changes["coarse_to_fine"] = typed.coarse_to_fine
    if typed.sh_by_share is not None:
        as_in = PRESETS["fast" if typed.sh_by_share else "plain"]
        changes |= {"sh_degrees": as_in.sh_degrees, "views_per_coefficient": as_in.views_per_coefficient}
    if typed.growth is not None:
        changes["growth"] = typed.growth
    if typed.dropout is not None:
        changes["dropout"] = typed.dropout
    if typed.max_elongation is not None:
        changes["max_elongation"] = typed.max_elongation if math.isfinite(typed.max_elongation) else None
    optimizer: JointOptimizerConfig = config.optimizers["gaussians"]["optimizer"]
    if optimizer.rates is not None:
        changes["rates"] = optimizer.rates
    return replace(preset, **changes)


def _check_schedule(preset: PresetName, schedule: Preset, config: TrainerConfig, rule: UpdateRule) -> None:
    seconds, steps = config.seconds, config.max_num_iterations
    if seconds is not None and not (math.isfinite(seconds) and seconds > 0):
        raise ValueError(f"--seconds is {seconds}; a time above 0 is needed.")
    if seconds is not None and steps is not None:
        raise ValueError(
            f"--seconds is {seconds:g} and --max-num-iterations {steps}, and a run has one budget; leave one of them "
            "out."
        )
    if schedule.growth is not None and not schedule.growth >= 1:
        raise ValueError(f"--schedule.growth is {schedule.growth}; 1 keeps the number of Gaussians, more adds some.")
    if schedule.dropout is not None and not 0 <= schedule.dropout < 1:
        raise ValueError(
            f"--schedule.dropout is {schedule.dropout}; a share from 0 (none) to below 1 of the Gaussians is needed."
        )
    if schedule.max_elongation is not None and not schedule.max_elongation >= 1:
        raise ValueError(
            f"--schedule.max-elongation is {schedule.max_elongation}; 1 or more is needed, inf for no bound."
        )
    if schedule.adaptive and config.schedule.growth is not None:
        raise ValueError(
            f"--schedule.growth is {schedule.growth:g}, and the density control of --preset {preset} finds the number "
            "of Gaussians by itself; leave one of them out."
        )
    held = math.inf in (rule.needs.fixed_steps, rule.needs.context_steps)
    if held and (schedule.growth != 1 or schedule.adaptive or schedule.coarse_to_fine):
        raise ValueError(
            f"--preset is {preset}, which grows scenes or trains on reduced photographs, and a rule of this run holds "
            "Gaussians to their start on some of the photographs; use --preset paper or plain with it."
        )


def _controller(
    typed: str | None,
    optimizer: JointOptimizerConfig,
    cards: Sequence[WeightsCard],
    preset: PresetName,
    resumed: Mapping[str, object] | None,
) -> Weights | None:
    """Weights of the controller: those that were typed, those of the rule learn2splat if they are some, or constants
    for tuned Adam."""
    if typed == NO_CONTROLLER:
        return None
    if typed is not None:
        weights = load_weights(typed)
    elif any(card.system == "controller" for card in cards):
        finishes = optimizer.learn2splat_finishes
        weights = weights_of("learn2splat", optimizer.finish_weights if finishes else optimizer.weights)
    elif preset == "fast" and optimizer.rule_names[-1] == "adam-own-scale" and _is_of_now(resumed):
        weights = load_weights(CONSTANTS)
    else:
        return None
    Controller.from_weights(weights)  # Refused before the capture is read.
    if preset != "fast":
        raise ValueError(
            f"A controller is named ({weights.card.source}), and --preset is {preset}; controllers are made for the "
            "preset fast: use it, or leave the controller out."
        )
    return weights


def _horizon(optimizer: JointOptimizerConfig, schedule: Preset) -> int | None:
    if not optimizer.has_horizon or schedule.by_share == "always":
        return None
    return NUM_STEPS if optimizer.horizon is None else optimizer.horizon


def _default_steps(optimizer: JointOptimizerConfig, rule: UpdateRule) -> int:
    last = rule_entry(optimizer.rule_names[-1]).num_steps
    if optimizer.finish_after is not None:
        return optimizer.finish_after + last
    return rule.num_steps or last


def _start_weights(start: InitializationConfig, optimizer: JointOptimizerConfig) -> str | None:
    if start.source not in START_WEIGHTS:
        return None
    predicts = start.source in PREDICTIONS
    of_rule = optimizer.weights if predicts and optimizer.rule_names[0] == "resplat" else None
    return start.weights or of_rule or START_WEIGHTS[start.source]


def _check_file(start: InitializationConfig, resumes: bool) -> None:
    """Refuse a file without its source, a source without its file, and a number of Gaussians other than the file's."""
    if start.source == "file":
        check_file(start.file, must_exist=not resumes)
        if start.num_points is not None or start.pad:
            raise ValueError(
                f"--pipeline.initialization.num-points is {start.num_points} and pad {start.pad}, but a file brings "
                "its own Gaussians; leave both out."
            )
    elif start.file is not None:
        raise ValueError(
            f"--pipeline.initialization.file is {start.file}, and --pipeline.initialization.source is {start.source}, "
            "which reads none; set it to file, or leave the file out."
        )


def _check_poses(config: TrainerConfig, names: Sequence[str]) -> None:
    """Refuse a rate out of range, and rules that no gradient of a pose comes from."""
    poses = getattr(config.pipeline.model, "camera_optimizer", None)
    if poses is None or poses.mode == "off":
        return
    if not 0 < poses.lr < math.inf:
        raise ValueError(f"--pipeline.model.camera-optimizer.lr is {poses.lr}; a rate above 0 is needed.")
    if names == ("resplat",):
        raise ValueError(
            f"--pipeline.model.camera-optimizer.mode is {poses.mode}, and the rule resplat follows no gradients, which "
            "poses move by; set it to off, or finish with a rule that does "
            "(--optimizers.gaussians.optimizer.finish-with)."
        )


def _exposure(config: TrainerConfig, names: tuple[str, ...], preset: PresetName) -> Exposure:
    """The typed value. Else predictions from few photographs, which one that stands out would change as a whole, have
    transforms where the best picture for the time is wanted."""
    typed = getattr(config.pipeline.model, "exposure", "off")
    if typed is not None:
        return typed
    return "outliers" if rule_entry(names[0]).holds_start and preset == "fast" else "off"


def _check_exposure(exposure: Exposure, rule: UpdateRule) -> None:
    """Refuse exposure compensation of a run without gradients, from which transforms are learnt."""
    if exposure != "off" and (0, None) in rule.needs.renders:
        raise ValueError(
            f"--pipeline.model.exposure is {exposure}, and every step of this run works from renders, from which no "
            "exposure is learnt; leave it off, or let a rule with gradients finish "
            "(--optimizers.gaussians.optimizer.finish-with adam)."
        )


def _check_start(start: InitializationConfig, name: str, rule: UpdateRule) -> None:
    """Refuse a start that does not suit the rule, and options that have no effect."""
    if name == "resplat" and start.source == "diff3r":
        raise ValueError(
            "The rule resplat updates scenes of its own initial model or of points, and "
            "--pipeline.initialization.source is diff3r; set it to resplat, or choose another rule."
        )
    if start.source not in START_WEIGHTS and start.weights is not None:
        raise ValueError(
            f"--pipeline.initialization.weights names {start.weights}, and --pipeline.initialization.source is "
            f"{start.source}, which needs none; set it to resplat, or leave the weights out."
        )
    if start.source not in PREDICTIONS:
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
