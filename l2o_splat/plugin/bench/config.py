"""Configs of the runs of ``l2o bench``: registered methods, with no change but what a spec says."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import tyro
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.plugins.registry import discover_methods

from l2o_splat.bench.methods import Kind
from l2o_splat.bench.spec import RunSpec
from l2o_splat.environment import environment
from l2o_splat.optim.registry import rule_entry
from l2o_splat.plugin.dataparsers import dataparser_config
from l2o_splat.plugin.optimizer_config import JointOptimizerConfig
from l2o_splat.plugin.protocol_split import use_protocol_split
from l2o_splat.plugin.run_plan import NO_CONTROLLER
from l2o_splat.plugin.trainer import L2OTrainerConfig
from l2o_splat.schedule.controller import Controller
from l2o_splat.weights.format import WeightsError
from l2o_splat.weights.load import load_weights

UNENDING = 10**8
"""Steps of a run that the clock ends."""


def registered_config(method: str) -> TrainerConfig:
    """Return a copy of the config that ``ns-train METHOD`` starts from.

    Raises:
        KeyError: If there is no such method.
    """
    methods, _ = discover_methods()
    if method not in methods:
        # Only if needed: this imports every method of nerfstudio.
        from nerfstudio.configs.method_configs import all_methods as methods
    return deepcopy(methods[method])


def method_config(method: str, options: Sequence[str] = ()) -> TrainerConfig:
    """Return the config that ``ns-train METHOD OPTIONS`` would run.

    Raises:
        KeyError: If there is no such method.
        SystemExit: If the method has no such options; tyro has printed what is wrong.
    """
    config = registered_config(method)
    if not options:
        return config
    known = tyro.extras.subcommand_type_from_defaults({method: config})
    return tyro.cli(
        tyro.conf.SuppressFixed[tyro.conf.FlagConversionOff[known]], args=[method, *options], prog="ns-train"
    )


def horizons(config: TrainerConfig) -> list[tuple[Any, str]]:
    """Find where a method keeps the length of its schedules: objects and the name of their attribute."""
    places = []
    for group in config.optimizers.values():
        for part, attribute in ((group["optimizer"], "horizon"), (group["scheduler"], "max_steps")):
            # Our rules say whether anything in them decays.
            ours = getattr(part, "has_horizon", None)
            if ours or (ours is None and getattr(part, attribute, None) is not None):
                places.append((part, attribute))
    return places


def kind_of(config: TrainerConfig) -> Kind:
    """Whether the rules of a method have weights, and trained ones, or its controller looks at the run."""
    controller = getattr(config, "schedule", None) and config.schedule.controller
    if controller not in (None, NO_CONTROLLER) and Controller.from_weights(load_weights(controller)).responds:
        return "learned"
    rules = [group["optimizer"] for group in config.optimizers.values()]
    ours = [one for one in rules if isinstance(one, JointOptimizerConfig)]
    if not any(rule_entry(name).systems for one in ours for name in one.rule_names):
        return "hand-made"
    references = [reference or "" for one in ours for reference in (one.weights, one.finish_weights)]
    return "untrained" if any(reference.startswith("random:") for reference in references) else "learned"


def run_config(spec: RunSpec, folder: Path) -> TrainerConfig:
    """Return the registered config with the changes that the spec asks for, and no other that affects a result."""
    config = method_config(spec.method, spec.options)
    datamanager = config.pipeline.datamanager
    datamanager.dataparser = dataparser_config(spec.dataparser)
    use_protocol_split(datamanager.dataparser, spec.views)
    datamanager.camera_res_scale_factor = spec.scale
    config.data = datamanager.data = None if spec.data is None else Path(spec.data)
    if spec.steps is None and isinstance(config, L2OTrainerConfig):
        config.max_num_iterations, config.seconds = None, spec.seconds
    elif spec.steps is None:
        config.max_num_iterations = UNENDING
    else:
        config.max_num_iterations = spec.steps
    if isinstance(config, L2OTrainerConfig):
        config.clock = spec.clock
    if spec.horizon is not None:
        for part, attribute in horizons(config):
            setattr(part, attribute, spec.horizon)

    config.machine.seed = spec.seed
    seeded = [(datamanager, "view_seed"), (datamanager, "train_cameras_sampling_seed")]
    seeded.append((getattr(config.pipeline, "initialization", None), "seed"))
    seeded += [(group["optimizer"], "seed") for group in config.optimizers.values()]
    for part, attribute in seeded:
        if hasattr(part, attribute):
            setattr(part, attribute, spec.seed)

    config.machine.device_type = "cuda" if torch.cuda.is_available() else "cpu"
    config.output_dir, config.experiment_name, config.timestamp = folder / "train", spec.scene, "run"
    config.vis = "none"  # Neither viewer nor event files; the log is all that is written.
    config.logging.local_writer.enable = False
    # The measured run evaluates and saves by itself, off the clock.
    config.steps_per_eval_batch = config.steps_per_eval_image = config.steps_per_eval_all_images = 0
    config.steps_per_save = 0
    return config


def describe(question: dict[str, list]) -> dict[str, Any]:
    """Answer what a sweep must know before it starts: methods with a horizon, kinds, the environment, and mistakes.

    Args:
        question: ``methods`` (label, name and options of each), and ``dataparsers`` with their options.
    """
    answer: dict[str, Any] = {"errors": [], "has_horizon": {}, "kinds": {}, "environment": environment()}
    for method in question["methods"]:
        try:
            config = method_config(method["name"], method["options"])
            answer["has_horizon"][method["label"]] = bool(horizons(config))
            answer["kinds"][method["label"]] = kind_of(config)
        except KeyError:
            known = ", ".join(sorted(discover_methods()[0]))
            answer["errors"].append(
                f"--methods {method['name']} is not registered with nerfstudio; known are {known}, and nerfstudio's "
                "own such as splatfacto (`ns-train --help` lists all)."
            )
        except WeightsError as error:
            answer["errors"].append(f"--methods {method['label']}: {error}")
        except SystemExit:
            answer["errors"].append(
                f"--methods {method['name']} has no such options: {shlex.join(method['options'])}; `ns-train "
                f"{method['name']} --help` lists them."
            )
    for words in question["dataparsers"]:
        try:
            dataparser_config(words)
        except SystemExit:
            answer["errors"].append(
                f"--dataparser {shlex.join(words)!r} is not understood; give a dataparser of nerfstudio and its "
                f"options, as listed by `ns-train l2o-adam {words[0]} --help`."
            )
    return answer
